//! Classes of calls: who goes first, and that none starves.

use std::pin::Pin;

use llm_batch::layer::rate_limiter::{Acquire, Grant, Priority, RateLimiter, RateLimiterLayer};
use llm_batch::{Item, ItemId, LlmError, LlmRequest, LlmResponse, Verdict};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

use crate::support::*;

/// While several classes wait, the lower ones get one of this many grants.
const TURNS: usize = 8;

/// The next call that is let through, and its place among those that wait.
struct Waiting(Vec<(Priority, usize, Pin<Box<Acquire>>)>);

impl Waiting {
    fn add(&mut self, limiter: &RateLimiter, class: Priority, number: usize) {
        let mut acquire = Box::pin(limiter.with_priority(class).acquire(0));
        assert!(poll_once(acquire.as_mut()).is_none());
        self.0.push((class, number, acquire));
    }

    fn granted(&mut self) -> Option<(Priority, usize, Grant)> {
        for place in 0..self.0.len() {
            if let Some(grant) = poll_once(self.0[place].2.as_mut()) {
                let (class, number, _) = self.0.remove(place);
                return Some((class, number, grant.unwrap()));
            }
        }
        None
    }

    fn has(&self, class: impl Fn(Priority) -> bool) -> bool {
        self.0.iter().any(|(of, ..)| class(*of))
    }
}

/// The classes in the order in which a gate for one call at a time lets them through.
fn order(limiter: &RateLimiter, classes: &[Priority]) -> Vec<Priority> {
    let mut running = call_now(limiter, 0).unwrap();
    let mut waiting = Waiting(Vec::new());
    for (number, class) in classes.iter().enumerate() {
        waiting.add(limiter, *class, number);
    }
    let mut order = Vec::new();
    loop {
        running.settle(&Verdict::SUCCESS, None);
        let Some((class, _, grant)) = waiting.granted() else {
            return order;
        };
        order.push(class);
        running = grant.start().unwrap();
    }
}

