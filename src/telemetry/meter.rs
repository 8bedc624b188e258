//! Recording through the `metrics` facade; without the feature nothing is recorded.

#[cfg(not(feature = "metrics"))]
pub(crate) use disabled::{Meter, describe};
#[cfg(feature = "metrics")]
pub(crate) use enabled::{Meter, describe};

#[cfg(feature = "metrics")]
mod enabled {
    use std::fmt;
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use metrics::{
        Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge,
        describe_histogram, gauge, histogram,
    };

    use super::super::{
        CALL_DURATION, CALLS, COOLDOWN_DURATION, COOLDOWNS, CallEnd, DEFAULT_BATCH, IN_FLIGHT, ITEM_DURATION,
        ITEMS, ItemEnd, LABEL_BATCH, LABEL_ERROR_TYPE, LABEL_OUTCOME, LABEL_REASON, LABEL_TOKEN_TYPE, TOKENS,
        UNKNOWN_USAGE_CALLS, WAIT,
    };
    use crate::error::ErrorKind;
    use crate::item::WaitReason;
    use crate::usage::TokenUsage;

    /// The metrics of one instance: a stream, a gate or a layer. Clones share the handles, which are looked up at
    /// their first use, because the recorder may be installed after this is created.
    #[derive(Clone)]
    pub(crate) struct Meter {
        handles: Arc<Handles>,
    }

    #[derive(Default)]
    struct Handles {
        batch: Option<Arc<str>>,
        success: OnceLock<Counter>,
        tokens: OnceLock<[Counter; 5]>,
        unknown_usage: OnceLock<Counter>,
        call_duration: OnceLock<Histogram>,
        items: OnceLock<Items>,
        waits: [OnceLock<Histogram>; WaitReason::ALL.len()],
    }

    struct Items {
        in_flight: Gauge,
        duration: Histogram,
        ended: [Counter; 3],
    }

    impl Handles {
        fn labels<const N: usize>(&self, more: [(&'static str, &'static str); N]) -> Vec<Label> {
            let batch = match &self.batch {
                Some(name) => Label::new(LABEL_BATCH, Arc::clone(name)),
                None => Label::new(LABEL_BATCH, DEFAULT_BATCH),
            };
            std::iter::once(batch)
                .chain(more.map(|(key, value)| Label::new(key, value)))
                .collect()
        }

        fn items(&self) -> &Items {
            self.items.get_or_init(|| Items {
                in_flight: gauge!(IN_FLIGHT, self.labels([])),
                duration: histogram!(ITEM_DURATION, self.labels([])),
                ended: ["success", "failure", "aborted"]
                    .map(|outcome| counter!(ITEMS, self.labels([(LABEL_OUTCOME, outcome)]))),
            })
        }

        fn calls(&self, outcome: &'static str, error_type: &'static str) -> Counter {
            counter!(
                CALLS,
                self.labels([(LABEL_OUTCOME, outcome), (LABEL_ERROR_TYPE, error_type)])
            )
        }
    }

    impl Meter {
        pub(crate) fn new(batch: Option<&str>) -> Self {
            Self {
                handles: Arc::new(Handles {
                    batch: batch.map(Arc::from),
                    ..Handles::default()
                }),
            }
        }

        /// Records that an item was picked up.
        pub(crate) fn item_started(&self) {
            self.handles.items().in_flight.increment(1.0);
        }

        /// Records that an item that was picked up has its outcome.
        pub(crate) fn item_ended(&self, end: ItemEnd, total: Duration) {
            let items = self.handles.items();
            items.in_flight.decrement(1.0);
            items.duration.record(total.as_secs_f64());
            let position = match end {
                ItemEnd::Success => 0,
                ItemEnd::Failure => 1,
                ItemEnd::Aborted => 2,
            };
            items.ended[position].increment(1);
        }

