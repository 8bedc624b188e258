//! Lines on standard error that do not tear the progress bar.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use llm_batch::batch::RunningProgress;

/// Standard error, shared by all parts of the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console {
    progress: Arc<Mutex<Option<RunningProgress>>>,
}

impl Console {
    /// From now on lines go above this bar, if it is one. `None` ends what was shown.
    pub(crate) fn show(&self, progress: Option<RunningProgress>) {
        let old = std::mem::replace(
            &mut *self.progress.lock().unwrap_or_else(PoisonError::into_inner),
            progress,
        );
        drop(old);
    }

    /// Writes a line. A closed standard error does not stop the run.
    pub(crate) fn line(&self, text: impl Display) {
        self.write(format!("{text}\n").as_bytes());
    }

    /// Runs `f`, which writes to the terminal, with the bar out of its way.
    pub(crate) fn suspended<R>(&self, f: impl FnOnce() -> R) -> R {
        match &*self.progress.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(progress) => progress.suspend(f),
            None => f(),
        }
    }

    fn write(&self, bytes: &[u8]) {
        self.suspended(|| {
            let _ = io::stderr().write_all(bytes);
        });
    }
}

/// One log record, written at once.
#[derive(Debug)]
pub(crate) struct Record {
    console: Console,
    bytes: Vec<u8>,
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.console.write(&self.bytes);
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Console {
    type Writer = Record;

    fn make_writer(&'a self) -> Self::Writer {
        Record {
            console: self.clone(),
            bytes: Vec::new(),
        }
    }
}
