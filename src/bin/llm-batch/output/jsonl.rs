//! Rows as JSON lines.

use std::fs::File;
use std::io;

use llm_batch::TokenUsage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Row;
use super::format::{Facts, Format};
use crate::resume::{OldRow, Visitor, scan_lines};

pub(super) const FACTS: Facts = Facts {
    keeps_fields: true,
    has_failures: true,
    is_resumable: true,
    needs_raw_body: false,
};

/// The names of a row's own fields, which `--keep` cannot take.
pub(crate) const RESERVED: [&str; 16] = [
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
    "finish_reason",
    "tool_calls",
];

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    index: u64,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a Value>,
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
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [Value],
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
pub(super) struct Jsonl;

impl Format for Jsonl {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        line(row)
    }

    fn scan(&self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        scan_lines(file, visitor, old_row)
    }
}

fn old_row(line: &[u8]) -> Option<OldRow> {
    #[derive(Deserialize)]
    struct Fields {
        id: String,
        index: u64,
        ok: bool,
    }
    let Fields { id, index, ok } = serde_json::from_slice(line).ok()?;
    Some(OldRow {
        id,
        index: Some(index),
        ok,
    })
}

/// The row as a line.
fn line(row: &Row<'_>) -> io::Result<Vec<u8>> {
    let message = row.result.err().map(ToString::to_string).unwrap_or_default();
    let line = Line {
        id: row.id,
        index: row.index,
        ok: row.result.is_ok(),
        output: row.result.ok().map(|response| &response.output),
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
        latency_ms: row.result.is_ok().then(|| row.latency_ms()),
        first_token_ms: row.result.ok().and_then(|_| row.first_token_ms()),
        answer: row.result.ok().map(|response| Answer {
            model: response.metadata.model.as_deref(),
            finish_reason: response
                .metadata
                .finish_reason
                .as_ref()
                .map(|reason| reason.as_str()),
            tool_calls: &response.metadata.tool_calls,
        }),
        kept: row.kept,
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}
