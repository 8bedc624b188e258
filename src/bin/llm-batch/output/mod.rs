//! The output: a row for each item, written as it finishes.

mod csv;
mod directory;
mod format;
mod jsonl;
mod openai_batch;
mod sink;
mod text;

use std::io;
use std::time::Duration;

use llm_batch::{ItemReport, LlmError, LlmResponse, Usd};
use serde_json::{Map, Value};

pub(crate) use self::directory::{Directory, has_answer};
pub(crate) use self::format::{Format, OutputFormat};
pub(crate) use self::jsonl::RESERVED;
pub(crate) use self::sink::Sink;

/// What one item came to.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) id: &'a str,
    /// Position in the input, from 0.
    pub(crate) index: u64,
    pub(crate) kept: &'a Map<String, Value>,
    pub(crate) result: Result<&'a LlmResponse<Value>, &'a LlmError>,
    pub(crate) report: &'a ItemReport,
    /// Whether prices were given, so that an unknown cost is written as such.
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
    fn cost(&self) -> Option<Cost> {
        let (cost, unknown_calls) = (self.report.cost, self.report.unknown_cost_calls);
        let is_known = cost > Usd::ZERO;
        (self.priced || is_known).then(|| Cost {
            dollars: (is_known || unknown_calls == 0).then(|| cost.dollars()),
            unknown_calls,
        })
    }

    fn latency_ms(&self) -> u64 {
        milliseconds(self.report.call_time)
    }

    fn first_token_ms(&self) -> Option<u64> {
        self.report.time_to_first_token.map(milliseconds)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Where the rows go.
#[derive(Debug)]
pub(crate) enum Output {
    Rows { sink: Sink, format: Box<dyn Format> },
    Directory(Directory),
}

impl Output {
    /// Writes a row and hands it to the system. A row is written whole, or not at all as far as is known.
    pub(crate) fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        match self {
            Self::Directory(directory) => directory.write(row),
            Self::Rows { sink, format } => {
                let mut bytes = if sink.is_new() { format.head()? } else { Vec::new() };
                bytes.extend(format.row(row)?);
                if bytes.is_empty() {
                    return Ok(());
                }
                sink.write(&bytes)
            }
        }
    }
}
