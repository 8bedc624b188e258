//! Strategies created at their first call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::{Delivery, ErrorKind, Lazy, LlmError, lazy};
use tower::{Layer, ServiceExt};

use crate::support::{Script, item, request};

/// A strategy whose creation takes a second and fails the first `failures` times, with the count of creations.
fn slow(failures: u32) -> (Lazy<Script>, Arc<AtomicU32>) {
    let made = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&made);
    let strategy = lazy(move || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if number < failures {
                return Err(LlmError::new(ErrorKind::Connection, "no route").with_status(503));
            }
            Ok(Script::new([]))
        }
    });
    (strategy, made)
}

#[tokio::test(start_paused = true)]
async fn it_is_made_once_for_all_clones() {
    let (strategy, made) = slow(0);
    assert_eq!(made.load(Ordering::SeqCst), 0, "not before it is needed");
    let calls = (0..100).map(|_| tokio::spawn(strategy.clone().oneshot(request(&item()))));
    for result in futures::future::join_all(calls).await {
        result.unwrap().unwrap();
    }
    strategy.clone().oneshot(request(&item())).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_by_those_waiting_and_tried_again_by_the_next() {
    let (strategy, made) = slow(1);
    let calls = (0..10).map(|_| strategy.clone().oneshot(request(&item())));
    for result in futures::future::join_all(calls).await {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Connection, Some(503)));
        assert_eq!(error.delivery(), Delivery::NotSent);
        assert!(
            error
                .to_string()
                .contains("could not be made: connection: no route"),
            "{error}"
        );
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
    strategy.clone().oneshot(request(&item())).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_retry_policy_repeats_a_failed_making() {
    let (strategy, made) = slow(2);
    let one = item();
    RetryLayer::new(RetryPolicy::new(3))
        .layer(strategy)
        .oneshot(request(&one))
        .await
        .unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 3);
    // Only the sent request counts as a call.
    assert_eq!(one.report().calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_stop_the_making() {
    let (strategy, made) = slow(0);
    let first = tokio::spawn(strategy.clone().oneshot(request(&item())));
    tokio::task::yield_now().await;
    let second = tokio::spawn(strategy.clone().oneshot(request(&item())));
    tokio::task::yield_now().await;
    first.abort();
    second.await.unwrap().unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);

    // All callers are dropped: it pauses, and continues with the next caller.
    let (strategy, made) = slow(0);
    let only = tokio::time::timeout(
        Duration::from_millis(500),
        strategy.clone().oneshot(request(&item())),
    );
    assert!(only.await.is_err());
    strategy.oneshot(request(&item())).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_making_is_a_failure() {
    let made = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&made);
    let strategy = lazy(move || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        assert!(number > 0, "at once");
        async move {
            assert!(number > 1, "later");
            Ok::<_, LlmError>(Script::new([]))
        }
    });
    for _ in 0..2 {
        let error = strategy.clone().oneshot(request(&item())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("panicked"), "{error}");
    }
    strategy.oneshot(request(&item())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_is_released_once() {
    let released = Arc::new(AtomicU32::new(0));
    let releasing = |strategy: Lazy<Script>| {
        let released = Arc::clone(&released);
        strategy.on_close(move |_| {
            let released = Arc::clone(&released);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                released.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let (strategy, _) = slow(0);
    let strategy = releasing(strategy);
    strategy.clone().oneshot(request(&item())).await.unwrap();
    let clone = strategy.clone();
    // The first close is dropped half-way.
    assert!(
        tokio::time::timeout(Duration::from_millis(500), strategy.close())
            .await
            .is_err()
    );
    tokio::join!(strategy.close(), clone.close());
    strategy.close().await;
    assert_eq!(released.load(Ordering::SeqCst), 1);
    let error = strategy.oneshot(request(&item())).await.unwrap_err();
    assert!(error.to_string().contains("was closed"), "{error}");

    // A strategy that was never created is not released; one under initialisation is, at its end.
    let (strategy, made) = slow(0);
    releasing(strategy).close().await;
    assert_eq!(
        (made.load(Ordering::SeqCst), released.load(Ordering::SeqCst)),
        (0, 1)
    );
    let (strategy, _) = slow(0);
    let strategy = releasing(strategy);
    let call = tokio::spawn(strategy.clone().oneshot(request(&item())));
    tokio::task::yield_now().await;
    strategy.close().await;
    assert_eq!(released.load(Ordering::SeqCst), 2);
    // The waiting caller is too late.
    let error = call.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("was closed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_callers_some_of_which_go_away_makes_it_once() {
    let made = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&made);
    let strategy = lazy(move || {
        let count = Arc::clone(&count);
        async move {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, LlmError>(Script::new([]))
        }
    });
    let calls: Vec<_> = (0..10_000)
        .map(|_| tokio::spawn(strategy.clone().oneshot(request(&item()))))
        .collect();
    for (number, call) in calls.iter().enumerate() {
        if number % 3 == 0 {
            call.abort();
        }
    }
    let mut answered = 0;
    for call in calls {
        match call.await {
            Ok(result) => {
                result.unwrap();
                answered += 1;
            }
            Err(error) => assert!(error.is_cancelled()),
        }
    }
    assert!(answered >= 6_666, "{answered}");
    assert_eq!(made.load(Ordering::SeqCst), 1);
}
