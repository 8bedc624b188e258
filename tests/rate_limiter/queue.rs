//! The queue: order, wake-ups, cancellation, cap, waits.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use llm_batch::layer::rate_limiter::Acquire;
use llm_batch::{Verdict, WaitReason};
use tokio::time::Instant;

use crate::support::*;

fn waiting(acquire: Acquire) -> Pin<Box<Acquire>> {
    let mut acquire = Box::pin(acquire);
    assert!(poll_once(acquire.as_mut()).is_none());
    acquire
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    let limiter = plain()
        .requests_per_minute(600)
        .max_in_flight(1000)
        .build()
        .unwrap();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let (limiter, order) = (limiter.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let call = call(&limiter, 0).await.unwrap();
                order.lock().unwrap().push(number);
                tokio::time::sleep(secs(number % 7)).await;
                call.settle(&Verdict::SUCCESS, None);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(order.lock().unwrap().is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_small_one_never_overtakes_a_large_one() {
    let limiter = plain().tokens_per_minute(600).build().unwrap();
    call_now(&limiter, 10).unwrap().settle(&Verdict::SUCCESS, None);
    let begin = Instant::now();
    let large = waiting(limiter.acquire(300));
    let small = waiting(limiter.acquire(1));
    let _large = large.await.unwrap().start().unwrap();
    assert_about(begin.elapsed(), secs(1));
    let _small = small.await.unwrap();
    assert_about(begin.elapsed(), millis(30_100));
}

#[tokio::test(start_paused = true)]
async fn one_that_was_throttled_rejoins_at_the_head() {
    let limiter = plain()
        .max_in_flight(1)
        .tokens_per_minute(1_000_000)
        .build()
        .unwrap();
    for _ in 0..20 {
        call_now(&limiter, 100)
            .unwrap()
            .settle(&Verdict::SUCCESS, Some(0));
    }
    let running = call_now(&limiter, 100).unwrap();
    let now = Instant::now();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (name, acquire) in [
        ("waiting", limiter.acquire(100)),
        ("small", limiter.acquire(350).held_until(now)),
        ("large", limiter.acquire(450).held_until(now)),
        ("large too", limiter.acquire(500).held_until(now)),
        ("new and large", limiter.acquire(500)),
    ] {
        let order = Arc::clone(&order);
        tasks.push(tokio::spawn(async move {
            let call = acquire.await.unwrap().start().unwrap();
            order.lock().unwrap().push(name);
            call.settle(&Verdict::SUCCESS, None);
        }));
        tokio::task::yield_now().await;
    }
    running.settle(&Verdict::SUCCESS, None);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        *order.lock().unwrap(),
        ["small", "large", "large too", "waiting", "new and large"]
    );
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_calls_are_in_flight() {
    let limiter = plain().max_in_flight(3).build().unwrap();
    let peak = Arc::new(AtomicUsize::new(0));
    let running = Arc::new(AtomicUsize::new(0));
    let mut tasks: FuturesUnordered<_> = (0..50)
        .map(|number| {
            let (limiter, peak, running) = (limiter.clone(), Arc::clone(&peak), Arc::clone(&running));
            async move {
                let call = call(&limiter, 0).await.unwrap();
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(millis(1 + number % 5)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                if number % 3 > 0 {
                    call.settle(&Verdict::SUCCESS, None);
                }
            }
        })
        .collect();
    while tasks.next().await.is_some() {}
    assert_eq!(peak.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn leaving_the_queue_wakes_the_next() {
    let limiter = plain().tokens_per_minute(600).burst(secs(60)).build().unwrap();
    call_now(&limiter, 500).unwrap().settle(&Verdict::SUCCESS, None);
    let large = waiting(limiter.acquire(600));
    let small = waiting(limiter.acquire(50));
    let begin = Instant::now();
    // The small one fits as soon as the large one is gone.
    drop(large);
    let _small = small.await.unwrap();
    assert_eq!(begin.elapsed(), secs(0));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrived_unseen_is_given_back() {
    let limiter = plain()
        .max_in_flight(1)
        .requests_per_minute(60)
        .burst(secs(60))
        .build()
        .unwrap();
    let running = call_now(&limiter, 0).unwrap();
    let (first, second) = (waiting(limiter.acquire(0)), waiting(limiter.acquire(0)));
    running.settle(&Verdict::SUCCESS, None);
    assert_eq!(limiter.snapshot().in_flight, 1, "the first has it, unseen");
    drop(first);
    let _call = second.await.unwrap().start().unwrap();
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.granted, snapshot.returned, snapshot.settled), (3, 1, 1));
    assert_eq!(snapshot.requests_available, Some(58.0));
}

struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_cost_one_wake_up_each() {
    const WAITERS: usize = 10_000;
    let limiter = unpaced()
        .requests_per_minute(60_000)
        .max_in_flight(WAITERS)
        .build()
        .unwrap();
    let wakes = Arc::new(CountWakes(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    let mut waiters: Vec<_> = (0..WAITERS).map(|_| Box::pin(limiter.acquire(0))).collect();
    let mut calls = Vec::new();
    waiters.retain_mut(|waiter| match waiter.as_mut().poll(&mut context) {
        Poll::Ready(grant) => {
            calls.push(grant.unwrap().start().unwrap());
            false
        }
        Poll::Pending => true,
    });
    let at_once = calls.len();
    assert!(at_once < 1100, "{at_once}");
    // A pause in the middle wakes nobody.
    calls.pop().unwrap().settle(&throttled_for(secs(1)), Some(0));
    tokio::time::sleep(secs(4)).await;
    let before = wakes.0.load(Ordering::SeqCst);
    assert!((1..WAITERS - at_once).contains(&before), "{before}");
    tokio::time::sleep(secs(600)).await;
    assert_eq!(limiter.snapshot().waiting, 0);
    assert_eq!(wakes.0.load(Ordering::SeqCst), WAITERS - at_once);
    for waiter in waiters {
        drop(waiter.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_not_polled_stalls_nobody() {
    let limiter = plain().requests_per_minute(60).build().unwrap();
    drop(call_now(&limiter, 0).unwrap());
    let mut parked = waiting(limiter.acquire(0));
    let (waited, _call) = time_to_start(&limiter, 0).await;
    assert_about(waited, secs(2));
    assert!(poll_once(parked.as_mut()).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_says_what_the_head_waits_for() {
    let limiter = plain()
        .max_in_flight(1)
        .requests_per_minute(60)
        .tokens_per_minute(60)
        .build()
        .unwrap();
    let call = call_now(&limiter, 1).unwrap();
    let mut waiter = pin!(limiter.acquire(60));
    assert!(poll_once(waiter.as_mut()).is_none());
    assert_eq!(limiter.snapshot().waiting_for, Some(WaitReason::InFlight));
    call.settle(&throttled_for(secs(1)), Some(31));
    assert_eq!(limiter.snapshot().waiting_for, Some(WaitReason::Cooldown));
    tokio::time::sleep(secs(2)).await;
    assert_eq!(limiter.snapshot().waiting_for, Some(WaitReason::Tokens));
    let _grant = waiter.await.unwrap();
    assert_eq!(limiter.snapshot().waiting_for, None);
}
