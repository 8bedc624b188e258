//! Summary, events and progress of a batch.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, poll, stream};
use llm_batch::layer::rate_limiter::Cooldown;
use llm_batch::{
    BatchSummary, ErrorKind, EventKind, Events, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Outcome,
    Progress, RateLimiter, Termination, TokenUsage, Verdict, WaitReason,
};
use tokio::time::{Instant, sleep};
use tower::service_fn;

use crate::support::{Sleeper, all};

/// A strategy that keeps accounts like the layers: it waits 300 ms for the request quota, then calls for 100 ms; item
/// 2 is throttled once and waits for the end of a pause, item 3 fails.
async fn accounted(mut request: LlmRequest) -> Result<LlmResponse, LlmError> {
    let item = Arc::clone(request.item());
    let hold = request.context_mut().hold();
    let since = Instant::now();
    sleep(Duration::from_millis(300)).await;
    item.signals()
        .add_wait(WaitReason::Requests, since, Instant::now());
    drop(hold);
    if request.index() == 2 {
        let mut first = request.clone();
        let call = first.begin_call().unwrap();
        call.set_throttled();
        call.observe(Some(TokenUsage::ZERO));
        drop(call);
        let since = Instant::now();
        sleep(Duration::from_millis(200)).await;
        item.signals()
            .add_wait(WaitReason::Cooldown, since, Instant::now());
    }
    let mut request = request.clone();
    let call = request.begin_call().unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut usage = TokenUsage::new(1_000, 200);
    usage.cached_input = 400;
    call.observe(Some(usage));
    match request.index() {
        3 => Err(LlmError::validation("no JSON").with_usage(usage)),
        _ => Ok(LlmResponse::new("fine".to_owned()).with_usage(usage)),
    }
}

async fn accounted_summary() -> BatchSummary {
    let prompts = ["a", "b", "c", "d", "e", "f"].map(|id| (id, "hi"));
    let mut results = stream::iter(prompts)
        .with_strategy(service_fn(accounted))
        .llm_batch(2);
    while results.next().await.is_some() {}
    results.summary()
}

#[tokio::test(start_paused = true)]
async fn the_summary_accounts_for_everything() {
    let summary = accounted_summary().await;
    assert_eq!(summary.termination, Some(Termination::Completed));
    assert_eq!((summary.expected, summary.accepted), (Some(6), 6));
    assert_eq!((summary.succeeded, summary.failed, summary.in_flight), (5, 1, 0));
    assert_eq!(summary.failures.len(), 1);
    assert_eq!(
        (summary.failures[0].kind, summary.failures[0].count),
        (ErrorKind::Validation, 1)
    );
    assert_eq!(summary.failures[0].first_ids, ["d"]);
    assert_eq!((summary.calls, summary.throttled_calls), (7, 1));
    assert_eq!(summary.unknown_usage_calls, 0);
    assert_eq!((summary.usage.input, summary.usage.cached_input), (6_000, 2_400));
    assert_eq!(summary.waits.requests, Duration::from_millis(1_800));
    assert_eq!(summary.paused, Duration::from_millis(200));
    assert_eq!(summary.call_time, Duration::from_millis(600));
    assert_eq!(summary.item_time, Duration::from_millis(2_600));
    assert_eq!(summary.elapsed, Duration::from_millis(1_400));
    let calls = summary.call_percentiles.unwrap();
    assert!(calls.p99.abs_diff(Duration::from_millis(100)) <= Duration::from_millis(1));
    assert_eq!(
        summary.bottleneck().unwrap().to_string(),
        "69 % waiting for RPM: raise requests_per_minute or use a second key"
    );
}

