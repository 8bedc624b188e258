//! Calls among several accounts: the job takes the time that all limits together allow.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::{Priority, RateLimiterBuilder, StartRamp};
use llm_batch::recipe::Balance;
use llm_batch::testing::{Quota, SimulatedProvider};
use llm_batch::{
    BoxStrategy, ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Outcome,
    RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy, StrategyExt, TokenAccountingLayer, TokenLedger,
    TokenUsage,
};
use tokio::time::Instant;
use tower::retry::Retry;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::support::{Script, answer, invalid, item, request, throttled};

type Balanced = Balance<BoxStrategy>;

/// One account: a provider with a quota, a gate and a ledger.
struct Account {
    provider: SimulatedProvider,
    gate: RateLimiter,
    ledger: TokenLedger,
}

impl Account {
    fn new(quota: Option<u32>, gate: RateLimiterBuilder) -> Self {
        let mut provider = SimulatedProvider::builder().latency(Duration::from_millis(300));
        if let Some(quota) = quota {
            provider = provider.request_quota(Quota::per_minute(quota.into()));
        }
        Self {
            provider: provider.build().unwrap(),
            gate: gate.build().unwrap(),
            ledger: TokenLedger::new(),
        }
    }

    /// With the limit set at the gate.
    fn known(quota: u32) -> Self {
        Self::new(Some(quota), RateLimiter::builder().requests_per_minute(quota))
    }

    fn strategy(&self) -> (RateLimiter, BoxStrategy) {
        let strategy = ServiceBuilder::new()
            .layer(RateLimiterLayer::new(self.gate.clone()))
            .layer(TokenAccountingLayer::new(self.ledger.clone()))
            .service(self.provider.service());
        (self.gate.clone(), strategy.boxed_strategy())
    }
}

fn balance(accounts: &[Account]) -> Balanced {
    Balance::new(accounts.iter().map(Account::strategy))
}

fn model<S>(strategy: S) -> Retry<RetryPolicy, S> {
    Retry::new(RetryPolicy::new(3), strategy)
}

/// Runs so many items, and checks that the accounts of the items, the ledgers and the providers agree.
async fn run(accounts: &[Account], items: usize, concurrency: usize) -> Duration {
    let begin = Instant::now();
    let outcomes: Vec<_> = stream::iter((0..items).map(|n| format!("What is {n} plus {n}?")))
        .with_strategy(model(balance(accounts)))
        .llm_batch(concurrency)
        .collect()
        .await;
    let took = begin.elapsed();
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    check(accounts, &outcomes);
    assert_eq!(
        sum(accounts, |account| account.provider.ledger().answered),
        items as u64
    );
    took
}

fn sum(accounts: &[Account], count: impl Fn(&Account) -> u64) -> u64 {
    accounts.iter().map(count).sum()
}

