//! Properties of the whole stack over the simulated provider, in random scenarios and virtual time.
#![allow(clippy::unwrap_used)]

mod check;
mod makespan;
mod run;
mod scenario;

use std::collections::BTreeMap;

use llm_batch::{EventKind, Termination};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use self::run::run;
use self::scenario::{Scenario, scenario};

fn holds(scenario: &Scenario) -> Result<(), TestCaseError> {
    let seen = run(scenario);
    check::every_item_has_one_outcome(scenario, &seen)?;
    check::slots_are_respected(scenario, &seen)?;
    check::quota_is_conserved(&seen)?;
    check::accounts_agree(scenario, &seen)?;
    check::nothing_starts_while_the_gate_is_closed(&seen)?;
    check::first_admissions_are_in_order(&seen)?;
    check::generations_count_up(&seen)?;
    check::only_current_throttles_open_a_pause(&seen)?;
    check::pauses_escalate_only_while_nothing_is_accepted(scenario, &seen)
}

/// The scenarios cover the situations that the properties describe.
#[test]
fn the_scenarios_are_not_idle() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, u64>::new();
    for _ in 0..200 {
        let scenario = scenario().new_tree(&mut runner).unwrap().current();
        let run = run(&scenario);
        let mut count = |what, times: u64| *seen.entry(what).or_default() += u64::from(times > 0);
        let is =
            |is: fn(&EventKind) -> bool| run.events.iter().filter(|event| is(&event.kind)).count() as u64;
        count(
            "completed",
            u64::from(run.termination == Some(Termination::Completed)),
        );
        count(
            "stopped",
            u64::from(run.termination == Some(Termination::Stopped)),
        );
        count(
            "dropped",
            u64::from(run.termination == Some(Termination::Dropped)),
        );
        count("returned grants", run.gate.returned);
        count("several pauses", run.gate.generation.saturating_sub(3));
        count("latched", is(|kind| matches!(kind, EventKind::Latched { .. })));
        count(
            "stale throttles",
            is(|kind| matches!(kind, EventKind::Throttled { current: false, .. })),
        );
        count("escalations", check::escalations(&scenario, &run));
        count("cut", run.provider.cut_before_head + run.provider.cut_in_body);
        count("cancelled", run.provider.disconnected);
        count(
            "overloaded",
            run.provider.rejected.get(&503).copied().unwrap_or(0),
        );
        count("answered", run.provider.answered);
    }
    assert_eq!(seen.len(), 12);
    assert!(seen.values().all(|scenarios| *scenarios >= 5), "{seen:?}");
}

/// Seven calls end at the same instant, and seven waiting calls take their permits, the last of them a new one.
#[test]
fn places_that_become_free_at_once_are_taken_in_order() {
    use self::scenario::{Client, Consumer, Faults, Provider};
    use llm_batch::testing::Hint;

    holds(&Scenario {
        seed: 4_404_054_053_668_926_655,
        items: 23,
        concurrency: 20,
        provider: Provider {
            requests_per_second: None,
            fixed_window: false,
            tokens_per_second: None,
            concurrency: None,
            count_rejected: false,
            hint: Hint::None,
            overload_hint: false,
            latency: (340, 17),
            rejection_latency: 0,
            faults: Faults {
                reset_unread: 0.0,
                reset: 0.0,
                garbled: 0.0,
                refusal: 0.0,
                overloaded: 0.0,
                broken: 0.0,
                gateway: 0.0,
                stall: 0.0,
            },
            outage: None,
            balance_lasts_for: None,
        },
        client: Client {
            attempts: 1,
            throttles: 0,
            call_timeout: Some(183),
            item_timeout: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_in_flight: Some(7),
            ramp: false,
        },
        consumer: Consumer {
            pause: 250,
            in_order: None,
            leaves_after: None,
            cancel_on_stop: false,
        },
        acts: Vec::new(),
    })
    .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stack_holds_its_promises(scenario in scenario()) {
        holds(&scenario)?;
    }
}
