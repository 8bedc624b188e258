//! The end of an item: its final accounts, its one terminal event, its metrics.

use std::any::Any;

use tokio::time::Instant;

use super::driver::Options;
use crate::error::{BoxError, ErrorKind, LlmError};
use crate::events::EventKind;
use crate::item::{Item, ItemReport};
use crate::telemetry::ItemEnd;

/// Why an item failed.
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    // What the driver itself says; the text of a strategy's error is made only if somebody listens.
    pub(super) message: Option<String>,
}

/// An item's final accounts. A call that no layer observed counts as one of unknown usage, never as no call.
pub(super) fn close(item: &Item, at: Instant, sent: bool) -> ItemReport {
    let unwatched = item.is_unwatched();
    if unwatched {
        item.settle_last_call(sent);
    }
    let mut report = item.final_report(at);
    if unwatched && report.calls > 0 {
        // Nobody timed its calls; what was not a wait was spent in them.
        report.call_time = report.total_time.saturating_sub(report.waits.total());
    }
    report
}

/// The one terminal event of an item, and its metrics.
pub(super) fn report_end(
    options: &Options,
    item: &Item,
    at: Instant,
    report: ItemReport,
    failure: Option<Failure>,
    text: impl FnOnce() -> Option<String>,
) {
    let end = match failure.as_ref().map(|failure| failure.kind) {
        None => ItemEnd::Success,
        Some(ErrorKind::Aborted) => ItemEnd::Aborted,
        Some(_) => ItemEnd::Failure,
    };
    options.meter.item_ended(end, report.total_time);
    let Some(events) = &options.events else { return };
    match failure {
        None => events.emit_at(at, Some(item), || EventKind::ItemCompleted { report }),
        Some(Failure { kind, message }) => {
            let out_of_time =
                item.deadline_missed() || item.deadline().is_some_and(|deadline| deadline <= at);
            if kind == ErrorKind::TimedOut && out_of_time {
                events.emit_at(at, Some(item), || EventKind::ItemDeadlineExceeded);
            }
            events.emit_at(at, Some(item), || EventKind::ItemFailed {
                kind,
                message: message.or_else(text).unwrap_or_else(|| kind.to_string()),
                report,
            });
        }
    }
}

/// The text of an error whose type is known.
pub(super) fn text_of<E: 'static>(error: &E) -> Option<String> {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<LlmError>() {
        Some(error.to_string())
    } else {
        error.downcast_ref::<BoxError>().map(ToString::to_string)
    }
}
