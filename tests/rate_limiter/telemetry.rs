//! What monitoring sees of a gate.

use std::collections::BTreeMap;

use llm_batch::{EventKind, Events, Verdict};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn pauses_and_waits_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let limiter = unpaced().name("mine").requests_per_minute(60).build().unwrap();
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
    let lines = log.lines();
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

#[tokio::test(start_paused = true)]
async fn events_name_their_gate() {
    let events = Events::new();
    let mut receiver = events.subscribe();
    let gates = ["small", "large"].map(|name| plain().name(name).events(&events).build().unwrap());
    for (limiter, hint) in gates.iter().zip([2, 5]) {
        let throttled = call_now(limiter, 0).unwrap();
        let fatal_call = call_now(limiter, 0).unwrap();
        throttled.settle(&throttled_for(secs(hint)), Some(0));
        fatal_call.settle(&fatal(llm_batch::ErrorKind::NotFound), Some(0));
        limiter.reopen();
    }
    let mut pauses = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap() {
        let name = event
            .limiter
            .clone()
            .unwrap_or_else(|| panic!("{event:?} names no gate"));
        if let EventKind::CooldownStarted { pause, .. } = event.kind {
            pauses.push((name.to_string(), pause));
        }
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["limiter"], *name);
        assert_eq!(serde_json::from_value::<llm_batch::Event>(json).unwrap(), event);
    }
    assert_eq!(
        pauses,
        [("small".to_owned(), secs(2)), ("large".to_owned(), secs(5))]
    );
}
