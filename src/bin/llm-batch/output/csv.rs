//! Rows as a table with a header.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde_json::Value;

use super::Row;
use super::format::{Facts, Format};
use crate::resume::Scan;
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

    fn scan(&self, file: File, kept: &mut dyn Write) -> io::Result<Result<Scan, String>> {
        scan(file, &self.head()?, kept)
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

fn scan(mut file: File, header: &[u8], kept: &mut dyn Write) -> io::Result<Result<Scan, String>> {
    let mut scan = Scan::default();
    let mut start = Vec::new();
    Read::by_ref(&mut file)
        .take(header.len() as u64)
        .read_to_end(&mut start)?;
    if header.starts_with(&start) && start.len() < header.len() {
        // Torn in the header: nothing else is there.
        scan.dropped += u64::from(!start.is_empty());
        return Ok(Ok(scan));
    }
    if start != header {
        return Ok(Err("its columns are not those of this run".to_owned()));
    }
    let whole = ends_with_line_break(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    kept.write_all(header)?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let columns = reader.byte_headers()?.len();
    let mut writer = csv::Writer::from_writer(kept);
    let mut records = reader.byte_records().peekable();
    while let Some(record) = records.next() {
        let record = record?;
        let is_last = records.peek().is_none();
        if is_last && (!whole || record.len() != columns) {
            scan.dropped += 1;
            break;
        }
        let text = |cell: usize| record.get(cell).and_then(|cell| std::str::from_utf8(cell).ok());
        let (Some(id), Some(index), Some(ok)) = (
            text(0),
            text(1).and_then(|index| index.parse().ok()),
            text(2).and_then(|ok| ok.parse::<bool>().ok()),
        ) else {
            let line = record.position().map_or(0, csv::Position::line);
            return Ok(Err(format!("line {line} is not a row in this format")));
        };
        if ok {
            scan.done.add(id, Some(index));
            writer.write_byte_record(&record)?;
        } else {
            scan.dropped += 1;
        }
    }
    writer.flush()?;
    Ok(Ok(scan))
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
