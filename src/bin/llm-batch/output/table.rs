//! Rows as a table with a header.

use std::io;

use serde_json::Value;

use super::Row;
use crate::schema::text_of;

const BEFORE: [&str; 3] = ["id", "index", "ok"];
/// They stand last and hold no line breaks, so that a torn row can be distinguished from a whole one.
const AFTER: [&str; 16] = [
    "output",
    "error_kind",
    "error_message",
    "error_status",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "unknown_usage_calls",
    "attempts",
    "calls",
    "latency_ms",
    "cost",
    "unknown_cost_calls",
    "model",
    "finish_reason",
];

/// The names of the columns.
pub(crate) fn columns(keep: &[String]) -> Vec<&str> {
    let kept = keep.iter().map(String::as_str);
    BEFORE.into_iter().chain(kept).chain(AFTER).collect()
}

/// The header line.
pub(crate) fn header(keep: &[String]) -> io::Result<Vec<u8>> {
    record(columns(keep))
}

/// The row as a line.
pub(super) fn line(row: &Row<'_>, keep: &[String]) -> io::Result<Vec<u8>> {
    let usage = row.report.usage;
    let response = row.result.ok();
    let error = row.result.err();
    let cost = row.cost();
    let mut cells = vec![
        row.id.to_owned(),
        row.index.to_string(),
        row.result.is_ok().to_string(),
    ];
    cells.extend(keep.iter().map(|name| match row.kept.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }));
    let metadata = response.map(|response| &response.metadata);
    cells.extend([
        response.map_or_else(String::new, |response| text_of(&response.output).into_owned()),
        error.map_or_else(String::new, |error| error.kind().as_str().to_owned()),
        error.map_or_else(String::new, ToString::to_string),
        error
            .and_then(|error| error.status())
            .map_or_else(String::new, |status| status.to_string()),
        usage.input.to_string(),
        usage.output.to_string(),
        usage.cached_input.to_string(),
        usage.reasoning.to_string(),
        row.report.unknown_usage_calls.to_string(),
        row.report.attempts.to_string(),
        row.report.calls.to_string(),
        row.latency_ms().to_string(),
        cost.and_then(|cost| cost.dollars)
            .map_or_else(String::new, |dollars| dollars.to_string()),
        cost.map_or_else(String::new, |cost| cost.unknown_calls.to_string()),
        metadata
            .and_then(|metadata| metadata.model.clone())
            .unwrap_or_default(),
        metadata
            .and_then(|metadata| metadata.finish_reason.as_ref())
            .map_or_else(String::new, ToString::to_string),
    ]);
    record(cells)
}

fn record<T: AsRef<[u8]>>(cells: impl IntoIterator<Item = T>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells)?;
    writer
        .into_inner()
        .map_err(|error| io::Error::other(error.to_string()))
}
