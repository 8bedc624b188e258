//! Going on where an earlier run ended: which answers its output has.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use crate::input::BYTE_ORDER_MARK;
use crate::output::Format;

/// The answers an earlier run has written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// Ids with the positions they had in the input, as far as the format has them.
    rows: HashMap<Box<str>, Vec<Option<u64>>>,
    /// Ids that the input or the output has more than once: only their position distinguishes those.
    repeated: HashSet<Box<str>>,
}

impl Done {
    pub(crate) fn add(&mut self, id: &str, index: Option<u64>) {
        let rows = self.rows.entry(id.into()).or_default();
        let is_other = rows.iter().any(|row| *row != index);
        rows.push(index);
        if is_other {
            self.repeated.insert(id.into());
        }
    }

    /// Takes note of the ids that stand in the input more than once.
    pub(crate) fn note_repeated<Id: AsRef<str>>(&mut self, ids: impl Iterator<Item = Id>) {
        let mut seen: HashSet<Box<str>> = HashSet::new();
        for id in ids {
            let id = id.as_ref();
            if self.rows.contains_key(id) && !seen.insert(id.into()) {
                self.repeated.insert(id.into());
            }
        }
    }

    /// Returns `true` if the item at this position needs no run. Each answer serves one item.
    ///
    /// An id names its item wherever it stands, as lines may have been added or removed since. An id that the input
    /// has several times is matched by position.
    pub(crate) fn take(&mut self, id: &str, index: u64) -> bool {
        let Some(rows) = self.rows.get_mut(id) else {
            return false;
        };
        let exact = rows.iter().position(|row| *row == Some(index));
        let found = exact.or_else(|| {
            let by_id = !self.repeated.contains(id);
            rows.iter().position(|row| by_id || row.is_none())
        });
        match found {
            Some(position) => {
                rows.swap_remove(position);
                true
            }
            None => false,
        }
    }
}

/// A piece of an earlier run's output, in the order of the file.
pub(crate) enum Found<'a> {
    /// The bytes before the first row.
    Head { bytes: &'a [u8], end: u64 },
    /// A row. `end` is the position behind it.
    Row { row: OldRow, bytes: &'a [u8], end: u64 },
    /// A line that is not a row in this format.
    Bad { bytes: &'a [u8] },
    /// A row that was cut off while it was written.
    Torn,
}

/// One row of an output.
pub(crate) struct OldRow {
    pub(crate) id: String,
    /// The item's position in the input, if the format has it.
    pub(crate) index: Option<u64>,
    /// `true` if it stays: the item needs no run.
    pub(crate) ok: bool,
    /// `true` if it has an answer, which is worth keeping even if it does not stay.
    pub(crate) is_answer: bool,
}

/// Takes the pieces of an output, one after the other.
pub(crate) type Visitor<'a> = dyn FnMut(Found<'_>) -> io::Result<()> + 'a;

/// The result of reading an output.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) done: Done,
    /// The file's length up to which everything stays as it is.
    pub(crate) keep_to: u64,
    /// Something that stays stands behind something that does not.
    pub(crate) is_mixed: bool,
    /// Lines that are not rows.
    pub(crate) bad: u64,
    /// Answers that do not stay.
    pub(crate) answers: u64,
    rows: u64,
    dropped: bool,
}

impl Survey {
    /// Returns `true` if any answer is in it.
    pub(crate) fn has_answers(&self) -> bool {
        self.answers > 0 || !self.done.rows.is_empty()
    }

    fn note(&mut self, found: Found<'_>) {
        match found {
            Found::Head { end, .. } => self.keep_to = end,
            Found::Row { row, end, .. } => {
                self.rows += 1;
                if !row.ok {
                    self.answers += u64::from(row.is_answer);
                    self.dropped = true;
                    return;
                }
                self.done.add(&row.id, row.index);
                if self.dropped {
                    self.is_mixed = true;
                } else {
                    self.keep_to = end;
                }
            }
            Found::Bad { .. } => {
                self.bad += 1;
                self.dropped = true;
            }
            Found::Torn => self.dropped = true,
        }
    }
}

/// Reads an output, and changes nothing. An error is a message for the user.
pub(crate) fn survey(path: &Path, format: &mut dyn Format) -> Result<Survey, String> {
    let mut survey = Survey::default();
    visit(path, format, &mut |found| {
        survey.note(found);
        Ok(())
    })?;
    // Not an output that was damaged somewhere, but another file.
    if survey.bad > survey.rows {
        return Err(foreign(path, "most of its lines are not rows in this format"));
    }
    Ok(survey)
}

/// Copies what stays of an output to `kept`, and lines that are not rows and answers that do not stay to `aside`.
pub(crate) fn copy(
    path: &Path,
    format: &mut dyn Format,
    kept: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), String> {
    visit(path, format, &mut |found| match found {
        Found::Head { bytes, .. } => kept.write_all(bytes),
        Found::Row { row, bytes, .. } if row.ok => write_line(kept, bytes),
        Found::Row { row, bytes, .. } if row.is_answer => write_line(aside, bytes),
        Found::Bad { bytes } => write_line(aside, bytes),
        Found::Row { .. } | Found::Torn => Ok(()),
    })
}

fn write_line(out: &mut dyn Write, line: &[u8]) -> io::Result<()> {
    out.write_all(line)?;
    match line.last() {
        Some(b'\n') => Ok(()),
        _ => out.write_all(b"\n"),
    }
}

