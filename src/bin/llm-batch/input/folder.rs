//! Folders: every file is an item.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde_json::Map;
use walkdir::WalkDir;

use super::detect::BYTE_ORDER_MARK;
use super::lines::ITEM_LIMIT;
use super::{Content, Row};
use crate::exit::UsageError;

/// Which files of a folder are taken: all, or those that match.
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

    fn takes(&self, path: &Path) -> bool {
        let Some(set) = &self.0 else { return true };
        set.is_match(path) || path.file_name().is_some_and(|name| set.is_match(name))
    }
}

/// The files under `folder` by name, without hidden ones. `prefix` is put before their ids.
pub(crate) fn rows(
    folder: PathBuf,
    prefix: String,
    selection: Arc<Selection>,
) -> impl Iterator<Item = io::Result<Row>> {
    let hidden =
        |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    let files = WalkDir::new(&folder)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(move |entry| !hidden(entry));
    files.filter_map(move |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            // A link to nowhere, or a folder that may not be read, is one failed item.
            Err(error) => {
                let path = error.path().filter(|_| error.depth() > 0);
                let Some(path) = path.and_then(|path| path.strip_prefix(&folder).ok()) else {
                    return Some(Err(error.into()));
                };
                let is_hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
                if path.file_name().is_some_and(is_hidden) {
                    return None;
                }
                // What is in a folder that cannot be read is not known.
                let is_folder = error.path().is_some_and(Path::is_dir);
                return (is_folder || selection.takes(path)).then(|| {
                    Ok(Row {
                        line: 0,
                        id: Some(format!("{prefix}{}", joined(path))),
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
        let id = format!("{prefix}{}", joined(path));
        let content = read(entry.path()).map(|text| {
            let mut fields = Map::new();
            fields.insert("text".to_owned(), text.into());
            fields.insert("path".to_owned(), id.as_str().into());
            Content::Fields(fields)
        });
        Some(Ok(Row {
            line: 0,
            id: Some(id),
            content,
        }))
    })
}

fn joined(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = |bytes: &mut Vec<u8>| File::open(path)?.take(ITEM_LIMIT as u64 + 1).read_to_end(bytes);
    read(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > ITEM_LIMIT {
        return Err(format!("is larger than {} MiB", ITEM_LIMIT >> 20));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}
