//! Bytes to a file or to standard output.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};

/// Takes whole rows and hands each to the system at once.
pub(crate) struct Sink {
    out: Box<dyn Write + Send>,
    new: bool,
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self {
            out: Box::new(io::stdout()),
            new: true,
        }
    }

    /// Standard output, where it is a terminal: with colours, unless `NO_COLOR` or the terminal says otherwise.
    pub(crate) fn terminal() -> Self {
        Self {
            out: Box::new(anstream::stdout()),
            new: true,
        }
    }

    /// `new` says that nothing is in the file yet.
    pub(crate) fn file(file: File, new: bool) -> Self {
        Self {
            out: Box::new(file),
            new,
        }
    }

    /// Returns `true` if nothing was written yet.
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.new = false;
        self.out.write_all(bytes)?;
        self.out.flush()
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("new", &self.new)
            .finish_non_exhaustive()
    }
}
