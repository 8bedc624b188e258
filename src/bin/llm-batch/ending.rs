//! The report and the status at the end of a run.

use std::io;

use llm_batch::batch::{Bottleneck, BottleneckCause, FoundLimit};
use llm_batch::{BatchSummary, Termination, Usd, WaitReason};
use serde_json::Value;

use crate::args::{self, ReportingArgs};
use crate::console::Console;
use crate::exit::Exit;
use crate::model::AccountTotals;
use crate::stopping::Stop;
use crate::tally::Tally;

/// The end of a run.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) interrupted: bool,
    pub(crate) broken: Option<io::Error>,
    pub(crate) source_failure: Option<String>,
    /// The reason why the run was stopped.
    pub(crate) stop: Option<Stop>,
    pub(crate) termination: Option<Termination>,
    pub(crate) failed: u64,
}

impl Ending {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
        if self.interrupted {
            Exit::Interrupted
        } else if self.broken.is_some() || self.source_failure.is_some() {
            Exit::StoppedEarly
        } else if self.is_out_of_quota() {
            Exit::QuotaExhausted
        } else if self.termination != Some(Termination::Completed) {
            Exit::StoppedEarly
        } else if self.failed > 0 {
            Exit::SomeFailed
        } else {
            Exit::Success
        }
    }

    /// Returns `true` if there is something that quiet users need to know, too.
    pub(crate) fn is_error(&self) -> bool {
        self.source_failure.is_some()
            || self.early_stop().is_some()
            || self
                .broken
                .as_ref()
                .is_some_and(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }

    /// Says why the run ended before its input did, if so.
    pub(crate) fn explain(&self, console: &Console) {
        match &self.broken {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                console.line("stopped early: the reader of the output has gone");
            }
            Some(error) => console.line(format_args!("error: the output cannot be written: {error}")),
            None => {}
        }
        if let Some(failure) = &self.source_failure {
            console.line(format_args!("error: {failure}"));
        }
        if let Some(stop) = self.early_stop() {
            console.line(stop);
            if let Some(hint) = stop.hint() {
                console.line(hint);
            }
        }
    }

    /// The reason for the stop, if it left something out.
    fn early_stop(&self) -> Option<&Stop> {
        let stopped = matches!(
            self.termination,
            Some(Termination::Stopped | Termination::FailFast)
        );
        let says_more = stopped || self.is_out_of_quota();
        self.stop.as_ref().filter(|_| says_more)
    }

    /// Returns `true` if items failed because a quota is used up, even if all of them were tried.
    const fn is_out_of_quota(&self) -> bool {
        matches!(self.stop, Some(Stop::Quota { .. }))
    }
}

/// The setting that reduces the largest share of the time, in the options of the command line.
const fn advice(cause: BottleneckCause, summary: &BatchSummary) -> &'static str {
    match cause {
        BottleneckCause::Calls => "raise --concurrency, or use a faster model",
        BottleneckCause::Waiting(WaitReason::Cooldown) if summary.throttled_calls == 0 => {
            "the server had no room for the calls, or could not be reached; lower --concurrency if that goes on"
        }
        BottleneckCause::Waiting(WaitReason::Cooldown) => {
            "set --rpm and --tpm to what the provider grants, or ask it for more"
        }
        BottleneckCause::Waiting(WaitReason::Requests) => "raise --rpm or --quota, or use a second key",
        BottleneckCause::Waiting(WaitReason::Tokens) => {
            "raise --tpm or --quota, lower --max-output-tokens or use a second key"
        }
        BottleneckCause::Waiting(WaitReason::InFlight) => "raise --max-in-flight",
        BottleneckCause::Waiting(WaitReason::Pace) if summary.throttled_calls == 0 => {
            "start faster by --start-ramp off, or a rate, if the provider allows it"
        }
        BottleneckCause::Waiting(WaitReason::Pace) => {
            "set --rpm and --tpm so that it is not throttled, or start faster by --start-ramp if the provider allows it"
        }
        BottleneckCause::Waiting(WaitReason::Backoff) => {
            "look at the failures: each repeat waits; lower --max-attempts if repeats do not help"
        }
        BottleneckCause::Untaken => {
            "answers wait for the reader of the output, or for one before them: write to a file, or leave the order open (no --in-order, no text)"
        }
        BottleneckCause::Elsewhere => {
            "the computer is busy with large prompts or answers, or with other programs"
        }
        other => other.advice(),
    }
}

