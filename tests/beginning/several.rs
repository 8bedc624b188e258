//! One call through several layers, and independent calls of one item.

use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, join};
use llm_batch::{
    Delivery, ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiterLayer,
    RetryLayer, RetryPolicy, StopMode, StrategyExt, TokenAccountingLayer, TokenLedger,
};
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};

use crate::agents::{gate, stacks};
use crate::support::{Answer, MS, Provider, Strategy, numbers};

const LONG: Duration = Duration::from_secs(3_600);

fn not_sent() -> LlmError {
    LlmError::new(ErrorKind::Connection, "refused").with_delivery(Delivery::NotSent)
}

fn timed(provider: Provider) -> Strategy {
    ItemTimeoutLayer::new(LONG).layer(provider).boxed_strategy()
}

fn accounted(provider: Provider) -> Strategy {
    TokenAccountingLayer::new(TokenLedger::new())
        .layer(provider)
        .boxed_strategy()
}

/// Runs one item, with a drain at time `at`. Returns the calls of its report, and whether it was answered.
async fn calls_of_one(strategy: Strategy, drain: Option<Duration>) -> (u32, bool) {
    let mut results = numbers(1)
        .with_strategy(strategy)
        .llm_batch(1)
        .stop_mode(StopMode::Drain);
    let handle = results.handle();
    if let Some(at) = drain {
        tokio::spawn(async move {
            sleep(at).await;
            handle.stop();
        });
    }
    let outcome = timeout(10 * LONG, results.next()).await;
    let outcome = outcome.expect("it ends").expect("there is an item");
    assert_eq!(u64::from(outcome.report.calls), results.summary().calls);
    (outcome.report.calls, outcome.is_ok())
}

/// A request that several layers pass on is one call.
#[tokio::test(start_paused = true)]
async fn a_call_through_any_three_layers_is_one() {
    let count = stacks(Provider::new(MS)).len();
    for (outer, middle, inner) in
        (0..count * count * count).map(|n| (n / count / count, n / count % count, n % count))
    {
        let provider = Provider::new(10 * MS);
        let (inner, strategy) = stacks(provider.clone()).swap_remove(inner);
        let (middle, strategy) = stacks(strategy).swap_remove(middle);
        let (outer, strategy) = stacks(strategy).swap_remove(outer);
        let seen = calls_of_one(strategy, None).await;
        assert_eq!(
            (provider.calls(), seen),
            (1, (1, true)),
            "{outer}({middle}({inner}))"
        );
    }
}

