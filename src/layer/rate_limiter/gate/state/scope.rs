//! The facts of a quota and what follows from them: who may start, and what the end of a call changes.
//!
//! A [`Scope`] is data and one transition of it: [`admit`](Scope::admit), [`start`](Scope::start),
//! [`give_back`](Scope::give_back), [`end`](Scope::end) and the changes made by hand. It reads no clock and knows no waiters,
//! wakers, tasks or runtimes: the time is handed in, what others are to learn goes into [`Notices`].

use std::time::Duration;

use tokio::time::Instant;

use super::closure::{Closing, Closure, PauseRequest, Purpose};
use super::overload::OverloadCap;
use super::{Admission, Denied, Ended, Hold, Notices, Place, Started, Ticket, Warning, ended, is_answer};
use crate::classify::Verdict;
use crate::error::{Disposition, ErrorKind, QuotaDimension, Refused};
use crate::events::EventKind;
use crate::item::WaitReason;
use crate::layer::rate_limiter::cooldown::Cooldown;
use crate::layer::rate_limiter::gate::fast_path::Counts;
use crate::layer::rate_limiter::gate::quota::{Exhausted, Limits, Reserved, Shortage, Unbelievable, Used};
use crate::layer::rate_limiter::learned::Learned;
use crate::layer::rate_limiter::pace::{BuiltIn, Pacing, Ramp, Spacing, StartRamp, StartedCall};
use crate::layer::rate_limiter::quota::{Quota, QuotaState};
use crate::layer::rate_limiter::snapshot::RateLimiterSnapshot;
use crate::layer::rate_limiter::store::StoreReport;
use crate::request::TokenEstimate;

mod forecast;

/// A start this late is still charged at its due instant, or the granularity of timers would eat the quota.
const LATE: Duration = Duration::from_millis(5);

/// An estimate above this many times the mean rejoins at the head.
const LARGE: f64 = 4.0;

/// The weight of the last call in the mean use of tokens.
const LAST: f64 = 1.0 / 16.0;

/// A reset that is further away than this is not believed.
const LONGEST_RESET: Duration = Duration::from_secs(366 * 86_400);

/// The time to the reset of a quota that the provider reports as used up.
fn quota_reset(verdict: &Verdict) -> Option<Duration> {
    let used_up =
        verdict.disposition == Disposition::ScopeFatal && verdict.kind == Some(ErrorKind::QuotaExhausted);
    verdict
        .retry_after
        .filter(|time| used_up && !time.is_zero())
        .map(|time| time.min(LONGEST_RESET))
}

/// A cap on calls in flight that rises.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct InFlightRamp {
    pub(in crate::layer::rate_limiter) initial: usize,
    pub(in crate::layer::rate_limiter) step: usize,
    pub(in crate::layer::rate_limiter) every: Duration,
}

/// The configuration of a gate.
pub(in crate::layer::rate_limiter) struct Config {
    pub(in crate::layer::rate_limiter) cooldown: Cooldown,
    pub(in crate::layer::rate_limiter) limits: Limits,
    /// A quota that is used up holds calls until it resets; else it refuses them.
    pub(in crate::layer::rate_limiter) wait_for_reset: bool,
    pub(in crate::layer::rate_limiter) max_in_flight: Option<usize>,
    pub(in crate::layer::rate_limiter) in_flight_ramp: Option<InFlightRamp>,
    pub(in crate::layer::rate_limiter) start_ramp: Option<StartRamp>,
    pub(in crate::layer::rate_limiter) pacing: Pacing,
    /// The policy, unless it is one of the user's, which is asked outside the lock.
    pub(in crate::layer::rate_limiter) built_in: Option<BuiltIn>,
    /// Lower classes wait as long as a higher one does.
    pub(in crate::layer::rate_limiter) strict_priority: bool,
    /// A store has the last word, and only pumps let through.
    pub(in crate::layer::rate_limiter) shared: bool,
}

impl Config {
    /// Returns `true` if only a pause, a policy or the server's overload can hold a call back.
    pub(in crate::layer::rate_limiter::gate) fn is_unlimited(&self) -> bool {
        self.limits.is_empty()
            && self.max_in_flight.is_none()
            && self.in_flight_ramp.is_none()
            && !self.shared
    }
}

