//! From outcomes to rows, and to words about what would otherwise be overlooked.

use std::io::{self, IsTerminal as _};

use llm_batch::{LlmError, LlmResponse, Outcome};
use serde_json::Value;

use crate::args::RunArgs;
use crate::console::Console;
use crate::output::{Output, Row};
use crate::source::ItemContext;
use crate::stopping::{Stop, StopRules};
use crate::tally::Tally;
use crate::times::Times;

/// The number of problems of one kind that are shown.
pub(crate) const SHOWN: u64 = 10;

/// Writes outcomes, and reports on standard error what would otherwise be overlooked.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    output: Output,
    console: &'a Console,
    quiet: bool,
    /// `true` if rows appear where the progress bar is.
    on_terminal: bool,
    /// `true` if an unknown cost of items is reported.
    priced: bool,
    times: Times,
    pub(crate) tally: Tally,
    malformed: u64,
    /// Answers whose rows are not in the output.
    pub(crate) unwritten: u64,
    /// The reason why nothing more can be written.
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
            priced: args.reporting.prices.is_some(),
            times: Times::default(),
            tally: Tally::default(),
            malformed: 0,
            unwritten: 0,
            broken: None,
            rules: StopRules::new(&args.limits),
        }
    }

    /// Takes the times of outcomes from `times`.
    pub(crate) fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// Writes the row of an outcome. Returns whether the output can take more.
    pub(crate) fn write(&mut self, outcome: &Outcome<LlmResponse<Value>, LlmError, ItemContext>) -> bool {
        let context = &outcome.context;
        let id = outcome.id.to_string();
        self.tally.note(&id, outcome.result.as_ref());
        self.rules
            .note(outcome.result.as_ref().map(drop), context.problem.is_some());
        self.report(context);
        let is_answer = outcome.result.is_ok();
        // After a failed write the output may end in the middle of a row; nothing may follow it.
        if self.broken.is_some() {
            self.unwritten += u64::from(is_answer);
            return false;
        }
        let row = Row {
            id: &id,
            index: context.index,
            kept: &context.kept,
            result: outcome.result.as_ref(),
            report: &outcome.report,
            time: self.times.take(outcome.index),
            priced: self.priced,
        };
        let written = if self.on_terminal {
            self.console.suspended(|| self.output.write(&row))
        } else {
            self.output.write(&row)
        };
        self.broken = written.err();
        self.unwritten += u64::from(is_answer && self.broken.is_some());
        self.broken.is_none()
    }

    fn report(&mut self, context: &ItemContext) {
        let Some(message) = &context.problem else {
            return;
        };
        self.malformed += 1;
        if !self.quiet && self.malformed <= SHOWN {
            self.console.line(format_args!("{}: {message}", context.place));
        }
    }

    /// The reason to stop the run, once there is one.
    pub(crate) const fn stop(&self) -> Option<&Stop> {
        self.rules.stop()
    }

    /// Says how much was not reported.
    pub(crate) fn close(&self) {
        if self.malformed > SHOWN {
            let more = self.malformed - SHOWN;
            self.console
                .line(format_args!("... and {more} more malformed items"));
        }
    }
}
