//! The output: a row for each item, written as it finishes.

mod csv;
mod directory;
mod format;
mod jsonl;
mod names;
mod openai_batch;
mod sink;
mod terminal;
mod text;

use std::io;
use std::time::{Duration, SystemTime};

use llm_batch::{ItemReport, LlmError, LlmResponse, Usd};
use serde_json::{Map, Value};

pub(crate) use self::directory::{INDEX, remove_torn};
pub(crate) use self::format::{Format, Include, OutputFormat, Settings};
pub(crate) use self::sink::Sink;

/// The outcome of one item.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) id: &'a str,
    /// Position in the input, from 0.
    pub(crate) index: u64,
    pub(crate) kept: &'a Map<String, Value>,
    pub(crate) result: Result<&'a LlmResponse<Value>, &'a LlmError>,
    pub(crate) report: &'a ItemReport,
    /// The time of the outcome.
    pub(crate) time: SystemTime,
    /// `true` if prices were given, so that an unknown cost is written as such.
    pub(crate) priced: bool,
}

/// The cost of an item, if it is known or was asked for.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// In US dollars; none if not known for any call that used something.
    dollars: Option<f64>,
    unknown_calls: u32,
}

impl Row<'_> {
    /// Where nothing is known it is absent; a cost of nothing is known if no call is unknown.
    fn cost(&self) -> Option<Cost> {
        let (cost, unknown_calls) = (self.report.cost, self.report.unknown_cost_calls);
        let is_known = cost > Usd::ZERO || unknown_calls == 0;
        let is_of_interest = self.priced || cost > Usd::ZERO;
        is_of_interest.then(|| Cost {
            dollars: is_known.then(|| cost.dollars()),
            unknown_calls,
        })
    }

    /// The time of the outcome as RFC 3339, in UTC.
    fn time(&self) -> String {
        humantime::format_rfc3339_millis(self.time).to_string()
    }

    /// The model's reasoning, if it is asked for.
    fn reasoning(&self, settings: &Settings) -> Option<&str> {
        let reasoning = self.result.ok()?.metadata.reasoning.as_ref();
        reasoning
            .filter(|_| settings.includes(Include::Reasoning))
            .map(|reasoning| reasoning.text.as_str())
    }

    /// The model's text where it is not a valid answer, if requested.
    fn raw_output(&self, settings: &Settings) -> Option<&str> {
        let output = self.result.err()?.raw_output();
        output.filter(|_| settings.includes(Include::Raw))
    }

    fn latency_ms(&self) -> u64 {
        milliseconds(self.report.call_time)
    }

    fn first_token_ms(&self) -> Option<u64> {
        self.report.time_to_first_token.map(milliseconds)
    }
}

/// Returns `true` if an answer has nothing in it.
pub(crate) fn is_blank(output: &Value) -> bool {
    match output {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The place and the form of the rows.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) sink: Sink,
    pub(crate) format: Box<dyn Format>,
}

impl Output {
    /// Writes a row and hands it to the system. A row is written whole, or not at all as far as is known.
    pub(crate) fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        let mut bytes = if self.sink.is_new() {
            self.format.head()?
        } else {
            Vec::new()
        };
        bytes.extend(self.format.row(row)?);
        self.sink.write(&bytes)
    }
}
