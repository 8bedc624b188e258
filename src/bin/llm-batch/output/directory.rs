//! A file for each answer.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::Row;
use crate::schema::text_of;

/// Writes each answer to a file of its own. A file is there only when it is whole.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    written: HashSet<PathBuf>,
}

impl Directory {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            written: HashSet::new(),
        }
    }

    /// Failed items get no file; their row is not lost, as the run reports it.
    pub(super) fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        let Ok(response) = row.result else { return Ok(()) };
        let mut path = self.root.join(name(row.id));
        if !self.written.insert(path.clone()) {
            let twin = path.file_stem().unwrap_or_default().to_string_lossy();
            let twin = format!("{twin}~{}", row.index);
            path = match path.extension() {
                Some(extension) => path.with_file_name(twin).with_extension(extension),
                None => path.with_file_name(twin),
            };
        }
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(".llm-batch-")
            .tempfile_in(folder)?;
        file.write_all(text_of(&response.output).as_bytes())?;
        make_readable(file.as_file())?;
        file.persist(&path)?;
        Ok(())
    }
}

/// Temporary files are private; an answer is an ordinary file.
#[cfg(unix)]
fn make_readable(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}

/// Whether the item's answer is there already.
pub(crate) fn has_answer(root: &Path, id: &str) -> bool {
    root.join(name(id)).is_file()
}

/// The file for an id: its path inside the folder, whatever the id says.
fn name(id: &str) -> PathBuf {
    let id = id.replace(['\0', '\\', ':'], "_");
    let mut path: PathBuf = Path::new(&id)
        .components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        })
        .collect();
    if path.as_os_str().is_empty() {
        path.push("item");
    }
    if path.extension().is_none() {
        path.set_extension("txt");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_leaves_the_folder() {
        for (id, file) in [
            ("a/b.txt", "a/b.txt"),
            ("7", "7.txt"),
            ("../../etc/passwd", "etc/passwd.txt"),
            ("/etc/x.md", "etc/x.md"),
            ("..", "item.txt"),
            ("a:b", "a_b.txt"),
        ] {
            assert_eq!(name(id), Path::new(file), "{id}");
        }
    }
}
