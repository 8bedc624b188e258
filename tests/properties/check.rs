//! The checked properties.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use llm_batch::testing::Hint;
use llm_batch::{ErrorKind, EventKind, Termination, TokenUsage};
use proptest::prelude::*;

use super::run::Seen;
use super::scenario::Scenario;

type Checked = Result<(), TestCaseError>;

pub(crate) fn every_item_has_one_outcome(scenario: &Scenario, seen: &Seen) -> Checked {
    let indices: HashSet<u64> = seen.outcomes.iter().map(|outcome| outcome.index).collect();
    prop_assert_eq!(indices.len(), seen.outcomes.len(), "an item has two outcomes");
    prop_assert!(
        indices.iter().all(|index| *index < seen.pulled),
        "an outcome of an item never accepted"
    );
    let left = scenario
        .consumer
        .leaves_after
        .is_some_and(|limit| seen.outcomes.len() >= limit);
    if !left {
        prop_assert_eq!(
            seen.outcomes.len() as u64,
            seen.pulled,
            "accepted items without an outcome"
        );
    }
    if seen.termination == Some(Termination::Completed) {
        prop_assert_eq!(seen.pulled, scenario.items);
    }
    if scenario.consumer.in_order.is_some() {
        prop_assert!(
            seen.outcomes.is_sorted_by_key(|outcome| outcome.index),
            "not in order"
        );
    }
    for outcome in &seen.outcomes {
        if let Ok(response) = &outcome.result {
            let expected = &seen.expected_answers[outcome.index as usize];
            prop_assert_eq!(expected, &response.output, "an item has another's answer");
        }
    }
    // Each has its one terminal event too.
    let mut ends = BTreeMap::<u64, u32>::new();
    for event in &seen.events {
        if matches!(
            event.kind,
            EventKind::ItemCompleted { .. } | EventKind::ItemFailed { .. }
        ) {
            *ends.entry(event.index.unwrap()).or_default() += 1;
        }
    }
    prop_assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    prop_assert!(
        seen.outcomes
            .iter()
            .all(|outcome| ends.contains_key(&outcome.index))
    );
    Ok(())
}

pub(crate) fn slots_are_respected(scenario: &Scenario, seen: &Seen) -> Checked {
    prop_assert_eq!(
        seen.overdrawn,
        0,
        "more in flight and untaken than there are slots"
    );
    prop_assert!(seen.provider.most_in_flight <= seen.most_slots as u64);
    if let Some(calls) = scenario.client.max_in_flight {
        prop_assert!(
            seen.provider.most_in_flight <= calls as u64,
            "above max_in_flight"
        );
    }
    Ok(())
}

pub(crate) fn quota_is_conserved(seen: &Seen) -> Checked {
    let gate = &seen.gate;
    prop_assert_eq!(gate.granted, gate.settled + gate.returned, "{:?}", gate);
    prop_assert_eq!((gate.in_flight, gate.waiting), (0, 0));
    prop_assert_eq!(gate.settled, seen.provider.received);
    let count =
        |is: fn(&EventKind) -> bool| seen.events.iter().filter(|event| is(&event.kind)).count() as u64;
    prop_assert_eq!(
        count(|kind| matches!(kind, EventKind::QuotaSettled { .. })),
        gate.settled
    );
    prop_assert_eq!(
        count(|kind| matches!(kind, EventKind::CallStarted { .. })),
        gate.settled
    );
    Ok(())
}

pub(crate) fn accounts_agree(scenario: &Scenario, seen: &Seen) -> Checked {
    let (client, provider) = (&seen.client, &seen.provider);
    prop_assert!(
        provider.is_balanced() && provider.in_flight == 0,
        "{:?}",
        provider
    );
    // After a gateway error it is unknown, too.
    let unknown =
        provider.cut + provider.garbled + provider.reset_unread + provider.rejected.get(&502).unwrap_or(&0);
    prop_assert_eq!(client.calls, provider.received);
    prop_assert_eq!(client.usage, provider.billed_answered);
    prop_assert_eq!(client.unknown_usage_calls, unknown, "{:?}", provider);
    // Outcomes that were not taken are dropped with the stream; the others agree with the events.
    if seen.outcomes.len() as u64 == seen.pulled {
        let reports = || seen.outcomes.iter().map(|outcome| &outcome.report);
        let sum = |count: fn(&llm_batch::ItemReport) -> u32| {
            reports().map(|report| u64::from(count(report))).sum::<u64>()
        };
        prop_assert_eq!(
            reports().map(|report| report.usage).sum::<TokenUsage>(),
            provider.billed_answered
        );
        prop_assert_eq!(sum(|report| report.calls), provider.received);
        prop_assert_eq!(sum(|report| report.unknown_usage_calls), unknown);
    }
    for outcome in &seen.outcomes {
        let report = &outcome.report;
        prop_assert!(report.attempts <= scenario.client.attempts);
        prop_assert!(report.throttled_calls <= scenario.client.throttles + 1);
        let spent = report.waits.total() + report.call_time;
        prop_assert!(
            spent <= report.total_time + Duration::from_millis(1),
            "{:?}",
            report
        );
    }
    Ok(())
}

