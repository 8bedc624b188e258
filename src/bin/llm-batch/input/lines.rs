//! Lines of any length up to a bound.

use std::io::{self, BufRead, Read};

use super::identity::Digest;

/// The longest line, table row or file that is taken as an item: 64 MiB.
pub(crate) const ITEM_LIMIT: usize = 64 << 20;

/// One line without its end.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// Its text, or why it is none.
    pub(crate) text: Result<String, Fault>,
}

/// A line that is not text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) message: String,
    /// Of as much of it as was read.
    pub(crate) digest: Digest,
}

impl Fault {
    fn new(message: String, bytes: &[u8]) -> Self {
        let digest = Digest::of_malformed(bytes);
        Self { message, digest }
    }
}

/// Splits at `\n` only, as other line separators may stand inside JSON; a `\r` before it is dropped.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    number: u64,
    limit: usize,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            number: 0,
            limit: ITEM_LIMIT,
        }
    }

    fn read(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let mut bounded = self.reader.by_ref().take(self.limit as u64 + 1);
        if bounded.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let number = self.number;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else if bytes.len() > self.limit {
            self.reader.skip_until(b'\n')?;
            let message = format!("the line is longer than {} MiB", self.limit >> 20);
            let text = Err(Fault::new(message, &bytes));
            return Ok(Some(Line { number, text }));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let position = error.utf8_error().valid_up_to() + 1;
            let message = format!("the line is not UTF-8 text (byte {position})");
            Fault::new(message, error.as_bytes())
        });
        Ok(Some(Line { number, text }))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(text: &[u8], limit: usize) -> Vec<(u64, Result<String, Fault>)> {
        let lines = Lines {
            reader: text,
            number: 0,
            limit,
        };
        lines
            .map(Result::unwrap)
            .map(|line| (line.number, line.text))
            .collect()
    }

    #[test]
    fn splits_at_line_feeds_only() {
        let text = "a\r\n\nb\u{2028}\u{85}\rc\nlast";
        let expected = ["a", "", "b\u{2028}\u{85}\rc", "last"];
        let found = lines(text.as_bytes(), 100);
        assert_eq!(found.len(), expected.len());
        for (position, ((number, text), expected)) in found.into_iter().zip(expected).enumerate() {
            assert_eq!(number, position as u64 + 1);
            assert_eq!(text.unwrap(), expected);
        }
    }

    #[test]
    fn a_line_that_is_too_long_costs_only_itself() {
        let found = lines(b"1234\n12345\nab\n", 4);
        assert_eq!(found[0], (1, Ok("1234".to_owned())));
        assert!(found[1].1.is_err());
        assert_eq!(found[2], (3, Ok("ab".to_owned())));
        assert_eq!(found.len(), 3);
        assert!(lines(b"12345", 4)[0].1.is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_said_so() {
        let found = lines(b"a\xffb\nc\n", 100);
        assert!(found[0].1.as_ref().unwrap_err().message.contains("byte 2"));
        assert_eq!(found[1], (2, Ok("c".to_owned())));
    }
}
