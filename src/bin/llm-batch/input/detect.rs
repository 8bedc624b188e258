//! The format of an input, by its name and its first line.

use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use serde_json::Value;

use super::compressed::{unpack, without_ending};
use super::lines::ITEM_LIMIT;
use super::openai_batch;
use crate::args::InputFormat;

/// The mark that some programs put before UTF-8 text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A format that needs no more guessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jsonl,
    /// An array of items, or values over any number of lines.
    Json,
    OpenAiBatch,
    Table {
        delimiter: u8,
    },
    Text,
}

/// An input with its beginning put back.
pub(crate) type Opened = BufReader<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>>;

/// So much of an array shows that it is one.
const ENOUGH: usize = 16 << 10;

/// Files that hold no text, by their first bytes, and what to do about it.
const FOREIGN: [(&[u8], &str); 9] = [
    (
        b"\xff\xfe",
        "is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
    ),
    (
        b"\xfe\xff",
        "is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
    ),
    (b"\x1f\x8b", "is compressed twice; unpack it once"),
    (b"\x28\xb5\x2f\xfd", "is compressed twice; unpack it once"),
    (
        b"BZh91AY&SY",
        "is compressed by bzip2; unpack it first: bunzip2 -c FILE | llm-batch run ...",
    ),
    (
        b"\xfd7zXZ\0",
        "is compressed by xz; unpack it first: xz -dc FILE | llm-batch run ...",
    ),
    (
        b"PK\x03\x04",
        "is a ZIP archive or a spreadsheet; unpack it, or save the spreadsheet as CSV",
    ),
    (
        b"PAR1\x15",
        "is a Parquet file; write it as JSON lines or CSV first",
    ),
    (b"%PDF-", "is a PDF file; take the text out of it first"),
];

/// Unpacks the input, reads up to the end of the first line that is not blank, and detects what the input is.
///
/// The inner error is for the user: the format cannot be detected, or cannot be read.
pub(crate) fn detect(
    reader: Box<dyn Read + Send>,
    path: Option<&Path>,
    asked: InputFormat,
) -> io::Result<Result<(Format, Opened), String>> {
    let (mut reader, _) = unpack(reader)?;
    let prefix = read_first_line(&mut reader)?;
    if let Some((_, message)) = FOREIGN.iter().find(|(start, _)| prefix.starts_with(start)) {
        return Ok(Err((*message).to_owned()));
    }
    let mark = if prefix.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    };
    let text = String::from_utf8_lossy(&prefix[mark..]);
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    let path = path.map(without_ending);
    let format = match decide(path.as_deref(), asked, first) {
        Ok(format) => format,
        Err(message) => return Ok(Err(message)),
    };
    let mut beginning = Cursor::new(prefix);
    beginning.set_position(mark as u64);
    Ok(Ok((
        format,
        BufReader::with_capacity(64 << 10, beginning.chain(reader)),
    )))
}

/// Reads to the end of the first line that is not blank, or a little further. Of an array the beginning is enough.
fn read_first_line(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut prefix, mut first) = (Vec::new(), None);
    let mut chunk = vec![0; ENOUGH];
    while prefix.len() < ITEM_LIMIT {
        let count = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        prefix.extend_from_slice(&chunk[..count]);
        let ends = chunk[..count].iter().any(|byte| {
            // Neither white space nor a part of the mark.
            if !byte.is_ascii_whitespace() && !BYTE_ORDER_MARK.contains(byte) {
                first.get_or_insert(*byte);
            }
            first.is_some() && *byte == b'\n'
        });
        if ends || (first == Some(b'[') && prefix.len() >= ENOUGH) {
            break;
        }
    }
    Ok(prefix)
}

fn decide(path: Option<&Path>, asked: InputFormat, first: &str) -> Result<Format, String> {
    let table = |delimiter| Ok(Format::Table { delimiter });
    match asked {
        InputFormat::Jsonl => return Ok(Format::Jsonl),
        InputFormat::Json => return Ok(Format::Json),
        InputFormat::OpenaiBatch => return Ok(Format::OpenAiBatch),
        InputFormat::Csv => return table(b','),
        InputFormat::Tsv => return table(b'\t'),
        InputFormat::Text => return Ok(Format::Text),
        InputFormat::Auto => {}
    }
    let extension = path
        .and_then(Path::extension)
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let start = first.trim_start();
    match extension.as_deref() {
        Some("jsonl" | "ndjson") if matches!(first.trim(), "{" | "[" | "[{") => Ok(Format::Json),
        Some("jsonl" | "ndjson") => Ok(json_lines(first)),
        Some("json") if start.starts_with('[') || has_more_lines(start) => Ok(Format::Json),
        Some("json") => Ok(json_lines(first)),
        Some("csv") => table(header_delimiter(first).unwrap_or(b',')),
        Some("tsv") => table(b'\t'),
        extension => {
            if is_array(start) || has_more_lines(start) {
                return Ok(Format::Json);
            }
            let is_json = matches!(
                serde_json::from_str(start),
                Ok(Value::Object(_) | Value::String(_))
            );
            if is_json || start.starts_with("{\"") {
                return Ok(json_lines(first));
            }
            match (header_delimiter(first), extension) {
                (Some(_), Some("txt" | "text" | "md")) => Err(
                    "has the name of a text, but its first line looks like the header of a table; \
                     say which with --format text, csv or tsv"
                        .to_owned(),
                ),
                (Some(delimiter), _) => table(delimiter),
                (None, _) => Ok(Format::Text),
            }
        }
    }
}

