//! Standard output, before anything is paid for: a place that answers can be written to.

use crate::exit::UsageError;

/// Rejects a standard output that is closed, or open for reading alone. Both would take every answer without an error.
#[cfg(unix)]
pub(crate) fn check() -> Result<(), UsageError> {
    use rustix::fs::{OFlags, fcntl_getfl};
    let mode = fcntl_getfl(std::io::stdout()).map(|flags| flags & OFlags::RWMODE);
    match mode {
        Ok(OFlags::WRONLY) => Ok(()),
        // The start of every program opens what is closed as /dev/null, for reading and writing.
        Ok(OFlags::RDWR) if is_null() => Err(UsageError::new(
            "standard output is closed (or /dev/null, opened for reading too), so no answer could be written; name a file \
             with -o FILE, or discard the answers with -o /dev/null",
        )),
        Ok(OFlags::RDWR) => Ok(()),
        _ => Err(UsageError::new(
            "standard output is not open for writing, so no answer could be written; name a file with -o FILE",
        )),
    }
}

#[cfg(unix)]
fn is_null() -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let device = |path| {
        let metadata = std::fs::metadata(path).ok()?;
        let is_device = metadata.file_type().is_char_device();
        is_device.then(|| metadata.rdev())
    };
    let null = device("/dev/null");
    null.is_some() && device("/dev/stdout") == null
}

/// Elsewhere a write fails.
#[cfg(not(unix))]
pub(crate) fn check() -> Result<(), UsageError> {
    Ok(())
}
