//! What monitoring sees of a gate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use llm_batch::Verdict;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tracing::field::{Field, Visit};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn pauses_and_waits_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let limiter = plain().name("mine").requests_per_minute(60).build().unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(4)), None);
    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
    let series: BTreeMap<String, DebugValue> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let key = key.key();
            let labels: Vec<_> = key
                .labels()
                .map(|label| format!(" {}={}", label.key(), label.value()))
                .collect();
            (format!("{}{}", key.name(), labels.concat()), value)
        })
        .collect();
    let text = format!("{series:?}");
    for expected in [
        "\"llm_batch_cooldowns_total batch=mine\": Counter(1)",
        "\"llm_batch_cooldown_seconds batch=mine\": Histogram([4",
        "\"llm_batch_wait_seconds batch=mine reason=cooldown\": Histogram([4",
        "\"llm_batch_wait_seconds batch=mine reason=requests\": Histogram([1",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}

/// Keeps the messages of the gate's log events.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "llm_batch::rate_limiter"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_logged_once_however_many_wait() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let limiter = plain().name("mine").build().unwrap();
    let mut calls: Vec<_> = (0..20).map(|_| call_now(&limiter, 0).unwrap()).collect();
    let waiters: Vec<_> = (0..20)
        .map(|_| tokio::spawn(call_and_succeed(limiter.clone())))
        .collect();
    for call in calls.drain(..) {
        call.settle(&throttled_for(secs(2)), None);
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    let lines = log.0.lock().unwrap().clone();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in [
        "WARN",
        "limiter=\"mine\"",
        "kind=\"rate_limit\"",
        "calls pause for 2s",
    ] {
        assert!(lines[0].contains(word), "{word} is not in {lines:?}");
    }
}

async fn call_and_succeed(limiter: llm_batch::layer::rate_limiter::RateLimiter) {
    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
}
