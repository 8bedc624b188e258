//! Ctrl-C, the request to terminate, and the loss of the terminal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llm_batch::BatchHandle;

use crate::console::Console;

/// The time that a second signal waits for the calls to be dropped.
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
    /// None where it is ignored, as `nohup` wants it.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
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
                // The terminal was closed, or the connection to it.
                hangup: match hangup_ends_program() {
                    true => Some(signal(SignalKind::hangup())?),
                    false => None,
                },
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
            () = next_of(&mut self.hangup) => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(unix)]
async fn next_of(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Returns `true` if SIGHUP would end the program. Linux alone shows it without unsafe code; elsewhere the signal is left as it is.
#[cfg(unix)]
fn hangup_ends_program() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| !ignores_hangup(&status))
}

/// Returns `true` if the mask of ignored signals in `/proc/self/status` has the first signal, which is SIGHUP.
#[cfg(unix)]
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_none_or(|mask| mask & 1 == 1)
}

/// The effect of Ctrl-C: first the run ends in good order, then at once.
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

    /// Returns `true` if there was one.
    pub(crate) fn has_any(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }
}
