//! `llm-batch run`.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use llm_batch::{
    BatchHandle, BatchSummary, Disposition, ErrorKind, Events, LlmError, LlmResponse, LlmStreamExt as _,
    Outcome, Progress, Termination,
};

use crate::args::{self, OutputFormat, RunArgs};
use crate::compose::{Composer, WHOLE_REQUEST};
use crate::console::Console;
use crate::destination::{Destination, Earlier};
use crate::dry_run;
use crate::events::{self, EventLog};
use crate::exit::{Exit, UsageError};
use crate::input::Inputs;
use crate::model::Model;
use crate::output::{Output, RESERVED, Row};
use crate::signals::Signals;
use crate::source::{ItemContext, Source};

/// How many problems of one sort are shown.
const SHOWN: u64 = 10;
/// Inputs up to this size are read once more beforehand to know how many items there are, for the progress bar.
const COUNTED: u64 = 256 << 20;
/// How long a second Ctrl-C waits for the calls to be dropped.
const GRACE: Duration = Duration::from_secs(2);
/// The exit status after it.
const INTERRUPTED: i32 = 130;

/// Runs the command to its end.
pub(crate) fn main(args: &RunArgs, console: &Console) -> Result<Exit, UsageError> {
    check(args)?;
    let mut inputs = Inputs::new(&args.input)?;
    let model = Model::new(args)?;
    let composer = Composer::new(&args.prompt, model.name_for_bodies())?;
    if inputs.has_bodies() && composer.shapes_prompts() {
        return Err(UsageError::new(format!(
            "the input holds whole requests (OpenAI batch lines), {WHOLE_REQUEST}"
        )));
    }
    if inputs.is_typed() && !args.reporting.quiet {
        console.line("reading prompts from the terminal, one a line; end with Ctrl-D");
    }
    if args.dry_run {
        return dry_run::print(&inputs, &composer, |prompt| model.request_body(prompt));
    }
    let (destination, mut earlier) = Destination::new(&args.output, &args.input.keep)?;
    protect_inputs(&inputs, destination.file())?;
    protect_inputs(&inputs, args.reporting.events.as_deref())?;
    if args.input.strict {
        inputs.spool()?;
        check_items(&inputs, &composer, console)?;
    }
    if let (Earlier::Rows(done), true) = (&mut earlier, inputs.is_rereadable()) {
        done.note_repeated(inputs.items().map_while(Result::ok).map(|item| item.id));
    }
    let plan = Plan {
        args,
        inputs,
        composer,
        model,
        earlier,
        destination,
        console,
    };
    let runtime = crate::runtime()?;
    let exit = runtime.block_on(plan.run());
    // Nothing is worth waiting for: the outcomes are written.
    runtime.shutdown_background();
    exit
}

/// Refuses what makes no sense together, as far as clap cannot tell.
fn check(args: &RunArgs) -> Result<(), UsageError> {
    let keep = &args.input.keep;
    let format = args.output.output_format;
    if let Some(name) = keep.iter().find(|name| RESERVED.contains(&name.as_str())) {
        return Err(UsageError::new(format!(
            "--keep {name}: the output has a field `{name}` of its own"
        )));
    }
    if !keep.is_empty() && !matches!(format, OutputFormat::Jsonl | OutputFormat::Csv) {
        return Err(UsageError::new(
            "--keep needs a place for the fields: --output-format jsonl or csv",
        ));
    }
    Ok(())
}

fn protect_inputs(inputs: &Inputs, output: Option<&Path>) -> Result<(), UsageError> {
    let Some(output) = output else { return Ok(()) };
    let Ok(output) = output.canonicalize() else {
        return Ok(());
    };
    let same = inputs
        .files()
        .any(|input| input.canonicalize().is_ok_and(|input| input == output));
    if same {
        return Err(UsageError::new(format!(
            "{} is an input and would be overwritten",
            output.display()
        )));
    }
    Ok(())
}

