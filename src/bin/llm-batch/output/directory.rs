//! A file for each answer, and an index of all items.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use walkdir::WalkDir;

use super::format::{Facts, Format, Include, Settings};
use super::jsonl::{Place, line, old_row};
use super::{Row, names};
use crate::backup::{self, is_old_name};
use crate::resume::{Visitor, scan_lines};
use crate::schema::text_of;

/// The name of the index inside the folder.
pub(crate) const INDEX: &str = "index.jsonl";

/// The beginning of the name of an answer's file until it is whole.
const TORN: &str = ".llm-batch-answer-";

pub(super) const FACTS: Facts = Facts {
    keeps_fields: true,
    keeps_choices: true,
    includes: &[Include::Reasoning, Include::Raw],
    is_resumable: true,
    is_in_order: false,
    needs_raw_body: false,
};

/// Writes each answer to a file of its own, which is there only when it is whole. Its rows are those of the index.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    settings: Settings,
    /// Hashes of the names that have their item, as some file system takes them for the same.
    taken: HashSet<u64>,
    hasher: RandomState,
}

impl Directory {
    pub(super) fn new(root: PathBuf, settings: Settings) -> Self {
        let mut directory = Self {
            root,
            settings,
            taken: HashSet::new(),
            hasher: RandomState::new(),
        };
        directory.take(INDEX);
        directory
    }

    /// Notes that a name is in use. Returns `false` if it was already.
    fn take(&mut self, name: &str) -> bool {
        self.taken.insert(self.hasher.hash_one(names::folded(name)))
    }

    /// A name that no other item has.
    fn name(&mut self, row: &Row<'_>) -> String {
        let name = if self.settings.ids_are_paths {
            names::path(row.id)
        } else {
            names::flat(row.id)
        };
        // An id that comes again, or in capitals.
        if !is_of_index(&name) && self.take(&name) {
            return name;
        }
        let name = names::numbered(&name, row.index);
        self.take(&name);
        name
    }

    fn write_answer(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(TORN).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        make_readable(file.as_file())?;
        if self.settings.keeps_old_files {
            let old = (1..10_000).map(|number| self.root.join(names::old(name, number)));
            backup::keep(&path, old)?;
        }
        file.persist(&path)?;
        Ok(())
    }
}

/// Removes what a killed run has left of answers that were being written. No other run may write to the folder.
pub(crate) fn remove_torn(root: &Path) -> io::Result<()> {
    for entry in WalkDir::new(root) {
        let entry = entry?;
        if entry.file_type().is_file() && entry.file_name().to_string_lossy().starts_with(TORN) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns `true` if a name is that of a file beside the index: its lines that are not rows, or an old index.
fn is_of_index(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == format!("{INDEX}.bad") || is_old_name(&name, INDEX)
}

impl Format for Directory {
    /// The answer's file is there before its row says so.
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        let Ok(response) = row.result else {
            return line(row, &self.settings, Place::File(None));
        };
        let mut name = self.name(row);
        let text = text_of(&response.output);
        if let Err(error) = self.write_answer(&name, &text) {
            // A file stands where the path wants a folder, or the reverse.
            if !matches!(
                error.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists
            ) {
                return Err(error);
            }
            name = names::numbered(&names::flat(row.id), row.index);
            self.take(&name);
            self.write_answer(&name, &text)?;
        }
        line(row, &self.settings, Place::File(Some(&name)))
    }

    fn scan(&mut self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        #[derive(Deserialize)]
        struct Fields {
            file: Option<String>,
        }
        scan_lines(file, visitor, |line| {
            let mut row = old_row(line, &self.settings, false)?;
            if !row.is_answer {
                return Some(row);
            }
            let Fields { file } = serde_json::from_slice(line).ok()?;
            let name = file?;
            let is_inside = Path::new(&name)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !is_inside {
                return None;
            }
            // Without its file it is not answered.
            let path = self.root.join(&name);
            row.is_answer = path.is_file();
            row.ok &= if self.settings.require_complete {
                std::fs::read(&path).is_ok_and(|text| !text.trim_ascii().is_empty())
            } else {
                row.is_answer
            };
            if row.ok {
                self.take(&name);
            }
            Some(row)
        })
    }
}

/// Temporary files are private; an answer is an ordinary file.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> io::Result<()> {
    Ok(())
}
