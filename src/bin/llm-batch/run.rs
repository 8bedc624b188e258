//! `llm-batch run`.

use std::collections::HashSet;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use futures::{StreamExt as _, stream};
use llm_batch::batch::FailureGroup;
use llm_batch::{
    BatchSummary, Disposition, ErrorKind, Events, LlmStreamExt as _, PriceTable, Progress, Prompt,
    Termination,
};
use serde_json::Value;

use crate::args::{self, RunArgs};
use crate::compose::{Composer, FOR_RESPONSES, WHOLE_REQUEST};
use crate::console::Console;
use crate::destination::{self, Destination, Earlier, Opened};
use crate::dry_run;
use crate::ending::{Account, Ending};
use crate::events::{self, EventLog};
use crate::exit::{Exit, UsageError};
use crate::input::{Endpoint, Inputs, real_path};
use crate::learned;
use crate::model::{Connected, Learning, Models};
use crate::output::{Include, OutputFormat};
use crate::pauses;
use crate::prices;
use crate::schema;
use crate::signals::{Interrupts, Signals};
use crate::source::Source;
use crate::stdout;
use crate::times::Times;
use crate::writer::{SHOWN, Writer};

/// Inputs up to this size are read once more beforehand to know how many items there are, for the progress bar.
const COUNTED: u64 = 256 << 20;

