//! Old answers under another name, where new ones take their place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Gives a file a second name, the first of `names` that is free; the file stays where it is. Returns that name, or none if no
/// file is there.
pub(crate) fn keep(path: &Path, names: impl Iterator<Item = PathBuf>) -> io::Result<Option<PathBuf>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    for name in names {
        let kept = match fs::hard_link(path, &name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => copy(path, &name),
            linked => linked,
        };
        match kept {
            Ok(()) => return Ok(Some(name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("all names for the old file are taken"))
}

/// For file systems without hard links.
fn copy(path: &Path, name: &Path) -> io::Result<()> {
    let mut old = File::open(path)?;
    let mut new = File::create_new(name)?;
    io::copy(&mut old, &mut new)?;
    new.sync_all()
}

/// The names for what `--overwrite` replaces: `FILE.old`, `FILE.old.2` and so on.
pub(crate) fn old_names(path: &Path) -> impl Iterator<Item = PathBuf> {
    let named = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let first = named(".old");
    let further = (2..10_000_u32).map(move |number| named(&format!(".old.{number}")));
    std::iter::once(first).chain(further)
}

/// Returns `true` if a file of this name is, or may become, one of [`old_names`] of a file called `of`.
pub(crate) fn is_old_name(name: &str, of: &str) -> bool {
    let rest = name.strip_prefix(of).and_then(|rest| rest.strip_prefix(".old"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Those of [`old_names`] that are there.
pub(crate) fn old_files(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let of = path.file_name().unwrap_or_default().to_string_lossy();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| is_old_name(&entry.file_name().to_string_lossy(), &of))
        .map(|entry| entry.path())
        .collect()
}
