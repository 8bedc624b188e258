//! Rows as a table with a header.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use llm_batch::FinishReason;
use serde_json::Value;

use super::Row;
use super::format::{Facts, Format, Include, Settings};
use crate::input::BYTE_ORDER_MARK;
use crate::resume::{Found, OldRow, Visitor};
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: true,
    keeps_choices: false,
    includes: &[Include::Reasoning, Include::Raw],
    is_resumable: true,
    is_in_order: false,
    needs_raw_body: false,
};

const BEFORE: [&str; 3] = ["id", "index", "ok"];
/// They stand last and hold no line breaks, so that a torn row can be distinguished from a whole one.
const AFTER: [&str; 18] = [
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
    "time",
    "response_id",
    "model",
    FINISH_REASON,
];
const FINISH_REASON: &str = "finish_reason";

#[derive(Debug)]
pub(super) struct Csv(pub(super) Settings);

impl Csv {
    /// The names of the columns.
    fn columns(&self) -> Vec<&str> {
        let kept = self.0.keep.iter().map(String::as_str);
        let mut columns: Vec<_> = BEFORE.into_iter().chain(kept).collect();
        if self.0.includes(Include::Reasoning) {
            columns.push("reasoning");
        }
        if self.0.includes(Include::Raw) {
            columns.push("raw_output");
        }
        columns.extend(AFTER);
        columns
    }
}

impl Format for Csv {
    fn head(&self) -> io::Result<Vec<u8>> {
        record(self.columns())
    }

    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        line(row, &self.0)
    }

    fn scan(&mut self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        let columns = self.columns();
        let place = |name: &str| columns.iter().position(|column| *column == name);
        let (Some(output), Some(reason)) = (place(AFTER[0]), place(FINISH_REASON)) else {
            return Ok(Err("its columns are not those of this run".to_owned()));
        };
        scan(file, &columns, visitor, |record| {
            let text = |cell: usize| record.get(cell).and_then(|cell| std::str::from_utf8(cell).ok());
            let is_complete = || {
                text(reason) != Some(FinishReason::Length.as_str())
                    && text(output).is_some_and(|output| !output.trim().is_empty())
            };
            let ok = text(2)?.parse::<bool>().ok()?;
            Some(OldRow {
                id: text(0)?.to_owned(),
                index: Some(text(1)?.parse().ok()?),
                ok: ok && (!self.0.require_complete || is_complete()),
                is_answer: ok,
            })
        })
    }
}

/// The row as a line.
fn line(row: &Row<'_>, settings: &Settings) -> io::Result<Vec<u8>> {
    let usage = row.report.usage;
    let response = row.result.ok();
    let error = row.result.err();
    let cost = row.cost();
    let mut cells = vec![
        row.id.to_owned(),
        row.index.to_string(),
        row.result.is_ok().to_string(),
    ];
    cells.extend(settings.keep.iter().map(|name| match row.kept.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }));
    if settings.includes(Include::Reasoning) {
        cells.push(row.reasoning(settings).unwrap_or_default().to_owned());
    }
    if settings.includes(Include::Raw) {
        cells.push(row.raw_output(settings).unwrap_or_default().to_owned());
    }
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
        row.time(),
        metadata
            .and_then(|metadata| metadata.response_id.clone())
            .unwrap_or_default(),
        metadata
            .and_then(|metadata| metadata.model.clone())
            .unwrap_or_default(),
        metadata
            .and_then(|metadata| metadata.finish_reason.as_ref())
            .map_or_else(String::new, ToString::to_string),
    ]);
    record(cells)
}

fn scan(
    mut file: File,
    columns: &[&str],
    visitor: &mut Visitor<'_>,
    parse: impl Fn(&csv::ByteRecord) -> Option<OldRow>,
) -> io::Result<Result<(), String>> {
    let head = record(columns)?;
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
    if reader.byte_headers()? != &csv::ByteRecord::from(columns) {
        return Ok(Err("its columns are not those of this run".to_owned()));
    }
    let width = columns.len();
    let end = reader.position().byte();
    visitor(Found::Head { bytes: &head, end })?;
    let mut cells = csv::ByteRecord::new();
    while reader.read_byte_record(&mut cells)? {
        let end = reader.position().byte();
        let row = parse(&cells);
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