/// `--strict`: nothing may be wrong.
fn check_items(inputs: &Inputs, composer: &Composer, console: &Console) -> Result<(), UsageError> {
    let mut wrong = 0;
    for item in inputs.items() {
        let item = item.map_err(UsageError::new)?;
        if let Err(message) = item.content.and_then(|content| composer.prompt(content)) {
            wrong += 1;
            if wrong <= SHOWN {
                console.line(format_args!("{}: {message}", item.place));
            }
        }
    }
    match wrong {
        0 => Ok(()),
        1 => Err(UsageError::new(
            "1 item is malformed; nothing was called (--strict)",
        )),
        _ => Err(UsageError::new(format!(
            "{wrong} items are malformed; nothing was called (--strict)"
        ))),
    }
}

/// A run that was checked and can begin.
struct Plan<'a> {
    args: &'a RunArgs,
    inputs: Inputs,
    composer: Composer,
    model: Model,
    earlier: Earlier,
    destination: Destination,
    console: &'a Console,
}

impl Plan<'_> {
    async fn run(self) -> Result<Exit, UsageError> {
        let Self { args, console, .. } = self;
        let reporting = &args.reporting;
        let shows_progress = self.shows_progress();
        let expected = self.expected();
        let events = Events::with_capacity(events::CAPACITY);
        let (strategy, _server) = self.model.strategy(args, &events).await?;
        let signals = Signals::new().map_err(|error| UsageError::new(error.to_string()))?;
        let log = match &reporting.events {
            Some(path) => Some(EventLog::start(path, &events)?),
            None => None,
        };
        let output = self.destination.open()?;
        let source = Source::start(&self.inputs, self.composer, self.earlier, expected)
            .map_err(|error| UsageError::new(format!("the input cannot be read: {error}")))?;
        let source_state = source.state();

        let mut results = source
            .with_strategy(strategy)
            .llm_batch(args.limits.concurrency)
            .events(&events);
        if args.output.in_order {
            results = results
                .in_order()
                .reorder_buffer(args.limits.concurrency.saturating_mul(4));
        }
        if let Some(limit) = args.limits.batch_timeout {
            results = results.batch_timeout(limit);
        }
        if !args.limits.keep_going {
            results = results.stop_when(scope_fatal());
        }
        let handle = results.handle();
        if shows_progress {
            console.show(Some(Progress::new(&handle).events(&events).start()));
        }
        let interrupts = Interrupts::watch(signals, handle.clone(), console.clone());

        let mut writer = Writer {
            output,
            console,
            quiet: reporting.quiet,
            shows_failures: args.output.output_dir.is_some()
                || args.output.output_format == OutputFormat::Text,
            malformed: 0,
            failures: 0,
            broken: None,
            fatal: None,
        };
        while let Some(outcome) = results.next().await {
            if let Err(error) = writer.write(&outcome) {
                writer.broken = Some(error);
                // What cannot be written is not worth paying for.
                handle.cancel();
            }
        }
        let summary = results.summary();
        drop(results);
        console.show(None);
        if let Some(log) = log
            && let Err(error) = log.finish()
        {
            console.line(format_args!("warning: the event log is not complete: {error}"));
        }
        let source_state = source_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let ending = Ending {
            interrupted: interrupts.has_any(),
            broken: writer.broken.take(),
            source_failure: source_state.failure,
            fatal: writer.fatal.take(),
            termination: summary.termination,
            failed: summary.failed,
        };
        if !reporting.quiet {
            writer.close();
            ending.explain(console);
            print_summary(&summary, reporting.summary, source_state.skipped, console);
        } else if ending.is_error() {
            ending.explain(console);
        }
        Ok(ending.exit())
    }

    fn shows_progress(&self) -> bool {
        let reporting = &self.args.reporting;
        match reporting.progress {
            _ if reporting.quiet => false,
            args::Progress::Always => true,
            args::Progress::Never => false,
            args::Progress::Auto => io::stderr().is_terminal(),
        }
    }

    /// How many items there are, where that is worth finding out.
    fn expected(&self) -> Option<usize> {
        if !self.shows_progress() || self.inputs.bytes().is_none_or(|bytes| bytes > COUNTED) {
            return None;
        }
        let all = self.inputs.items().filter(Result::is_ok).count();
        Some(all.saturating_sub(usize::try_from(self.earlier.len()).unwrap_or(usize::MAX)))
    }
}

/// Kinds that say that no further item of this account and model can succeed.
fn scope_fatal() -> impl Iterator<Item = ErrorKind> {
    [
        ErrorKind::QuotaExhausted,
        ErrorKind::InsufficientBalance,
        ErrorKind::Authentication,
        ErrorKind::NotFound,
    ]
    .into_iter()
    .filter(|kind| kind.disposition() == Disposition::ScopeFatal)
}

