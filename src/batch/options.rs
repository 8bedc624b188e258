//! The settings of the stream's builder methods.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::sleep;

use super::shared::Shared;
use super::termination::Termination;
use crate::error::ErrorKind;
use crate::events::Events;
use crate::telemetry::Meter;

/// The user's work, or a signal.
pub(super) type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Options {
    pub(super) in_order: bool,
    pub(super) reorder_buffer: usize,
    pub(super) timeout: Option<Duration>,
    pub(super) stop_when: Vec<ErrorKind>,
    pub(super) stop_on: Option<BoxFuture>,
    pub(super) on_complete: Option<BoxFuture>,
    pub(super) events: Option<Events>,
    pub(super) meter: Meter,
}

impl Options {
    pub(super) fn new() -> Self {
        Self {
            in_order: false,
            reorder_buffer: 0,
            timeout: None,
            stop_when: Vec::new(),
            stop_on: None,
            on_complete: None,
            events: None,
            meter: Meter::new(None),
        }
    }

    /// The future that stops the batch when the time limit passes or the signal completes; `None` if neither is set.
    pub(super) fn stop_signal(&mut self, shared: &Arc<Shared>) -> Option<BoxFuture> {
        let timeout = self.timeout;
        let signal = self.stop_on.take();
        if timeout.is_none() && signal.is_none() {
            return None;
        }
        let shared = Arc::clone(shared);
        Some(Box::pin(async move {
            let time_limit = async {
                match timeout {
                    Some(limit) => sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let signal = async {
                match signal {
                    Some(signal) => match AssertUnwindSafe(signal).catch_unwind().await {
                        Ok(()) => {}
                        Err(panic) => {
                            // The panic does not stop the batch; the time limit still may.
                            shared.set_panic(panic);
                            std::future::pending().await
                        }
                    },
                    None => std::future::pending().await,
                }
            };
            let cause = tokio::select! {
                biased;
                () = signal => Termination::Stopped,
                () = time_limit => Termination::BatchTimeout,
            };
            shared.stop(cause, None);
        }))
    }
}
