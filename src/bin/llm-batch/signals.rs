//! Ctrl-C, and the request to terminate.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llm_batch::BatchHandle;

use crate::console::Console;

/// How long a second signal waits for the calls to be dropped.
const GRACE: Duration = Duration::from_secs(2);
/// The exit status after it.
const INTERRUPTED: i32 = 130;

/// Waits for the signals that ask a program to end.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on the signals no longer end the program by themselves.
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What Ctrl-C does: first the run ends in good order, then at once.
#[derive(Debug)]
pub(crate) struct Interrupts {
    happened: Arc<AtomicBool>,
}

impl Interrupts {
    /// Watches in the background, to the end of the program.
    pub(crate) fn watch(mut signals: Signals, handle: BatchHandle, console: Console) -> Self {
        let happened = Arc::<AtomicBool>::default();
        tokio::spawn({
            let happened = Arc::clone(&happened);
            async move {
                signals.next().await;
                happened.store(true, Ordering::Relaxed);
                handle.stop();
                console.line("interrupted: running calls finish and are written; Ctrl-C again stops at once");
                signals.next().await;
                handle.cancel();
                // The reader of the output may not take what is left.
                tokio::select! {
                    () = signals.next() => {}
                    () = tokio::time::sleep(GRACE) => {}
                }
                std::process::exit(INTERRUPTED);
            }
        });
        Self { happened }
    }

    /// Whether there was one.
    pub(crate) fn has_any(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }
}
