//! The wait before a repeat.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep};

use crate::item::{Item, WaitReason};
use crate::telemetry::Meter;

/// The wait of a [`RetryPolicy`](super::RetryPolicy) before the next call. It holds nothing but a timer.
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct RetryWait {
    // None: no wait.
    #[pin]
    sleep: Option<Sleep>,
    record: Option<Record>,
}

struct Record {
    since: Instant,
    item: Option<Arc<Item>>,
    meter: Meter,
}

impl Record {
    fn write(self) {
        let now = Instant::now();
        if let Some(item) = &self.item {
            item.add_wait(WaitReason::Backoff, self.since, now);
        }
        self.meter.waited(WaitReason::Backoff, now - self.since);
    }
}

impl RetryWait {
    pub(super) const NONE: Self = Self {
        sleep: None,
        record: None,
    };

    pub(super) fn new(wait: Duration, item: Option<Arc<Item>>, meter: Meter) -> Self {
        Self {
            sleep: Some(tokio::time::sleep(wait)),
            record: Some(Record {
                since: Instant::now(),
                item,
                meter,
            }),
        }
    }
}

impl Future for RetryWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if let Some(sleep) = this.sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        if let Some(record) = this.record.take() {
            record.write();
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl PinnedDrop for RetryWait {
    fn drop(self: Pin<&mut Self>) {
        if let Some(record) = self.project().record.take() {
            record.write();
        }
    }
}

impl fmt::Debug for RetryWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryWait")
            .field("until", &self.sleep.as_ref().map(Sleep::deadline))
            .finish()
    }
}
