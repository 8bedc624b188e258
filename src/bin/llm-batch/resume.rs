//! Going on where an earlier run ended: which answers its output has.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use crate::output::Format;

/// The answers an earlier run has written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// Ids with the positions they had in the input, as far as the format has them.
    rows: HashMap<Box<str>, Vec<Option<u64>>>,
    /// Ids that the input has more than once: only their position distinguishes those.
    repeated: HashSet<Box<str>>,
}

impl Done {
    pub(crate) fn add(&mut self, id: &str, index: Option<u64>) {
        self.rows.entry(id.into()).or_default().push(index);
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

    /// Whether the item at this position needs no run. Each answer serves one item.
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

/// What was found in an output.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) done: Done,
    /// Rows that are not kept: failed ones, and a torn one at the end.
    pub(crate) dropped: u64,
}

/// Reads an output and writes the rows to keep to `kept`. An error is a message for the user.
pub(crate) fn scan(path: &Path, format: &dyn Format, kept: &mut dyn Write) -> Result<Scan, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    format.scan(file, kept).map_err(failed)?.map_err(|what| {
        format!(
            "{} cannot be resumed: {what}; name another file, or replace it with --overwrite",
            path.display()
        )
    })
}

/// One row of an output.
pub(crate) struct OldRow {
    pub(crate) id: String,
    /// The item's position in the input, if the format has it.
    pub(crate) index: Option<u64>,
    /// Whether it stays: the item needs no run.
    pub(crate) ok: bool,
}

/// Scans rows of a line each.
pub(crate) fn scan_lines(
    file: File,
    kept: &mut dyn Write,
    parse: fn(&[u8]) -> Option<OldRow>,
) -> io::Result<Result<Scan, String>> {
    let mut reader = BufReader::new(file);
    let mut scan = Scan::default();
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(Ok(scan));
        }
        number += 1;
        if line.last() != Some(&b'\n') {
            scan.dropped += 1;
            return Ok(Ok(scan));
        }
        let Some(row) = parse(&line) else {
            return Ok(Err(format!("line {number} is not a row in this format")));
        };
        if row.ok {
            scan.done.add(&row.id, row.index);
            kept.write_all(&line)?;
        } else {
            scan.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output::OutputFormat;

    /// Cuts an output behind each of its bytes. `rows` are what it is made of, and whether they are kept.
    fn cut_everywhere(format: OutputFormat, keep: &[String], head: &str, rows: &[(&str, bool)]) {
        let whole: String = std::iter::once(head)
            .chain(rows.iter().map(|(row, _)| *row))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        for end in 1..=whole.len() {
            std::fs::write(file.path(), &whole.as_bytes()[..end]).unwrap();
            let mut kept = Vec::new();
            let scan = scan(file.path(), &*format.with(keep), &mut kept).unwrap();
            let (mut position, mut expected, mut count) = (head.len(), String::new(), 0);
            if end >= head.len() {
                expected.push_str(head);
            }
            for (row, ok) in rows {
                position += row.len();
                if position <= end && *ok {
                    expected.push_str(row);
                    count += 1;
                }
            }
            assert_eq!(
                String::from_utf8(kept).unwrap(),
                expected,
                "cut at {end} of {whole:?}"
            );
            assert_eq!(scan.done.rows.values().map(Vec::len).sum::<usize>(), count);
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
        let head = String::from_utf8(OutputFormat::Csv.with(&keep).head().unwrap()).unwrap();
        let rows = [
            (
                "a,0,true,\"n\n1\",\"out\n\"\"put\"\"\n\",,,,1,2,0,0,0,1,1,5,0.25,0,m,stop\n",
                true,
            ),
            ("b,1,false,,,other,\"a, b\",,0,0,0,0,0,1,1,5,,1,,\n", false),
            ("c,2,true,,\"last\n\",,,,1,2,0,0,0,1,1,5,,,\"m, x\",stop\n", true),
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
    fn repeated_ids_are_matched_by_position() {
        let mut done = Done::default();
        done.add("a", Some(5));
        done.note_repeated(["a", "b", "a"].into_iter());
        assert!(!done.take("a", 0));
        assert!(done.take("a", 5));
        assert!(!done.take("a", 6));
    }
}
