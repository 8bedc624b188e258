//! The account of one call.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::Span;

use super::Shared;
use crate::error::{ErrorKind, kind_of, was_shed};
use crate::events::EventKind;
use crate::item::{CallEnded, CallGuard, EndedCall};
use crate::response::{ReportsUsage, ResponseMetadata};
use crate::telemetry::{self, CallEnd};
use crate::usage::TokenUsage;

/// One call, from right before it starts. If it is dropped without [`end`](Self::end), it counts as cancelled.
pub(super) struct Call {
    shared: Arc<Shared>,
    guard: Option<CallGuard>,
    /// Its start; `None` if another layer reports the metrics, span and events of this call.
    started: Option<Instant>,
    span: Span,
    ended: bool,
}

impl Call {
    pub(super) fn start(shared: &Arc<Shared>, claimed: Option<(CallGuard, Option<Instant>)>) -> Self {
        let (guard, started) = match claimed {
            Some((guard, started)) => (Some(guard), started),
            None => (None, Some(Instant::now())),
        };
        let span = match started {
            Some(_) => telemetry::call_span(guard.as_ref()),
            None => Span::none(),
        };
        Self {
            shared: Arc::clone(shared),
            guard,
            started,
            span,
            ended: false,
        }
    }

    /// Sends the event of the call's start, unless it has been sent, or a layer inside holds the call back.
    #[inline]
    pub(super) fn announce(&self) {
        let (Some(events), Some(guard)) = (&self.shared.events, &self.guard) else {
            return;
        };
        if let Some(started) = guard.to_announce() {
            events.emit_at(started, Some(guard.item()), || EventKind::CallStarted {
                call: guard.number(),
                attempt: guard.item().attempt(),
            });
        }
    }

    #[inline]
    pub(super) fn note_poll(&self) {
        if let Some(guard) = &self.guard {
            guard.note_poll();
        }
    }

    #[inline]
    pub(super) fn enter(&self) -> tracing::span::Entered<'_> {
        self.span.enter()
    }

    /// The call has ended with `outcome`.
    pub(super) fn end<Res, E, U>(mut self, outcome: Result<&Res, &E>, usage: &U)
    where
        E: 'static,
        U: ReportsUsage<Res, E>,
    {
        let reported = usage.reported_usage(outcome);
        let (end, shed) = match outcome {
            Ok(_) => (CallEnd::Success, false),
            Err(error) => (CallEnd::Failure(Some(kind_of(error))), was_shed(error)),
        };
        let metadata = outcome.ok().and_then(|response| usage.metadata(response));
        let used = self.settle(end, shed, reported, metadata);
        if self.started.is_some() {
            telemetry::record_response(&self.span, metadata, used);
        }
    }

    fn settle(
        &mut self,
        end: CallEnd,
        shed: bool,
        reported: Option<TokenUsage>,
        metadata: Option<&ResponseMetadata>,
    ) -> Option<TokenUsage> {
        self.ended = true;
        if !shed {
            self.announce();
        }
        // The strategy, or a layer further in, may have reported it first; then the item's record has that value. An unknown
        // usage is not reported: a layer further out may know it.
        let now = Instant::now();
        let ledger = &self.shared.ledger;
        let kind = match end {
            CallEnd::Failure(kind) => kind,
            CallEnd::Success | CallEnd::Cancelled => None,
        };
        let ended = match &self.guard {
            Some(guard) => guard.end(&CallEnded {
                at: now,
                usage: reported,
                answered: end == CallEnd::Success,
                throttled: kind == Some(ErrorKind::RateLimit),
                shed,
                cut: end == CallEnd::Cancelled,
                ledger: ledger.address(),
            }),
            None if shed => EndedCall::NOT_SENT,
            None => EndedCall::of(reported),
        };
        let usage = ended.usage;
        let cost = if ended.outlived {
            None
        } else {
            ended.cost.or_else(|| {
                let guard = self.guard.as_ref();
                let cost = self.shared.prices.cost(guard, metadata, usage);
                if let (Some(guard), Some(cost)) = (guard, cost) {
                    guard.observe_cost(cost);
                }
                cost
            })
        };
        if ended.in_ledger {
            ledger.add(end != CallEnd::Success, usage, cost);
        }
        for _ in 0..ended.unwatched {
            ledger.add(false, None, None);
        }
        if !ended.counts {
            return usage;
        }
        let Some(started) = self.started else {
            return usage;
        };
        let duration = now.saturating_duration_since(started);
        self.shared.meter.call_ended(end, duration, usage);
        match end {
            CallEnd::Success => {}
            CallEnd::Failure(kind) => {
                telemetry::record_failure(&self.span, kind.unwrap_or(ErrorKind::Other).as_str());
            }
            CallEnd::Cancelled => telemetry::record_failure(&self.span, "cancelled"),
        }
        if let (Some(events), Some(guard)) = (&self.shared.events, &self.guard) {
            let call = guard.number();
            events.emit(Some(guard.item()), || match end {
                CallEnd::Success => EventKind::CallCompleted {
                    call,
                    duration,
                    usage,
                },
                CallEnd::Failure(_) | CallEnd::Cancelled => EventKind::CallFailed {
                    call,
                    kind,
                    duration,
                    usage,
                },
            });
        }
        usage
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.settle(CallEnd::Cancelled, false, None, None);
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}
