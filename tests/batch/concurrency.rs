//! The number of running items, and the time of their start.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, FusedStream, Stream};
use futures::{StreamExt, poll};
use llm_batch::{ItemId, LlmError, LlmRequest, LlmResponse, LlmStreamExt, StopMode, Termination, WorkItem};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tower::service_fn;

use crate::support::{Sleeper, all, indices, settle};

fn prompts(count: usize) -> impl Stream<Item = String> + Unpin {
    stream::iter((0..count).map(|i| i.to_string()))
}

#[tokio::test(start_paused = true)]
async fn every_item_has_one_outcome_as_it_finishes() {
    let strategy = Sleeper::new(|index| Duration::from_millis(100 - index * 10));
    let outcomes = all(prompts(5).with_strategy(strategy).llm_batch(5)).await;
    assert_eq!(indices(&outcomes), [4, 3, 2, 1, 0]);
    for outcome in outcomes {
        assert_eq!(outcome.id, ItemId::from(outcome.index));
        assert_eq!(outcome.result.unwrap().output, outcome.index.to_string());
        assert_eq!(
            outcome.report.total_time,
            Duration::from_millis(100 - outcome.index * 10)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_n_items_run() {
    let strategy = Sleeper::new(|index| Duration::from_millis(10 + index * 7 % 50));
    let counts = strategy.counts();
    let started = Instant::now();
    let outcomes = all(prompts(200).with_strategy(strategy).llm_batch(7)).await;
    assert_eq!(outcomes.len(), 200);
    assert_eq!(counts.peak(), 7);
    assert!(started.elapsed() < Duration::from_millis(200 * 60 / 7));
}

#[tokio::test(start_paused = true)]
async fn a_parked_consumer_leaves_exactly_n_started_calls() {
    let strategy = Sleeper::millis(5);
    let counts = strategy.counts();
    let mut results = prompts(100).with_strategy(strategy).llm_batch(4);
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((counts.started(), counts.ended()), (4, 4));

    // Taking one makes room for one, which starts when the next outcome is requested.
    assert!(results.next().await.is_some());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(counts.started(), 4);
    assert!(results.next().await.is_some());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(counts.started(), 5);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reserved_while_the_source_is_idle() {
    let permits = Arc::new(Semaphore::new(1));
    let (sender, receiver) = mpsc::unbounded_channel::<String>();
    let source = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    });
    let shared = Arc::clone(&permits);
    let strategy = service_fn(move |_: LlmRequest| {
        let permits = Arc::clone(&shared);
        async move {
            let _permit = permits.acquire().await;
            Ok::<_, LlmError>(LlmResponse::new(String::new()))
        }
    });
    let mut results = Box::pin(source).with_strategy(strategy).llm_batch(3);
    assert!(timeout(Duration::from_secs(60), results.next()).await.is_err());
    assert_eq!(permits.available_permits(), 1);
    sender.send("late".into()).unwrap();
    assert!(results.next().await.unwrap().is_ok());
    drop(sender);
    assert!(results.next().await.is_none());
}

/// With 10 to 70 ms calls under a limit of 100 ms and a loop body of 150 ms, driving calls in the consumer's task
/// makes most of them time out only because they were not polled.
#[tokio::test(start_paused = true)]
async fn a_slow_consumer_makes_no_call_time_out() {
    let strategy = service_fn(async |request: LlmRequest| {
        let latency = Duration::from_millis(10 + request.index() % 7 * 10);
        match timeout(Duration::from_millis(100), sleep(latency)).await {
            Ok(()) => Ok(LlmResponse::new(String::new())),
            Err(_) => Err(LlmError::transient("timed out")),
        }
    });
    let mut results = prompts(50).with_strategy(strategy).llm_batch(10);
    let mut false_timeouts = 0;
    while let Some(outcome) = results.next().await {
        false_timeouts += usize::from(!outcome.is_ok());
        sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(false_timeouts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_needs_a_permit_held_by_a_call_gets_it() {
    let permits = Arc::new(Semaphore::new(2));
    let shared = Arc::clone(&permits);
    let strategy = service_fn(move |_: LlmRequest| {
        let permits = Arc::clone(&shared);
        async move {
            let _permit = permits.acquire_owned().await;
            sleep(Duration::from_millis(10)).await;
            Ok::<_, LlmError>(LlmResponse::new(String::new()))
        }
    });
    let mut results = prompts(20).with_strategy(strategy).llm_batch(5);
    let run = async {
        while results.next().await.is_some() {
            let _permit = permits.acquire().await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(60), run).await.is_ok(), "deadlock");
}

#[tokio::test(start_paused = true)]
async fn ready_items_do_not_hold_the_executor_in_one_poll() {
    let strategy = Sleeper::millis(1);
    let counts = strategy.counts();
    let mut results = prompts(100_000).with_strategy(strategy).llm_batch(100_000);
    assert!(poll!(results.next()).is_pending());
    settle().await;
    assert!(counts.started() <= 128, "{} starts in one poll", counts.started());
    let mut outcomes = 0;
    while results.next().await.is_some() {
        outcomes += 1;
    }
    assert_eq!(outcomes, 100_000);
}

/// On several threads: items that end immediately, that yield, that panic, with stops from another thread in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_on_several_threads_loses_and_doubles_nothing() {
    for round in 0..20 {
        let strategy = service_fn(async |request: LlmRequest| {
            for _ in 0..request.index() % 4 {
                tokio::task::yield_now().await;
            }
            assert_ne!(request.index() % 97, 96, "as planned");
            Ok::<_, LlmError>(LlmResponse::new(String::new()))
        });
        let mut results = prompts(2_000)
            .with_strategy(strategy)
            .llm_batch(1 + round * 7)
            .stop_mode(if round % 2 == 0 {
                StopMode::Drain
            } else {
                StopMode::Cancel
            });
        let handle = results.handle();
        if round % 3 == 0 {
            let handle = handle.clone();
            tokio::spawn(async move {
                for n in 1..200 {
                    handle.set_concurrency(n);
                    tokio::task::yield_now().await;
                }
                handle.stop();
            });
        }
        let mut seen = vec![false; 2_000];
        while let Some(outcome) = results.next().await {
            assert!(!std::mem::replace(&mut seen[outcome.index as usize], true));
        }
        let summary = handle.statistics();
        let outcomes = seen.iter().filter(|seen| **seen).count() as u64;
        assert_eq!((summary.accepted, summary.in_flight), (outcomes, 0));
        if summary.termination == Some(Termination::Completed) {
            assert_eq!(outcomes, 2_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn concurrency_goes_up_and_down_while_running() {
    let strategy = Sleeper::millis(10);
    let counts = strategy.counts();
    let mut results = prompts(1_000).with_strategy(strategy).llm_batch(2);
    let handle = results.handle();
    assert!(results.next().await.is_some());
    assert_eq!(counts.peak(), 2);

    handle.set_concurrency(8);
    for _ in 0..100 {
        assert!(results.next().await.is_some());
    }
    assert_eq!((counts.peak(), handle.concurrency()), (8, 8));

    handle.set_concurrency(3);
    for _ in 0..20 {
        assert!(results.next().await.is_some());
    }
    for _ in 0..100 {
        let running = counts.started() - counts.ended();
        assert!(running <= 3, "{running} run");
        assert!(results.next().await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_higher_concurrency_takes_effect_while_the_consumer_waits() {
    let strategy = Sleeper::millis(1_000);
    let counts = strategy.counts();
    let mut results = prompts(10).with_strategy(strategy).llm_batch(1);
    let handle = results.handle();
    let consumer = tokio::spawn(async move { results.next().await.is_some() });
    settle().await;
    assert_eq!(counts.started(), 1);
    handle.set_concurrency(4);
    settle().await;
    assert_eq!(counts.started(), 4);
    assert!(consumer.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_pause_starts_nothing_and_ends_nothing() {
    let strategy = Sleeper::millis(10);
    let counts = strategy.counts();
    let mut results = prompts(10).with_strategy(strategy).llm_batch(3);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    handle.pause();
    assert!(handle.is_paused());
    for _ in 0..3 {
        assert!(results.next().await.unwrap().is_ok());
    }
    assert!(timeout(Duration::from_secs(60), results.next()).await.is_err());
    assert_eq!(counts.started(), 3);
    let rest = tokio::spawn(async move { all(results).await.len() });
    settle().await;
    handle.resume();
    assert_eq!(rest.await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn input_order_without_a_buffer_bounds_what_runs_ahead() {
    // The head is slow, so the others finish and wait for it.
    let strategy = Sleeper::new(|index| Duration::from_millis(if index == 0 { 1_000 } else { 1 }));
    let counts = strategy.counts();
    let mut results = prompts(50).with_strategy(strategy).llm_batch(4).in_order();
    assert!(timeout(Duration::from_millis(500), results.next()).await.is_err());
    assert_eq!(counts.started(), 4);
    assert_eq!(indices(&all(results).await), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_reorder_buffer_keeps_the_slots_busy() {
    let strategy = Sleeper::new(|index| Duration::from_millis(if index == 0 { 1_000 } else { 1 }));
    let counts = strategy.counts();
    let mut results = prompts(50)
        .with_strategy(strategy)
        .llm_batch(4)
        .in_order()
        .reorder_buffer(20);
    assert!(timeout(Duration::from_millis(500), results.next()).await.is_err());
    assert_eq!(counts.started(), 24);
    assert_eq!(indices(&all(results).await), (0..50).collect::<Vec<_>>());
    assert_eq!(counts.peak(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_stream_knows_its_size_and_its_end() {
    let mut results = prompts(5).with_strategy(Sleeper::millis(1)).llm_batch(2);
    assert_eq!(results.size_hint(), (0, Some(5)));
    assert!(!results.is_terminated());
    assert!(results.next().await.is_some());
    assert_eq!(results.size_hint().1, Some(4));
    while results.next().await.is_some() {}
    assert!(results.is_terminated());
    assert_eq!(results.size_hint(), (0, Some(0)));
    assert!(results.next().await.is_none());
    assert_eq!(results.handle().termination(), Some(Termination::Completed));
}

#[test]
#[should_panic(expected = "a concurrency of 0 would start nothing")]
fn a_concurrency_of_zero_is_refused() {
    let _ = prompts(1).with_strategy(Sleeper::millis(1)).llm_batch(0);
}

#[tokio::test(start_paused = true)]
async fn the_local_form_runs_borrowed_work() {
    let words = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    let lengths = std::cell::RefCell::new(Vec::new());
    let strategy = service_fn(|request: LlmRequest<usize>| {
        let (words, lengths) = (&words, &lengths);
        async move {
            sleep(Duration::from_millis(10)).await;
            let word = &words[*request.input()];
            lengths.borrow_mut().push(word.len());
            Ok::<_, LlmError>(word)
        }
    });
    let items = stream::iter(0..words.len()).map(WorkItem::new);
    let outcomes: Vec<_> = items.with_strategy(strategy).llm_batch_local(2).collect().await;
    assert_eq!(outcomes.len(), 3);
    drop(outcomes);
    assert_eq!(*lengths.borrow(), [1, 1, 1]);
}