/// A limit that was found, and the option that states it.
fn statement(limit: FoundLimit) -> String {
    match limit {
        FoundLimit::RequestsPerMinute { requests, .. } => format!("{limit}; state it with --rpm {requests}"),
        FoundLimit::CallsInFlight { calls, .. } => format!("{limit}; state it with -c {calls}"),
        other => other.to_string(),
    }
}

/// The closing account.
#[derive(Debug)]
pub(crate) struct Account<'a> {
    pub(crate) summary: &'a BatchSummary,
    pub(crate) tally: &'a Tally,
    /// The totals of each model with its key.
    pub(crate) totals: &'a [AccountTotals],
    /// Answers that are in no output.
    pub(crate) unwritten: u64,
    /// Answers that an earlier run had written.
    pub(crate) kept: u64,
    /// The way to go on with the run.
    pub(crate) resume_hint: Option<&'a str>,
    pub(crate) source_failure: Option<&'a str>,
}

impl Account<'_> {
    /// Writes it in the form that is asked for.
    pub(crate) fn print(&self, reporting: &ReportingArgs, console: &Console) {
        match reporting.summary {
            args::Summary::Text => self.print_text(reporting, console),
            args::Summary::Json => console.line(self.json()),
        }
    }

    fn print_text(&self, reporting: &ReportingArgs, console: &Console) {
        let Self { summary, tally, .. } = self;
        console.line(format_args!("{summary:#}{tally}"));
        for AccountTotals {
            model,
            api_key_env,
            ledger,
        } in self.several()
        {
            let totals = ledger.snapshot();
            let key = api_key_env.as_ref().map(|key| format!(" ({key})"));
            console.line(format_args!(
                "  {:<10} {model}{}: {} calls, {} failed, {} tokens",
                "account",
                key.unwrap_or_default(),
                totals.calls,
                totals.failed_calls,
                totals.usage.total()
            ));
        }
        if self.unwritten > 0 {
            let answers = if self.unwritten == 1 { "answer" } else { "answers" };
            console.line(format_args!(
                "  {:<10} {} {answers} came and could not be written to the output",
                "unwritten", self.unwritten
            ));
        }
        if let Some(Bottleneck {
            cause,
            percent,
            limit,
            ..
        }) = summary.bottleneck()
        {
            let advice = match limit {
                Some(limit) => statement(limit),
                None => advice(cause, summary).to_owned(),
            };
            console.line(format_args!("{percent} % {cause}: {advice}"));
        }
        if reporting.prices.is_some() && summary.cost == Usd::ZERO && summary.unknown_cost_calls > 0 {
            console.line("the cost is not known: --prices does not list the model");
        }
        if self.kept > 0 {
            console.line(format_args!("{} answered by an earlier run were kept", self.kept));
        }
        if let Some(hint) = self.resume_hint {
            console.line(hint);
        }
    }

    /// The totals, if there are several.
    fn several(&self) -> &[AccountTotals] {
        match self.totals {
            [_] => &[],
            several => several,
        }
    }

    fn json(&self) -> Value {
        let mut value = serde_json::to_value(self.summary).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            if self.summary.cost == Usd::ZERO && self.summary.unknown_cost_calls > 0 {
                // Unknown, not nothing.
                fields.insert("cost".to_owned(), Value::Null);
            }
            let tally = self.tally.fields();
            fields.extend(tally.map(|(name, value)| (name.to_owned(), value)));
            if !self.several().is_empty() {
                let accounts = self.several().iter().map(AccountTotals::json);
                fields.insert("accounts".to_owned(), accounts.collect());
            }
            fields.insert("kept".to_owned(), self.kept.into());
            fields.insert("unwritten".to_owned(), self.unwritten.into());
            if let Some(failure) = self.source_failure {
                fields.insert("termination".to_owned(), "input_unreadable".into());
                fields.insert("input_error".to_owned(), failure.into());
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    #[test]
    fn a_found_limit_names_the_option_that_states_it() {
        let statement = |limit| super::statement(from_value(limit).unwrap());
        assert_eq!(
            statement(json!({"requests_per_minute": {"requests": 580, "rejections": 14}})),
            "the provider's limit is about 580 requests a minute (found by 14 rejections); state it with --rpm 580"
        );
        assert_eq!(
            statement(json!({"calls_in_flight": {"calls": 20, "rejections": 1}})),
            "the provider takes about 20 calls at once (found by 1 rejection); state it with -c 20"
        );
    }
}