#[tokio::test(start_paused = true)]
async fn the_summary_reads_well_and_round_trips() {
    let summary = accounted_summary().await;
    let expected = "\
6 items: 5 succeeded, 1 failed in 1.4 s (4.29/s)
  failed     1 validation: d
  calls      7, 1 throttled, 85.7 ms each on average (p50 100 ms, p95 100 ms, p99 100 ms)
  tokens     7,200: input 6,000 (2,400 cached), output 1,200
  waits      2 s total, per item p50 300 ms, p95 501 ms, p99 501 ms; RPM 90 %, cooldown 10 %
  paused     200 ms
69 % waiting for RPM: raise requests_per_minute or use a second key";
    assert_eq!(summary.to_string(), expected);
    let json = serde_json::to_string(&summary).unwrap();
    assert_eq!(serde_json::from_str::<BatchSummary>(&json).unwrap(), summary);
    assert!(json.contains(r#""termination":"completed""#), "{json}");
}

#[tokio::test(start_paused = true)]
async fn the_closing_line_names_what_the_time_went_to() {
    // Calls.
    let mut results = stream::iter(vec!["hi"; 10])
        .with_strategy(Sleeper::millis(100))
        .llm_batch(2);
    while results.next().await.is_some() {}
    assert!(
        results
            .summary()
            .bottleneck()
            .unwrap()
            .to_string()
            .starts_with("100 % inside calls: raise the concurrency")
    );

    // Unknown values are not shown as zero.
    let text = results.summary().to_string();
    assert!(text.contains("  tokens     unknown for 10 calls"), "{text}");

    // The consumer.
    let mut results = stream::iter(vec!["hi"; 10])
        .with_strategy(Sleeper::millis(1))
        .llm_batch(2);
    while results.next().await.is_some() {
        sleep(Duration::from_millis(500)).await;
    }
    let line = results.summary().bottleneck().unwrap().to_string();
    assert!(line.contains("finished and waiting to be taken"), "{line}");

    // An empty batch.
    let results = stream::iter(Vec::<&str>::new())
        .with_strategy(Sleeper::millis(1))
        .llm_batch(2);
    let handle = results.handle();
    assert!(all(results).await.is_empty());
    assert_eq!(handle.statistics().bottleneck(), None);
    assert_eq!(
        handle.statistics().to_string(),
        "0 items: 0 succeeded, 0 failed in 0 s"
    );
}

#[tokio::test(start_paused = true)]
async fn the_statistics_are_live() {
    let mut results = stream::iter(vec!["hi"; 10])
        .with_strategy(Sleeper::millis(100))
        .llm_batch(4);
    let handle = results.handle();
    assert_eq!(handle.statistics().accepted, 0);
    assert!(results.next().await.is_some());
    let summary = handle.statistics();
    assert_eq!(
        (summary.accepted, summary.succeeded, summary.in_flight),
        (4, 1, 3)
    );
    assert_eq!((summary.expected, summary.termination), (Some(10), None));
    assert!(summary.to_string().contains("3 in flight"), "{summary}");
    assert_eq!(handle.statistics(), results.summary());
}

#[tokio::test(start_paused = true)]
async fn outcomes_round_trip() {
    let results = stream::iter([("a", "hi", 7_u32), ("d", "hi", 8)])
        .with_strategy(service_fn(accounted))
        .llm_batch(2);
    for outcome in all(results).await {
        let json = serde_json::to_string(&outcome).unwrap();
        let again: Outcome<LlmResponse, LlmError, u32> = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), json);
        assert_eq!(
            (again.id, again.context, again.report),
            (outcome.id, outcome.context, outcome.report)
        );
    }
}

/// Names of all events so far, with the index of their item.
fn names(receiver: &mut llm_batch::EventReceiver) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok(Some(event)) = receiver.try_recv() {
        let json = serde_json::to_value(&event).unwrap();
        let name = json["event"].as_str().unwrap();
        names.push(match event.index {
            Some(index) => format!("{name} {index}"),
            None => name.to_owned(),
        });
    }
    names
}

