//! What is said and returned at the end of a run.

use std::io;

use llm_batch::{BatchSummary, Termination, Usd};

use crate::args;
use crate::console::Console;
use crate::exit::Exit;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) interrupted: bool,
    pub(crate) broken: Option<io::Error>,
    pub(crate) source_failure: Option<String>,
    pub(crate) fatal: Option<String>,
    pub(crate) termination: Option<Termination>,
    pub(crate) failed: u64,
}

impl Ending {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
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
    pub(crate) fn is_error(&self) -> bool {
        self.source_failure.is_some()
            || self.termination == Some(Termination::FailFast)
            || self
                .broken
                .as_ref()
                .is_some_and(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }

    /// Says why the run ended before its input did, if so.
    pub(crate) fn explain(&self, console: &Console) {
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

/// What the library's summary advises, in the words of the command line.
const OPTIONS: [(&str, &str); 6] = [
    (
        "do less between two outcomes, or hand them to another task; with in_order, set a reorder_buffer",
        "who reads the output is slow: write to a file with --output, or leave out --in-order",
    ),
    ("the concurrency of llm_batch(n)", "--concurrency"),
    ("requests_per_minute", "--rpm"),
    ("tokens_per_minute", "--tpm"),
    ("max_output_tokens", "--max-output-tokens"),
    ("max_in_flight", "--max-in-flight"),
];

/// The closing account. With `priced` somebody wants to know the cost. `kept` rows were there before; with `resumable` the
/// run can be gone on with.
pub(crate) fn print_summary(
    summary: &BatchSummary,
    priced: bool,
    form: args::Summary,
    kept: u64,
    resumable: bool,
    console: &Console,
) {
    match form {
        args::Summary::Text => {
            let mut text = summary.to_string();
            for (name, option) in OPTIONS {
                text = text.replace(name, option);
            }
            console.line(text);
            if priced && summary.cost == Usd::ZERO && summary.unknown_cost_calls > 0 {
                console.line("the cost is not known: --prices does not list the model");
            }
            if kept > 0 {
                console.line(format_args!("{kept} answered by an earlier run were kept"));
            }
            if resumable {
                console.line("the same command with --resume does what is missing or failed");
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