fn visit(path: &Path, format: &mut dyn Format, visitor: &mut Visitor<'_>) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    format
        .scan(file, visitor)
        .map_err(failed)?
        .map_err(|what| foreign(path, &what))
}

fn foreign(path: &Path, what: &str) -> String {
    format!(
        "{} cannot be resumed: {what}; name another file, or replace it with --overwrite",
        path.display()
    )
}

/// Scans rows of a line each. Blank lines are skipped, and so is a byte-order mark.
pub(crate) fn scan_lines(
    file: File,
    visitor: &mut Visitor<'_>,
    mut parse: impl FnMut(&[u8]) -> Option<OldRow>,
) -> io::Result<Result<(), String>> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut end = 0_u64;
    loop {
        line.clear();
        let count = reader.read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(Ok(()));
        }
        let is_first = end == 0;
        end += count as u64;
        let bytes = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if is_first => rest,
            _ => &line,
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        visitor(match parse(bytes) {
            Some(row) => Found::Row { row, bytes, end },
            // Whole rows end in a line break.
            None if line.last() != Some(&b'\n') => Found::Torn,
            None => Found::Bad { bytes },
        })?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output::{OutputFormat, Settings};

    fn with(format: OutputFormat, keep: &[String]) -> Box<dyn Format> {
        let settings = Settings {
            keep: keep.to_vec(),
            ..Settings::default()
        };
        format.with(&settings, Path::new(""))
    }

    /// Cuts an output behind each of its bytes. `rows` are what it is made of, and whether they are kept.
    fn cut_everywhere(format: OutputFormat, keep: &[String], head: &str, rows: &[(&str, bool)]) {
        let whole: String = std::iter::once(head)
            .chain(rows.iter().map(|(row, _)| *row))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        for end in 1..=whole.len() {
            std::fs::write(file.path(), &whole.as_bytes()[..end]).unwrap();
            let mut format = with(format, keep);
            let survey = survey(file.path(), &mut *format).unwrap();
            let mut kept = Vec::new();
            if survey.is_mixed {
                copy(file.path(), &mut *format, &mut kept, &mut io::sink()).unwrap();
            } else {
                kept.extend_from_slice(&whole.as_bytes()[..usize::try_from(survey.keep_to).unwrap()]);
                if kept.last().is_some_and(|last| *last != b'\n') {
                    kept.push(b'\n');
                }
            }
            let (mut position, mut expected, mut count) = (head.len(), String::new(), 0);
            if end >= head.len() {
                expected.push_str(head);
            }
            for (row, ok) in rows {
                position += row.len();
                // A line of JSON is whole without its end, too.
                let is_whole = position <= end || (head.is_empty() && position - 1 == end);
                if is_whole && *ok {
                    expected.push_str(row);
                    count += 1;
                }
            }
            assert_eq!(
                String::from_utf8(kept).unwrap(),
                expected,
                "cut at {end} of {whole:?}"
            );
            assert_eq!(survey.done.rows.values().map(Vec::len).sum::<usize>(), count);
        }
    }

    #[test]
    fn wherever_json_lines_are_torn_the_whole_rows_are_kept() {
        let rows = [
            (
                "{\"id\":\"a\",\"index\":0,\"ok\":true,\"output\":\"x\\ny\"}\n",
                true,
            ),
            ("{\"id\":\"b\",\"index\":1,\"ok\":false,\"error\":{}}\n", false),
            (
                "{\"id\":\"c\",\"index\":2,\"ok\":true,\"output\":\"\u{2028}\"}\n",
                true,
            ),
        ];
        cut_everywhere(OutputFormat::Jsonl, &[], "", &rows);
    }

    #[test]
    fn wherever_a_table_is_torn_the_whole_rows_are_kept() {
        let keep = ["note".to_owned()];
        let head = String::from_utf8(with(OutputFormat::Csv, &keep).head().unwrap()).unwrap();
        let rows = [
            (
                "a,0,true,\"n\n1\",\"out\n\"\"put\"\"\n\",,,,1,2,0,0,0,1,1,5,0.25,0,2026-01-01T00:00:00.000Z,r1,m,stop\n",
                true,
            ),
            (
                "b,1,false,,,other,\"a, b\",,0,0,0,0,0,1,1,5,,1,2026-01-01T00:00:00.000Z,,,\n",
                false,
            ),
            (
                "c,2,true,,\"last\n\",,,,1,2,0,0,0,1,1,5,,,2026-01-01T00:00:00.000Z,r3,\"m, x\",stop\n",
                true,
            ),
        ];
        cut_everywhere(OutputFormat::Csv, &keep, &head, &rows);
    }

    #[test]
    fn an_id_names_its_item_wherever_it_stands() {
        let mut done = Done::default();
        done.add("a", Some(0));
        done.add("b", Some(1));
        assert!(done.take("b", 7));
        assert!(!done.take("b", 7));
        assert!(!done.take("c", 0));
        assert!(done.take("a", 1));
    }

    #[test]
    fn a_row_that_stands_twice_does_not_repeat_its_id() {
        let mut done = Done::default();
        done.add("a", Some(0));
        done.add("a", Some(0));
        assert!(done.take("a", 1));
        done.add("b", Some(0));
        done.add("b", Some(1));
        assert!(!done.take("b", 2));
    }

    #[test]
    fn repeated_ids_are_matched_by_position() {
        let mut done = Done::default();
        done.add("a", Some(5));
        done.note_repeated(["a", "b", "a"].into_iter());
        assert!(!done.take("a", 0));
        assert!(done.take("a", 5));
        assert!(!done.take("a", 6));
    }
}
