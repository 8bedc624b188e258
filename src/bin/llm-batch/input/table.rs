//! Tables with a header: CSV and TSV.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Map;

use super::lines::ITEM_LIMIT;
use super::{Content, Row};

/// Appended to the table. If it does not come back as a row of its own, a quote was left open.
const END: &[u8] = b"\n\x01end of the table\x01\n";

fn is_end(cell: &[u8]) -> bool {
    cell == END.trim_ascii()
}

/// Returns `true` if the end of the table was read as a part of a cell.
fn is_open(record: &csv::ByteRecord) -> bool {
    record.iter().any(|cell| cell.ends_with(END))
}

/// The rows of a table; the inner error is for the user.
pub(crate) fn rows<R: Read>(
    reader: R,
    delimiter: u8,
) -> io::Result<Result<impl Iterator<Item = io::Result<Row>> + use<R>, String>> {
    let read = Arc::new(AtomicUsize::new(0));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .from_reader(Bounded {
            reader: reader.chain(END),
            read: Arc::clone(&read),
        });
    let header = match reader.byte_headers() {
        Ok(header) if is_open(header) => {
            return Ok(Err("has a quote in its header that is never closed".to_owned()));
        }
        Ok(header) if header.iter().all(is_end) => csv::ByteRecord::new(),
        Ok(header) => header.clone(),
        Err(error) => return into_io(error).map(Err),
    };
    let mut names = Vec::new();
    for cell in &header {
        match std::str::from_utf8(cell) {
            Ok(name) => names.push(name.trim().to_owned()),
            Err(_) => return Ok(Err("has a header that is not UTF-8 text".to_owned())),
        }
    }
    let header = names;
    let duplicate = header
        .iter()
        .enumerate()
        .find(|(position, name)| header[..*position].contains(name));
    if let Some((_, name)) = duplicate {
        return Ok(Err(format!("has two columns with the name `{name}`")));
    }
    let mut record = csv::ByteRecord::new();
    Ok(Ok(std::iter::from_fn(move || {
        read.store(0, Ordering::Relaxed);
        match reader.read_byte_record(&mut record) {
            Ok(false) => None,
            Ok(true) if record.len() == 1 && record.iter().all(is_end) => None,
            Ok(true) => Some(Ok(Row {
                line: record.position().map_or(0, csv::Position::line),
                id: None,
                content: if is_open(&record) {
                    Err("a quote is opened in this row and never closed".to_owned())
                } else {
                    fields(&header, &record)
                },
            })),
            Err(error) => Some(into_io(error).and_then(|message| Err(io::Error::other(message)))),
        }
    })))
}

fn fields(header: &[String], record: &csv::ByteRecord) -> Result<Content, String> {
    if record.len() != header.len() {
        return Err(format!(
            "the row has {} cells, the header {}; is a quote missing?",
            record.len(),
            header.len()
        ));
    }
    let mut fields = Map::new();
    for (name, cell) in header.iter().zip(record) {
        let cell = std::str::from_utf8(cell).map_err(|_| format!("column `{name}` is not UTF-8 text"))?;
        fields.insert(name.clone(), cell.into());
    }
    Ok(Content::Fields(fields))
}

/// A failed read as such, anything else as a message.
fn into_io(error: csv::Error) -> io::Result<String> {
    if error.is_io_error() {
        return Err(error.into());
    }
    Ok(error.to_string())
}

/// Fails when a single record takes more than the limit, so that an open quote does not swallow a whole disk.
struct Bounded<R> {
    reader: R,
    read: Arc<AtomicUsize>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if self.read.fetch_add(count, Ordering::Relaxed) > ITEM_LIMIT {
            return Err(io::Error::other(format!(
                "a row is longer than {} MiB; is a quote left open?",
                ITEM_LIMIT >> 20
            )));
        }
        Ok(count)
    }
}