/// Runs the command to its end.
pub(crate) fn main(args: &RunArgs, console: &Console) -> Result<Exit, UsageError> {
    check(args)?;
    let mut inputs = Inputs::new(&args.input, args.named_fields())?;
    let model = Models::new(args)?;
    let prices = prices::read(args.reporting.prices.as_deref())?;
    let composer = Composer::new(&args.prompt, model.name_for_bodies(), model.bodies())?
        .for_output(args.output.format());
    let schema = match &args.prompt.schema {
        Some(path) => {
            let schema = schema::read(path)?;
            model.check(&Prompt::new(""), Some(&schema)).map_err(|error| {
                UsageError::new(format!("--schema {}: {}", path.display(), error.message()))
            })?;
            Some(schema)
        }
        None => None,
    };
    if inputs.has_bodies() && composer.shapes_prompts() {
        return Err(UsageError::new(format!(
            "the input holds whole requests (OpenAI batch lines), {WHOLE_REQUEST}"
        )));
    }
    inputs.check_columns(|columns| composer.check_columns(columns))?;
    if composer.shapes_prompts() {
        // A setting that the provider always rejects is reported once, before any call.
        model
            .check(&composer.sample(), None)
            .map_err(|error| UsageError::new(error.message()))?;
    }
    if !model.bodies().responses && inputs.first_endpoint() == Some(Endpoint::Responses) {
        return Err(UsageError::new(format!("the input {FOR_RESPONSES}")));
    }
    keep_apart(&mut inputs, args)?;
    if inputs.is_typed() && !args.reporting.quiet {
        console.line("reading prompts from the terminal, one a line; end with Ctrl-D");
    }
    if args.dry_run {
        return dry_run::print(&inputs, &composer, &model, schema.as_ref(), prices.as_ref());
    }
    if args.output.is_stdout() {
        stdout::check()?;
    }
    let (destination, mut earlier) = Destination::new(&args.output, &args.input)?;
    protect_inputs(&inputs, args, destination.file())?;
    protect_inputs(&inputs, args, args.reporting.events.as_deref())?;
    let bad = destination.file().map(destination::bad_lines);
    protect_inputs(&inputs, args, bad.as_deref())?;
    if cfg!(unix) && destination.file().is_none() {
        // `>> FILE` would append the answers to the prompts, and read them again.
        protect_inputs(&inputs, args, Some(Path::new("/dev/stdout")))?;
    }
    if args.reporting.events.is_some() && args.reporting.events == args.output.output {
        return Err(UsageError::new("--events and --output name the same file"));
    }
    if args.input.strict {
        inputs.spool()?;
        inputs.check_columns(|columns| composer.check_columns(columns))?;
        check_items(&inputs, &composer, console)?;
    }
    if let (Earlier::Rows(done), true) = (&mut earlier, inputs.is_rereadable()) {
        done.note_repeated(inputs.all_items().map_while(Result::ok).map(|item| item.id));
    }
    let plan = Plan {
        args,
        inputs,
        composer,
        model,
        schema,
        prices,
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

/// The places of the schema in a request, on one wire or another.
const SCHEMA_FIELDS: [&str; 6] = [
    "/response_format",
    "/text/format",
    "/output_config/format",
    "/output_format",
    "/generationConfig/responseSchema",
    "/generationConfig/responseJsonSchema",
];

/// The places of the prompt in a request, on one wire or another.
const PROMPT_FIELDS: [&str; 3] = ["messages", "input", "contents"];

/// Rejects contradictory options that clap cannot detect.
fn check(args: &RunArgs) -> Result<(), UsageError> {
    args.output.format().check(&args.output.settings(&args.input))?;
    let extra = args.prompt.extra.as_ref();
    if !args.provider.stream && extra.is_some_and(|extra| extra.0.get("stream") == Some(&Value::Bool(true))) {
        return Err(UsageError::new(
            "--extra sets `stream`; have the answers streamed by --stream in its place",
        ));
    }
    if extra.is_some_and(|extra| extra.0.contains_key("model")) {
        return Err(UsageError::new(
            "--extra sets `model`; name the model by --model in its place",
        ));
    }
    if let Some(name) = PROMPT_FIELDS
        .iter()
        .find(|name| extra.is_some_and(|extra| extra.0.contains_key(**name)))
    {
        return Err(UsageError::new(format!(
            "--extra sets `{name}`, which would replace every prompt; leave it out, or give whole requests as input"
        )));
    }
    let is_mixed = args.input.shuffle || args.input.sample.is_some();
    if is_mixed && args.output.format() == OutputFormat::Text && !args.output.include.contains(&Include::Id) {
        return Err(UsageError::new(
            "--output-format text shows by its lines alone which answer is whose, and --shuffle and --sample take other items than those in order: add --include id",
        ));
    }
    if let (Some(_), Some(extra)) = (&args.prompt.schema, extra) {
        let extra = Value::Object(extra.0.clone());
        if let Some(place) = SCHEMA_FIELDS.iter().find(|place| extra.pointer(place).is_some()) {
            return Err(UsageError::new(format!(
                "--extra sets `{}`, which would replace the schema of --schema; leave out one of them",
                place[1..].replace('/', ".")
            )));
        }
    }
    if let (Some(call), Some(item)) = (args.limits.timeout, args.limits.item_timeout)
        && call > item
    {
        return Err(UsageError::new(format!(
            "--timeout {call:?} is above --item-timeout {item:?} and would never apply; lower it, or raise --item-timeout"
        )));
    }
    Ok(())
}

fn protect_inputs(inputs: &Inputs, args: &RunArgs, output: Option<&Path>) -> Result<(), UsageError> {
    // A terminal may be both.
    let Some(output) = output.filter(|path| path.is_file()) else {
        return Ok(());
    };
    let Ok(output) = output.canonicalize() else {
        return Ok(());
    };
    let others = [
        args.prompt.prompt_file.as_deref(),
        args.prompt.schema.as_deref(),
        args.reporting.prices.as_deref().map(Path::new),
    ];
    let same = inputs
        .files()
        .chain(others.into_iter().flatten())
        .any(|input| is_same_file(input, &output));
    if same {
        return Err(UsageError::new(format!(
            "{} is an input and would be overwritten",
            output.display()
        )));
    }
    Ok(())
}

/// Leaves the outputs out of the input folders. An input folder cannot be the output folder: the answers have the names of the
/// prompts.
fn keep_apart(inputs: &mut Inputs, args: &RunArgs) -> Result<(), UsageError> {
    let file = args.output.output.as_deref();
    let file = file.filter(|path| *path != Path::new("-")).map(real_path);
    // They stand beside the file itself, not beside a link to it.
    let beside = file.as_deref().map(destination::files_beside).unwrap_or_default();
    let stdout = Path::new("/dev/stdout");
    let outputs = [
        Some(stdout).filter(|path| args.output.is_stdout() && path.is_file()),
        args.output.output_dir.as_deref(),
        file.as_deref(),
        args.reporting.events.as_deref(),
    ];
    let beside = beside.iter().map(PathBuf::as_path);
    for output in outputs.into_iter().flatten().chain(beside) {
        inputs.leave_out(output).map_err(|folder| {
            UsageError::new(format!(
                "{} is an input folder, and its files would be overwritten; write the answers elsewhere",
                folder.display()
            ))
        })?;
    }
    Ok(())
}

/// Returns `true` if both are one file, by whichever name or hard link.
fn is_same_file(input: &Path, output: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let id = |path: &Path| std::fs::metadata(path).map(|data| (data.dev(), data.ino()));
        if let (Ok(input), Ok(output)) = (id(input), id(output)) {
            return input == output;
        }
    }
    input.canonicalize().is_ok_and(|input| input == output)
}

/// `--strict`: nothing may be wrong.
fn check_items(inputs: &Inputs, composer: &Composer, console: &Console) -> Result<(), UsageError> {
    let mut wrong = 0;
    let mut ids = HashSet::new();
    for item in inputs.items() {
        let item = item.map_err(UsageError::new)?;
        let made = item.content.and_then(|content| composer.prompt(content));
        let is_new = ids.insert(Arc::clone(&item.id));
        let checked = made.and_then(|_| {
            let repeated = || format!("another item has the id `{}`, too", item.id);
            is_new.then_some(()).ok_or_else(repeated)
        });
        if let Err(message) = checked {
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
    model: Models,
    schema: Option<Value>,
    prices: Option<PriceTable>,
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
        let events = match &reporting.events {
            Some(_) => Events::with_capacity(events::CAPACITY),
            None => Events::new(),
        };
        let Connected {
            strategy,
            servers: _servers,
            totals,
            learned,
        } = self
            .model
            .connect(args, self.schema.as_ref(), self.prices.as_ref(), &events, console)
            .await?;
        for limit in learned.iter().filter_map(Learning::given) {
            if !reporting.quiet {
                console.line(learned::starting(limit));
            }
        }
        let mut signals = Signals::new().map_err(|error| UsageError::new(error.to_string()))?;
        let log = match &reporting.events {
            Some(path) => Some(EventLog::start(path, &events)?),
            None => None,
        };
        let resumable = self.destination.is_resumable();
        if !reporting.quiet {
            pauses::report(&events, console, resumable, args.limits.wait_for_reset);
        }
        let mut source = Source::start(&self.inputs, self.composer, self.earlier, expected)
            .map_err(|error| UsageError::new(format!("the input cannot be read: {error}")))?;
        let source_state = source.state();
        // An input without items, as a program that failed leaves one, replaces no answers.
        let first = match args.output.overwrite {
            true => tokio::select! {
                first = source.next() => first,
                () = signals.next() => return Ok(Exit::Interrupted),
            },
            false => None,
        };
        let keeps_old = args.output.overwrite && first.is_none();
        let warnings = (!reporting.quiet).then_some(console);
        let Opened { output, replaced } = self.destination.open(keeps_old, warnings)?;
        let source = stream::iter(first).chain(source);

        let times = Times::of(args, &events);
        let mut results = source
            .with_strategy(strategy)
            .llm_batch(args.limits.concurrency)
            .events(&events);
        if args.output.is_in_order() {
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

        let mut writer = Writer::new(output, args, console).times(times);
        while let Some(outcome) = results.next().await {
            if !writer.write(&outcome) {
                // What cannot be written is not worth paying for.
                handle.cancel();
            } else if writer.stop().is_some() {
                handle.stop();
            }
        }
        let mut summary = results.summary();
        drop(results);
        console.show(None);
        for learning in &learned {
            learning.keep(args, console);
        }
        if let Some(log) = log
            && let Err(error) = log.finish()
        {
            console.line(format_args!("warning: the event log is not complete: {error}"));
        }
        let source_state = source_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if source_state.ended && left_nothing_out(&summary, source_state.sent) {
            summary.termination = Some(Termination::Completed);
            summary.not_reached = None;
        }
        // An answer that is in no output is none for the user.
        summary.succeeded = summary.succeeded.saturating_sub(writer.unwritten);
        let ending = Ending {
            interrupted: interrupts.has_any(),
            broken: writer.broken.take(),
            source_failure: source_state.failure,
            stop: writer.stop().cloned(),
            termination: summary.termination,
            failed: summary.failed,
        };
        let kept = replaced.filter(|old| {
            let is_kept = ending.exit() != Exit::Success || std::fs::remove_file(old).is_err();
            is_kept && !reporting.quiet
        });
        if !reporting.quiet {
            writer.close();
            ending.explain(console);
            if summary.accepted == 0 && source_state.skipped == 0 && ending.exit() == Exit::Success {
                console.line("the input has no items");
            }
            let resume_hint = (resumable && ending.exit() != Exit::Success).then_some(match args.output.overwrite {
                true => "the same command with --resume in place of --overwrite does what is missing or failed",
                false => "the same command with --resume does what is missing or failed",
            });
            if let Some(id) = &source_state.repeated {
                console.line(format_args!(
                    "warning: several items have the same id, such as `{id}`; their rows differ in `index` alone"
                ));
            }
            for warning in &source_state.warnings {
                console.line(warning);
            }
            let account = Account {
                summary: &summary,
                tally: &writer.tally,
                totals: &totals,
                unwritten: writer.unwritten,
                kept: source_state.skipped,
                resume_hint,
                source_failure: ending.source_failure.as_deref(),
            };
            account.print(reporting, console);
            if let Some(old) = kept {
                console.line(format_args!(
                    "the answers that --overwrite replaced are kept in {}",
                    old.display()
                ));
            }
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
            args::Progress::Auto => io::stderr().is_terminal() && !self.inputs.is_typed(),
        }
    }

    /// The number of items, where it is worth finding out.
    fn expected(&self) -> Option<usize> {
        if !self.shows_progress() || self.inputs.bytes().is_none_or(|bytes| bytes > COUNTED) {
            return None;
        }
        let mut earlier = self.earlier.clone();
        let items = self.inputs.items().map_while(Result::ok);
        Some(items.filter(|item| !earlier.take(&item.id, item.index)).count())
    }
}

/// Returns `true` if the time limit of the batch came when all `sent` items had been taken, and none of them was given up.
fn left_nothing_out(summary: &BatchSummary, sent: u64) -> bool {
    let is_aborted = |group: &FailureGroup| group.kind == ErrorKind::Aborted;
    summary.termination == Some(Termination::BatchTimeout)
        && summary.finished() == sent
        && !summary.failures.iter().any(is_aborted)
}

/// Kinds that say that no further item of this account and model can succeed.
fn scope_fatal() -> impl Iterator<Item = ErrorKind> {
    let kinds = ErrorKind::ALL.iter().copied();
    kinds.filter(|kind| kind.disposition() == Disposition::ScopeFatal)
}
