//! The rules of the closure, without a gate around it.

#![allow(clippy::unwrap_used)]

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const THROTTLED: Verdict = Verdict::of_kind(ErrorKind::RateLimit);
const OVERLOADED: Verdict = Verdict::of_kind(ErrorKind::Overloaded);
const FATAL: Verdict = Verdict::of_kind(ErrorKind::Authentication);

/// A closure with a clock of its own.
struct Gate {
    closure: Closure,
    now: Instant,
    notices: Notices,
}

impl Gate {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            closure: Closure::new(now),
            now,
            notices: Notices::default(),
        }
    }

    /// Lets a call through and starts it; returns whether it goes ahead, too. `None` if it has to wait.
    fn start(&mut self) -> Option<(StartedCall, Option<Purpose>)> {
        self.closure.open_if_due(self.now, &mut self.notices);
        if self.closure.hold().is_some() || self.closure.refusal().is_some() {
            return None;
        }
        let lead = self.closure.admit(self.now);
        let call = StartedCall {
            at: self.now,
            due: self.now,
            generation: self.closure.generation(),
            ordinal: self.closure.start(lead, self.now),
            in_flight: 1,
            estimate: 0,
        };
        Some((call, lead))
    }

    /// Ends a call; if that closes the gate, for a second. Returns what the pause follows from.
    fn end(
        &mut self,
        (call, lead): (StartedCall, Option<Purpose>),
        verdict: Verdict,
    ) -> Option<PauseRequest> {
        let closing = self.closure.closing(&call, lead, &verdict, false);
        if call.generation == self.closure.generation() {
            self.closure.end(&call, lead, Some(&verdict), closing.is_some());
        }
        let Some(closing) = closing else {
            if verdict.disposition == Disposition::Throttled {
                self.closure
                    .late_throttle(&call, verdict.retry_after, self.now, &mut self.notices);
            }
            return None;
        };
        self.closure.close(closing, &call, &verdict, self.now);
        let request = self.closure.pause_request(self.closure.generation());
        self.closure.set_pause(SECOND, false, &mut self.notices);
        request
    }

    fn blocked(&mut self, verdict: Verdict) -> u32 {
        let call = self.start().unwrap();
        self.end(call, verdict).unwrap().blocked
    }
}

#[test]
fn a_throttle_begins_a_generation_and_stale_ones_do_not() {
    let mut gate = Gate::new();
    let calls = [
        gate.start().unwrap(),
        gate.start().unwrap(),
        gate.start().unwrap(),
    ];
    assert!(gate.end(calls[1], THROTTLED).is_some());
    assert!(gate.closure.generation() == 1 && gate.start().is_none());
    assert_eq!(gate.end(calls[2], THROTTLED), None);
    assert_eq!(gate.closure.closed_until(), Some(gate.now + SECOND));
    // A later hint lengthens the pause.
    assert_eq!(gate.end(calls[0], THROTTLED.with_retry_after(3 * SECOND)), None);
    assert_eq!(gate.closure.closed_until(), Some(gate.now + 3 * SECOND));
    gate.now += 3 * SECOND;
    assert_eq!(gate.start().unwrap().0.ordinal, 1);
    assert_eq!(gate.closure.paused(gate.now), 3 * SECOND);
}

#[test]
fn pauses_count_while_the_first_call_is_rejected() {
    let mut gate = Gate::new();
    let mut blocked = Vec::new();
    for _ in 0..4 {
        blocked.push(gate.blocked(THROTTLED));
        gate.now += SECOND;
    }
    assert_eq!(blocked, [0, 1, 2, 3]);
    // Now it is accepted: the next pause is short again.
    let first = gate.start().unwrap();
    gate.end(first, Verdict::SUCCESS);
    assert_eq!(gate.blocked(THROTTLED), 0);
}

#[test]
fn a_call_that_came_to_nothing_is_not_the_first_answer() {
    let mut gate = Gate::new();
    gate.blocked(THROTTLED);
    gate.now += SECOND;
    // One was given back unstarted, one had no connection.
    let (call, lead) = gate.start().unwrap();
    gate.closure.give_back(call.generation, lead, Some(call.ordinal));
    let call = gate.start().unwrap();
    assert_eq!(gate.end(call, Verdict::of_kind(ErrorKind::Connection)), None);
    assert_eq!(gate.blocked(THROTTLED), 1);
}