pub(crate) fn nothing_starts_while_the_gate_is_closed(seen: &Seen) -> Checked {
    let (mut closed, mut latched) = (false, false);
    for event in &seen.events {
        match event.kind {
            EventKind::CooldownStarted { .. } => closed = true,
            EventKind::CooldownEnded { .. } => closed = false,
            EventKind::Latched { .. } => latched = true,
            EventKind::QuotaAdmitted { .. } | EventKind::CallStarted { .. } => {
                prop_assert!(!closed, "started while closed: {:?}", event);
                prop_assert!(!latched, "started while latched: {:?}", event);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Grants are given in order. The calls granted at one instant start in the order in which their tasks run.
pub(crate) fn first_admissions_are_in_order(seen: &Seen) -> Checked {
    let mut admitted = HashSet::new();
    let (mut now, mut last, mut before) = (Duration::ZERO, None, None);
    for event in &seen.events {
        if let (EventKind::QuotaAdmitted { .. }, Some(index)) = (&event.kind, event.index)
            && admitted.insert(index)
        {
            if event.at > now {
                (now, before) = (event.at, last);
            }
            prop_assert!(before < Some(index), "{} after {:?}", index, before);
            last = last.max(Some(index));
        }
    }
    Ok(())
}

pub(crate) fn generations_count_up(seen: &Seen) -> Checked {
    let (mut generation, mut closed) = (0, false);
    for event in &seen.events {
        match event.kind {
            EventKind::CooldownStarted { generation: new, .. } => {
                // Again while it is closed: the same pause was extended.
                prop_assert_eq!(new, if closed { generation } else { generation + 1 });
                (generation, closed) = (new, true);
            }
            EventKind::CooldownEnded { generation: ended } => {
                prop_assert!(closed && ended == generation);
                closed = false;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Only a throttle of the current generation closes the gate: one from before a pause can only
/// extend it.
pub(crate) fn only_current_throttles_open_a_pause(seen: &Seen) -> Checked {
    let (mut due, mut latched, mut generation) = (None, false, 0);
    for event in &seen.events {
        if due.is_some() {
            let closes = matches!(event.kind, EventKind::CooldownStarted { .. });
            prop_assert!(closes || latched, "not closed by a throttle: {:?}", event);
        }
        match &event.kind {
            EventKind::Throttled { current: true, .. } => due = Some(event.at),
            EventKind::CooldownStarted {
                generation: new,
                kind,
                ..
            } => {
                if *new > generation && *kind == ErrorKind::RateLimit {
                    prop_assert_eq!(due, Some(event.at), "closed by no throttle");
                }
                (due, generation) = (None, *new);
            }
            EventKind::Latched { .. } => latched = true,
            _ => due = None,
        }
    }
    let throttled = seen
        .events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Throttled { .. }));
    prop_assert_eq!(throttled.count() as u64, seen.gate.throttled);
    Ok(())
}

/// A pause after a throttle, and the events before it.
struct Pause {
    length: f64,
    /// The pause before it in the same run of throttles.
    before: Option<f64>,
    /// The only call since then was the throttled one.
    nothing_accepted: bool,
    /// The throttled call was not the first one, and calls failed only by throttles.
    first_accepted: bool,
}

/// The pauses of a run; empty if the provider gives hints, which are obeyed instead.
fn pauses(scenario: &Scenario, seen: &Seen) -> Vec<Pause> {
    let mut pauses = Vec::new();
    if scenario.provider.hint != Hint::None || scenario.provider.overload_hint {
        return pauses;
    }
    // Of the current generation: whose calls started, in order, and whether only throttles failed.
    let mut starts: Vec<u64> = Vec::new();
    let mut only_throttles = true;
    let mut throttled = None;
    let mut before = None;
    for event in &seen.events {
        match &event.kind {
            EventKind::CallStarted { .. } => starts.push(event.index.unwrap()),
            EventKind::CallFailed { kind, .. } => {
                if *kind == Some(ErrorKind::RateLimit) {
                    throttled = event.index.map(|index| (index, event.at));
                } else {
                    only_throttles = false;
                }
            }
            EventKind::CooldownStarted { kind, pause, .. } => {
                let length = (*kind == ErrorKind::RateLimit).then_some(pause.as_secs_f64());
                let closer = throttled
                    .filter(|(_, at)| *at == event.at)
                    .map(|(index, _)| index);
                let first = starts.first().copied();
                if let (Some(length), Some(_), Some(_)) = (length, closer, first) {
                    pauses.push(Pause {
                        length,
                        before,
                        nothing_accepted: starts.len() == 1 && closer == first,
                        first_accepted: closer != first && only_throttles,
                    });
                }
                before = length;
                starts.clear();
                only_throttles = true;
            }
            _ => {}
        }
    }
    pauses
}

/// The number of pauses that followed another one without an accepted call between them.
pub(crate) fn escalations(scenario: &Scenario, seen: &Seen) -> u64 {
    let pauses = pauses(scenario, seen);
    pauses
        .iter()
        .filter(|pause| pause.nothing_accepted && pause.before.is_some())
        .count() as u64
}

/// Without hints: doubled, up to 8 s, when the first call after a pause was rejected; at most 1 s when it was not.
/// Either with up to 2 % of jitter.
pub(crate) fn pauses_escalate_only_while_nothing_is_accepted(scenario: &Scenario, seen: &Seen) -> Checked {
    let (longest, jitter) = (8.0, 1.021);
    for pause in pauses(scenario, seen) {
        let length = pause.length;
        if let (true, Some(before)) = (pause.nothing_accepted, pause.before) {
            prop_assert!(
                length >= (2.0 * before / jitter).min(longest),
                "{} after {}",
                length,
                before
            );
            prop_assert!(
                length <= (2.0 * before * jitter).min(longest * jitter),
                "{} after {}",
                length,
                before
            );
        }
        if pause.first_accepted {
            prop_assert!(length <= jitter, "{} though calls were accepted", length);
        }
    }
    Ok(())
}
