//! Rows as JSON lines.

use std::fs::File;
use std::io;

use llm_batch::{FinishReason, TokenUsage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::format::{Facts, Format, Include, Settings};
use super::{Row, is_blank};
use crate::resume::{OldRow, Visitor, scan_lines};

pub(super) const FACTS: Facts = Facts {
    keeps_fields: true,
    keeps_choices: true,
    includes: &[Include::Reasoning, Include::Raw],
    is_resumable: true,
    is_in_order: false,
    needs_raw_body: false,
};

/// The names of a row's own fields, which `--keep` cannot take.
pub(crate) const RESERVED: [&str; 22] = [
    "id",
    "index",
    "ok",
    "output",
    "error",
    "usage",
    "unknown_usage_calls",
    "cost",
    "unknown_cost_calls",
    "attempts",
    "calls",
    "latency_ms",
    "first_token_ms",
    "model",
    "response_id",
    "finish_reason",
    "tool_calls",
    "choices",
    "reasoning",
    "raw_output",
    "time",
    "file",
];

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    index: u64,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
    usage: Usage,
    #[serde(skip_serializing_if = "is_zero")]
    unknown_usage_calls: u32,
    #[serde(flatten)]
    cost: Option<Costs>,
    attempts: u32,
    calls: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token_ms: Option<u64>,
    #[serde(flatten)]
    answer: Option<Answer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_output: Option<&'a str>,
    time: String,
    #[serde(flatten)]
    kept: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct Costs {
    /// In US dollars.
    cost: Option<f64>,
    #[serde(skip_serializing_if = "is_zero")]
    unknown_cost_calls: u32,
}

#[derive(Serialize)]
struct Answer<'a> {
    model: Option<&'a str>,
    response_id: Option<&'a str>,
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [Value],
    /// Those after the first, which is the output.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    choices: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'static str,
    message: &'a str,
    status: Option<u16>,
}

/// Every class is there, also where it is zero: a table of rows has the same columns everywhere.
#[derive(Serialize)]
struct Usage {
    input: u64,
    output: u64,
    cached_input: u64,
    cache_write: u64,
    cache_write_long: u64,
    reasoning: u64,
}

impl From<TokenUsage> for Usage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            input: usage.input,
            output: usage.output,
            cached_input: usage.cached_input,
            cache_write: usage.cache_write,
            cache_write_long: usage.cache_write_long,
            reasoning: usage.reasoning,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the shape serde asks for
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Debug)]
pub(super) struct Jsonl(pub(super) Settings);

impl Format for Jsonl {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        line(row, &self.0, Place::Row)
    }

    fn scan(&mut self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        scan_lines(file, visitor, |line| old_row(line, &self.0, true))
    }
}

/// A row of an earlier run. `has_output` says that its output must be in it.
pub(super) fn old_row(line: &[u8], settings: &Settings, has_output: bool) -> Option<OldRow> {
    #[derive(Deserialize)]
    struct Fields {
        id: String,
        index: u64,
        ok: bool,
        finish_reason: Option<String>,
        #[serde(default)]
        output: Value,
        #[serde(default)]
        tool_calls: Vec<serde::de::IgnoredAny>,
    }
    let fields: Fields = serde_json::from_slice(line).ok()?;
    let is_cut = fields.finish_reason.as_deref() == Some(FinishReason::Length.as_str());
    let is_empty = has_output && is_blank(&fields.output) && fields.tool_calls.is_empty();
    Some(OldRow {
        id: fields.id,
        index: Some(fields.index),
        ok: fields.ok && !(settings.require_complete && (is_cut || is_empty)),
        is_answer: fields.ok,
    })
}

/// The place of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Row,
    /// A file of its own, if there is an answer.
    File(Option<&'a str>),
}

/// The row as a line.
pub(super) fn line(row: &Row<'_>, settings: &Settings, place: Place<'_>) -> io::Result<Vec<u8>> {
    let message = row.result.err().map(ToString::to_string).unwrap_or_default();
    let response = row.result.ok();
    let line = Line {
        id: row.id,
        index: row.index,
        ok: row.result.is_ok(),
        output: match place {
            Place::Row => response.map(|response| &response.output),
            Place::File(_) => None,
        },
        file: match place {
            Place::Row => None,
            Place::File(name) => name,
        },
        error: row.result.err().map(|error| Failure {
            kind: error.kind().as_str(),
            message: &message,
            status: error.status(),
        }),
        usage: row.report.usage.into(),
        unknown_usage_calls: row.report.unknown_usage_calls,
        cost: row.cost().map(|cost| Costs {
            cost: cost.dollars,
            unknown_cost_calls: cost.unknown_calls,
        }),
        attempts: row.report.attempts,
        calls: row.report.calls,
        latency_ms: response.map(|_| row.latency_ms()),
        first_token_ms: response.and_then(|_| row.first_token_ms()),
        answer: response.map(|response| {
            let metadata = &response.metadata;
            Answer {
                model: metadata.model.as_deref(),
                response_id: metadata.response_id.as_deref(),
                finish_reason: metadata.finish_reason.as_ref().map(|reason| reason.as_str()),
                tool_calls: &metadata.tool_calls,
                choices: metadata
                    .further_choices
                    .as_ref()
                    .map_or(&[], |further| &further.choices),
                reasoning: row.reasoning(settings),
            }
        }),
        raw_output: row.raw_output(settings),
        time: row.time(),
        kept: row.kept,
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}
