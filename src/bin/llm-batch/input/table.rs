//! Tables with a header: CSV and TSV.

use std::collections::VecDeque;
use std::io::{self, Read};

use serde_json::Map;

use super::identity::{Digest, Identity};
use super::item::{Content, Row};
use super::lines::ITEM_LIMIT;

/// Appended to the table. If it does not come back as a row of its own, a quote was left open.
const END: &[u8] = b"\n\x01end of the table\x01\n";

fn is_end(cell: &[u8]) -> bool {
    cell == END.trim_ascii()
}

/// Returns `true` if the end of the table was read as a part of a cell.
fn is_open(record: &csv::ByteRecord) -> bool {
    record.iter().any(|cell| cell.ends_with(END))
}

/// A table whose header was read.
pub(super) struct Table<R> {
    reader: csv::Reader<Source<io::Chain<R, &'static [u8]>>>,
    pub(super) columns: Vec<String>,
    record: csv::ByteRecord,
}

impl<R: Read> Table<R> {
    /// Reads the header. The inner error is for the user.
    pub(super) fn new(reader: R, delimiter: u8) -> io::Result<Result<Self, String>> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_reader(Source::new(reader.chain(END)));
        let header = match reader.byte_headers() {
            Ok(header) if is_open(header) => {
                return Ok(Err("has a quote in its header that is never closed".to_owned()));
            }
            Ok(header) if header.iter().all(is_end) => csv::ByteRecord::new(),
            Ok(header) => header.clone(),
            Err(error) => return into_io(error).map(Err),
        };
        Ok(columns(&header).map(|columns| Self {
            reader,
            columns,
            record: csv::ByteRecord::new(),
        }))
    }

    fn read(&mut self) -> io::Result<Option<Row>> {
        self.reader.get_mut().read = 0;
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(error) => return Err(into_io(error).map_or_else(|error| error, io::Error::other)),
        }
        let record = &self.record;
        if record.len() == 1 && record.iter().all(is_end) {
            return Ok(None);
        }
        let begin = record.position().map_or(0, csv::Position::byte);
        let content = if is_open(record) {
            Err("a quote is opened in this row and never closed".to_owned())
        } else {
            fields(&self.columns, record)
        };
        let identity = match &content {
            Ok(_) => Identity::Fields,
            Err(_) => Identity::Malformed(Digest::of_malformed(
                &record.iter().collect::<Vec<_>>().join(&0x1f),
            )),
        };
        Ok(Some(Row {
            line: self.reader.get_mut().line_at(begin),
            identity,
            content,
        }))
    }
}

impl<R: Read> Iterator for Table<R> {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The names of the columns. One without a name, as of an exported index, is named after its position.
fn columns(header: &csv::ByteRecord) -> Result<Vec<String>, String> {
    let mut columns: Vec<String> = Vec::new();
    for (position, cell) in header.iter().enumerate() {
        let Ok(name) = str::from_utf8(cell) else {
            return Err("has a header that is not UTF-8 text".to_owned());
        };
        let name = match name.trim() {
            "" => format!("column {}", position + 1),
            name => name.to_owned(),
        };
        if let Some(first) = columns.iter().position(|earlier| *earlier == name) {
            return Err(format!(
                "has two columns with the name `{name}`, the {}. and the {}.; rename one of them",
                first + 1,
                position + 1
            ));
        }
        columns.push(name);
    }
    Ok(columns)
}

fn fields(columns: &[String], record: &csv::ByteRecord) -> Result<Content, String> {
    if record.len() != columns.len() {
        return Err(format!(
            "the row has {} cells, the header {}; is a quote missing?",
            record.len(),
            columns.len()
        ));
    }
    let mut fields = Map::new();
    for (name, cell) in columns.iter().zip(record) {
        let cell = str::from_utf8(cell).map_err(|_| format!("column `{name}` is not UTF-8 text"))?;
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

/// Knows the lines, as the CSV reader's own numbers leave out blank lines and the second half of a line break; and fails
/// when a single record takes more than the limit, so that an open quote does not swallow a whole disk.
struct Source<R> {
    reader: R,
    /// Bytes since the last record.
    read: usize,
    offset: u64,
    line: u64,
    last: u8,
    /// The offset and number of each line that is not blank, of those not yet passed.
    lines: VecDeque<(u64, u64)>,
}

impl<R> Source<R> {
    const fn new(reader: R) -> Self {
        Self {
            reader,
            read: 0,
            offset: 0,
            line: 1,
            last: b'\n',
            lines: VecDeque::new(),
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' if self.last == b'\r' => {}
                b'\n' | b'\r' => self.line += 1,
                _ if matches!(self.last, b'\n' | b'\r') => self.lines.push_back((self.offset, self.line)),
                _ => {}
            }
            self.offset += 1;
            self.last = *byte;
        }
    }

    /// The line of the record that begins here, or behind the line breaks here.
    fn line_at(&mut self, offset: u64) -> u64 {
        while self.lines.front().is_some_and(|(begin, _)| *begin < offset) {
            self.lines.pop_front();
        }
        self.lines.front().map_or(self.line, |(_, line)| *line)
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.note(&buffer[..count]);
        self.read = self.read.saturating_add(count);
        if self.read > ITEM_LIMIT {
            return Err(io::Error::other(format!(
                "a row is longer than {} MiB; is a quote left open?",
                ITEM_LIMIT >> 20
            )));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(text: &str) -> Vec<u64> {
        let table = Table::new(text.as_bytes(), b',').unwrap().unwrap();
        table.map(|row| row.unwrap().line).collect()
    }

    #[test]
    fn rows_know_their_lines_with_every_line_break() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "1,2", "", "", "\"x", "y\",3", "4", "5,6"].join(end);
            assert_eq!(lines(&text), [2, 5, 7, 8], "{end:?}");
        }
        let long = format!("a,b\n{}1,2\n", "\n".repeat(100_000));
        assert_eq!(lines(&long), [100_002]);
    }

    #[test]
    fn a_column_without_a_name_is_named_and_a_repeated_one_refused() {
        let columns = |text: &'static str| {
            Table::new(text.as_bytes(), b',')
                .unwrap()
                .map(|table| table.columns)
        };
        assert_eq!(columns(",a, b ,\n").unwrap(), ["column 1", "a", "b", "column 4"]);
        let refused = columns("a,b,a\n").unwrap_err();
        assert!(refused.contains("`a`, the 1. and the 3."), "{refused}");
    }
}
