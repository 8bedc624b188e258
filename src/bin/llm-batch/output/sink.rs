//! Bytes to a file or to standard output.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};

/// Takes whole rows and hands each to the system at once.
pub(crate) struct Sink {
    out: Box<dyn Write + Send>,
    new: bool,
    /// The file whose old content goes when the first row comes: a run without a row replaces nothing.
    replaced: Option<File>,
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self {
            out: Box::new(io::stdout()),
            new: true,
            replaced: None,
        }
    }

    /// Standard output, where it is a terminal: with colours, unless `NO_COLOR` or the terminal says otherwise.
    pub(crate) fn terminal() -> Self {
        Self {
            out: Box::new(anstream::stdout()),
            new: true,
            replaced: None,
        }
    }

    /// `new` says that nothing is in the file yet.
    pub(crate) fn file(file: File, new: bool) -> Self {
        Self {
            out: Box::new(file),
            new,
            replaced: None,
        }
    }

    /// A file whose old content is replaced.
    pub(crate) fn replacing(file: File) -> io::Result<Self> {
        let replaced = Some(file.try_clone()?);
        Ok(Self {
            replaced,
            ..Self::file(file, true)
        })
    }

    /// Returns `true` if nothing was written yet.
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.new = false;
        if let Some(file) = self.replaced.take() {
            file.set_len(0)?;
        }
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