/// Returns `true` if a line is the beginning of an array of items, and not of a text.
fn is_array(start: &str) -> bool {
    let Some(rest) = start.strip_prefix('[') else {
        return false;
    };
    let rest = rest.trim();
    let ends = rest.ends_with([',', ']']) || start.len() >= ENOUGH;
    rest.is_empty() || rest.starts_with('{') || (rest.starts_with('"') && ends)
}

/// Returns `true` if a line is an object that goes on in the next line, or several of them.
fn has_more_lines(start: &str) -> bool {
    if !start.starts_with('{') {
        return false;
    }
    let mut values = serde_json::Deserializer::from_str(start).into_iter::<Value>();
    match values.next() {
        Some(Ok(_)) => values
            .next()
            .is_some_and(|next| matches!(next, Ok(Value::Object(_)))),
        // Not inside a text, which has no line break.
        Some(Err(error)) => error.is_eof() && !error.to_string().contains("string"),
        None => false,
    }
}

fn json_lines(first: &str) -> Format {
    match serde_json::from_str(first) {
        Ok(Value::Object(fields)) if openai_batch::is_line(&fields) => Format::OpenAiBatch,
        _ => Format::Jsonl,
    }
}

/// The delimiter, if a line looks like the header of a table and not like a sentence.
fn header_delimiter(line: &str) -> Option<u8> {
    [b'\t', b',', b';'].into_iter().find(|delimiter| {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(*delimiter)
            .has_headers(false)
            .from_reader(line.as_bytes());
        let Some(Ok(cells)) = reader.records().next() else {
            return false;
        };
        let name = |cell: &str| {
            !cell.is_empty()
                && cell.len() <= 64
                && cell.trim() == cell
                && !cell.ends_with(['.', '?', '!', ':', ','])
                && !cell.starts_with(|first: char| first.is_ascii_digit())
        };
        // The first one may have no name, as in an exported index, and neither may those at the end.
        let mut cells: Vec<_> = cells.iter().collect();
        while cells.pop_if(|cell| cell.is_empty()).is_some() {}
        let begin = usize::from(cells.first() == Some(&""));
        cells.len() >= 2 && cells[begin..].iter().all(|cell| name(cell))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn auto(name: &str, first: &str) -> Result<Format, String> {
        let path = (!name.is_empty()).then(|| Path::new(name));
        decide(path, InputFormat::Auto, first)
    }

    #[test]
    fn names_and_first_lines_decide() {
        let csv = Format::Table { delimiter: b',' };
        let tsv = Format::Table { delimiter: b'\t' };
        let batch = r#"{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{}}"#;
        for (name, first, format) in [
            ("a.jsonl", r#"{"prompt":"x"}"#, Format::Jsonl),
            ("a.jsonl", "broken", Format::Jsonl),
            ("a.jsonl", batch, Format::OpenAiBatch),
            ("", batch, Format::OpenAiBatch),
            ("", r#"{"prompt":"x"}"#, Format::Jsonl),
            ("", r#""a prompt""#, Format::Jsonl),
            ("", r#"{"prompt": torn"#, Format::Jsonl),
            ("", "{braces} in a text", Format::Text),
            ("", "id,question", csv),
            ("", "\"id\",\"the question\"", csv),
            ("", "id\tquestion", tsv),
            ("data", "id,question", csv),
            ("a.csv", "question", csv),
            ("a.csv", "id;question", Format::Table { delimiter: b';' }),
            ("a.CSV", "id,question", csv),
            ("", "Hello, how are you", Format::Text),
            ("", "I have 1,000 apples.", Format::Text),
            ("a.txt", "Tell me a joke", Format::Text),
            ("", ",question", csv),
            ("", "id,question,,", csv),
            ("", "Hello,", Format::Text),
            ("", ",", Format::Text),
            ("", ", and so on", Format::Text),
            ("", "", Format::Text),
            ("a.json", "[", Format::Json),
            ("a.json", r#"[{"prompt":"x"},"#, Format::Json),
            ("a.json", "{", Format::Json),
            ("a.json", r#"{"prompt":"x"}"#, Format::Jsonl),
            ("a.jsonl", "[", Format::Json),
            ("a.jsonl", "[1]", Format::Jsonl),
            ("", "[", Format::Json),
            ("", r#"[{"prompt":"x"}]"#, Format::Json),
            ("", r#"["one", "two"]"#, Format::Json),
            ("", "[INST] a text", Format::Text),
            ("", "{", Format::Json),
            ("", r#"{"a": {"#, Format::Json),
            ("", r#"{"a": 1, "b":"#, Format::Json),
            ("", r#"{"a":1}{"a":2}"#, Format::Json),
            ("", r#"{"prompt": "torn"#, Format::Jsonl),
        ] {
            assert_eq!(auto(name, first), Ok(format), "{name:?} {first:?}");
        }
    }

    #[test]
    fn an_ambiguous_format_is_refused() {
        assert!(auto("a.txt", "id,question").unwrap_err().contains("--format"));
        for start in [&b"\xff\xfea\0"[..], &b"PK\x03\x04\0"[..]] {
            assert!(detect(Box::new(start), None, InputFormat::Auto).unwrap().is_err());
        }
    }

    #[test]
    fn the_beginning_is_put_back_without_its_mark() {
        let text = "\u{feff}\n\n{\"prompt\":1}\nrest";
        let (format, mut opened) = detect(Box::new(text.as_bytes()), None, InputFormat::Auto)
            .unwrap()
            .unwrap();
        assert_eq!(format, Format::Jsonl);
        let mut all = String::new();
        opened.read_to_string(&mut all).unwrap();
        assert_eq!(all, "\n\n{\"prompt\":1}\nrest");
    }
}
