//! `--events`: everything that happens, an event a line of JSON.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::thread::JoinHandle;

use llm_batch::{EventError, EventReceiver, Events};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::exit::UsageError;
use crate::lock;

/// The number of events that the file may be behind: a burst of a large run loses none. Some 20 MiB, so only with a file.
pub(crate) const CAPACITY: usize = 1 << 16;

/// A thread that writes events, so that a slow disk slows no call.
#[derive(Debug)]
pub(crate) struct EventLog {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl EventLog {
    /// Starts to write to `path`, behind the events of earlier runs.
    pub(crate) fn start(path: &Path, events: &Events) -> Result<Self, UsageError> {
        let failed = |error: io::Error| UsageError::new(format!("--events {}: {error}", path.display()));
        let file = open(path)?;
        let receiver = events.subscribe();
        let (stop, stopped) = oneshot::channel();
        let runtime = Handle::current();
        let thread = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || runtime.block_on(write(receiver, file, stopped)))
            .map_err(failed)?;
        Ok(Self { stop, thread })
    }

    /// Writes what has happened so far, and ends.
    pub(crate) fn finish(self) -> io::Result<()> {
        // A thread that failed has dropped its end.
        let _ = self.stop.send(());
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the event writer panicked")))
    }
}

/// Opens the file for appending. A device or a pipe has neither an end nor another writer to look for.
fn open(path: &Path) -> Result<File, UsageError> {
    let failed = |error: io::Error| UsageError::new(format!("--events {}: {error}", path.display()));
    if path.exists() && !path.is_file() {
        return File::options().write(true).open(path).map_err(failed);
    }
    let mut file = lock::open(path).map_err(|error| UsageError::new(format!("--events {error}")))?;
    end_line(&mut file).map_err(failed)?;
    Ok(file)
}

/// Ends a line that a killed run has left torn, so that it spoils no other.
pub(crate) fn end_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(())
}

async fn write(
    mut receiver: EventReceiver,
    file: File,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    loop {
        // Flushed whenever there is nothing more to write, so that the file can be followed.
        let event = match receiver.try_recv() {
            Ok(Some(event)) => Ok(event),
            Ok(None) => {
                out.flush()?;
                tokio::select! {
                    biased;
                    event = receiver.recv() => event,
                    _ = &mut stopped => return out.flush(),
                }
            }
            Err(error) => Err(error),
        };
        match event {
            Ok(event) => serde_json::to_writer(&mut out, &event)?,
            Err(EventError::Lost(count)) => write!(out, r#"{{"event":"events_lost","count":{count}}}"#)?,
            Err(_) => return out.flush(),
        }
        out.write_all(b"\n")?;
    }
}