fn check(accounts: &[Account], outcomes: &[Outcome]) {
    let calls: u64 = outcomes
        .iter()
        .map(|outcome| u64::from(outcome.report.calls))
        .sum();
    assert_eq!(calls, sum(accounts, |account| account.provider.ledger().received));
    assert_eq!(calls, sum(accounts, |account| account.ledger.snapshot().calls));
    let throttles: u64 = (outcomes.iter())
        .map(|outcome| u64::from(outcome.report.throttled_calls))
        .sum();
    assert_eq!(
        throttles,
        sum(accounts, |account| account.provider.ledger().throttled)
    );
    let usage: TokenUsage = outcomes.iter().map(|outcome| outcome.report.usage).sum();
    let billed: TokenUsage = (accounts.iter())
        .map(|account| account.provider.ledger().billed_answered)
        .sum();
    assert_eq!(usage, billed);
    for account in accounts {
        let snapshot = account.gate.snapshot();
        assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
        assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn two_accounts_of_known_limits_take_the_time_of_both_together() {
    for concurrency in [5, 50, 400] {
        let accounts = [Account::known(60), Account::known(240)];
        let took = run(&accounts, 600, concurrency).await;
        // 600 items of 300 a minute.
        assert!((118..=123).contains(&took.as_secs()), "{concurrency}: {took:?}");
        assert_eq!(sum(&accounts, |account| account.provider.ledger().throttled), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn two_accounts_of_unknown_limits_come_close() {
    let accounts = [60, 240].map(|quota| Account::new(Some(quota), RateLimiter::builder()));
    let took = run(&accounts, 1_500, 50).await;
    // 300 s with the known limits.
    assert!(took < Duration::from_secs(345), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn three_equal_accounts_share_evenly() {
    for limited in [false, true] {
        let accounts = [(); 3].map(|()| match limited {
            true => Account::known(600),
            false => Account::new(None, RateLimiter::builder()),
        });
        run(&accounts, 300, 30).await;
        for account in &accounts {
            let answered = account.provider.ledger().answered;
            assert!((99..=101).contains(&answered), "{answered}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_slow_to_start_gets_less_at_first() {
    let slow =
        RateLimiter::builder().start_ramp(StartRamp::new(1, 0.1).doubling_every(Duration::from_secs(60)));
    let accounts = [Account::new(None, slow), Account::known(600)];
    let took = run(&accounts, 300, 40).await;
    assert!(took < Duration::from_secs(31), "{took:?}");
    let slow = accounts[0].provider.ledger().answered;
    assert!((1..=6).contains(&slow), "{slow}");
}

#[tokio::test(start_paused = true)]
async fn a_cap_on_calls_in_flight_is_part_of_the_forecast() {
    let accounts = [1, 3].map(|calls| Account::new(None, RateLimiter::builder().max_in_flight(calls)));
    let took = run(&accounts, 400, 40).await;
    // Four at a time, of 0.3 s each.
    assert!(took < Duration::from_secs(32), "{took:?}");
    let first = accounts[0].provider.ledger().answered;
    assert!((90..=110).contains(&first), "{first}");
}

/// A strategy of a script behind a gate.
fn scripted(script: &Script, gate: &RateLimiter) -> (RateLimiter, BoxStrategy) {
    let strategy = RateLimiterLayer::new(gate.clone()).layer(script.clone());
    (gate.clone(), strategy.boxed_strategy())
}

fn wrong_key() -> Result<LlmResponse, LlmError> {
    Err(LlmError::new(ErrorKind::Authentication, "wrong key").with_status(401))
}

#[tokio::test(start_paused = true)]
async fn one_that_latches_in_the_middle_is_left_out_until_it_is_reopened() {
    let second = Duration::from_secs(1);
    let mut outcomes = vec![answer("one"); 10];
    outcomes.push(wrong_key());
    let one = Script::says_after(second, outcomes);
    let two = Script::says_after(second, vec![answer("two"); 1_000]);
    let gates = [(); 2].map(|()| RateLimiter::builder().max_in_flight(4).build().unwrap());
    let balance = Balance::new([scripted(&one, &gates[0]), scripted(&two, &gates[1])]);
    let outcomes: Vec<_> = stream::iter((0..100).map(|n| n.to_string()))
        .with_strategy(model(balance.clone()))
        .llm_batch(30)
        .collect()
        .await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    // The one whose call latched the gate was sent to the second, too; no other was sent twice.
    assert_eq!(
        outcomes.iter().map(|outcome| outcome.report.calls).sum::<u32>(),
        101
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| outcome.report.calls == 2)
            .count(),
        1
    );
    assert_eq!(one.count() + two.count(), 101);
    // Those that were under way with it were answered.
    assert!((11..=14).contains(&one.count()), "{}", one.count());
    assert!(gates[0].snapshot().latched.is_some());
    gates[0].reopen();
    let before = one.count();
    let calls = (0..8).map(|_| balance.clone().oneshot(request(&item())));
    futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(one.count() - before, 4);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_latched_the_error_is_that_of_the_last() {
    let one = Script::says([wrong_key()]);
    let no_money = LlmError::new(ErrorKind::InsufficientBalance, "no money left").with_status(402);
    let two = Script::says([Err(no_money)]);
    let gates = [RateLimiter::default(), RateLimiter::default()];
    let model = model(Balance::new([
        scripted(&one, &gates[0]),
        scripted(&two, &gates[1]),
    ]));
    for calls in [2, 0, 0] {
        let item = item();
        let error = model.clone().oneshot(request(&item)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InsufficientBalance, "{error}");
        assert_eq!(item.report().calls, calls);
    }
    assert_eq!((one.count(), two.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_item_goes_to_the_other_at_once_even_if_it_has_little_time() {
    let one = Script::says([throttled(60)]);
    let two = Script::default();
    let gates = [RateLimiter::default(), RateLimiter::default()];
    let balance = Balance::new([scripted(&one, &gates[0]), scripted(&two, &gates[1])]);
    let model = ItemTimeoutLayer::new(Duration::from_secs(30)).layer(model(balance));
    let begin = Instant::now();
    let item = item();
    model.clone().oneshot(request(&item)).await.unwrap();
    let report = item.report();
    assert_eq!((report.calls, report.throttled_calls), (2, 1));
    assert_eq!(
        (begin.elapsed(), report.waits.total()),
        (Duration::ZERO, Duration::ZERO)
    );
    // While the pause lasts all go to the second, and then the first is called again, at its pace.
    for _ in 0..4 {
        model
            .clone()
            .oneshot(request(&crate::support::item()))
            .await
            .unwrap();
    }
    assert_eq!((one.count(), two.count()), (1, 5));
    tokio::time::advance(Duration::from_secs(70)).await;
    for _ in 0..4 {
        model
            .clone()
            .oneshot(request(&crate::support::item()))
            .await
            .unwrap();
    }
    assert!(one.count() > 1, "{}", one.count());
    assert_eq!(one.count() + two.count(), 10);
}

#[tokio::test(start_paused = true)]
async fn items_leave_the_queue_of_a_gate_that_closes() {
    let second = Duration::from_secs(1);
    let one = Script::says_after(second, [throttled(600)]);
    let two = Script::says_after(second, []);
    let gates = [1, 1].map(|calls| RateLimiter::builder().max_in_flight(calls).build().unwrap());
    let model = model(Balance::new([
        scripted(&one, &gates[0]),
        scripted(&two, &gates[1]),
    ]));
    let begin = Instant::now();
    let items: Vec<_> = (0..10).map(|_| item()).collect();
    let calls = items.iter().map(|item| model.clone().oneshot(request(item)));
    futures::future::try_join_all(calls).await.unwrap();
    assert_eq!((one.count(), two.count()), (1, 10));
    assert_eq!(begin.elapsed(), 10 * second);
    for item in items {
        let report = item.report();
        assert_eq!(report.calls, 1 + report.throttled_calls);
        // Its time is all waiting and calls.
        assert!(report.waits.total() <= 9 * second);
    }
    let snapshot = gates[0].snapshot();
    assert_eq!(
        (snapshot.waiting, snapshot.granted),
        (0, snapshot.returned + snapshot.settled)
    );
}

#[tokio::test(start_paused = true)]
async fn an_item_at_a_gate_that_is_slower_than_forecast_moves_to_a_free_one() {
    // The first one's only call hangs, and the second one is free after a second.
    let one = Script::says_after(Duration::from_secs(500), []);
    let two = Script::says_after(Duration::from_secs(1), []);
    let gates = [1, 1].map(|calls| RateLimiter::builder().max_in_flight(calls).build().unwrap());
    let balance = Balance::new([scripted(&one, &gates[0]), scripted(&two, &gates[1])]);
    let hangs = tokio::spawn(balance.clone().oneshot(request(&item())));
    tokio::task::yield_now().await;
    let begin = Instant::now();
    let calls = (0..6).map(|_| balance.clone().oneshot(request(&item())));
    futures::future::try_join_all(calls).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!((one.count(), two.count()), (1, 6));
    hangs.abort();
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_is_left_to_the_retries_and_one_strategy_is_enough() {
    let script = Script::says([invalid(), throttled(1), wrong_key()]);
    let gate = RateLimiter::default();
    let model = model(Balance::new([scripted(&script, &gate)]));
    let item = item();
    let error = model.oneshot(request(&item)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert_eq!((script.count(), item.report().calls), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_those_that_wait_and_nothing_more_is_sent() {
    let scripts = [(); 2].map(|()| Script::says_after(Duration::from_secs(5), []));
    let gates = [1, 1].map(|calls| RateLimiter::builder().max_in_flight(calls).build().unwrap());
    let members = scripts
        .iter()
        .zip(&gates)
        .map(|(script, gate)| scripted(script, gate));
    let results = stream::iter((0..20).map(|n| n.to_string()))
        .with_strategy(model(Balance::new(members)))
        .llm_batch(10);
    let handle = results.handle();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        handle.stop();
    };
    let (outcomes, ()) = futures::future::join(results.collect::<Vec<_>>(), stop).await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.result.is_ok()).count(),
        2
    );
    assert_eq!(scripts.iter().map(Script::count).sum::<usize>(), 2);
    assert!(gates.iter().all(|gate| gate.snapshot().waiting == 0));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_waited_for_in_the_future_and_given_back() {
    use tower::limit::ConcurrencyLimit;
    let permits = Arc::new(tokio::sync::Semaphore::new(2));
    let limited = || {
        let script = Script::says_after(Duration::from_secs(1), []);
        let limited = ConcurrencyLimit::with_semaphore(script, Arc::clone(&permits));
        (RateLimiter::default(), limited)
    };
    // Of its own type, without boxes, and without the gate inside.
    let model = Balance::new([limited(), limited()]);
    let calls = (0..10).map(|_| model.clone().oneshot(request(&item())));
    assert!(futures::future::try_join_all(calls).await.is_ok());
    drop(model.clone().call(request(&item())));
    let cut = tokio::time::timeout(Duration::ZERO, model.oneshot(request(&item())));
    assert!(cut.await.is_err());
    assert_eq!(permits.available_permits(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_forecast_follows_pause_quota_cap_queue_and_class() {
    let now = Instant::now();
    let after = |gate: &RateLimiter, estimate| {
        gate.next_start(estimate)
            .map(|at| (at - now).as_secs_f64().round())
    };
    let gate = RateLimiter::builder()
        .requests_per_minute(60)
        .tokens_per_minute(6_000)
        .build()
        .unwrap();
    assert_eq!(
        (after(&gate, 0), after(&gate, 6_000), after(&gate, 6_001)),
        (Some(0.0), Some(59.0), None)
    );
    let call = gate.acquire(100).await.unwrap().start().unwrap();
    assert_eq!((after(&gate, 1), after(&gate, 300)), (Some(1.0), Some(3.0)));
    let bulk = gate.with_priority(Priority::Bulk);
    let mut queued: Vec<_> = (0..4).map(|_| Box::pin(bulk.acquire(100))).collect();
    for acquire in &mut queued {
        assert!(futures::poll!(acquire.as_mut()).is_pending());
    }
    // Normal calls go first.
    assert_eq!((after(&gate, 1), after(&bulk, 1)), (Some(1.0), Some(5.0)));
    call.settle(
        &llm_batch::Verdict::of_kind(ErrorKind::RateLimit).with_retry_after(Duration::from_secs(30)),
        Some(0),
    );
    assert!(after(&gate, 1).is_some_and(|start| (30.0..33.0).contains(&start)));
    drop(queued);
    assert_eq!(gate.snapshot().waiting, 0);

    let capped = RateLimiter::builder().max_in_flight(2).build().unwrap();
    let mut calls = Vec::new();
    for _ in 0..2 {
        calls.push(capped.acquire(0).await.unwrap().start().unwrap());
    }
    tokio::time::advance(Duration::from_secs(4)).await;
    calls.pop().unwrap().settle(&llm_batch::Verdict::SUCCESS, None);
    let now = Instant::now();
    assert_eq!(capped.next_start(0), Some(now));
    calls.push(capped.acquire(0).await.unwrap().start().unwrap());
    // A call takes 4 s, and one of two ends every 2 s.
    assert_eq!(capped.next_start(0), Some(now + Duration::from_secs(2)));
}

#[test]
fn auto_traits() {
    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    fn sent_value<T: Send + 'static>(_: &T) {}
    everywhere::<Balance<Script>>();
    let mut model = Balance::new([(RateLimiter::default(), Script::default())]);
    sent_value(&model.call(LlmRequest::new("hi".into())));
    let _layered = RetryLayer::new(RetryPolicy::new(2)).layer(model);
}
