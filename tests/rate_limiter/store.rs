//! A store that several gates share.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use llm_batch::layer::rate_limiter::{Leave, RateLimiter, Refused, StateStore, StoreReport};
use llm_batch::{BoxError, ErrorKind, Verdict, WaitReason};
use tokio::time::Instant;

use crate::support::*;

/// One call every 100 ms for all who share it, after a round trip of 10 ms.
#[derive(Clone, Default)]
struct Shared {
    log: Arc<Mutex<Vec<String>>>,
    next: Arc<Mutex<Option<Instant>>>,
    fails: Option<&'static str>,
}

impl Shared {
    fn log(&self, line: impl Into<String>) {
        self.log.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl StateStore for Shared {
    fn acquire(&self, tokens: u64) -> BoxFuture<'_, Result<Leave, BoxError>> {
        assert!(self.fails != Some("panic"), "a store with a bug");
        Box::pin(async move {
            tokio::time::sleep(millis(10)).await;
            if let Some(error) = self.fails {
                return Err(error.into());
            }
            let mut next = self.next.lock().unwrap();
            let now = Instant::now();
            match *next {
                Some(at) if at > now => Ok(Leave::Wait {
                    time: at - now,
                    reason: WaitReason::Requests,
                }),
                _ => {
                    *next = Some(now + millis(100));
                    self.log(format!("granted {tokens}"));
                    Ok(Leave::Granted)
                }
            }
        })
    }

    fn report(&self, report: StoreReport) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            tokio::time::sleep(millis(10)).await;
            self.log(format!("{report:?}"));
            Ok(())
        })
    }
}

fn gate(store: &Shared) -> RateLimiter {
    plain().state_store(store.clone()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn gates_that_share_a_store_share_its_quota() {
    let store = Shared::default();
    let begin = Instant::now();
    let tasks: Vec<_> = [gate(&store), gate(&store)]
        .into_iter()
        .flat_map(|limiter| (0..20).map(move |_| limiter.clone()))
        .map(|limiter| {
            tokio::spawn(async move {
                call(&limiter, 5)
                    .await
                    .unwrap()
                    .settle(&Verdict::SUCCESS, Some(3));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // Forty calls, one every 100 ms and no sooner.
    assert!(begin.elapsed() >= millis(3900));
    assert!(begin.elapsed() < secs(6), "{:?}", begin.elapsed());
    tokio::time::sleep(secs(1)).await;
    let lines = store.lines();
    let count = |line: &str| lines.iter().filter(|other| *other == line).count();
    assert_eq!(count("granted 5"), 40);
    assert_eq!(count("Settled { reserved: 5, used: Some(3) }"), 40);
}

#[tokio::test(start_paused = true)]
async fn the_queue_keeps_its_order_and_waits_keep_their_reason() {
    let store = Shared::default();
    let limiter = gate(&store);
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let (limiter, order) = (limiter.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let call = call(&limiter, 0).await.unwrap();
                order.lock().unwrap().push(number);
                call.settle(&Verdict::SUCCESS, None);
            })
        })
        .collect();
    tokio::time::sleep(millis(50)).await;
    assert_eq!(limiter.snapshot().waiting_for, Some(WaitReason::Requests));
    for task in tasks {
        task.await.unwrap();
    }
    assert!(order.lock().unwrap().is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_latch_are_told() {
    let store = Shared::default();
    let limiter = gate(&store);
    call(&limiter, 7)
        .await
        .unwrap()
        .settle(&throttled_for(secs(2)), Some(0));
    let (waited, call) = time_to_start(&limiter, 8).await;
    assert!(waited >= secs(2));
    call.settle(&fatal(ErrorKind::Authentication), Some(0));
    assert!(matches!(limiter.acquire(1).await, Err(Refused::Latched { .. })));
    limiter.reopen();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(
        store.lines(),
        [
            "granted 7",
            "Settled { reserved: 7, used: Some(0) }",
            "Closed { pause: 2s, kind: RateLimit }",
            "granted 8",
            "Settled { reserved: 8, used: Some(0) }",
            "Latched { kind: Authentication }",
            "Reopened",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn leave_that_nobody_takes_is_returned() {
    let store = Shared::default();
    let limiter = gate(&store);
    // Gone while the store is asked, and gone with the grant in hand.
    assert!(poll_for(millis(5), limiter.acquire(1)).await.is_none());
    tokio::time::sleep(secs(1)).await;
    drop(limiter.acquire(2).await.unwrap());
    tokio::time::sleep(secs(1)).await;
    assert_eq!(
        store.lines(),
        [
            "granted 1",
            "Returned { reserved: 1 }",
            "granted 2",
            "Returned { reserved: 2 }",
        ]
    );
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_leaves_the_gate_to_its_own_limits() {
    for fails in ["unreachable", "panic"] {
        let store = Shared {
            fails: Some(fails),
            ..Shared::default()
        };
        let limiter = plain()
            .requests_per_minute(60)
            .state_store(store.clone())
            .build()
            .unwrap();
        let begin = Instant::now();
        for _ in 0..3 {
            call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
        }
        let took = begin.elapsed();
        assert!((secs(2)..millis(2100)).contains(&took), "{took:?}");
        assert_eq!(store.lines(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_any_waiter_stalls_nobody() {
    let store = Shared::default();
    let limiter = gate(&store);
    let tasks: Vec<_> = (0..30)
        .map(|number| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                let gives_up = if number % 2 == 0 {
                    millis(number * 17)
                } else {
                    secs(1000)
                };
                let _ = poll_for(gives_up, async {
                    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
                })
                .await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    tokio::time::sleep(secs(10)).await;
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
    assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
}

#[test]
fn a_runtime_that_dies_while_it_asks_lets_others_ask() {
    let store = Shared::default();
    let limiter = gate(&store);
    let gone = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    gone.block_on(async {
        let limiter = limiter.clone();
        tokio::spawn(async move { drop(limiter.acquire(1).await) });
        tokio::time::sleep(millis(2)).await;
    });
    drop(gone);
    assert_eq!(limiter.snapshot().in_flight, 0);
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    other.block_on(async {
        let call = poll_for(secs(60), call(&limiter, 2)).await.unwrap();
        call.unwrap().settle(&Verdict::SUCCESS, None);
    });
    assert!(store.lines().contains(&"granted 2".to_owned()));
}
