//! From outcomes to rows, and to words about what would otherwise be overlooked.

use std::io::{self, IsTerminal as _};

use llm_batch::{ErrorKind, LlmError, LlmResponse, Outcome};
use serde_json::Value;

use crate::args::RunArgs;
use crate::console::Console;
use crate::output::{Output, Row};
use crate::source::ItemContext;
use crate::stopping::{Stop, StopRules};

/// How many problems of one sort are shown.
pub(crate) const SHOWN: u64 = 10;

/// Writes outcomes, and says on standard error what would otherwise be overlooked.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    output: Output,
    console: &'a Console,
    quiet: bool,
    /// Whether rows appear where the progress bar is.
    on_terminal: bool,
    /// Whether failures leave no row, so that they are reported here.
    shows_failures: bool,
    /// Whether an unknown cost of items is reported.
    priced: bool,
    malformed: u64,
    failures: u64,
    /// Why nothing more can be written.
    pub(crate) broken: Option<io::Error>,
    rules: StopRules,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(output: Output, args: &RunArgs, console: &'a Console) -> Self {
        Self {
            output,
            console,
            quiet: args.reporting.quiet,
            on_terminal: io::stdout().is_terminal(),
            shows_failures: args.output.output_dir.is_some()
                || !args.output.output_format.facts().has_failures,
            priced: args.reporting.prices.is_some(),
            malformed: 0,
            failures: 0,
            broken: None,
            rules: StopRules::new(&args.limits),
        }
    }

    /// Writes the row of an outcome. Returns whether the output can take more.
    pub(crate) fn write(&mut self, outcome: &Outcome<LlmResponse<Value>, LlmError, ItemContext>) -> bool {
        let context = &outcome.context;
        let id = outcome.id.to_string();
        self.rules
            .note(outcome.result.as_ref().map(drop), context.problem.is_some());
        if let Err(error) = &outcome.result {
            self.report(&id, context, error);
        }
        // After a failed write the output may end in the middle of a row; nothing may follow it.
        if self.broken.is_some() {
            return false;
        }
        let row = Row {
            id: &id,
            index: context.index,
            kept: &context.kept,
            result: outcome.result.as_ref(),
            report: &outcome.report,
            priced: self.priced,
        };
        let written = if self.on_terminal {
            self.console.suspended(|| self.output.write(&row))
        } else {
            self.output.write(&row)
        };
        self.broken = written.err();
        self.broken.is_none()
    }

    fn report(&mut self, id: &str, context: &ItemContext, error: &LlmError) {
        let count = match (&context.problem, self.shows_failures) {
            (Some(_), _) => &mut self.malformed,
            (None, true) if error.kind() != ErrorKind::Aborted => &mut self.failures,
            (None, _) => return,
        };
        *count += 1;
        if self.quiet || *count > SHOWN {
            return;
        }
        match &context.problem {
            Some((place, message)) => self.console.line(format_args!("{place}: {message}")),
            None => self.console.line(format_args!("item {id}: {error}")),
        }
    }

    /// The reason to stop the run, once there is one.
    pub(crate) const fn stop(&self) -> Option<&Stop> {
        self.rules.stop()
    }

    /// Says how much was not reported.
    pub(crate) fn close(&self) {
        for (count, what) in [
            (self.malformed, "malformed items"),
            (self.failures, "failed items"),
        ] {
            if count > SHOWN {
                self.console
                    .line(format_args!("... and {} more {what}", count - SHOWN));
            }
        }
    }
}