        /// Records that a physical call ended; `usage` is `None` if unknown.
        pub(crate) fn call_ended(&self, end: CallEnd, duration: Duration, usage: Option<TokenUsage>) {
            let handles = &*self.handles;
            match end {
                CallEnd::Success => handles
                    .success
                    .get_or_init(|| handles.calls("success", ""))
                    .increment(1),
                CallEnd::Failure(kind) => handles
                    .calls("failure", kind.map_or("", ErrorKind::as_str))
                    .increment(1),
                CallEnd::Cancelled => handles.calls("cancelled", "").increment(1),
            }
            handles
                .call_duration
                .get_or_init(|| histogram!(CALL_DURATION, handles.labels([])))
                .record(duration.as_secs_f64());
            let Some(usage) = usage else {
                handles
                    .unknown_usage
                    .get_or_init(|| counter!(UNKNOWN_USAGE_CALLS, handles.labels([])))
                    .increment(1);
                return;
            };
            let counters = handles.tokens.get_or_init(|| {
                ["input", "output", "cached_input", "cache_write", "reasoning"]
                    .map(|class| counter!(TOKENS, handles.labels([(LABEL_TOKEN_TYPE, class)])))
            });
            let tokens = [
                usage.input,
                usage.output,
                usage.cached_input,
                usage.cache_write,
                usage.reasoning,
            ];
            for (counter, tokens) in counters.iter().zip(tokens) {
                if tokens > 0 {
                    counter.increment(tokens);
                }
            }
        }

        /// Records that one wait of one item ended.
        pub(crate) fn waited(&self, reason: WaitReason, time: Duration) {
            self.handles.waits[reason as usize]
                .get_or_init(|| histogram!(WAIT, self.handles.labels([(LABEL_REASON, reason.as_str())])))
                .record(time.as_secs_f64());
        }

        /// Records that a gate closed for `pause`.
        pub(crate) fn cooldown_started(&self, pause: Duration) {
            counter!(COOLDOWNS, self.handles.labels([])).increment(1);
            histogram!(COOLDOWN_DURATION, self.handles.labels([])).record(pause.as_secs_f64());
        }
    }

    impl fmt::Debug for Meter {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Meter")
                .field("batch", &self.handles.batch.as_deref().unwrap_or(DEFAULT_BATCH))
                .finish()
        }
    }

    pub(crate) fn describe() {
        describe_counter!(ITEMS, Unit::Count, "Items that have their outcome.");
        describe_counter!(CALLS, Unit::Count, "Physical calls that have ended.");
        describe_counter!(
            TOKENS,
            Unit::Count,
            "Tokens of known usage, including failed calls."
        );
        describe_counter!(UNKNOWN_USAGE_CALLS, Unit::Count, "Calls whose usage is unknown.");
        describe_histogram!(
            CALL_DURATION,
            Unit::Seconds,
            "Time in one physical call, without any wait."
        );
        describe_histogram!(
            ITEM_DURATION,
            Unit::Seconds,
            "Time from an item's pick-up to its outcome, with every call and wait."
        );
        describe_histogram!(WAIT, Unit::Seconds, "One wait of one item, by reason.");
        describe_gauge!(IN_FLIGHT, Unit::Count, "Items picked up and not yet done.");
        describe_counter!(COOLDOWNS, Unit::Count, "The pauses of a gate.");
        describe_histogram!(
            COOLDOWN_DURATION,
            Unit::Seconds,
            "The planned length of a gate's pauses when they began."
        );
    }
}

#[cfg(not(feature = "metrics"))]
mod disabled {
    use std::time::Duration;

    use super::super::{CallEnd, ItemEnd};
    use crate::item::WaitReason;
    use crate::usage::TokenUsage;

    /// Records nothing: the feature `metrics` is off.
    #[derive(Clone, Debug)]
    pub(crate) struct Meter;

    #[allow(clippy::unused_self)] // the shape of the recording one
    impl Meter {
        pub(crate) fn new(_: Option<&str>) -> Self {
            Self
        }

        pub(crate) fn item_started(&self) {}

        pub(crate) fn item_ended(&self, _: ItemEnd, _: Duration) {}

        pub(crate) fn call_ended(&self, _: CallEnd, _: Duration, _: Option<TokenUsage>) {}

        pub(crate) fn waited(&self, _: WaitReason, _: Duration) {}

        pub(crate) fn cooldown_started(&self, _: Duration) {}
    }

    pub(crate) fn describe() {}
}
