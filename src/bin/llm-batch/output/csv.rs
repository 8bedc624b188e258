//! Rows as a table with a header.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use serde_json::Value;

use super::Row;
use super::format::{Facts, Format};
use crate::input::BYTE_ORDER_MARK;
use crate::resume::{Found, OldRow, Visitor};
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: true,
    has_failures: true,
    is_resumable: true,
    needs_raw_body: false,
};

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

#[derive(Debug)]
pub(super) struct Csv {
    keep: Vec<String>,
}

impl Csv {
    pub(super) fn new(keep: &[String]) -> Self {
        Self { keep: keep.to_vec() }
    }
}

impl Format for Csv {
    fn head(&self) -> io::Result<Vec<u8>> {
        record(columns(&self.keep))
    }

    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        line(row, &self.keep)
    }

    fn scan(&self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        scan(file, &self.keep, visitor)
    }
}

/// The names of the columns.
fn columns(keep: &[String]) -> Vec<&str> {
    let kept = keep.iter().map(String::as_str);
    BEFORE.into_iter().chain(kept).chain(AFTER).collect()
}

/// The row as a line.
fn line(row: &Row<'_>, keep: &[String]) -> io::Result<Vec<u8>> {
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

fn scan(mut file: File, keep: &[String], visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
    let head = record(columns(keep))?;
    let mut start = Vec::new();
    Read::by_ref(&mut file)
        .take((BYTE_ORDER_MARK.len() + head.len()) as u64)
        .read_to_end(&mut start)?;
    let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&start);
    if start.len() < head.len() && head.starts_with(start) {
        // Torn in the header: nothing else is there.
        visitor(Found::Torn)?;
        return Ok(Ok(()));
    }
    let length = file.metadata()?.len();
    let whole = ends_with_line_break(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    if reader.byte_headers()? != &csv::ByteRecord::from(columns(keep)) {
        return Ok(Err("its columns are not those of this run".to_owned()));
    }
    let width = columns(keep).len();
    let end = reader.position().byte();
    visitor(Found::Head { bytes: &head, end })?;
    let mut cells = csv::ByteRecord::new();
    while reader.read_byte_record(&mut cells)? {
        let end = reader.position().byte();
        let text = |cell: usize| cells.get(cell).and_then(|cell| std::str::from_utf8(cell).ok());
        let row = match (text(0), text(1).map(str::parse), text(2).map(str::parse)) {
            (Some(id), Some(Ok(index)), Some(Ok(ok))) => Some(OldRow {
                id: id.to_owned(),
                index: Some(index),
                ok,
            }),
            _ => None,
        };
        let bytes = &record(&cells)?;
        let is_last = end >= length;
        visitor(match row {
            _ if is_last && (!whole || cells.len() != width) => Found::Torn,
            Some(row) if cells.len() == width => Found::Row { row, bytes, end },
            _ => Found::Bad { bytes },
        })?;
    }
    Ok(Ok(()))
}

fn ends_with_line_break(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn record<T: AsRef<[u8]>>(cells: impl IntoIterator<Item = T>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells)?;
    writer
        .into_inner()
        .map_err(|error| io::Error::other(error.to_string()))
}
