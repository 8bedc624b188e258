//! Token accounting: every call is counted once, and unknown usage is not zero.

use std::sync::Arc;
use std::time::Duration;

use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{LedgerSnapshot, TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, ErrorKind, EventKind, Events, LlmError, LlmRequest, LlmResponse, TokenUsage};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    Outcome, Request, Script, Step, answer, invalid, item, request, throttled, unavailable,
};

fn totals(ledger: &TokenLedger) -> (u64, u64, u64, TokenUsage) {
    let LedgerSnapshot {
        calls,
        failed_calls,
        unknown_usage_calls,
        usage,
        ..
    } = ledger.snapshot();
    (calls, failed_calls, unknown_usage_calls, usage)
}

#[tokio::test(start_paused = true)]
async fn failed_calls_count_with_what_they_used() {
    let one = item();
    let ledger = TokenLedger::new();
    let model = (
        RetryLayer::new(RetryPolicy::new(9)),
        TokenAccountingLayer::new(ledger.clone()),
    )
        .layer(Script::says([
            throttled(None),
            invalid(),
            unavailable(),
            answer(),
        ]));
    model.oneshot(request(&one)).await.unwrap();
    // Throttled: known zero. Invalid: 10 + 5. Unavailable: unknown. Answer: 10 + 1.
    assert_eq!(totals(&ledger), (4, 3, 1, TokenUsage::new(20, 6)));
    let report = one.report();
    assert_eq!(
        (report.calls, report.throttled_calls, report.unknown_usage_calls),
        (4, 1, 1)
    );
    assert_eq!(report.usage, TokenUsage::new(20, 6));
    assert_eq!(report.attempts, 3);
}