#[test]
fn after_two_blocked_generations_a_probe_goes_alone() {
    let mut gate = Gate::new();
    for _ in 0..2 {
        gate.blocked(THROTTLED);
        gate.now += SECOND;
    }
    let probe = gate.start().unwrap();
    assert_eq!(probe.1, Some(Purpose::Probe));
    assert!(gate.start().is_none());
    // It comes to nothing: the next one goes alone.
    gate.end(probe, Verdict::of_kind(ErrorKind::Connection));
    let probe = gate.start().unwrap();
    assert!(probe.1.is_some() && gate.start().is_none());
    gate.end(probe, Verdict::SUCCESS);
    assert!(gate.start().unwrap().1.is_none() && gate.start().is_some());
}

#[test]
fn overload_closes_at_the_fifth_in_a_row_or_with_a_hint() {
    let mut gate = Gate::new();
    for _ in 0..4 {
        let call = gate.start().unwrap();
        assert_eq!(gate.end(call, OVERLOADED), None);
    }
    let call = gate.start().unwrap();
    gate.end(call, Verdict::SUCCESS);
    for _ in 0..4 {
        let call = gate.start().unwrap();
        assert_eq!(gate.end(call, OVERLOADED), None);
    }
    assert_eq!(gate.blocked(OVERLOADED), 0);
    gate.now += SECOND;
    // The probe's overload closes it again, for longer.
    assert_eq!(gate.blocked(OVERLOADED), 1);
    gate.now += SECOND;
    let call = gate.start().unwrap();
    gate.end(call, Verdict::SUCCESS);
    let call = gate.start().unwrap();
    let closing = gate.closure.closing(&call.0, call.1, &OVERLOADED, true);
    assert_eq!(closing, Some(Closing::Overload));
}

#[test]
fn a_pause_whose_length_is_open_does_not_end_and_keeps_later_hints() {
    let mut gate = Gate::new();
    let calls = [gate.start().unwrap(), gate.start().unwrap()];
    gate.closure
        .close(Closing::Throttle, &calls[0].0, &THROTTLED, gate.now);
    gate.end(calls[1], THROTTLED.with_retry_after(2 * SECOND));
    let since = gate.now;
    gate.now += 5 * SECOND;
    assert!(gate.start().is_none());
    assert!(gate.closure.closed(gate.now).is_some());
    gate.closure.set_pause(SECOND, false, &mut gate.notices);
    assert_eq!(gate.closure.closed_until(), Some(since + 2 * SECOND));
    assert!(gate.start().is_some());
}

#[test]
fn a_latch_holds_until_it_is_opened_by_hand_and_earlier_calls_do_not_renew_it() {
    let mut gate = Gate::new();
    let calls = [gate.start().unwrap(), gate.start().unwrap()];
    let latch = |gate: &mut Gate, call: StartedCall| {
        gate.closure
            .latch(&call, FATAL.kind, None, gate.now, &mut gate.notices)
    };
    assert_eq!(latch(&mut gate, calls[0].0), FATAL.kind);
    assert_eq!(latch(&mut gate, calls[1].0), None);
    assert!(gate.start().is_none());
    let epoch = gate.closure.epoch();
    assert!(!gate.closure.reopen(gate.now, &mut gate.notices));
    assert!(gate.closure.epoch() > epoch);
    assert_eq!(latch(&mut gate, calls[1].0), None);
    assert!(gate.start().is_some());
}

#[test]
fn every_closing_makes_grants_void() {
    let mut gate = Gate::new();
    let mut epochs = vec![gate.closure.epoch()];
    gate.blocked(THROTTLED);
    epochs.push(gate.closure.epoch());
    gate.now += SECOND;
    let (call, _) = gate.start().unwrap();
    gate.closure
        .latch(&call, FATAL.kind, None, gate.now, &mut gate.notices);
    epochs.push(gate.closure.epoch());
    gate.closure.reopen(gate.now, &mut gate.notices);
    epochs.push(gate.closure.epoch());
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}
