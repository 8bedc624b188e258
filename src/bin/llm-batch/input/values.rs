//! JSON values over any number of lines: one array of items, or one value behind the other.

use std::io::{self, BufRead};

use super::lines::ITEM_LIMIT;

/// One value, not yet parsed.
#[derive(Debug)]
pub(super) struct RawValue {
    /// The line it begins in, from 1.
    pub(super) line: u64,
    pub(super) bytes: Vec<u8>,
    /// The error in it, if known already.
    pub(super) fault: Option<String>,
}

/// Splits an input at the ends of its values, and holds one of them at a time.
///
/// An unterminated value is an error of the reader, since the number of items in it is unknown.
#[derive(Debug)]
pub(super) struct Values<R> {
    reader: R,
    line: u64,
    limit: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Between,
    /// In the array that begins in this line; after a value a comma has to come.
    Array {
        line: u64,
        after_value: bool,
    },
    AfterArray,
}

impl<R: BufRead> Values<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            line: 1,
            limit: ITEM_LIMIT,
            place: Place::Start,
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let Some(position) = buffer.iter().position(|byte| !byte.is_ascii_whitespace()) else {
                let (length, lines) = (buffer.len(), line_breaks(buffer));
                if length == 0 {
                    return Ok(None);
                }
                self.line += lines;
                self.reader.consume(length);
                continue;
            };
            let (byte, lines) = (buffer[position], line_breaks(&buffer[..position]));
            self.line += lines;
            self.reader.consume(position);
            return Ok(Some(byte));
        }
    }

    fn read(&mut self) -> io::Result<Option<RawValue>> {
        loop {
            let byte = self.peek()?;
            match (self.place, byte) {
                (Place::Array { line, .. }, None) => {
                    return Err(unfinished(line, "the array"));
                }
                (_, None) => return Ok(None),
                (Place::Start, Some(b'[')) => {
                    self.reader.consume(1);
                    self.place = Place::Array {
                        line: self.line,
                        after_value: false,
                    };
                }
                (Place::Start | Place::Between, Some(byte)) => {
                    self.place = Place::Between;
                    return self.value(byte).map(Some);
                }
                (Place::Array { .. }, Some(b']')) => {
                    self.reader.consume(1);
                    self.place = Place::AfterArray;
                }
                (
                    Place::Array {
                        line,
                        after_value: true,
                    },
                    Some(b','),
                ) => {
                    self.reader.consume(1);
                    self.place = Place::Array {
                        line,
                        after_value: false,
                    };
                }
                (Place::Array { line, after_value }, Some(byte)) => {
                    let mut value = self.value(byte)?;
                    if after_value {
                        value.fault = Some("a comma is missing before this item".to_owned());
                    }
                    self.place = Place::Array {
                        line,
                        after_value: true,
                    };
                    return Ok(Some(value));
                }
                (Place::AfterArray, Some(_)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "line {}: something follows the array; one array, or values without one, can be read",
                            self.line
                        ),
                    ));
                }
            }
        }
    }

    /// Reads to the end of the value that begins here.
    fn value(&mut self, first: u8) -> io::Result<RawValue> {
        let begins = self.line;
        let (mut bytes, mut length) = (Vec::new(), 0_usize);
        let mut end = End::new(first);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                if end.needs_more() {
                    return Err(unfinished(begins, "the value"));
                }
                break;
            }
            let found = end.find(buffer);
            let taken = &buffer[..found.unwrap_or(buffer.len())];
            self.line += line_breaks(taken);
            length = length.saturating_add(taken.len());
            let room = self.limit.saturating_sub(bytes.len());
            bytes.extend_from_slice(&taken[..taken.len().min(room)]);
            let taken = taken.len();
            self.reader.consume(taken);
            if found.is_some() {
                break;
            }
        }
        let fault =
            (length > self.limit).then(|| format!("the value is longer than {} MiB", self.limit >> 20));
        Ok(RawValue {
            line: begins,
            bytes,
            fault,
        })
    }
}

impl<R: BufRead> Iterator for Values<R> {
    type Item = io::Result<RawValue>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Looks for the end of a value: its last bracket or quote, or what ends a bare word.
#[derive(Debug)]
struct End {
    depth: u64,
    in_string: bool,
    is_escaped: bool,
    is_word: bool,
    has_begun: bool,
}

impl End {
    const fn new(first: u8) -> Self {
        Self {
            depth: 0,
            in_string: false,
            is_escaped: false,
            is_word: !matches!(first, b'{' | b'[' | b'"'),
            has_begun: false,
        }
    }

