//! Runs a scenario and records the observations.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer, RateLimiterSnapshot};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{LedgerSnapshot, TokenAccountingLayer, TokenLedger};
use llm_batch::testing::Ledger;
use llm_batch::{BatchHandle, Event, Events, LlmStreamExt, Outcome, Prompt, StopMode, Termination};
use tokio::time::{sleep, timeout};
use tower::ServiceBuilder;

use super::scenario::{Act, Scenario};

/// Far longer than any scenario takes, in virtual time.
const STALLED: Duration = Duration::from_secs(1_000_000);

pub(crate) struct Seen {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) expected_answers: Vec<String>,
    /// The number of items that the source yielded.
    pub(crate) pulled: u64,
    /// The maximum by which items yielded and not taken back exceeded the slots.
    pub(crate) overdrawn: usize,
    pub(crate) most_slots: usize,
    pub(crate) termination: Option<Termination>,
    pub(crate) events: Vec<Event>,
    pub(crate) gate: RateLimiterSnapshot,
    pub(crate) client: LedgerSnapshot,
    pub(crate) provider: Ledger,
}

pub(crate) fn run(scenario: &Scenario) -> Seen {
    fastrand::seed(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let seen = runtime.block_on(async { timeout(STALLED, drive(scenario)).await });
    seen.expect("the batch stalled")
}

fn prompt(index: u64) -> Prompt {
    let padding = "lorem ipsum ".repeat((index * 7 % 40) as usize);
    let prompt = Prompt::from(format!("Question {index}: {padding}"));
    if index.is_multiple_of(3) {
        prompt.with_max_output_tokens(40)
    } else {
        prompt
    }
}

async fn drive(scenario: &Scenario) -> Seen {
    let provider = scenario.simulate();
    let events = Events::with_capacity(1 << 16);
    let mut receiver = events.subscribe();
    let ledger = TokenLedger::new();
    let limiter = limiter(scenario, &events);
    let client = &scenario.client;
    let forever = Duration::from_secs(1 << 30);
    let limit = |ms: Option<u64>| ms.map_or(forever, Duration::from_millis);
    let policy = RetryPolicy::new(client.attempts)
        .max_throttles(client.throttles)
        .events(&events);
    let strategy = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(limit(client.item_timeout)))
        .layer(RetryLayer::new(policy))
        .layer(RateLimiterLayer::new(limiter.clone()))
        .layer(TokenAccountingLayer::new(ledger.clone()).events(&events))
        .layer(CallTimeoutLayer::new(limit(client.call_timeout)))
        .service(provider.service());

    // The source counts the items not taken back when it yields one more.
    let (pulled, taken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let overdrawn = Arc::new(AtomicUsize::new(0));
    let handle: Arc<OnceLock<BatchHandle>> = Arc::default();
    let extra = scenario.consumer.in_order.unwrap_or(0);
    let source = {
        let (pulled, taken) = (Arc::clone(&pulled), Arc::clone(&taken));
        let (overdrawn, handle) = (Arc::clone(&overdrawn), Arc::clone(&handle));
        stream::iter(0..scenario.items).map(move |index| {
            let out = pulled.fetch_add(1, Ordering::Relaxed) + 1 - taken.load(Ordering::Relaxed);
            let slots = handle.get().unwrap().concurrency() + extra;
            overdrawn.fetch_max((out as usize).saturating_sub(slots), Ordering::Relaxed);
            prompt(index)
        })
    };
    let stop_mode = if scenario.consumer.cancel_on_stop {
        StopMode::Cancel
    } else {
        StopMode::Drain
    };
    let mut results = source
        .with_strategy(strategy)
        .llm_batch(scenario.concurrency)
        .events(&events)
        .stop_mode(stop_mode);
    if let Some(buffer) = scenario.consumer.in_order {
        results = results.in_order().reorder_buffer(buffer);
    }
    let control = results.handle();
    assert!(handle.set(control.clone()).is_ok());
    let interference = tokio::spawn(interfere(scenario.acts.clone(), control.clone()));

    let mut outcomes = Vec::new();
    while scenario
        .consumer
        .leaves_after
        .is_none_or(|limit| outcomes.len() < limit)
    {
        let Some(outcome) = results.next().await else {
            break;
        };
        taken.fetch_add(1, Ordering::Relaxed);
        outcomes.push(outcome);
        if scenario.consumer.pause > 0 {
            sleep(Duration::from_millis(scenario.consumer.pause)).await;
        }
    }
    drop(results);
    interference.abort();
    // The runtime drops aborted tasks when it next polls them.
    sleep(Duration::from_millis(1)).await;

    let mut seen = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap_or(None) {
        seen.push(event);
    }
    seen.sort_by_key(|event| event.at);
    let changes = scenario.acts.iter().filter_map(|(_, act)| match act {
        Act::SetConcurrency(slots) => Some(*slots),
        _ => None,
    });
    Seen {
        expected_answers: (0..scenario.items)
            .map(|index| provider.answer_to(&prompt(index)))
            .collect(),
        outcomes,
        pulled: pulled.load(Ordering::Relaxed),
        overdrawn: overdrawn.load(Ordering::Relaxed),
        most_slots: changes.fold(scenario.concurrency, usize::max),
        termination: control.termination(),
        events: seen,
        gate: limiter.snapshot(),
        client: ledger.snapshot(),
        provider: provider.ledger(),
    }
}

fn limiter(scenario: &Scenario, events: &Events) -> RateLimiter {
    let client = &scenario.client;
    let mut builder = RateLimiter::builder().events(events);
    if let Some(limit) = client.requests_per_minute {
        builder = builder.requests_per_minute(limit);
    }
    if let Some(limit) = client.tokens_per_minute {
        builder = builder.tokens_per_minute(limit);
    }
    if let Some(calls) = client.max_in_flight {
        builder = builder.max_in_flight(calls);
    }
    if !client.ramp {
        builder = builder.without_start_ramp();
    }
    builder.build().unwrap()
}

async fn interfere(mut acts: Vec<(u64, Act)>, handle: BatchHandle) {
    acts.sort_by_key(|(at, _)| *at);
    let mut now = 0;
    for (at, act) in acts {
        sleep(Duration::from_millis(at - now)).await;
        now = at;
        match act {
            Act::SetConcurrency(slots) => handle.set_concurrency(slots),
            Act::Pause => handle.pause(),
            Act::Resume => handle.resume(),
            Act::Stop => handle.stop(),
            Act::Cancel => handle.cancel(),
        }
    }
    // A batch left paused would never end.
    handle.resume();
}
