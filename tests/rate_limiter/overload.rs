//! A server that is full: nothing fails that would have fitted, and few calls are wasted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::RateLimiterLayer;
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::{
    ErrorKind, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter, StandardLayer, TokenUsage,
    WorkItem,
};
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::support::*;

/// Has room for some calls at once, each of which takes a second, and rejects the others after 10 ms.
#[derive(Clone)]
struct Server {
    room: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    rejected: Arc<AtomicUsize>,
}

impl Server {
    fn with_room(room: usize) -> Self {
        Self {
            room: Arc::new(AtomicUsize::new(room)),
            in_flight: Arc::default(),
            rejected: Arc::default(),
        }
    }

    fn service(&self) -> BoxCloneSyncService<LlmRequest<u64>, LlmResponse<u64>, LlmError> {
        let server = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: LlmRequest<u64>| {
            let server = server.clone();
            async move {
                sleep(millis(5)).await;
                if server.in_flight.load(Ordering::SeqCst) >= server.room.load(Ordering::SeqCst) {
                    server.rejected.fetch_add(1, Ordering::SeqCst);
                    sleep(millis(5)).await;
                    return Err(LlmError::new(ErrorKind::Overloaded, "busy").with_status(503));
                }
                server.in_flight.fetch_add(1, Ordering::SeqCst);
                sleep(millis(950 + *request.input() % 100)).await;
                server.in_flight.fetch_sub(1, Ordering::SeqCst);
                sleep(millis(5)).await;
                Ok(LlmResponse::new(*request.input()).with_usage(TokenUsage::new(1, 1)))
            }
        }))
    }

    fn rejected(&self) -> usize {
        self.rejected.load(Ordering::SeqCst)
    }
}

async fn run(server: &Server, limiter: RateLimiter, items: u64, n: usize) -> (u64, Duration) {
    let strategy = StandardLayer::new().with_limiter(limiter).layer(server.service());
    let begin = Instant::now();
    let failed = stream::iter((0..items).map(WorkItem::new))
        .with_strategy(strategy)
        .llm_batch(n)
        .filter(|outcome| std::future::ready(outcome.result.is_err()))
        .count()
        .await;
    (failed as u64, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_server_with_room_for_a_few_calls_fails_no_item() {
    for room in [1, 4, 20] {
        for ramp in [true, false] {
            let server = Server::with_room(room);
            let limiter = if ramp {
                RateLimiter::default()
            } else {
                plain().build().unwrap()
            };
            let items = 60 * room as u64;
            let n = 12 * room;
            let (failed, took) = run(&server, limiter, items, n).await;
            assert_eq!(failed, 0, "room for {room}");
            // The first burst, and few after it.
            assert!(
                server.rejected() <= n + items as usize / 5 + 5,
                "{} of {items} calls rejected, room for {room}",
                server.rejected()
            );
            // 60 s at best. One call alone after each pause, and the first look for the room, cost some.
            assert!(took < secs(90), "{took:?}, room for {room}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_cap_follows_a_server_that_gets_room_again() {
    let server = Server::with_room(2);
    let limiter = plain().build().unwrap();
    let (grow, watched) = (server.clone(), limiter.clone());
    tokio::spawn(async move {
        sleep(secs(20)).await;
        assert!(watched.snapshot().max_in_flight.is_some_and(|cap| cap <= 4));
        grow.room.store(1_000, Ordering::SeqCst);
    });
    let (failed, took) = run(&server, limiter.clone(), 2_000, 100).await;
    assert_eq!(failed, 0);
    // 20 s for 40 items, 20 s for the rest at best.
    assert!(took < secs(80), "{took:?}");
    assert_eq!(limiter.snapshot().max_in_flight, None);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_now_and_then_costs_no_concurrency() {
    let limiter = plain().build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let flaky = service_fn(move |request: LlmRequest<u64>| {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(secs(1)).await;
            if number % 20 == 19 {
                return Err(LlmError::new(ErrorKind::Overloaded, "busy"));
            }
            Ok(LlmResponse::new(*request.input()))
        }
    });
    let begin = Instant::now();
    let strategy = StandardLayer::new().with_limiter(limiter).layer(flaky);
    let failed = stream::iter((0..2_000_u64).map(WorkItem::new))
        .with_strategy(strategy)
        .llm_batch(100)
        .filter(|outcome| std::future::ready(outcome.result.is_err()))
        .count()
        .await;
    assert_eq!(failed, 0);
    assert!(begin.elapsed() < secs(30), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_item_has_the_budget_of_throttles_and_not_its_attempts() {
    let limiter = plain().build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(1).max_throttles(6)))
        .layer(RateLimiterLayer::new(limiter))
        .service(service_fn(move |_: LlmRequest<u64>| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Err::<LlmResponse<u64>, _>(LlmError::new(ErrorKind::Overloaded, "busy")) }
        }));
    let error = service.oneshot(LlmRequest::new(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!(calls.load(Ordering::SeqCst), 7);
}