/// The facts of a quota.
pub(super) struct Scope {
    config: Config,
    pub(super) closure: Closure,
    overload: OverloadCap,
    pace: Spacing,
    ramp: Option<Ramp>,
    first_start: Option<Instant>,
    /// The pause after the last throttle that calls were accepted before, unless it followed from a hint.
    base: Option<Duration>,
    in_flight: usize,
    granted: u64,
    returned: u64,
    settled: u64,
    throttled: u64,
    /// The sum of the estimates, and of how many calls.
    estimated: (u64, u64),
    /// The mean usage of a call, from those whose usage is known.
    mean_used: Option<f64>,
    /// As before, of input and of output tokens.
    mean_parts: Option<(f64, f64)>,
    /// The mean time of a call, in seconds.
    mean_time: Option<f64>,
    warned_of_debt: bool,
    warned_of_quota: bool,
}

impl Scope {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        let spaced = config.pacing.starts_per_second().is_finite();
        let known = spaced && config.built_in.is_some();
        Self {
            closure: Closure::new(now),
            overload: OverloadCap::default(),
            pace: Spacing::new(config.pacing, now),
            // Where the rate is known there is nothing to look for.
            ramp: config.start_ramp.filter(|_| !known).map(Ramp::new),
            config,
            first_start: None,
            base: None,
            in_flight: 0,
            granted: 0,
            returned: 0,
            settled: 0,
            throttled: 0,
            estimated: (0, 0),
            mean_used: None,
            mean_parts: None,
            mean_time: None,
            warned_of_debt: false,
            warned_of_quota: false,
        }
    }

    // --- looking --------------------------------------------------------------------------------------------

    pub(super) const fn pacing(&self) -> Pacing {
        self.pace.pacing()
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.config.shared
    }

    pub(super) fn snapshot(&self, now: Instant) -> RateLimiterSnapshot {
        let closed = self.closure.closed(now);
        let rates = [
            self.ramp.as_ref().and_then(Ramp::starts_per_second),
            Some(self.pace.rate_at(now)),
        ];
        let rate = rates.into_iter().flatten().fold(f64::INFINITY, f64::min);
        let available = |dimension| self.config.limits.available(dimension, now);
        RateLimiterSnapshot {
            closed_for: closed.map(|(_, time)| time),
            closed_by: closed.map(|(kind, _)| kind),
            latched: self.closure.latched(),
            generation: self.closure.generation(),
            waiting: 0,
            waiting_for: None,
            in_flight: self.in_flight,
            max_in_flight: self.cap(now).map(|(cap, _)| cap),
            starts_per_second: rate.is_finite().then_some(rate),
            learned: None,
            requests_available: available(QuotaDimension::Requests),
            tokens_available: available(QuotaDimension::Tokens),
            input_tokens_available: available(QuotaDimension::InputTokens),
            output_tokens_available: available(QuotaDimension::OutputTokens),
            granted: self.granted,
            returned: self.returned,
            settled: self.settled,
            throttled: self.throttled,
            paused: self.closure.paused(now),
        }
    }

    /// The provider's limit, as far as the pace has found it.
    pub(super) fn learned(&self) -> Option<Learned> {
        self.config.built_in.as_ref()?.learned()
    }

    /// The refusal of every call, if the gate is latched.
    pub(super) fn latch(&self) -> Option<Refused> {
        if let Some(resets) = self.closure.latched_until() {
            return Some(self.exhausted(None, resets));
        }
        self.closure.refusal()
    }

    pub(super) fn refusal(&self, estimate: &TokenEstimate) -> Option<Refused> {
        self.latch().or_else(|| {
            let (estimate, limit) = self.config.limits.too_large(estimate)?;
            Some(Refused::TooLarge { estimate, limit })
        })
    }

    fn exhausted(&self, quota: Option<Quota>, resets: Instant) -> Refused {
        Refused::QuotaExhausted {
            quota,
            resets_at: self.config.limits.clock().time(resets),
        }
    }

    pub(super) fn quotas(&mut self, now: Instant) -> Vec<QuotaState> {
        self.config.limits.roll(self.granted, now);
        self.config.limits.states(now)
    }

    pub(super) fn set_quotas(&mut self, quotas: &[Quota], now: Instant) {
        self.config.limits.replace(quotas, self.granted, now);
    }

    /// Returns `true` if an estimate is far above the mean, so that smaller ones would always leave a token quota too empty for it.
    pub(super) fn is_large(&self, estimate: &TokenEstimate) -> bool {
        let (sum, calls) = self.estimated;
        self.config.limits.count_tokens()
            && estimate.total() as f64 > LARGE * (sum as f64 / calls.max(1) as f64)
    }

    /// The cap on calls in flight, and when it rises by itself.
    fn cap(&self, now: Instant) -> Option<(usize, Option<Instant>)> {
        let fixed = [
            self.config.max_in_flight,
            self.pace.pacing().max_in_flight(),
            self.overload.calls(),
        ]
        .into_iter()
        .flatten()
        .min();
        let Some(ramp) = self.config.in_flight_ramp else {
            return fixed.map(|cap| (cap, None));
        };
        let began = self.first_start.unwrap_or(now);
        let steps = now.saturating_duration_since(began).as_nanos() / ramp.every.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let ramped = ramp
            .initial
            .saturating_add(ramp.step.saturating_mul(steps as usize));
        match fixed {
            Some(cap) if cap <= ramped => Some((cap, None)),
            _ => {
                let rises = ramp
                    .every
                    .checked_mul(steps.saturating_add(1))
                    .and_then(|time| began.checked_add(time));
                Some((ramped, rises))
            }
        }
    }

    // --- without the lock -----------------------------------------------------------------------------------

    pub(super) const fn counts(&self) -> Counts {
        Counts {
            starts: self.closure.starts(),
            in_flight: self.in_flight as u64,
        }
    }

    /// Takes over starts, and ends of calls that were answered.
    pub(super) fn count(&mut self, counts: Counts) {
        let before = self.counts();
        let started = counts.starts - before.starts;
        let ended = before.in_flight + started - counts.in_flight;
        self.closure.set_starts(counts.starts);
        self.granted += started;
        self.settled += ended;
        self.in_flight = counts.in_flight as usize;
        self.overload.accept_many(ended);
    }

    /// Until when nothing limits the calls and their starts and answers change nothing but counts.
    pub(super) fn free_until(&self) -> Option<Instant> {
        // There may be quotas since it was made.
        let free = self.config.limits.is_empty()
            && self.ramp.is_none()
            && self.pace.pacing() == Pacing::UNLIMITED
            && self.closure.is_quiet()
            && self.overload.is_quiet();
        if !free {
            return None;
        }
        self.config
            .built_in
            .as_ref()?
            .next_look(self.closure.generation())
    }

    // --- the way of a call ----------------------------------------------------------------------------------

    /// All conditions at once: open, below the cap, paced, every quota. The caller has waited since `since`.
    pub(super) fn admit(
        &mut self,
        ticket: Ticket,
        now: Instant,
        estimate: &TokenEstimate,
        since: Instant,
        notices: &mut Notices,
    ) -> Result<Admission, Denied> {
        if let Some(until) = self.closure.hold() {
            return Err(Denied::Hold(Hold {
                reason: WaitReason::Cooldown,
                until,
            }));
        }
        if let Some((cap, rises)) = self.cap(now)
            && self.in_flight >= cap
        {
            return Err(Denied::Hold(Hold {
                reason: WaitReason::InFlight,
                until: rises,
            }));
        }
        let reserved = self.reservation(estimate);
        let due = match self.take_quota(now, &reserved, since) {
            Ok(due) => due,
            Err((hold, window)) => return Err(self.denied(hold, window, now, notices)),
        };
        self.pace.start(due);
        if let Some(ramp) = &mut self.ramp {
            ramp.start(due);
            if ramp.is_over() {
                self.ramp = None;
            }
        }
        self.first_start.get_or_insert(now);
        self.in_flight += 1;
        self.granted += 1;
        // An absurd estimate says nothing about the mean.
        let (sum, calls) = self.estimated;
        self.estimated = (
            sum.saturating_add(reserved.total.min(u64::from(u32::MAX))),
            calls + 1,
        );
        Ok(Admission {
            place: Place::Kept(ticket),
            estimate: *estimate,
            waited: None,
            epoch: self.closure.epoch(),
            call: Started {
                call: StartedCall {
                    at: now,
                    due,
                    generation: self.closure.generation(),
                    ordinal: 0,
                    in_flight: self.in_flight,
                    estimate: reserved.total,
                },
                reserved,
                grant: self.granted,
                lead: self.closure.admit(now),
                shared: false,
            },
            noted: false,
        })
    }

    /// The tokens to reserve: the estimate, or where there is none what a call uses in the mean.
    fn reservation(&self, estimate: &TokenEstimate) -> Reserved {
        let limits = &self.config.limits;
        if !limits.count_tokens() {
            // The caller's own pace, or a shared store, may still count them.
            return Reserved {
                total: estimate.total(),
                ..Reserved::default()
            };
        }
        let total = match (estimate.total(), self.mean_used) {
            (0, Some(mean)) => mean.round() as u64,
            (total, _) => total,
        };
        let (input, output) = match (estimate.input(), estimate.output(), self.mean_parts) {
            (Some(input), Some(output), _) if estimate.total() > 0 => (input, output),
            // Neither part is above the sum, if that is known.
            (_, _, Some((input, output))) if total == 0 => (input.round() as u64, output.round() as u64),
            (_, _, Some((input, output))) => (
                (input.round() as u64).min(total),
                (output.round() as u64).min(total),
            ),
            (_, _, None) => (total, total),
        };
        limits.clamp(Reserved { total, input, output })
    }

    /// Takes from every quota at the instant at which the call was due, which is now or a little earlier; or says
    /// when and for what it has to wait, and for which window if that is used up.
    fn take_quota(
        &mut self,
        now: Instant,
        reserved: &Reserved,
        since: Instant,
    ) -> Result<Instant, (Hold, Option<Exhausted>)> {
        let mut due = now
            .checked_sub(LATE)
            .unwrap_or(now)
            .max(since)
            .max(self.closure.opened_at())
            .min(now);
        let mut hold = (WaitReason::Pace, None);
        for paced in [self.ramp.as_ref().and_then(Ramp::due), self.pace.due()] {
            due = paced.map_or(due, |paced| paced.max(due));
        }
        let limits = &mut self.config.limits;
        limits.roll(self.granted, now);
        while due <= now {
            match limits.take(reserved, due) {
                Ok(()) => return Ok(due),
                Err(Shortage {
                    reason,
                    until,
                    window,
                }) => {
                    hold = (reason, window);
                    let ahead = until > due;
                    due = due.max(until);
                    if !ahead {
                        break;
                    }
                }
            }
        }
        let (reason, window) = hold;
        let until = Some(due);
        Err((Hold { reason, until }, window))
    }

    /// A call cannot pass yet. If a window is used up and no call is under way that may leave some of its reservation, it
    /// cannot pass before the reset.
    fn denied(
        &mut self,
        hold: Hold,
        window: Option<Exhausted>,
        now: Instant,
        notices: &mut Notices,
    ) -> Denied {
        let Some(exhausted) = window.filter(|_| self.in_flight == 0) else {
            return Denied::Hold(hold);
        };
        let Exhausted { quota, resets } = exhausted;
        if self.config.limits.announce(&exhausted) {
            let resets_in = resets.saturating_duration_since(now);
            let dimension = quota.dimension();
            notices.event(now, EventKind::QuotaExhausted { dimension, resets_in });
            notices.warn(Warning::Exhausted { quota, resets_in });
        }
        if self.config.wait_for_reset {
            Denied::Hold(hold)
        } else {
            Denied::Refused(self.exhausted(Some(quota), resets))
        }
    }

    /// The call starts now, unless the gate has closed since it was let through. Returns whether it does.
    pub(super) fn start(&mut self, started: &mut Started, now: Instant, notices: &mut Notices) -> bool {
        if started.call.generation != self.closure.generation() || self.closure.latched().is_some() {
            return false;
        }
        let lead = started.lead;
        let call = &mut started.call;
        (call.at, call.ordinal, call.in_flight) = (now, self.closure.start(lead, now), self.in_flight);
        // Most starts before the first rejection tell it nothing.
        if let Some(policy) = &mut self.config.built_in
            && policy.next_look(call.generation).is_none_or(|look| look <= now)
        {
            let pacing = policy.on_start(call);
            if let Some(news) = policy.take_news() {
                notices.event(now, news);
            }
            self.set_pacing(pacing, now);
        }
        true
    }

    /// A grant that no call was made with: everything is back.
    pub(super) fn give_back(&mut self, admission: &Admission, notices: &mut Notices) {
        self.in_flight -= 1;
        self.returned += 1;
        let Started {
            call,
            reserved,
            grant,
            lead,
            shared,
        } = &admission.call;
        self.config.limits.give_back(reserved, *grant);
        let ordinal = admission.noted.then_some(call.ordinal);
        self.closure.give_back(call.generation, *lead, ordinal);
        if *shared {
            let reserved = call.estimate;
            notices.report(StoreReport::Returned { reserved });
        }
    }

    /// A call has ended: settles its quota and does what the verdict asks for.
    pub(super) fn end(
        &mut self,
        started: &Started,
        verdict: Option<&Verdict>,
        used: Used,
        now: Instant,
        notices: &mut Notices,
    ) -> Ended {
        self.open_if_due(now, notices);
        self.settle(started, verdict, used, now, notices);
        let call = &started.call;
        let hint = verdict.and_then(|verdict| self.config.cooldown.hint(verdict.retry_after));
        let throttled = verdict.is_some_and(|verdict| verdict.disposition == Disposition::Throttled);
        let tolerated = throttled && self.pace.pacing().tolerates_throttles();
        let reset = verdict.and_then(quota_reset);
        let awaited = reset.filter(|_| self.config.wait_for_reset && self.closure.awaits_resets());
        let closing = match awaited {
            Some(_) => self.closure.is_current(call).then_some(Closing::Quota),
            None => verdict
                .filter(|_| !tolerated)
                .and_then(|verdict| self.closure.closing(call, started.lead, verdict, hint.is_some())),
        };
        let current = call.generation == self.closure.generation();
        if current {
            self.closure.end(call, started.lead, verdict, closing.is_some());
        }
        if let Some(verdict) = verdict {
            if verdict.is_overload() || throttled {
                self.closure.note_trip(call, now);
            }
            if verdict.is_overload() {
                // A probe goes alone: its rejection says nothing about the room for others.
                if started.lead != Some(Purpose::Probe) {
                    self.overload.reject(self.in_flight);
                }
            } else if is_answer(verdict) {
                self.overload.accept();
            }
            if let Some(policy) = &mut self.config.built_in {
                let starts = self.closure.starts();
                let pacing = policy.on_end(call, &ended(verdict, closing.is_some(), now), starts);
                if closing.is_none() {
                    self.set_pacing(pacing, now);
                }
            }
            if let Some(closing) = closing {
                self.close(closing, call, verdict, now, notices);
            } else if verdict.disposition == Disposition::Throttled {
                self.closure.late_throttle(call, hint, now, notices);
            } else if awaited.is_some() {
                self.closure.late_throttle(call, awaited, now, notices);
            }
        }
        let fatal =
            verdict.filter(|verdict| verdict.disposition == Disposition::ScopeFatal && awaited.is_none());
        let until = reset.map(|time| now + time);
        let latched = fatal.and_then(|verdict| self.closure.latch(call, verdict.kind, until, now, notices));
        Ended {
            current: current && !tolerated,
            closes: closing.is_some().then(|| self.closure.generation()),
            latched: latched.is_some(),
            hint: awaited.or(hint),
            awaits_reset: awaited.is_some(),
        }
    }

    fn settle(
        &mut self,
        started: &Started,
        verdict: Option<&Verdict>,
        used: Used,
        now: Instant,
        notices: &mut Notices,
    ) {
        self.in_flight -= 1;
        self.settled += 1;
        let throttled = verdict.is_some_and(|verdict| verdict.disposition == Disposition::Throttled);
        self.throttled += u64::from(throttled);
        self.note_time(now.saturating_duration_since(started.call.at));
        let reserved = started.call.estimate;
        if started.shared {
            let used = used.total();
            notices.report(StoreReport::Settled { reserved, used });
        }
        let limits = &mut self.config.limits;
        if !limits.count_tokens() {
            return;
        }
        let answered = verdict.is_some_and(is_answer);
        let unbelievable = limits.settle(&started.reserved, used, started.grant, now);
        let Some(total) = used.total() else {
            if answered && reserved == 0 && !self.warned_of_quota {
                self.warned_of_quota = true;
                notices.warn(Warning::Unmeasured);
            }
            return;
        };
        if let Some(Unbelievable { used, charged }) = unbelievable {
            if !self.warned_of_debt {
                self.warned_of_debt = true;
                notices.warn(Warning::Unbelievable { used, charged });
            }
            // It would spoil the mean.
            return;
        }
        if !answered {
            return;
        }
        let mean = |old: f64, used: u64| old + LAST * (used as f64 - old);
        self.mean_used = Some(self.mean_used.map_or(total as f64, |old| mean(old, total)));
        if let Used::Usage(usage) = used {
            let (input, output) = (usage.input, usage.output);
            self.mean_parts = Some(match self.mean_parts {
                Some((old_input, old_output)) => (mean(old_input, input), mean(old_output, output)),
                None => (input as f64, output as f64),
            });
        }
    }

    fn close(
        &mut self,
        closing: Closing,
        call: &StartedCall,
        verdict: &Verdict,
        now: Instant,
        notices: &mut Notices,
    ) {
        let accepted = self.closure.close(closing, call, verdict, now);
        // The ramp ends with the first throttle. Where nothing was accepted yet, and after overload, nothing is known
        // about the rate, and it begins anew.
        self.ramp = match closing {
            Closing::Throttle if accepted => None,
            Closing::Throttle | Closing::Overload => self.config.start_ramp.map(Ramp::new),
            // It says nothing about the rate.
            Closing::Quota => self.ramp.take(),
        };
        if let Some(policy) = &self.config.built_in {
            let pacing = policy.pacing();
            self.finish_closing(self.closure.generation(), pacing, notices);
        }
    }

    /// The policy has said at which pace the gate will open again; the length of the pause follows from it.
    pub(super) fn finish_closing(&mut self, generation: u64, pacing: Pacing, notices: &mut Notices) {
        let cooldown = &self.config.cooldown;
        let Some(PauseRequest {
            closing,
            hint,
            blocked,
        }) = self.closure.pause_request(generation)
        else {
            return;
        };
        let pause = match closing {
            Closing::Throttle => {
                // What doubles is the first pause, even if the pace changes meanwhile.
                if blocked == 0 {
                    self.base = hint.is_none().then(|| cooldown.base(pacing));
                }
                cooldown.pause(hint, blocked, self.base.unwrap_or_else(|| cooldown.base(pacing)))
            }
            Closing::Overload => cooldown.overload_pause(hint, blocked),
            Closing::Quota => hint.unwrap_or_default().min(LONGEST_RESET),
        };
        let pause = match closing {
            // A share of a day would be long, and a probe goes first.
            Closing::Quota => pause,
            Closing::Throttle | Closing::Overload => cooldown.with_random_share(pause),
        };
        let spaced = pacing.starts_per_second().is_finite();
        if spaced {
            // What is known about the rate outlasts a pause.
            self.ramp = None;
        }
        let notice = !spaced && self.config.built_in.is_none();
        if let Some(until) = self.closure.set_pause(pause, notice, notices) {
            self.pace.set(pacing, until);
        }
    }

    /// The policy has changed its mind. Returns whether that changes anything.
    pub(super) fn set_pacing(&mut self, pacing: Pacing, now: Instant) -> bool {
        let since = self.closure.closed_until().unwrap_or(now);
        self.pace.set(pacing, since)
    }

    pub(super) fn open_if_due(&mut self, now: Instant, notices: &mut Notices) {
        if let Some(at) = self.closure.open_if_due(now, notices) {
            self.pace.open(at);
        }
    }

    /// Opens by hand.
    pub(super) fn reopen(&mut self, now: Instant, notices: &mut Notices) {
        self.open_if_due(now, notices);
        if self.closure.reopen(now, notices) {
            self.pace.open(now);
        }
        notices.report(StoreReport::Reopened);
    }

    /// For a local server of the user's own: from now on there is no start ramp.
    pub(super) fn end_start_ramp(&mut self) -> bool {
        self.config.start_ramp = None;
        self.ramp.take().is_some()
    }

    /// Returns `true` if the cap holds the next call.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.cap(now).is_some_and(|(cap, _)| self.in_flight >= cap)
    }
}
