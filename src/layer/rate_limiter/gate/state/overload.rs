//! The capacity of a server that reports overload.

/// A share of rejected calls above one in this many lowers the cap.
const SHARE: u32 = 4;
/// The share is taken over about this many calls.
const WINDOW: u32 = 32;
/// A raise that was answered by overload is tried again after twice as many calls, up to this many times the cap.
const MOST_ROUNDS: usize = 32;

/// A cap on calls in flight that overload lowers and accepted calls raise again.
///
/// Each rejection lowers it to the calls that are then in flight, as those are what the server has room for: a burst
/// of rejections ends at that number. A single rejection, or one among many accepted calls, changes nothing. Once as many calls
/// as the cap were accepted it rises by 1, then by 2, by 4 and so on. Where a raise is answered by overload at once,
/// the cap goes back and the next raise waits twice as long. The cap ends when it exceeds the most calls that were in
/// flight when it was lowered.
#[derive(Debug, Default)]
pub(super) struct OverloadCap {
    current: Option<Cap>,
    /// The results of the last calls, or of those since the cap was changed.
    accepted: u32,
    rejected: u32,
}

#[derive(Clone, Copy, Debug)]
struct Cap {
    calls: usize,
    /// Calls in flight when overload was reported, at most.
    most: usize,
    /// Calls accepted since it was changed.
    accepted: usize,
    /// It rises after this many times its size.
    rounds: usize,
    /// By how much it rises next.
    step: usize,
    /// The last change was a raise.
    raised: bool,
}

impl OverloadCap {
    pub(super) fn calls(&self) -> Option<usize> {
        self.current.map(|cap| cap.calls)
    }

    fn forget(&mut self) {
        (self.accepted, self.rejected) = (0, 0);
    }

    fn fade(&mut self) {
        if self.accepted + self.rejected >= WINDOW {
            self.accepted /= 2;
            self.rejected /= 2;
        }
    }

    /// Returns `true` if the state is empty: without a cap and without counted rejections.
    pub(super) const fn is_quiet(&self) -> bool {
        self.current.is_none() && self.rejected == 0
    }

    /// So many calls were accepted, none of which was part of a cap.
    pub(super) fn accept_many(&mut self, calls: u64) {
        // More would only go round: the count halves whenever it is full.
        for _ in 0..calls.min(u64::from(WINDOW)) {
            self.accept();
        }
    }

    /// A call was rejected for overload while `others` were in flight.
    pub(super) fn reject(&mut self, others: usize) {
        self.rejected += 1;
        let single = self.current.is_none() && self.rejected < 2;
        if single || self.rejected * SHARE < self.accepted + self.rejected {
            return self.fade();
        }
        let cap = self.current.get_or_insert(Cap {
            calls: usize::MAX,
            most: 0,
            accepted: 0,
            rounds: 1,
            step: 1,
            raised: false,
        });
        cap.calls = cap.calls.min(others.max(1));
        cap.most = cap.most.max(others.saturating_add(1));
        if cap.raised {
            cap.rounds = (cap.rounds * 2).min(MOST_ROUNDS);
        }
        (cap.raised, cap.step, cap.accepted) = (false, 1, 0);
        self.forget();
    }

    /// A call was accepted.
    pub(super) fn accept(&mut self) {
        self.accepted += 1;
        self.fade();
        let Some(cap) = &mut self.current else { return };
        cap.accepted += 1;
        if cap.accepted < cap.calls.saturating_mul(cap.rounds) {
            return;
        }
        if cap.raised {
            // The last raise was not answered by overload.
            cap.rounds = 1;
        }
        cap.calls = cap.calls.saturating_add(cap.step);
        (cap.raised, cap.step, cap.accepted) = (true, cap.step.saturating_mul(2), 0);
        if cap.calls > cap.most {
            self.current = None;
        }
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with room for `room` calls that rejects the others at once and answers the rest later, all together.
    fn rounds(cap: &mut OverloadCap, room: usize, demand: usize, rounds: usize) -> (usize, usize) {
        let (mut answered, mut rejected) = (0, 0);
        for _ in 0..rounds {
            let mut in_flight = demand.min(cap.calls().unwrap_or(usize::MAX));
            while in_flight > room {
                in_flight -= 1;
                rejected += 1;
                cap.reject(in_flight);
            }
            for _ in 0..in_flight {
                cap.accept();
            }
            answered += in_flight;
        }
        (answered, rejected)
    }

    #[test]
    fn a_burst_ends_at_the_room_there_is() {
        let mut cap = OverloadCap::default();
        for others in (4..48).rev() {
            cap.reject(others);
        }
        assert_eq!(cap.calls(), Some(4));
    }

    #[test]
    fn raises_cost_few_calls_where_the_room_stays_as_it_is() {
        let mut cap = OverloadCap::default();
        let (answered, rejected) = rounds(&mut cap, 4, 48, 1_000);
        assert!(answered > 3_900, "{answered}");
        // 44 in the first burst.
        assert!(rejected < 44 + 60, "{rejected}");
    }

    #[test]
    fn the_cap_ends_soon_after_overload_does() {
        let mut cap = OverloadCap::default();
        for others in (1..1_000).rev() {
            cap.reject(others);
        }
        assert_eq!(cap.calls(), Some(1));
        let (_, rejected) = rounds(&mut cap, usize::MAX, 1_000, 12);
        assert_eq!((cap.calls(), rejected), (None, 0));
    }

    #[test]
    fn a_rejection_now_and_then_lowers_nothing() {
        let mut cap = OverloadCap::default();
        for number in 0..10_000 {
            if number % 10 == 9 {
                cap.reject(99);
            } else {
                cap.accept();
            }
        }
        assert_eq!(cap.calls(), None);
    }

    #[test]
    fn a_late_overload_is_seen_soon() {
        let mut cap = OverloadCap::default();
        for _ in 0..1_000_000 {
            cap.accept();
        }
        for others in (10..100).rev() {
            cap.reject(others);
        }
        assert_eq!(cap.calls(), Some(10));
    }
}
