//! Concurrent requests for one item, with strategies in which calls are not watched: exactly the requests made are counted.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use llm_batch::{
    Delivery, ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, StopMode,
    StrategyExt,
};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use tokio::time::sleep;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, ServiceExt, service_fn};

use crate::agents::stacks;
use crate::support::{MS, Provider, Strategy, numbers};

/// The number of stacks of [`stacks`].
fn variants() -> usize {
    stacks(Provider::new(MS)).len()
}

/// The steps of one of an item's requests.
#[derive(Clone, Debug)]
struct Plan {
    /// It waits this long before.
    delay: u64,
    /// It gives up after this long.
    patience: u64,
    /// It creates a new request instead of cloning the item's.
    fresh: bool,
}

fn plans() -> impl proptest::strategy::Strategy<Value = Vec<Plan>> {
    let plan = (0_u64..4, 1_u64..60, any::<bool>()).prop_map(|(delay, patience, fresh)| Plan {
        delay: delay * 37,
        patience: patience * 10 + 5,
        fresh,
    });
    proptest::collection::vec(plan, 1..5).prop_map(|mut plans| {
        // A request that has not reached a layer yet may be in a call.
        plans[0].delay = 0;
        plans
    })
}

/// Sends all of its requests concurrently, and ends with the first answer, or with all of them.
fn agent(stack: Strategy, plans: Vec<Plan>, first: bool) -> Strategy {
    service_fn(move |request: LlmRequest<u64>| {
        let asked: FuturesUnordered<_> = plans
            .iter()
            .map(|plan| {
                let request = match plan.fresh {
                    true => LlmRequest::for_item(*request.input(), request.item().clone()),
                    false => request.clone(),
                };
                let (stack, plan) = (stack.clone(), plan.clone());
                async move {
                    if plan.delay > 0 {
                        sleep(Duration::from_millis(plan.delay)).await;
                    }
                    let patience = Duration::from_millis(plan.patience);
                    match tokio::time::timeout(patience, stack.oneshot(request)).await {
                        Ok(answer) => answer,
                        Err(_) => Err(LlmError::new(ErrorKind::Timeout, "given up")),
                    }
                }
            })
            .collect();
        async move {
            let answers = asked.filter(|answer| futures::future::ready(answer.is_ok()));
            let answers: Vec<_> = answers.take(if first { 1 } else { usize::MAX }).collect().await;
            match answers.len() {
                0 => Err(LlmError::new(ErrorKind::Other, "no answer")),
                count => Ok::<_, LlmError>(LlmResponse::new(count as u64)),
            }
        }
    })
    .boxed_strategy()
}

fn fails(call: u32) -> Option<LlmError> {
    match call % 5 {
        2 => Some(LlmError::new(ErrorKind::ServerError, "overloaded")),
        4 => Some(LlmError::new(ErrorKind::Timeout, "late").with_delivery(Delivery::MaybeBilled)),
        _ => None,
    }
}

#[derive(Clone, Debug)]
struct Scenario {
    stack: usize,
    plans: Vec<Plan>,
    first: bool,
    fails: bool,
    permits: usize,
    stop: Option<(u64, StopMode)>,
    item_timeout: Option<u64>,
}

fn scenarios() -> impl proptest::strategy::Strategy<Value = Scenario> {
    let stop = (
        0_u64..40,
        prop::sample::select(&[StopMode::Drain, StopMode::Cancel][..]),
    );
    (
        0..variants(),
        plans(),
        any::<bool>(),
        any::<bool>(),
        1_usize..4,
        proptest::option::of(stop.prop_map(|(at, mode)| (at * 11 + 3, mode))),
        proptest::option::weighted(0.3, 1_u64..40),
    )
        .prop_map(
            |(stack, plans, first, fails, permits, stop, item_timeout)| Scenario {
                stack,
                plans,
                first,
                fails,
                permits,
                stop,
                item_timeout: item_timeout.map(|at| at * 13 + 1),
            },
        )
}

async fn run(scenario: Scenario) {
    let mut provider = Provider::new(100 * MS);
    if scenario.fails {
        provider = provider.failing(fails);
    }
    let permits = GlobalConcurrencyLimitLayer::new(scenario.permits);
    let limited = permits.layer(provider.clone());
    let (name, stack) = stacks(limited).swap_remove(scenario.stack);
    let mut strategy = agent(stack, scenario.plans.clone(), scenario.first);
    if let Some(limit) = scenario.item_timeout {
        let limit = ItemTimeoutLayer::new(Duration::from_millis(limit));
        strategy = limit.layer(strategy).boxed_strategy();
    }
    let mode = scenario.stop.map_or(StopMode::Drain, |(_, mode)| mode);
    let mut results = numbers(3).with_strategy(strategy).llm_batch(2).stop_mode(mode);
    let handle = results.handle();
    let stopped = scenario.stop.map(|(at, _)| {
        let provider = provider.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(at)).await;
            handle.stop();
            provider.calls()
        })
    });
    let mut counted = 0;
    while let Some(outcome) = results.next().await {
        counted += outcome.report.calls;
    }
    assert_eq!(counted, provider.calls(), "{name}: {scenario:?}");
    assert_eq!(results.summary().calls, u64::from(counted));
    if let Some(stopped) = stopped
        && stopped.is_finished()
    {
        let before = stopped.await.expect("it does not panic");
        assert_eq!(
            before,
            provider.calls(),
            "{name}: sent after the stop: {scenario:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_call_of_an_agent_is_counted_once(scenario in scenarios()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(run(scenario));
    }
}