/// A request that is made while a call is under way is counted as a separate call.
#[tokio::test(start_paused = true)]
async fn requests_made_beside_a_call_are_counted() {
    for (watched, spawned) in [(false, false), (false, true), (true, false), (true, true)] {
        let provider = Provider::new(100 * MS);
        let one = timed(provider.clone());
        let two = if watched {
            accounted(provider.clone())
        } else {
            one.clone()
        };
        let agent = service_fn(move |request: LlmRequest<u64>| {
            let (one, two) = (one.clone(), two.clone());
            async move {
                let item = request.item().clone();
                let first = one.oneshot(request);
                let second = async move {
                    sleep(10 * MS).await;
                    two.oneshot(LlmRequest::for_item(2, item)).await
                };
                let (first, second) = match spawned {
                    true => {
                        let both = join(tokio::spawn(first), tokio::spawn(second)).await;
                        (both.0.expect("no panic"), both.1.expect("no panic"))
                    }
                    false => join(first, second).await,
                };
                second.and(first)
            }
        });
        let seen = calls_of_one(agent.boxed_strategy(), None).await;
        assert_eq!(
            (provider.calls(), seen),
            (2, (2, true)),
            "watched: {watched}, spawned: {spawned}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn requests_made_in_spawned_tasks_are_counted() {
    let provider = Provider::new(100 * MS);
    let stack = RetryLayer::new(RetryPolicy::new(2)).layer(provider.clone());
    let agent = service_fn(move |request: LlmRequest<u64>| {
        let tasks: Vec<_> = (0..4)
            .map(|number| {
                let (stack, item) = (stack.clone(), request.item().clone());
                tokio::spawn(async move { stack.oneshot(LlmRequest::for_item(number, item)).await })
            })
            .collect();
        async move {
            for task in tasks {
                task.await.expect("no panic")?;
            }
            Ok::<_, LlmError>(LlmResponse::new(1))
        }
    });
    let seen = calls_of_one(agent.boxed_strategy(), None).await;
    assert_eq!((provider.calls(), seen), (4, (4, true)));
}

/// The item's error is not that of a call which it abandons.
#[tokio::test(start_paused = true)]
async fn a_call_left_behind_counts_whatever_the_item_fails_with() {
    let provider = Provider::new(100 * MS);
    let stack = timed(provider.clone());
    let agent = service_fn(move |request: LlmRequest<u64>| {
        let stack = stack.clone();
        async move {
            tokio::spawn(stack.oneshot(request));
            sleep(10 * MS).await;
            Err::<LlmResponse<u64>, _>(not_sent())
        }
    });
    assert_eq!(calls_of_one(agent.boxed_strategy(), None).await, (1, false));
}

/// An attempt that was sent counts, although the last one was not.
#[tokio::test(start_paused = true)]
async fn a_last_attempt_that_was_not_sent_takes_nothing_back() {
    let provider = Provider::new(100 * MS).failing(|call| match call {
        1 => Some(LlmError::new(ErrorKind::ServerError, "down").with_delivery(Delivery::Rejected)),
        _ => Some(not_sent()),
    });
    let retry = RetryLayer::new(RetryPolicy::new(2).max_throttles(0)).layer(provider.clone());
    let strategy = RateLimiterLayer::new(gate()).layer(retry).boxed_strategy();
    assert_eq!(calls_of_one(strategy, None).await, (1, false));
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_call_is_made_holds_up_no_drain() {
    let provider = service_fn(|_: LlmRequest<u64>| -> BoxFuture<'static, Answer> { panic!("in call") });
    let stack = ItemTimeoutLayer::new(LONG).layer(provider).boxed_strategy();
    let agent = service_fn(move |request: LlmRequest<u64>| {
        let stack = stack.clone();
        async move {
            let first = tokio::spawn(stack.clone().oneshot(request.clone())).await;
            assert!(first.is_err(), "it panics");
            sleep(100 * MS).await;
            stack.oneshot(request).await
        }
    });
    assert_eq!(
        calls_of_one(agent.boxed_strategy(), Some(50 * MS)).await,
        (1, false)
    );
}

/// The batch does not wait for an agent that awaits a refused call without polling its other call.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_an_agent_that_keeps_a_call_which_it_does_not_poll() {
    for index in 0..stacks(Provider::new(MS)).len() {
        let provider = Provider::new(200 * MS);
        let (name, stack) = stacks(provider.clone()).swap_remove(index);
        let agent = service_fn(move |request: LlmRequest<u64>| {
            let stack = stack.clone();
            async move {
                let mut first = Box::pin(stack.clone().oneshot(request.clone()));
                if let Ok(answer) = timeout(100 * MS, &mut first).await {
                    return answer;
                }
                match stack.oneshot(request).await {
                    Ok(answer) => Ok(answer),
                    Err(_) => first.await,
                }
            }
        });
        let (calls, answered) = calls_of_one(agent.boxed_strategy(), Some(50 * MS)).await;
        assert_eq!((provider.calls(), calls, answered), (1, 1, true), "{name}");

        let provider = Provider::new(100 * MS);
        let (name, stack) = stacks(provider.clone()).swap_remove(index);
        let agent = service_fn(move |request: LlmRequest<u64>| {
            let stack = stack.clone();
            async move {
                let asks = futures::stream::iter(0..4).map(|number| {
                    let (stack, request) = (stack.clone(), request.clone());
                    async move {
                        sleep(number * 10 * MS).await;
                        stack.oneshot(request).await
                    }
                });
                let mut answers = asks.buffer_unordered(2);
                let mut good = 0;
                while let Some(answer) = answers.next().await {
                    let again = stack.clone().oneshot(request.clone());
                    good += u64::from(answer.is_ok() && again.await.is_ok());
                }
                Ok::<_, LlmError>(LlmResponse::new(good))
            }
        });
        let (calls, _) = calls_of_one(agent.boxed_strategy(), Some(99 * MS)).await;
        assert_eq!(provider.calls(), calls, "{name}");
    }
}

/// Inside an outer call the second attempt is refused before it is sent, and does not wait for the outer one.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_second_attempt_inside_an_outer_call() {
    for index in 0..stacks(Provider::new(MS)).len() {
        let provider =
            Provider::new(100 * MS).failing(|call| (call == 1).then(|| LlmError::validation("bad")));
        let watched = accounted(provider.clone());
        let looked_up = service_fn(move |request: LlmRequest<u64>| {
            let watched = watched.clone();
            async move {
                sleep(100 * MS).await;
                watched.oneshot(request).await
            }
        });
        let retried = RetryLayer::new(RetryPolicy::new(2))
            .layer(looked_up)
            .boxed_strategy();
        let (name, strategy) = stacks(retried).swap_remove(index);
        let (_, answered) = calls_of_one(strategy, Some(250 * MS)).await;
        assert_eq!((provider.calls(), answered), (1, false), "{name}");
    }
}

/// An accounting layer around several calls that nothing else watches has them all in its ledger.
#[tokio::test(start_paused = true)]
async fn the_ledger_has_each_attempt_inside_an_accounted_call() {
    let provider = Provider::new(MS).failing(|call| {
        let error = LlmError::new(ErrorKind::ServerError, "down").with_delivery(Delivery::Rejected);
        (call < 3).then_some(error)
    });
    let ledger = TokenLedger::new();
    let retry = RetryLayer::new(RetryPolicy::new(3)).layer(provider.clone());
    let strategy = TokenAccountingLayer::new(ledger.clone())
        .layer(retry)
        .boxed_strategy();
    assert_eq!(calls_of_one(strategy, None).await, (3, true));
    let booked = ledger.snapshot();
    assert_eq!(
        (provider.calls(), booked.calls, booked.unknown_usage_calls),
        (3, 3, 2)
    );
    assert_eq!(booked.usage.total(), 2);
}