    /// Returns `true` if the value is not whole at the end of the input.
    const fn needs_more(&self) -> bool {
        !self.is_word
    }

    /// The length of what belongs to the value, if it ends in this piece.
    fn find(&mut self, piece: &[u8]) -> Option<usize> {
        for (position, byte) in piece.iter().enumerate() {
            if self.is_word {
                let ends =
                    byte.is_ascii_whitespace() || matches!(byte, b',' | b'[' | b']' | b'{' | b'}' | b'"');
                if ends {
                    // A stray bracket is a word of its own.
                    return Some(position.max(usize::from(!self.has_begun)));
                }
                self.has_begun = true;
                continue;
            }
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    // No string of JSON has a line break: a quote is missing, and costs this value only.
                    b'\n' => self.in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            if self.depth == 0 && !self.in_string {
                return Some(position + 1);
            }
        }
        None
    }
}

fn unfinished(line: u64, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!(
            "line {line}: {what} that begins here does not end; a bracket is missing, or the input is cut off"
        ),
    )
}

fn line_breaks(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::BufReader;

    use super::*;

    /// The values with their lines, whatever the size of the pieces that are read; the error last.
    fn split(text: &str) -> (Vec<(u64, String)>, Option<String>) {
        let read = |capacity| {
            let (mut values, mut failure) = (Vec::new(), None);
            for value in Values::new(BufReader::with_capacity(capacity, text.as_bytes())) {
                match value {
                    Ok(value) => {
                        let text = String::from_utf8(value.bytes).unwrap();
                        values.push((value.line, value.fault.map_or(text, |fault| format!("! {fault}"))));
                    }
                    Err(error) => {
                        failure = Some(error.to_string());
                        break;
                    }
                }
            }
            (values, failure)
        };
        let whole = read(1000);
        for capacity in 1..9 {
            assert_eq!(read(capacity), whole, "{capacity}");
        }
        whole
    }

    #[track_caller]
    fn check(text: &str, expected: &[(u64, &str)], failure: Option<&str>) {
        let (values, found) = split(text);
        let values: Vec<_> = values.iter().map(|(line, text)| (*line, text.as_str())).collect();
        assert_eq!(values, expected, "{text}");
        match (found, failure) {
            (None, None) => {}
            (Some(found), Some(failure)) if found.contains(failure) => {}
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn arrays_and_values_are_split() {
        check("", &[], None);
        check(" \n[]\n", &[], None);
        check(
            "[1,\n\"a]\\\"\"\n,{\"x\":[{}]}]",
            &[(1, "1"), (2, "\"a]\\\"\""), (3, "{\"x\":[{}]}")],
            None,
        );
        check(
            "{\n}{\"a\":\"}\"}\n\n\"b\" 5",
            &[(1, "{\n}"), (2, "{\"a\":\"}\"}"), (4, "\"b\""), (4, "5")],
            None,
        );
        check("{}\n[1]", &[(1, "{}"), (2, "[1]")], None);
    }

    #[test]
    fn a_fault_costs_one_value_or_names_its_line() {
        check("{\"a\":\"x\n}\n{}", &[(1, "{\"a\":\"x\n}"), (3, "{}")], None);
        check(
            "[{} {}]",
            &[(1, "{}"), (1, "! a comma is missing before this item")],
            None,
        );
        check(
            "[1,,2]",
            &[(1, "1"), (1, ","), (1, "! a comma is missing before this item")],
            None,
        );
        check("{}},{}", &[(1, "{}"), (1, "}"), (1, ","), (1, "{}")], None);
        check("[\n{},\n", &[(2, "{}")], Some("line 1: the array"));
        check("{}\n{\"a\":{}", &[(1, "{}")], Some("line 2: the value"));
        check(
            "[1]\n[2]",
            &[(1, "1")],
            Some("line 2: something follows the array"),
        );
    }

    #[test]
    fn a_value_that_is_too_long_costs_only_itself() {
        let values = Values {
            limit: 8,
            ..Values::new(&b"[\"123456789\",\"1\"]"[..])
        };
        let values: Vec<_> = values.map(Result::unwrap).collect();
        assert!(values[0].fault.is_some() && values[0].bytes.len() == 8);
        assert!(values[1].fault.is_none());
        assert_eq!(values.len(), 2);
    }
}
