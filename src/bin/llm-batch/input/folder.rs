//! Folders: every file is an item.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde_json::Map;
use walkdir::{DirEntry, WalkDir};

use super::compressed::{unpack, without_ending};
use super::detect::BYTE_ORDER_MARK;
use super::identity::Identity;
use super::item::{Content, Row};
use super::lines::ITEM_LIMIT;
use super::real_path;
use crate::exit::UsageError;

/// The fields of a file.
pub(super) const FIELDS: [&str; 2] = ["text", "path"];

/// The files of a folder that are taken: all, or those that match.
#[derive(Debug)]
pub(crate) struct Selection(Option<GlobSet>);

impl Selection {
    pub(crate) fn new(patterns: &[String]) -> Result<Self, UsageError> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let wrong = |error: globset::Error| UsageError::new(format!("--glob: {error}"));
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).map_err(wrong)?);
        }
        Ok(Self(Some(set.build().map_err(wrong)?)))
    }

    /// Returns `true` if the file of this path inside the folder is taken.
    pub(super) fn takes(&self, path: &Path) -> bool {
        if path.iter().any(is_hidden) {
            return false;
        }
        let Some(set) = &self.0 else { return true };
        set.is_match(path) || path.file_name().is_some_and(|name| set.is_match(name))
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Returns `true` if a file or a folder is one of these. A name is cheap to compare, so that few are looked up.
fn is_any_of(entry: &DirEntry, paths: &[PathBuf]) -> bool {
    let may_be = |path: &PathBuf| entry.path_is_symlink() || path.file_name() == Some(entry.file_name());
    paths.iter().any(may_be)
        && entry
            .path()
            .canonicalize()
            .is_ok_and(|real| paths.contains(&real))
}

/// The files under `folder` by name, without hidden ones and the outputs that are `left_out`. `prefix` is put before their ids.
pub(super) fn rows(
    folder: PathBuf,
    prefix: String,
    selection: Arc<Selection>,
    left_out: Vec<PathBuf>,
) -> impl Iterator<Item = io::Result<Row>> {
    let outputs = left_out.clone();
    let files = WalkDir::new(&folder)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(move |entry| {
            entry.depth() == 0 || !(is_hidden(entry.file_name()) || is_any_of(entry, &left_out))
        });
    files.filter_map(move |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            // A link to nowhere, or a folder that may not be read, is one failed item.
            Err(error) => {
                let path = error.path().filter(|_| error.depth() > 0);
                let Some(path) = path.and_then(|path| path.strip_prefix(&folder).ok()) else {
                    return Some(Err(error.into()));
                };
                if path.file_name().is_some_and(is_hidden) {
                    return None;
                }
                // The output that it leads to is not there yet.
                if error
                    .path()
                    .is_some_and(|path| outputs.contains(&real_path(path)))
                {
                    return None;
                }
                // What is in a folder that cannot be read is not known.
                let is_folder = error.path().is_some_and(Path::is_dir);
                return (is_folder || selection.takes(path)).then(|| {
                    Ok(Row {
                        line: 0,
                        identity: Identity::Named(format!("{prefix}{}", name(path).0)),
                        content: Err(match error.io_error() {
                            Some(error) => format!("cannot be read: {error}"),
                            None => format!("cannot be read: {error}"),
                        }),
                    })
                });
            }
        };
        let path = entry.path().strip_prefix(&folder).unwrap_or(entry.path());
        if !entry.file_type().is_file() || !selection.takes(path) {
            return None;
        }
        let (name, is_sound) = name(path);
        let mut id = format!("{prefix}{name}");
        let path = id.clone();
        let content = match read(entry.path()) {
            Ok(_) if !is_sound => Err("has a name with characters that no id can have; rename it".to_owned()),
            Ok((text, was_compressed)) => {
                if was_compressed {
                    // What becomes of it is not compressed: the answer's file is named after the id.
                    id = without_ending(Path::new(&path)).to_string_lossy().into_owned();
                }
                Ok(Content::Fields(Map::from_iter([
                    ("text".to_owned(), text.into()),
                    ("path".to_owned(), path.into()),
                ])))
            }
            Err(message) => Err(message),
        };
        Some(Ok(Row {
            line: 0,
            identity: Identity::Named(id),
            content,
        }))
    })
}

/// The path as text with `/` between its parts, and whether it is one: bytes that are not UTF-8 and control characters are
/// written as escapes.
fn name(path: &Path) -> (String, bool) {
    let (mut name, mut is_sound) = (String::new(), true);
    for part in path {
        if !name.is_empty() {
            name.push('/');
        }
        for chunk in part.as_encoded_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    is_sound = false;
                    name.extend(character.escape_default());
                } else {
                    name.push(character);
                }
            }
            if !chunk.invalid().is_empty() {
                is_sound = false;
                name.push_str(&chunk.invalid().escape_ascii().to_string());
            }
        }
    }
    (name, is_sound)
}

/// The text of a file, and whether it was compressed.
fn read(path: &Path) -> Result<(String, bool), String> {
    let failed = |error: io::Error| format!("cannot be read: {error}");
    let (reader, was_compressed) = File::open(path)
        .and_then(|file| unpack(Box::new(file)))
        .map_err(failed)?;
    let mut bytes = Vec::new();
    reader
        .take(ITEM_LIMIT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > ITEM_LIMIT {
        return Err(format!("is larger than {} MiB", ITEM_LIMIT >> 20));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    Ok((text, was_compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_text_is_escaped() {
        assert_eq!(name(Path::new("a/é b.txt")), ("a/é b.txt".to_owned(), true));
        assert_eq!(name(Path::new("a\n.txt")), ("a\\n.txt".to_owned(), false));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt as _;
            let path = Path::new(OsStr::from_bytes(b"a\xff.txt"));
            assert_eq!(name(path), ("a\\xff.txt".to_owned(), false));
        }
    }
}
