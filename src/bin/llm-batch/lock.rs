//! One process for each output: a lock that ends with the process.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::exit::UsageError;

/// Takes the lock of an open output.
///
/// It is the system's advisory lock, so nothing is left behind, also after a `kill -9`.
pub(crate) fn take(file: &File, path: &Path) -> Result<(), UsageError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(UsageError::new(format!(
            "{} is being written by another process; wait for it, or name another output",
            path.display()
        ))),
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(
                path = %path.display(),
                "the file system has no locks: no second process may write this output at the same time"
            );
            Ok(())
        }
        Err(TryLockError::Error(error)) => Err(UsageError::new(format!(
            "{} cannot be locked: {error}",
            path.display()
        ))),
    }
}

/// Opens an existing file for reading and appending, with its lock.
///
/// The process that had the lock before may have put another file in this one's place: then that one is opened.
pub(crate) fn open(path: &Path) -> Result<File, UsageError> {
    let named = |error: io::Error| UsageError::new(format!("{}: {error}", path.display()));
    loop {
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(named)?;
        take(&file, path)?;
        if is_at(&file, path).map_err(named)? {
            return Ok(file);
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let id = |data: std::fs::Metadata| (data.dev(), data.ino());
    match std::fs::metadata(path) {
        Ok(data) => Ok(id(file.metadata()?) == id(data)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}
