//! The faults of the simulated provider, and how often they occur.

use std::time::Duration;

/// A period in which every call is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) from: Duration,
    pub(super) length: Duration,
    pub(super) status: u16,
}

/// Shares of calls, 0 to 1.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) reset_unread: f64,
    pub(super) statuses: Vec<(u16, f64)>,
    pub(super) reset_before_head: f64,
    pub(super) reset_in_body: f64,
    pub(super) truncated: f64,
    pub(super) garbage: f64,
    pub(super) refusal: f64,
    pub(super) invalid_json: f64,
    pub(super) slow_body: (f64, Duration),
    pub(super) stall: (f64, Duration),
    pub(super) outages: Vec<Outage>,
    pub(super) stream_cut: f64,
    pub(super) stream_error: f64,
    pub(super) stream_stall: (f64, Duration),
}

/// The outcome of an accepted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answer,
    ResetBeforeHead,
    ResetInBody,
    Truncated,
    Garbage,
    Refusal,
    InvalidJson,
    /// A stream that ends cleanly, but early.
    StreamCut,
    /// A stream that ends with an error event.
    StreamError,
}

/// The random decisions about one call.
#[derive(Clone, Debug)]
pub(super) struct Chance {
    pub(super) reset_unread: bool,
    pub(super) status: Option<u16>,
    pub(super) fate: Fate,
    pub(super) body_time: Duration,
    pub(super) stall: Duration,
    /// The outcome of a streamed answer.
    pub(super) stream_fate: Fate,
    pub(super) stream_stall: Duration,
}

impl Faults {
    /// Decides about one call. Always takes four draws, and two from the other generator, so that decisions about
    /// streams do not affect the others.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng, stream_rng: &mut fastrand::Rng) -> Chance {
        let (stream_fate, stream_stall) = (stream_rng.f64(), stream_rng.f64());
        let stream_fates = [
            (Fate::StreamCut, self.stream_cut),
            (Fate::StreamError, self.stream_error),
        ];
        let (status, fate, slow, stall) = (rng.f64(), rng.f64(), rng.f64(), rng.f64());
        let statuses = self.statuses.iter().map(|&(code, rate)| (Some(code), rate));
        let fates = [
            (Fate::ResetBeforeHead, self.reset_before_head),
            (Fate::ResetInBody, self.reset_in_body),
            (Fate::Truncated, self.truncated),
            (Fate::Garbage, self.garbage),
            (Fate::Refusal, self.refusal),
            (Fate::InvalidJson, self.invalid_json),
        ];
        let when = |happens: bool, time: Duration| if happens { time } else { Duration::ZERO };
        Chance {
            // From the upper end of the same draw: a call that is reset unread has no status.
            reset_unread: 1.0 - status <= self.reset_unread,
            status: choose(status, statuses).flatten(),
            fate: choose(fate, fates).unwrap_or(Fate::Answer),
            body_time: when(slow < self.slow_body.0, self.slow_body.1),
            stall: when(stall < self.stall.0, self.stall.1),
            stream_fate: choose(stream_fate, stream_fates).unwrap_or(Fate::Answer),
            stream_stall: when(stream_stall < self.stream_stall.0, self.stream_stall.1),
        }
    }

    /// All values that must be a share between 0 and 1, by name; those in one group exclude each other.
    pub(super) fn groups(&self) -> [Vec<(&'static str, f64)>; 6] {
        let mut first = vec![("reset_before_rate", self.reset_unread)];
        first.extend(self.statuses.iter().map(|&(_, rate)| ("status_rate", rate)));
        [
            first,
            vec![
                ("reset_before_head_rate", self.reset_before_head),
                ("reset_in_body_rate", self.reset_in_body),
                ("truncated_rate", self.truncated),
                ("garbage_rate", self.garbage),
                ("refusal_rate", self.refusal),
                ("invalid_json_rate", self.invalid_json),
            ],
            vec![("slow_body", self.slow_body.0)],
            vec![("stall", self.stall.0)],
            vec![
                ("stream_cut_rate", self.stream_cut),
                ("stream_error_rate", self.stream_error),
            ],
            vec![("stream_stall", self.stream_stall.0)],
        ]
    }

    pub(super) fn outage(&self, since_first_call: Duration) -> Option<u16> {
        let on = |outage: &&Outage| {
            since_first_call >= outage.from && since_first_call < outage.from.saturating_add(outage.length)
        };
        self.outages.iter().find(on).map(|outage| outage.status)
    }
}

fn choose<T>(draw: f64, shares: impl IntoIterator<Item = (T, f64)>) -> Option<T> {
    let mut sum = 0.0;
    shares.into_iter().find_map(|(value, share)| {
        sum += share;
        (draw < sum).then_some(value)
    })
}