#[tokio::test(start_paused = true)]
async fn two_ledgers_count_each_their_own_and_the_item_counts_once() {
    let one = item();
    let (outer, inner) = (TokenLedger::new(), TokenLedger::new());
    let model = (
        TokenAccountingLayer::new(outer.clone()),
        RetryLayer::new(RetryPolicy::new(3)),
        TokenAccountingLayer::new(inner.clone()),
        TokenAccountingLayer::new(inner.clone()),
    )
        .layer(Script::says([invalid(), answer()]));
    model.oneshot(request(&one)).await.unwrap();
    // The outer layer is outside the retries, so it sees only one call: the first; it does not see the repeats.
    assert_eq!(outer.snapshot().calls, 1);
    assert_eq!(inner.snapshot().calls, 2, "two layers of one ledger, two calls");
    let report = one.report();
    assert_eq!(report.calls, 2);
    assert_eq!(report.usage, TokenUsage::new(20, 6));
    assert_eq!(report.unknown_usage_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_strategy_observed_outlives_its_cut() {
    let one = item();
    let ledger = TokenLedger::new();
    let model = service_fn(|mut request: Request| async move {
        let call = request.begin_call().unwrap();
        assert!(!call.is_outermost());
        assert!(call.observe(Some(TokenUsage::new(3, 4))));
        std::future::pending::<Outcome>().await
    });
    let model = (
        ItemTimeoutLayer::new(Duration::from_secs(1)),
        TokenAccountingLayer::new(ledger.clone()),
    )
        .layer(model);
    model.oneshot(request(&one)).await.unwrap_err();
    assert_eq!(totals(&ledger), (1, 1, 0, TokenUsage::new(3, 4)));
    assert_eq!(one.report().usage, TokenUsage::new(3, 4));
    assert_eq!(one.report().unknown_usage_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_cut_dropped_or_panic_are_unknown() {
    let ledger = TokenLedger::new();
    let layer = || TokenAccountingLayer::new(ledger.clone());

    // The call times out.
    let one = item();
    let model = (layer(), CallTimeoutLayer::new(Duration::from_secs(1))).layer(Script::new([Step::Hang]));
    model.oneshot(request(&one)).await.unwrap_err();
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (1, 1));
    assert_eq!(one.report().call_time, Duration::from_secs(1));

    // The task is aborted.
    let one = item();
    let task = tokio::spawn(layer().layer(Script::new([Step::Hang])).oneshot(request(&one)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    task.abort();
    task.await.unwrap_err();
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (1, 1));

    // The strategy panics in its future, and in `call`.
    let one = item();
    let task = tokio::spawn(layer().layer(Script::new([Step::Panic])).oneshot(request(&one)));
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (1, 1));
    let one = item();
    let early = service_fn(|_: Request| -> std::future::Ready<Outcome> { panic!("at once") });
    let task = tokio::spawn(layer().layer(early).oneshot(request(&one)));
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (1, 1));

    // The future is dropped before its first poll: the call was begun.
    let one = item();
    drop(layer().layer(Script::new([])).call(request(&one)));
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (1, 1));

    assert_eq!(totals(&ledger), (5, 5, 5, TokenUsage::ZERO));
}

/// A foreign retry policy, which is unaware of items.
#[derive(Clone)]
struct Twice;

impl tower::retry::Policy<Request, LlmResponse, LlmError> for Twice {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Request, result: &mut Outcome) -> Option<Self::Future> {
        result.is_err().then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_policy_of_somebody_else_does_not_confuse_the_accounts() {
    let one = item();
    let ledger = TokenLedger::new();
    let model = (
        tower::retry::RetryLayer::new(Twice),
        TokenAccountingLayer::new(ledger.clone()),
    )
        .layer(Script::says([invalid(), throttled(None), answer()]));
    model.oneshot(request(&one)).await.unwrap();
    one.signals().settle_call(true, true);
    assert_eq!(totals(&ledger), (3, 2, 0, TokenUsage::new(20, 6)));
    assert_eq!(
        (one.report().calls, one.report().usage),
        (3, TokenUsage::new(20, 6))
    );
}

#[tokio::test(start_paused = true)]
async fn foreign_types_are_read_by_a_closure() {
    struct Reply(u64);
    let ledger = TokenLedger::new();
    let layer = TokenAccountingLayer::new(ledger.clone())
        .usage_with(|outcome: Result<&Reply, &BoxError>| {
            outcome.ok().map(|reply| TokenUsage::new(reply.0, 0))
        })
        .untracked();
    let mut model = layer.layer(service_fn(|tokens: u64| async move {
        if tokens == 0 {
            Err(BoxError::from("no"))
        } else {
            Ok(Reply(tokens))
        }
    }));
    model.call(5).await.unwrap();
    assert!(model.call(0).await.is_err());
    drop(model.call(1));
    assert_eq!(totals(&ledger), (3, 2, 2, TokenUsage::new(5, 0)));
    assert_eq!(model.ledger().snapshot(), ledger.snapshot());
}

#[tokio::test(start_paused = true)]
async fn calls_are_told_once_whoever_watches() {
    let one = item();
    let events = Events::new();
    let mut receiver = events.subscribe();
    let layer = || TokenAccountingLayer::new(TokenLedger::new()).events(&events);
    let model = (RetryLayer::new(RetryPolicy::new(3)), layer(), layer()).layer(Script::new([
        Step::After(Duration::from_secs(2), throttled(None)),
        Step::After(Duration::from_secs(3), answer()),
    ]));
    model.oneshot(request(&one)).await.unwrap();
    drop(layer().layer(Script::new([])).call(request(&one)));
    let mut told = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap() {
        told.push(event.kind);
    }
    assert_eq!(
        told,
        [
            EventKind::CallStarted { call: 1, attempt: 1 },
            EventKind::CallFailed {
                call: 1,
                kind: Some(ErrorKind::RateLimit),
                duration: Duration::from_secs(2),
                usage: Some(TokenUsage::ZERO),
            },
            EventKind::CallStarted { call: 2, attempt: 1 },
            EventKind::CallCompleted {
                call: 2,
                duration: Duration::from_secs(3),
                usage: Some(TokenUsage::new(10, 1)),
            },
            EventKind::CallStarted { call: 3, attempt: 1 },
            EventKind::CallFailed {
                call: 3,
                kind: None,
                duration: Duration::ZERO,
                usage: None
            },
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ledger_is_exact_once_nothing_runs() {
    let ledger = TokenLedger::new();
    let layer = TokenAccountingLayer::new(ledger.clone());
    let model = layer.layer(service_fn(|request: LlmRequest<u64>| async move {
        tokio::task::yield_now().await;
        let mut usage = TokenUsage::new(request.into_input(), 1);
        usage.reasoning = 1;
        usage.cached_input = 2;
        usage.cache_write = 3;
        Ok::<_, LlmError>(LlmResponse::new(String::new()).with_usage(usage))
    }));
    let tasks = (0..1_000_u64).map(|number| tokio::spawn(model.clone().oneshot(LlmRequest::new(number))));
    for result in futures::future::join_all(tasks).await {
        result.unwrap().unwrap();
    }
    let mut expected = TokenUsage::new(999 * 500, 1_000);
    (expected.reasoning, expected.cached_input, expected.cache_write) = (1_000, 2_000, 3_000);
    assert_eq!(totals(&ledger), (1_000, 0, 0, expected));
    let text = serde_json::to_string(&ledger.snapshot()).unwrap();
    assert_eq!(
        serde_json::from_str::<LedgerSnapshot>(&text).unwrap(),
        ledger.snapshot()
    );
}

proptest! {
    /// Item record and ledger agree with what the strategy did, for any outcomes and a cut at any time.
    #[test]
    fn accounts_agree_with_what_was_done(
        codes in proptest::collection::vec(0_u8..5, 1..12),
        cut_after in 0_u64..40,
        watchers in 1_usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let outcome = |code: u8| match code {
                0 => throttled(None),
                1 => unavailable(),
                2 => invalid(),
                3 => Err(LlmError::new(ErrorKind::Connection, "cut")),
                _ => answer(),
            };
            let script = Script::new(codes.iter().map(|code| Step::After(Duration::from_secs(1), outcome(*code))));
            let ledgers: Vec<_> = (0..watchers).map(|_| TokenLedger::new()).collect();
            let one = item();
            let mut model = tower::util::BoxCloneSyncService::new(script.clone());
            for ledger in &ledgers {
                model = tower::util::BoxCloneSyncService::new(TokenAccountingLayer::new(ledger.clone()).layer(model));
            }
            let policy = RetryPolicy::new(20).initial_backoff(Duration::from_millis(10));
            let run = RetryLayer::new(policy).layer(model).oneshot(request(&one));
            let cut = tokio::time::timeout(Duration::from_millis(cut_after * 250), run).await.is_err();
            one.signals().settle_call(true, true);

            let begun = script.count();
            let mut usage = TokenUsage::ZERO;
            let mut unknown = 0;
            for number in 0..begun {
                let code = codes.get(number).copied().unwrap_or(4);
                // A cut during a backoff leaves no call under way: then the last one has ended.
                let ended_at = script.times()[number] + if number < codes.len() { 1.0 } else { 0.0 };
                let was_cut = cut && number + 1 == begun && one.started().elapsed().as_secs_f64() < ended_at;
                match code {
                    _ if was_cut => unknown += 1,
                    0 => {}
                    1 | 3 => unknown += 1,
                    2 => usage += TokenUsage::new(10, 5),
                    _ => usage += TokenUsage::new(10, 1),
                }
            }
            let report = one.report();
            assert_eq!((report.calls as usize, report.unknown_usage_calls, report.usage), (begun, unknown, usage));
            for ledger in &ledgers {
                let snapshot = ledger.snapshot();
                assert_eq!(
                    (snapshot.calls as usize, snapshot.unknown_usage_calls, snapshot.usage),
                    (begun, u64::from(unknown), usage)
                );
            }
        });
    }
}

#[test]
fn a_ledger_is_a_handle() {
    let ledger = TokenLedger::new();
    let clone = ledger.clone();
    let mut model =
        TokenAccountingLayer::new(clone).layer(service_fn(|_: Request| std::future::ready(answer())));
    let one = item();
    tokio_test::block_on(async { model.call(request(&one)).await.unwrap() });
    assert_eq!(ledger.snapshot().calls, 1);
    assert_eq!(Arc::strong_count(&one), 1, "nothing keeps the item");
}
