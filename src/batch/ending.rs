//! The end of an item: its failure, its one terminal event, its metrics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;

use super::options::Options;
use crate::classify::Verdict;
use crate::error::{BoxError, Disposition, ErrorKind, LlmError, kind_of, own_error, was_sent};
use crate::events::EventKind;
use crate::item::{Item, ItemReport};
use crate::telemetry::ItemEnd;

pub(super) use crate::error::caught_text;

/// The reason why an item failed.
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    // The driver's own message; the text of a strategy's error is formatted only for subscribers.
    pub(super) message: Option<String>,
}

/// The kind of a strategy's error, and whether its call was sent, if known. The error's own methods may panic.
pub(super) fn judge<E: 'static>(error: &E) -> (ErrorKind, Option<bool>) {
    catch_unwind(AssertUnwindSafe(|| (kind_of(error), was_sent(error)))).unwrap_or((ErrorKind::Other, None))
}

/// The kind that `stop_when` compares. `None` if the kind concerns every item by default, but the error states that it concerns
/// its own item alone.
pub(super) fn stopping_kind<E: 'static>(error: &E) -> Option<ErrorKind> {
    let judged = catch_unwind(AssertUnwindSafe(|| {
        own_error(error).map(|error| (error.kind(), Verdict::from(error).disposition))
    }));
    match judged {
        Ok(Some((kind, Disposition::Fatal))) if kind.disposition() == Disposition::ScopeFatal => None,
        Ok(Some((kind, _))) => Some(kind),
        Ok(None) | Err(_) => Some(ErrorKind::Other),
    }
}

/// The one terminal event of an item, and its metrics.
pub(super) fn report_end(
    options: &Options,
    item: &Item,
    at: Instant,
    report: &ItemReport,
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
        None => events.emit_at(at, Some(item), || EventKind::ItemCompleted { report: *report }),
        Some(Failure { kind, message }) => {
            let out_of_time =
                item.signals().deadline_missed() || item.deadline().is_some_and(|deadline| deadline <= at);
            if kind == ErrorKind::TimedOut && out_of_time {
                events.emit_at(at, Some(item), || EventKind::ItemDeadlineExceeded);
            }
            events.emit_at(at, Some(item), || EventKind::ItemFailed {
                kind,
                message: message.or_else(text).unwrap_or_else(|| kind.to_string()),
                report: *report,
            });
        }
    }
}

/// The text of an error whose type is known.
pub(super) fn text_of<E: 'static>(error: &E) -> Option<String> {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<LlmError>() {
        Some(caught_text(error))
    } else {
        error.downcast_ref::<BoxError>().map(caught_text)
    }
}
