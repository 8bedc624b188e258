//! Failures, and their traces in the accounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream;
use futures::{FutureExt, StreamExt, poll};
use llm_batch::{
    BatchError, BoxError, ErrorKind, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Termination,
    TokenUsage, WorkItem,
};
use tokio::time::sleep;
use tower::{ServiceExt, service_fn};

use crate::support::{Sleeper, all, settle};

#[tokio::test(start_paused = true)]
async fn dropping_the_stream_aborts_every_call() {
    let strategy = Sleeper::millis(1_000);
    let counts = strategy.counts();
    let mut results = stream::repeat("hi").with_strategy(strategy).llm_batch(8);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_millis(1)).await;
    drop(results);
    settle().await;
    assert_eq!((counts.started(), counts.dropped(), counts.ended()), (8, 8, 0));
    let summary = handle.statistics();
    assert_eq!(summary.termination, Some(Termination::Dropped));
    assert_eq!((summary.accepted, summary.failed, summary.in_flight), (8, 8, 0));
    // The provider may bill them, so they are not free.
    assert_eq!((summary.calls, summary.unknown_usage_calls), (8, 8));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_the_items_own_error() {
    let strategy = service_fn(async |request: LlmRequest| {
        sleep(Duration::from_millis(1)).await;
        assert_ne!(request.index(), 2, "no twos");
        Ok::<_, LlmError>(LlmResponse::new(String::new()))
    });
    let outcomes = all(stream::iter(["a", "b", "c", "d"])
        .with_strategy(strategy)
        .llm_batch(2))
    .await;
    assert_eq!(outcomes.len(), 4);
    for outcome in outcomes {
        match outcome.index {
            2 => {
                let error = outcome.result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Panicked);
                assert!(error.message().contains("no twos"), "{error}");
                assert_eq!((outcome.report.calls, outcome.report.unknown_usage_calls), (1, 1));
            }
            _ => assert!(outcome.is_ok()),
        }
    }
}

/// Panics before the call, and in the destructor of its future.
#[tokio::test(start_paused = true)]
async fn panics_anywhere_in_the_strategy_stay_inside_the_item() {
    struct PanicsInDrop;
    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("in drop");
            }
        }
    }
    let in_call = tower::service_fn(
        |_: LlmRequest| -> std::future::Ready<Result<LlmResponse, LlmError>> { panic!("in call") },
    );
    let outcomes = all(stream::iter(["a", "b"]).with_strategy(in_call).llm_batch(2)).await;
    assert!(
        outcomes
            .iter()
            .all(|o| o.result.as_ref().unwrap_err().kind() == ErrorKind::Panicked)
    );

    let in_drop = tower::service_fn(|_: LlmRequest| {
        let guard = PanicsInDrop;
        std::future::poll_fn(move |_| {
            let _ = &guard;
            std::task::Poll::Ready(Ok::<_, LlmError>(LlmResponse::new("paid for".to_owned())))
        })
    });
    let outcomes = all(stream::iter(["a"]).with_strategy(in_drop).llm_batch(1)).await;
    assert_eq!(outcomes[0].result.as_ref().unwrap().output, "paid for");
}