/// Writes outcomes, and says on standard error what would otherwise be overlooked.
struct Writer<'a> {
    output: Output,
    console: &'a Console,
    quiet: bool,
    /// Whether failures leave no row, so that they are told here.
    shows_failures: bool,
    malformed: u64,
    failures: u64,
    broken: Option<io::Error>,
    /// The failure that concerns every item.
    fatal: Option<String>,
}

impl Writer<'_> {
    fn write(&mut self, outcome: &Outcome<LlmResponse, LlmError, ItemContext>) -> io::Result<()> {
        let context = &outcome.context;
        let id = outcome.id.to_string();
        if let Err(error) = &outcome.result {
            self.tell(&id, context, error);
        }
        // After a failed write the output may end in the middle of a row; nothing may follow it.
        if self.broken.is_some() {
            return Ok(());
        }
        self.output.write(&Row {
            id: &id,
            index: context.index,
            kept: &context.kept,
            result: outcome.result.as_ref(),
            report: &outcome.report,
        })
    }

    fn tell(&mut self, id: &str, context: &ItemContext, error: &LlmError) {
        if error.disposition() == Disposition::ScopeFatal {
            self.fatal.get_or_insert_with(|| error.to_string());
        }
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

    /// Says how much was not told.
    fn close(&self) {
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

/// How a run ended.
struct Ending {
    interrupted: bool,
    broken: Option<io::Error>,
    source_failure: Option<String>,
    fatal: Option<String>,
    termination: Option<Termination>,
    failed: u64,
}

impl Ending {
    fn exit(&self) -> Exit {
        if self.interrupted {
            Exit::Interrupted
        } else if self.broken.is_some()
            || self.source_failure.is_some()
            || self.termination != Some(Termination::Completed)
        {
            Exit::StoppedEarly
        } else if self.failed > 0 {
            Exit::SomeFailed
        } else {
            Exit::Success
        }
    }

    /// Whether there is something that quiet users need to know, too.
    fn is_error(&self) -> bool {
        self.source_failure.is_some()
            || self.termination == Some(Termination::FailFast)
            || self
                .broken
                .as_ref()
                .is_some_and(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }

    fn explain(&self, console: &Console) {
        match &self.broken {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                console.line("stopped early: nobody reads the output any more");
            }
            Some(error) => console.line(format_args!("error: the output cannot be written: {error}")),
            None => {}
        }
        if let Some(failure) = &self.source_failure {
            console.line(format_args!("error: {failure}"));
        }
        if let (Some(Termination::FailFast), Some(fatal)) = (self.termination, &self.fatal) {
            console.line(format_args!(
                "stopped early, as this concerns every item: {fatal}"
            ));
            console.line("  --keep-going tries the other items all the same");
        }
    }
}

fn print_summary(summary: &BatchSummary, form: args::Summary, kept: u64, console: &Console) {
    match form {
        args::Summary::Text => {
            console.line(summary);
            if kept > 0 {
                console.line(format_args!("{kept} answered by an earlier run were kept"));
            }
        }
        args::Summary::Json => {
            let mut value = serde_json::to_value(summary).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                fields.insert("kept".to_owned(), kept.into());
            }
            console.line(value);
        }
    }
}

/// What Ctrl-C does: first the run ends in good order, then at once.
struct Interrupts {
    count: Arc<AtomicU8>,
}

impl Interrupts {
    fn watch(mut signals: Signals, handle: BatchHandle, console: Console) -> Self {
        let count = Arc::<AtomicU8>::default();
        tokio::spawn({
            let count = Arc::clone(&count);
            async move {
                signals.next().await;
                count.store(1, Ordering::Relaxed);
                handle.stop();
                console.line("interrupted: running calls finish and are written; Ctrl-C again stops at once");
                signals.next().await;
                count.store(2, Ordering::Relaxed);
                handle.cancel();
                // Whoever reads the output may not take what is left.
                tokio::select! {
                    () = signals.next() => {}
                    () = tokio::time::sleep(GRACE) => {}
                }
                std::process::exit(INTERRUPTED);
            }
        });
        Self { count }
    }

    fn has_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }
}