#[tokio::test(start_paused = true)]
async fn every_item_has_one_terminal_event() {
    let events = Events::new();
    let mut receiver = events.subscribe();
    let strategy = service_fn(async |request: LlmRequest| {
        sleep(Duration::from_millis(request.index())).await;
        match request.index() {
            1 => Err(LlmError::fatal("no")),
            2 => {
                request.item().signals().limit_deadline(Instant::now());
                Err(LlmError::new(ErrorKind::TimedOut, "late"))
            }
            3 => panic!("boom"),
            _ => Ok(LlmResponse::new(String::new())),
        }
    });
    let source = stream::iter(["a", "b", "c", "d"].map(Ok)).chain(stream::iter([Err("no line")]));
    let results = source.with_strategy(strategy).llm_batch(1).events(&events);
    assert_eq!(all(results).await.len(), 5);
    assert_eq!(
        names(&mut receiver),
        [
            "batch_started",
            "item_started 0",
            "item_completed 0",
            "item_started 1",
            "item_failed 1",
            "item_started 2",
            "item_deadline_exceeded 2",
            "item_failed 2",
            "item_started 3",
            "item_failed 3",
            "item_started 4",
            "item_failed 4",
            "batch_completed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn events_tell_why_a_batch_ended_early() {
    let events = Events::new();
    let mut receiver = events.subscribe();
    let mut results = stream::repeat("hi")
        .with_strategy(Sleeper::millis(10))
        .llm_batch(1)
        .events(&events);
    assert!(poll!(results.next()).is_pending());
    drop(results);
    assert_eq!(
        names(&mut receiver),
        [
            "batch_started",
            "item_started 0",
            "item_failed 0",
            "batch_aborted"
        ]
    );

    let results = stream::repeat("hi")
        .with_strategy(Sleeper::millis(10))
        .llm_batch(1)
        .events(&events)
        .batch_timeout(Duration::from_millis(5));
    assert_eq!(all(results).await.len(), 1);
    let mut last = None;
    while let Ok(Some(event)) = receiver.try_recv() {
        last = Some(event.kind);
    }
    let reason = "the batch timeout passed".to_owned();
    assert_eq!(last, Some(EventKind::BatchAborted { reason }));
}

/// Lines written by a progress display.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn get(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        String::from_utf8(bytes.clone())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn progress_without_a_terminal_is_a_few_lines_and_an_exact_end() {
    let lines = Lines::default();
    let mut results = stream::iter(vec!["hi"; 100])
        .with_strategy(Sleeper::millis(1_000))
        .llm_batch(2);
    let progress = Progress::new(&results.handle()).lines_to(lines.clone()).start();
    while results.next().await.is_some() {}
    drop(progress);
    let lines = lines.get();
    assert!((9..=14).contains(&lines.len()), "{lines:#?}");
    assert!(
        lines[0].starts_with("10/100 items (10 %), 0 failed"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains("left"), "{}", lines[0]);
    let last = lines.last().unwrap();
    assert_eq!(*last, "100/100 items (100 %), 0 failed, 2/s, took 50 s");
}

#[tokio::test(start_paused = true)]
async fn progress_knows_a_closed_gate_a_growing_total_and_a_failed_item() {
    let lines = Lines::default();
    let events = Events::new();
    let source = stream::unfold(0_u32, |i| async move {
        sleep(Duration::from_secs(4)).await;
        (i < 10).then(|| (if i == 3 { Err("torn line") } else { Ok("hi") }, i + 1))
    });
    let mut results = Box::pin(source).with_strategy(Sleeper::millis(1)).llm_batch(2);
    let progress = Progress::new(&results.handle())
        .events(&events)
        .lines_to(lines.clone())
        .start();
    events.emit(None, || EventKind::CooldownStarted {
        generation: 1,
        pause: Duration::from_secs(15),
        kind: ErrorKind::RateLimit,
    });
    while results.next().await.is_some() {}
    drop(progress);
    let lines = lines.get();
    assert!(lines[0].starts_with("2 items, 0 failed"), "{lines:#?}");
    assert!(lines[0].ends_with("throttled for 5 s"), "{lines:#?}");
    assert!(!lines[1].contains("throttled for"), "{lines:#?}");
    assert!(
        lines.last().unwrap().starts_with("10/10 items (100 %), 1 failed"),
        "{lines:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn progress_tells_several_gates_apart() {
    let lines = Lines::default();
    let events = Events::new();
    for (name, hint) in [("small", 15), ("large", 25)] {
        let limiter = RateLimiter::builder().name(name).events(&events);
        let limiter = limiter
            .cooldown(Cooldown::default().with_jitter(0.0))
            .build()
            .unwrap();
        // Sent once the receiver exists.
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            let throttled =
                Verdict::of_kind(ErrorKind::RateLimit).with_retry_after(Duration::from_secs(hint));
            let call = limiter.acquire(1).await.unwrap().start().unwrap();
            call.settle(&throttled, Some(0));
        });
    }
    let mut results = stream::iter(vec!["hi"; 30])
        .with_strategy(Sleeper::millis(2_000))
        .llm_batch(2);
    let progress = Progress::new(&results.handle())
        .events(&events)
        .lines_to(lines.clone())
        .start();
    while results.next().await.is_some() {}
    drop(progress);
    let lines = lines.get();
    assert!(
        lines
            .iter()
            .any(|line| line.contains(", small: throttled for 5 s, large: throttled for 15 s")),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains(", large: throttled for 7 s") && !line.contains("small")),
        "{lines:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn progress_that_is_dropped_early_says_where_it_stood() {
    let lines = Lines::default();
    let mut results = stream::iter(vec!["hi"; 10])
        .with_strategy(Sleeper::millis(1_000))
        .llm_batch(2);
    let progress = Progress::new(&results.handle()).lines_to(lines.clone()).start();
    assert!(results.next().await.is_some());
    drop(progress);
    let lines = lines.get();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("1/10 items (10 %)"), "{lines:#?}");
}

/// A hook sees every event, even with many concurrent ones; its panics have no other effect.
#[tokio::test(start_paused = true)]
async fn a_hook_loses_no_event_and_its_panic_costs_nothing() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let events = Events::with_capacity(2);
    let mut lossy = events.subscribe();
    let hooked = Arc::clone(&seen);
    events.on_event(|event| assert!(!matches!(event.kind, EventKind::ItemStarted), "as asked"));
    // Another handle and another hook inside a hook: no lock is held.
    let inner = events.clone();
    events.on_event(move |event| {
        assert!(inner.is_observed());
        inner.clone().on_event(|_| ());
        hooked.lock().unwrap().push(event.clone());
    });
    let results = stream::iter(vec!["hi"; 20])
        .with_strategy(Sleeper::millis(1))
        .llm_batch(10)
        .events(&events);
    assert_eq!(
        all(results)
            .await
            .iter()
            .filter(|outcome| outcome.is_ok())
            .count(),
        20
    );
    let seen = seen.lock().unwrap();
    let count = |wanted: fn(&EventKind) -> bool| seen.iter().filter(|event| wanted(&event.kind)).count();
    assert_eq!(count(|kind| matches!(kind, EventKind::ItemStarted)), 20);
    assert_eq!(count(|kind| matches!(kind, EventKind::ItemCompleted { .. })), 20);
    assert_eq!(
        (
            seen.len(),
            count(|kind| matches!(kind, EventKind::BatchCompleted))
        ),
        (42, 1)
    );
    assert!(lossy.try_recv().is_err(), "the subscriber lags");
}