#[tokio::test(start_paused = true)]
async fn what_was_billed_before_a_panic_is_in_the_report() {
    let strategy = service_fn(async |request: LlmRequest| {
        let mut first = request.clone();
        let call = first.begin_call().unwrap();
        call.observe(Some(TokenUsage::new(10, 5)));
        drop(call);
        let mut second = request.clone();
        let _open = second.begin_call().unwrap();
        sleep(Duration::from_millis(1)).await;
        panic!("in the second call");
        #[allow(unreachable_code)]
        Ok::<LlmResponse, LlmError>(LlmResponse::new(String::new()))
    });
    let outcomes = all(stream::iter(["a"]).with_strategy(strategy).llm_batch(1)).await;
    let report = outcomes[0].report;
    assert_eq!((report.calls, report.unknown_usage_calls), (2, 1));
    assert_eq!(report.usage, TokenUsage::new(10, 5));
    assert_eq!(report.call_time, Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_observed_is_unknown_and_one_that_was_not_sent_is_none() {
    let strategy = service_fn(async |mut request: LlmRequest| match request.index() {
        0 => Ok(LlmResponse::new(String::new())),
        1 => Err(LlmError::new(ErrorKind::Configuration, "no key")),
        2 => Err(LlmError::new(ErrorKind::ServerError, "oops")),
        _ => {
            drop(request.context_mut().hold());
            Ok(LlmResponse::new(String::new()))
        }
    });
    let outcomes = all(stream::iter(["a", "b", "c", "d"])
        .with_strategy(strategy)
        .llm_batch(1))
    .await;
    let unknown: Vec<_> = outcomes
        .iter()
        .map(|outcome| (outcome.report.calls, outcome.report.unknown_usage_calls))
        .collect();
    assert_eq!(unknown, [(1, 1), (0, 0), (1, 1), (0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_source_is_an_outcome_without_a_call() {
    let strategy = Sleeper::millis(1);
    let counts = strategy.counts();
    let source = stream::iter([
        Ok(("first", "hello", 7)),
        Err(std::io::Error::other("disk on fire")),
        Ok(("third", "hello", 9)),
    ]);
    let outcomes = all(source.with_strategy(strategy).llm_batch(2).in_order()).await;
    assert_eq!(outcomes.len(), 3);
    assert_eq!(counts.started(), 2);
    assert_eq!(outcomes[0].context, 7);
    let failed = &outcomes[1];
    assert_eq!((failed.context, failed.id.clone()), (0, 1_u64.into()));
    let error = failed.result.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.message().contains("disk on fire"), "{error}");
    assert_eq!(failed.report.calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_work_item_keeps_its_id_and_context() {
    let items = [
        WorkItem::failed("line 3 is no JSON")
            .with_id("line 3")
            .with_context('x'),
        WorkItem::prompt("fine").with_id("line 4").with_context('y'),
    ];
    let outcomes = all(stream::iter(items).with_strategy(Sleeper::millis(1)).llm_batch(1)).await;
    assert_eq!(
        (outcomes[0].id.clone(), outcomes[0].context),
        ("line 3".into(), 'x')
    );
    assert!(!outcomes[0].is_ok());
    assert!(outcomes[1].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_source_of_errors_alone_ends() {
    let source = stream::iter((0..10_000).map(|_| Err::<String, _>(std::io::Error::other("no"))));
    let mut results = source.with_strategy(Sleeper::millis(1)).llm_batch(10);
    let mut failed = 0;
    while let Some(outcome) = results.next().await {
        failed += usize::from(!outcome.is_ok());
    }
    assert_eq!(failed, 10_000);
    assert_eq!(results.summary().failures[0].kind, ErrorKind::Source);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_source_goes_on_after_the_rest_was_aborted() {
    let strategy = Sleeper::millis(1_000);
    let counts = strategy.counts();
    let source = stream::iter(0..).map(|i| {
        assert_ne!(i, 3, "the source panics");
        i.to_string()
    });
    let mut results = source.with_strategy(strategy).llm_batch(5);
    let handle = results.handle();
    let panic = std::panic::AssertUnwindSafe(results.next()).catch_unwind().await;
    assert!(panic.is_err());
    settle().await;
    assert_eq!(counts.started(), counts.dropped());
    assert_eq!(handle.termination(), Some(Termination::SourcePanicked));
    // The accepted items still have their outcomes.
    let rest = all(results).await;
    assert_eq!(rest.len(), 3);
    assert!(
        rest.iter()
            .all(|o| o.result.as_ref().unwrap_err().kind() == ErrorKind::Aborted)
    );
}

#[tokio::test(start_paused = true)]
async fn any_error_type_that_takes_a_batch_error_will_do() {
    #[derive(Debug, thiserror::Error)]
    enum Mine {
        #[error("odd")]
        Odd,
        #[error(transparent)]
        Batch(#[from] BatchError),
    }
    let strategy = service_fn(async |request: LlmRequest| match request.index() {
        0 => Ok(1_u8),
        1 => Err(Mine::Odd),
        _ => panic!("boom"),
    });
    let mut results = stream::iter(["a", "b", "c"]).with_strategy(strategy).llm_batch(1);
    assert_eq!(results.next().await.unwrap().result.unwrap(), 1);
    assert!(matches!(results.next().await.unwrap().result, Err(Mine::Odd)));
    assert!(matches!(
        results.next().await.unwrap().result,
        Err(Mine::Batch(BatchError::Panicked { .. }))
    ));
    // The driver's own failures keep their kind after conversion to any type.
    let kinds: Vec<_> = results
        .summary()
        .failures
        .iter()
        .map(|group| group.kind)
        .collect();
    assert_eq!(kinds, [ErrorKind::Panicked, ErrorKind::Other]);

    let foreign = service_fn(async |_: LlmRequest| Err::<u8, _>(std::io::Error::other("broken")))
        .map_err(BoxError::from);
    let outcome = stream::iter(["a"])
        .with_strategy(foreign)
        .llm_batch(1)
        .next()
        .await
        .unwrap();
    assert_eq!(outcome.result.unwrap_err().to_string(), "broken");
}

/// Readiness belongs to an instance: the instance that became ready is called.
#[tokio::test(start_paused = true)]
async fn the_instance_that_became_ready_is_called() {
    let permits = tower::limit::GlobalConcurrencyLimitLayer::new(2);
    let strategy = tower::ServiceBuilder::new()
        .layer(permits)
        .service(Sleeper::millis(10));
    let outcomes = all(stream::iter(vec!["hi"; 20]).with_strategy(strategy).llm_batch(6)).await;
    assert_eq!(outcomes.len(), 20);
    assert!(outcomes.iter().all(llm_batch::Outcome::is_ok));
}

#[test]
fn the_end_of_the_runtime_is_the_end_of_the_items() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&dropped);
    let strategy = service_fn(move |_: LlmRequest| {
        let dropped = Arc::clone(&shared);
        async move {
            struct OnDrop(Arc<AtomicUsize>);
            impl Drop for OnDrop {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::SeqCst);
                }
            }
            let _guard = OnDrop(dropped);
            std::future::pending::<()>().await;
            Ok::<_, LlmError>(LlmResponse::new(String::new()))
        }
    });
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let mut results = stream::iter(["a", "b"]).with_strategy(strategy).llm_batch(2);
    let first = runtime();
    first.block_on(async {
        assert!(poll!(results.next()).is_pending());
        settle().await;
    });
    drop(first);
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    let outcomes = runtime().block_on(all(results));
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        let error = outcome.result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Aborted);
        assert!(error.message().contains("runtime"), "{error}");
    }
}
