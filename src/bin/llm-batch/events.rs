//! `--events`: everything that happens, an event a line of JSON.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread::JoinHandle;

use llm_batch::{EventError, EventReceiver, Events};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::exit::UsageError;

/// How far the file may be behind: a burst of a large run, and no event lost. Some 20 MiB, so only with a file.
pub(crate) const CAPACITY: usize = 1 << 16;

/// A thread that writes events, so that a slow disk slows no call.
#[derive(Debug)]
pub(crate) struct EventLog {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl EventLog {
    /// Starts to write to `path`, whose old content is replaced.
    pub(crate) fn start(path: &Path, events: &Events) -> Result<Self, UsageError> {
        let failed = |error: io::Error| UsageError::new(format!("--events {}: {error}", path.display()));
        let file = File::create(path).map_err(failed)?;
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
