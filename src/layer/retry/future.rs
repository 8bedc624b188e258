//! The wait before a repeat.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep};

use crate::item::{Abandoned, CallContext, CallHold, CallRefused, WaitReason};
use crate::telemetry::Meter;

/// The wait of a [`RetryPolicy`](super::RetryPolicy) before the next call. It holds only a timer.
///
/// If the batch stops, the next call may not begin: [`RetryLayer`](super::RetryLayer) refuses it. Below tower's own layer the wait
/// never ends, and the driver ends the item.
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct RetryWait {
    // None: no wait.
    #[pin]
    sleep: Option<Sleep>,
    since: Instant,
    hold: Option<CallHold>,
    /// Set if the service inside refuses a call after a stop.
    refused_inside: bool,
    abandoned: Option<Abandoned>,
    meter: Option<Meter>,
}

impl RetryWait {
    pub(super) fn new(
        wait: Duration,
        context: Option<&CallContext>,
        refused_inside: bool,
        meter: &Meter,
    ) -> Self {
        Self {
            refused_inside,
            abandoned: None,
            sleep: (!wait.is_zero()).then(|| tokio::time::sleep(wait)),
            since: Instant::now(),
            hold: context.map(CallContext::hold_before_repeat),
            meter: (!wait.is_zero()).then(|| meter.clone()),
        }
    }
}

/// Records the wait, once.
fn record(since: Instant, hold: Option<&CallHold>, meter: &mut Option<Meter>) {
    let Some(meter) = meter.take() else { return };
    let now = Instant::now();
    if let Some(hold) = hold {
        hold.item().signals().add_wait(WaitReason::Backoff, since, now);
    }
    meter.waited(WaitReason::Backoff, now.saturating_duration_since(since));
}

impl Future for RetryWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.abandoned.is_some() {
            return Poll::Pending;
        }
        if let Some(sleep) = this.sleep.as_pin_mut()
            && sleep.poll(cx).is_pending()
        {
            let Some(hold) = this.hold else {
                return Poll::Pending;
            };
            if !hold.item().signals().stop_requested() {
                hold.item().signals().wake_at_stop(cx);
                return Poll::Pending;
            }
        }
        record(*this.since, this.hold.as_ref(), this.meter);
        if let Some(hold) = this.hold.take() {
            let (item, within) = (Arc::clone(hold.item()), hold.within());
            if let Err(CallRefused::Stopped) = hold.release()
                && !*this.refused_inside
            {
                *this.abandoned = Some(Abandoned::new(&item, within));
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl PinnedDrop for RetryWait {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        record(*this.since, this.hold.as_ref(), this.meter);
    }
}

impl fmt::Debug for RetryWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryWait")
            .field("until", &self.sleep.as_ref().map(Sleep::deadline))
            .finish_non_exhaustive()
    }
}