fn one_at_a_time() -> RateLimiter {
    plain().max_in_flight(1).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_of_eight_grants_goes_to_the_lower_classes() {
    use Priority::{Bulk, Interactive, Normal};
    let classes = [[Bulk; 3], [Normal; 3]].concat();
    let classes = [classes, vec![Interactive; 20]].concat();
    let mut expected = vec![Interactive; 7];
    expected.push(Normal);
    expected.extend([Interactive; 7]);
    expected.push(Normal);
    expected.extend([Interactive; 6]);
    expected.extend([Normal, Bulk, Bulk, Bulk]);
    assert_eq!(order(&one_at_a_time(), &classes), expected);
    let strict = plain().max_in_flight(1).strict_priority().build().unwrap();
    let mut sorted = classes.clone();
    sorted.sort();
    assert_eq!(order(&strict, &classes), sorted);
}

#[tokio::test(start_paused = true)]
async fn an_interactive_call_takes_the_next_start_of_a_request_quota() {
    let limiter = plain().requests_per_minute(60).build().unwrap();
    call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, None);
    let begin = Instant::now();
    let bulk = limiter.with_priority(Priority::Bulk);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let bulk = bulk.clone();
        tasks.spawn(async move { call(&bulk, 0).await.unwrap().settle(&Verdict::SUCCESS, None) });
    }
    tokio::time::sleep(millis(3_500)).await;
    // Three of them have started, and the fourth start is the interactive call's.
    let (_, call) = time_to_start(&limiter.with_priority(Priority::Interactive), 0).await;
    assert_about(begin.elapsed(), secs(4));
    call.settle(&Verdict::SUCCESS, None);
    while tasks.join_next().await.is_some() {}
    assert_about(begin.elapsed(), secs(101));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_bulk_call_holds_nothing() {
    let limiter = plain().tokens_per_minute(6_000).build().unwrap();
    call_now(&limiter, 50).unwrap().settle(&Verdict::SUCCESS, None);
    let begin = Instant::now();
    let mut large = Box::pin(limiter.with_priority(Priority::Bulk).acquire(5_000));
    assert!(poll_once(large.as_mut()).is_none());
    // 50 tokens are left, which the large call waits to see fill up.
    let small = call_now(&limiter, 50).unwrap();
    small.settle(&Verdict::SUCCESS, Some(0));
    assert!(call_now(&limiter, 50).is_some());
    let _large = large.await.unwrap().start().unwrap();
    assert_about(begin.elapsed(), secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_rejoins_at_the_head_of_its_class() {
    let limiter = one_at_a_time();
    let running = call_now(&limiter, 0).unwrap();
    let now = Instant::now();
    let bulk = limiter.with_priority(Priority::Bulk);
    let mut acquires = [
        ("bulk", bulk.acquire(0)),
        ("throttled bulk", bulk.acquire(0).held_until(now)),
        ("normal", limiter.acquire(0)),
        ("throttled", limiter.acquire(0).held_until(now)),
    ]
    .map(|(name, acquire)| (name, Box::pin(acquire)));
    for (_, acquire) in &mut acquires {
        assert!(poll_once(acquire.as_mut()).is_none());
    }
    running.settle(&Verdict::SUCCESS, None);
    let mut order = Vec::new();
    for _ in 0..acquires.len() {
        let mut granted = None;
        for (name, acquire) in acquires.iter_mut().filter(|(name, _)| !order.contains(name)) {
            if let Some(grant) = poll_once(acquire.as_mut()) {
                granted = Some((*name, grant.unwrap()));
                break;
            }
        }
        let (name, grant) = granted.unwrap();
        order.push(name);
        grant.start().unwrap().settle(&Verdict::SUCCESS, None);
    }
    assert_eq!(order, ["throttled", "normal", "throttled bulk", "bulk"]);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_a_pause_overtook_keeps_its_class() {
    // The first grant comes without a queue, and the second from it.
    for queued in [false, true] {
        let limiter = plain().max_in_flight(2).build().unwrap();
        let first = call_now(&limiter, 0).unwrap();
        let bulk = limiter.with_priority(Priority::Bulk);
        let grant = if queued {
            let second = call_now(&limiter, 0).unwrap();
            let mut waiting = Box::pin(bulk.acquire(0));
            assert!(poll_once(waiting.as_mut()).is_none());
            second.settle(&Verdict::SUCCESS, None);
            poll_once(waiting).unwrap().unwrap()
        } else {
            grant_now(&bulk, 0).unwrap()
        };
        first.settle(&throttled_for(secs(1)), Some(0));
        let mut again = Box::pin(grant.start().unwrap_err());
        let mut normal = Box::pin(limiter.acquire(0));
        assert!(poll_once(again.as_mut()).is_none() && poll_once(normal.as_mut()).is_none());
        let before = Instant::now();
        let first = tokio::select! {
            biased;
            _ = again => Priority::Bulk,
            _ = normal => Priority::Normal,
        };
        assert_eq!(first, Priority::Normal, "queued: {queued}");
        assert_about(before.elapsed(), secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_waits_of_every_class_are_attributed() {
    let limiter = plain().requests_per_minute(60).build().unwrap();
    let model = |priority| {
        let service = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new(String::new())));
        RateLimiterLayer::new(limiter.with_priority(priority)).layer(service)
    };
    let items: Vec<_> = (0..30).map(|index| Item::new(ItemId::Index(index), 0)).collect();
    let begin = Instant::now();
    let calls = items.iter().enumerate().map(|(index, item)| {
        let mut model = model(Priority::ALL[index % 3]);
        let call = model.call(LlmRequest::for_item("hi".into(), item.clone()));
        async move {
            call.await.unwrap();
            (item.report().waits, begin.elapsed())
        }
    });
    for (waits, took) in futures::future::join_all(calls).await {
        assert_about(waits.requests, took);
        assert_eq!(waits.total(), waits.requests);
    }
    assert_about(begin.elapsed(), secs(29));
}

#[tokio::test(start_paused = true)]
async fn a_closure_chooses_the_class_of_each_request() {
    let limiter = one_at_a_time();
    let running = call_now(&limiter, 0).unwrap();
    let gate = limiter.clone();
    let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = log.clone();
    let mut model = RateLimiterLayer::keyed(move |request: &LlmRequest| {
        let bulk = request.input().user_text().starts_with("bulk");
        gate.with_priority(if bulk {
            Priority::Bulk
        } else {
            Priority::Interactive
        })
    })
    .layer(service_fn(move |request: LlmRequest| {
        seen.lock().unwrap().push(request.input().user_text().to_string());
        async { Ok::<_, LlmError>(LlmResponse::new(String::new())) }
    }));
    let calls = ["bulk 1", "bulk 2", "a", "b"].map(|text| model.call(LlmRequest::prompt(text)));
    let calls = tokio::spawn(futures::future::join_all(calls));
    tokio::task::yield_now().await;
    running.settle(&Verdict::SUCCESS, None);
    calls.await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["a", "b", "bulk 1", "bulk 2"]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(Priority),
    /// One of those that wait gives up.
    Leave(usize),
    /// The call under way ends, and the next one starts.
    Next,
    /// The same, but the grant is given back at first.
    Return,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop::sample::select(Priority::ALL.to_vec());
    let step = prop_oneof![
        5 => class.prop_map(Step::Arrive),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => Just(Step::Next),
        1 => Just(Step::Return),
    ];
    prop::collection::vec(step, 1..300)
}

/// Counts, for each class, the grants in a row that others got while it waited.
fn note(passed: &mut [usize; 3], granted: Priority, waiting: &Waiting) {
    for class in Priority::ALL {
        let count = &mut passed[class as usize];
        let waits = class != granted && waiting.has(|of| of == class);
        *count = if waits { *count + 1 } else { 0 };
    }
}

/// Plays the steps, and checks each grant.
fn check(steps: &[Step], strict: bool) -> Result<(), TestCaseError> {
    let builder = plain().max_in_flight(1);
    let builder = if strict {
        builder.strict_priority()
    } else {
        builder
    };
    let limiter = builder.build().unwrap();
    let mut running = call_now(&limiter, 0);
    let mut waiting = Waiting(Vec::new());
    let mut passed = [0_usize; 3];
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Arrive(class) => waiting.add(&limiter, class, number),
            Step::Leave(place) if !waiting.0.is_empty() => {
                let place = place % waiting.0.len();
                drop(waiting.0.remove(place));
            }
            Step::Leave(_) => {}
            Step::Next | Step::Return => {
                if let Some(call) = running.take() {
                    call.settle(&Verdict::SUCCESS, None);
                }
                let Some((class, number, grant)) = waiting.granted() else {
                    prop_assert!(waiting.0.is_empty(), "a free gate lets the next one through");
                    running = call_now(&limiter, 0);
                    continue;
                };
                let first = waiting
                    .0
                    .iter()
                    .filter(|(of, ..)| *of == class)
                    .map(|(_, number, _)| *number);
                prop_assert!(
                    first.min().is_none_or(|first| number < first),
                    "first come, first served"
                );
                if strict {
                    prop_assert!(!waiting.has(|of| of < class));
                }
                note(&mut passed, class, &waiting);
                if !strict {
                    let [interactive, normal, bulk] = passed;
                    prop_assert!(
                        interactive <= 1,
                        "at most one other goes before the next interactive call"
                    );
                    // A turn of the lower classes may be that of the other one, and grants that are given back have had theirs.
                    prop_assert!(normal <= 2 * TURNS, "{normal}");
                    prop_assert!(bulk <= TURNS * (TURNS + 1), "{bulk}");
                }
                let grant = match step {
                    Step::Return => {
                        drop(grant);
                        let next = waiting.granted();
                        if let Some((class, ..)) = next {
                            note(&mut passed, class, &waiting);
                        }
                        next.map(|(_, _, grant)| grant)
                    }
                    _ => Some(grant),
                };
                running = match grant {
                    Some(grant) => Some(grant.start().unwrap()),
                    None => call_now(&limiter, 0),
                };
            }
        }
    }
    drop(waiting);
    drop(running);
    let snapshot = limiter.snapshot();
    prop_assert_eq!(snapshot.waiting, 0);
    prop_assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn within_a_class_in_order_and_no_class_starves(steps in steps(), strict in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async { check(&steps, strict) })?;
    }
}
