//! Real threads and runtimes that come and go. No timing is asserted here, only that everything ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llm_batch::Verdict;
use llm_batch::layer::rate_limiter::{EndedCall, Pace, Pacing, RateLimiter, Refused, StartedCall};
use tokio::runtime::{Builder, Runtime};

use crate::support::*;

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn two_workers() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

/// Far more than any of these tests takes: they fail in place of hanging.
async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(secs(60), future).await.expect("it hangs")
}

/// In the storm the pace of a resume would take minutes.
struct Unlimited;

impl Pace for Unlimited {
    fn on_start(&mut self, _: &StartedCall) -> Pacing {
        Pacing::UNLIMITED
    }

    fn on_end(&mut self, _: &StartedCall, _: &EndedCall) -> Pacing {
        Pacing::UNLIMITED
    }
}

#[test]
fn a_storm_of_cancellations_never_stalls_the_queue() {
    two_workers().block_on(in_time(async {
        let limiter = RateLimiter::builder()
            .without_start_ramp()
            .requests_per_minute(3_000_000)
            .tokens_per_minute(300_000_000)
            .burst(millis(20))
            .max_in_flight(16)
            .pace(Unlimited)
            .build()
            .unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for number in 0..4000_u64 {
            let (limiter, done) = (limiter.clone(), Arc::clone(&done));
            let task = tokio::spawn(async move {
                let call = call(&limiter, number % 97).await.unwrap();
                if number % 5 == 0 {
                    tokio::time::sleep(Duration::from_micros(300)).await;
                } else {
                    tokio::task::yield_now().await;
                }
                match number % 50 {
                    7 => drop(call),
                    13 => drop(call.settle(&throttled_for(millis(1)), Some(0))),
                    _ => drop(call.settle(&Verdict::SUCCESS, Some(number % 13))),
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
            tasks.push(task);
            if number % 3 == 0 {
                // Aborted at whatever point it has reached, in the queue as likely as in the call.
                let victim = (number / 2) as usize;
                tasks[victim].abort();
            }
            if number % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut finished = 0;
        for task in tasks {
            finished += usize::from(task.await.is_ok());
        }
        assert_eq!(finished, done.load(Ordering::SeqCst));
        assert!(finished > 1000, "{finished}");
        let snapshot = limiter.snapshot();
        assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
        assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
        // And it still works.
        call(&limiter, 1).await.unwrap().settle(&Verdict::SUCCESS, None);
    }));
}

#[test]
fn waiters_of_another_runtime_go_on_when_one_is_shut_down() {
    let limiter = plain().requests_per_minute(1200).build().unwrap();
    drop(call_now_all(&limiter));
    let gone = current_thread();
    gone.block_on(async {
        for _ in 0..3 {
            let limiter = limiter.clone();
            tokio::spawn(async move { call(&limiter, 0).await.map(drop) });
        }
        tokio::task::yield_now().await;
        assert_eq!(limiter.snapshot().waiting, 3);
    });
    let other = limiter.clone();
    let (started, waiting) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        current_thread().block_on(in_time(async {
            let mut acquire = Box::pin(other.acquire(0));
            assert!(poll_once(acquire.as_mut()).is_none());
            started.send(()).unwrap();
            acquire.await.map(drop)
        }))
    });
    waiting.recv().unwrap();
    drop(gone);
    thread.join().unwrap().unwrap();
    assert_eq!(limiter.snapshot().waiting, 0);
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[test]
fn a_runtime_that_only_stopped_stalls_nobody_elses_waiters() {
    let limiter = plain().requests_per_minute(1200).build().unwrap();
    drop(call_now_all(&limiter));
    let stopped = current_thread();
    stopped.block_on(async {
        let limiter = limiter.clone();
        tokio::spawn(async move { call(&limiter, 0).await.map(drop) });
        tokio::task::yield_now().await;
    });
    assert_eq!(limiter.snapshot().waiting, 1);
    // It is still there, but nobody drives it: neither its waiter nor its timer.
    current_thread()
        .block_on(in_time(call(&limiter, 0)))
        .unwrap()
        .settle(&Verdict::SUCCESS, None);
    assert_eq!(limiter.snapshot().waiting, 0);
    assert_eq!(
        limiter.snapshot().in_flight,
        1,
        "granted to the waiter that sleeps"
    );
    drop(stopped);
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[test]
fn a_waiter_moves_to_another_runtime() {
    let limiter = plain().requests_per_minute(1200).build().unwrap();
    drop(call_now_all(&limiter));
    let mut acquire = Box::pin(limiter.acquire(0));
    let first = current_thread();
    first.block_on(async {
        assert!(poll_once(acquire.as_mut()).is_none());
        tokio::task::yield_now().await;
    });
    drop(first);
    drop(current_thread().block_on(in_time(acquire)).unwrap());
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[test]
fn outside_a_runtime_waiting_is_refused_and_everything_else_works() {
    let limiter = plain().requests_per_minute(1200).build().unwrap();
    let call = futures::executor::block_on(call(&limiter, 0)).unwrap();
    call.settle(&throttled_for(secs(5)), Some(0));
    let refused = futures::executor::block_on(limiter.acquire(0)).unwrap_err();
    assert!(matches!(refused, Refused::Closed));
    let held = limiter
        .acquire(0)
        .held_until(tokio::time::Instant::now() + secs(60));
    assert!(matches!(futures::executor::block_on(held), Err(Refused::Closed)));
    limiter.reopen();
    drop(limiter);
}

#[test]
fn a_waiter_whose_runtime_is_gone_is_refused_outside_one() {
    let limiter = plain().requests_per_minute(60).build().unwrap();
    drop(call_now_all(&limiter));
    let mut acquire = Box::pin(limiter.acquire(0));
    let runtime = current_thread();
    runtime.block_on(async {
        assert!(poll_once(acquire.as_mut()).is_none());
        tokio::task::yield_now().await;
    });
    drop(runtime);
    assert!(matches!(
        futures::executor::block_on(acquire),
        Err(Refused::Closed)
    ));
}

#[test]
fn a_waiter_polled_on_a_runtime_that_has_shut_down_is_refused() {
    let limiter = plain().requests_per_minute(60).build().unwrap();
    drop(call_now_all(&limiter));
    let runtime = two_workers();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    let refused = handle.block_on(limiter.acquire(0));
    assert!(matches!(refused, Err(Refused::Closed)), "{refused:?}");
    assert_eq!(limiter.snapshot().waiting, 0);
}

#[test]
fn a_waiter_on_a_runtime_without_a_timer_is_refused() {
    let limiter = plain().requests_per_minute(60).build().unwrap();
    drop(call_now_all(&limiter));
    let runtime = Builder::new_current_thread().build().unwrap();
    let refused = runtime.block_on(limiter.acquire(0));
    assert!(matches!(refused, Err(Refused::Closed)), "{refused:?}");
    assert_eq!(limiter.snapshot().waiting, 0);
}

#[test]
fn dropped_outside_a_runtime_with_calls_and_waiters() {
    let limiter = plain().max_in_flight(1).build().unwrap();
    let runtime = two_workers();
    let (call, waiter) = runtime.block_on(async {
        let call = call(&limiter, 0).await.unwrap();
        let mut waiter = Box::pin(limiter.acquire(0));
        assert!(poll_once(waiter.as_mut()).is_none());
        (call, waiter)
    });
    drop(limiter);
    runtime.shutdown_background();
    drop(call);
    drop(waiter);
}

#[test]
fn the_pump_ends_with_the_last_waiter() {
    let runtime = current_thread();
    runtime.block_on(async {
        let limiter = plain().requests_per_minute(60).build().unwrap();
        drop(call_now_all(&limiter));
        let mut waiter = Box::pin(limiter.acquire(0));
        assert!(poll_once(waiter.as_mut()).is_none());
        tokio::task::yield_now().await;
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1);
        drop(waiter);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    });
}

/// Takes everything that is there at once.
fn call_now_all(limiter: &RateLimiter) -> Vec<llm_batch::layer::rate_limiter::ActiveCall> {
    futures::executor::block_on(async {
        let mut calls = Vec::new();
        while let Some(call) = call_now_or_refused(limiter) {
            calls.push(call);
        }
        calls
    })
}

fn call_now_or_refused(limiter: &RateLimiter) -> Option<llm_batch::layer::rate_limiter::ActiveCall> {
    poll_once(limiter.acquire(0))?.ok()?.start().ok()
}

/// A waiter on a runtime that is driven no more.
fn waiter_that_sleeps(limiter: &RateLimiter) -> (Runtime, tokio::task::JoinHandle<u64>) {
    let runtime = current_thread();
    let limiter = limiter.clone();
    let task = runtime.spawn(async move {
        let call = call(&limiter, 7).await.unwrap();
        call.estimate()
    });
    runtime.block_on(tokio::task::yield_now());
    (runtime, task)
}

#[test]
fn a_grant_that_is_not_taken_up_goes_to_the_next() {
    let limiter = plain().max_in_flight(1).tokens_per_minute(6_000).build().unwrap();
    let driven = current_thread();
    let first = driven.block_on(call(&limiter, 7)).unwrap();
    let (sleeps, task) = waiter_that_sleeps(&limiter);
    assert_eq!(limiter.snapshot().waiting, 1);
    first.settle(&Verdict::SUCCESS, Some(0));
    assert_eq!(limiter.snapshot().in_flight, 1, "granted to the one that sleeps");
    let next = driven.block_on(in_time(call(&limiter, 7))).unwrap();
    // Its runtime is driven again: it asks from its place, which is before all others.
    let waiters = [limiter.clone(), limiter.clone()].map(|limiter| {
        driven.spawn(async move {
            call(&limiter, 7)
                .await
                .unwrap()
                .settle(&Verdict::SUCCESS, Some(0));
        })
    });
    driven.block_on(tokio::task::yield_now());
    assert_eq!(limiter.snapshot().waiting, 2);
    sleeps.block_on(async { tokio::task::yield_now().await });
    assert_eq!(limiter.snapshot().waiting, 3);
    next.settle(&Verdict::SUCCESS, Some(0));
    assert_eq!(sleeps.block_on(in_time(task)).unwrap(), 7);
    for waiter in waiters {
        driven.block_on(in_time(waiter)).unwrap();
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
    assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
    assert_eq!(snapshot.returned, 1);
}

#[test]
fn a_probe_that_is_not_taken_up_goes_to_the_next() {
    let limiter = plain().build().unwrap();
    let driven = current_thread();
    let first = driven.block_on(call(&limiter, 0)).unwrap();
    first.settle(&overloaded().with_retry_after(millis(20)), Some(0));
    let (sleeps, _task) = waiter_that_sleeps(&limiter);
    let probe = driven.block_on(in_time(call(&limiter, 0))).unwrap();
    probe.settle(&Verdict::SUCCESS, None);
    drop(grant_now(&limiter, 0).unwrap());
    drop(sleeps);
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[test]
fn a_waiter_that_never_comes_back_for_its_grant_leaves_nothing_behind() {
    let limiter = plain().max_in_flight(1).build().unwrap();
    let driven = current_thread();
    let first = driven.block_on(call(&limiter, 0)).unwrap();
    let (sleeps, task) = waiter_that_sleeps(&limiter);
    first.settle(&Verdict::SUCCESS, None);
    driven
        .block_on(in_time(call(&limiter, 0)))
        .unwrap()
        .settle(&Verdict::SUCCESS, None);
    drop(sleeps);
    drop(task);
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
    assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
}
