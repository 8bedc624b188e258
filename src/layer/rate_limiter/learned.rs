//! The provider's limit, as a gate has found it: a value to show, to keep and to give to the next gate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::QuotaDimension;

/// The limit of the provider, as the default pace ([`BucketFit`](super::BucketFit)) has found it by rejections.
///
/// [`RateLimiter::learned`](super::RateLimiter::learned) and the [snapshot](super::RateLimiterSnapshot::learned) return it.
/// Serde keeps it, and [`RateLimiterBuilder::learned`](super::RateLimiterBuilder::learned) gives it to a later gate of the same
/// account and model, which then starts at that pace.
///
/// ```
/// use llm_batch::layer::rate_limiter::{LearnedLimit, LimitKind, RateLimiter};
///
/// let kept = r#"{"kind": "rate", "starts_per_second": 9.7, "rejections": 14, "at": "2026-03-01T12:00:00Z"}"#;
/// let learned: LearnedLimit = serde_json::from_str(kept)?;
/// assert_eq!((learned.kind, learned.starts_per_second), (LimitKind::Rate, Some(9.7)));
///
/// // It is older than a day, so this gate begins its own search.
/// let limiter = RateLimiter::builder().learned(learned).build()?;
/// assert_eq!(limiter.learned(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LearnedLimit {
    /// The kind of limit that rejects calls.
    pub kind: LimitKind,
    /// The calls that the provider accepts per second, for [`LimitKind::Rate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_per_second: Option<f64>,
    /// The most calls that it accepts at once after a lull, for [`LimitKind::Rate`] and as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<f64>,
    /// The calls that it accepts at one time, for [`LimitKind::InFlight`]. For a rate, the calls in flight that amount to it, where the
    /// gate keeps to the rate by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<usize>,
    /// The quota that the provider named in the last rejection that named one. A quota of tokens is kept as a rate of calls of
    /// the usual size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<QuotaDimension>,
    /// The number of rejected calls that it follows from.
    pub rejections: u64,
    /// `true` once estimates in a row agree to 15 %. A short run may end before they do.
    #[serde(default)]
    pub confirmed: bool,
    /// The time of the last of them, to the second. In JSON a text: `2026-03-01T12:00:00Z`.
    #[serde(with = "wall_time")]
    pub at: SystemTime,
}

/// The kind of a [`LearnedLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimitKind {
    /// Calls, or their tokens, per unit of time.
    Rate,
    /// Calls at one time.
    InFlight,
    /// None that was found: calls are rejected at random, at any rate. The gate tolerates that.
    Stray,
}

/// A limit is believed for this time.
const BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);
/// The clocks of two computers may differ by this.
const AHEAD: Duration = Duration::from_secs(60);
/// The rates at which a gate may start, in calls per second. At a slower one it would take long to find that it is wrong.
const RATES: (f64, f64) = (0.1, 1e6);

impl LearnedLimit {
    /// The limit as a gate may start with it at `now`, or the reason why it may not.
    pub(super) fn usable(mut self, now: SystemTime) -> Result<Self, &'static str> {
        match now.duration_since(self.at) {
            Ok(age) if age > BELIEVED => return Err("it is older than a day"),
            Err(error) if error.duration() > AHEAD => return Err("its time is in the future"),
            Ok(_) | Err(_) => {}
        }
        match (self.kind, self.starts_per_second, self.max_in_flight) {
            (LimitKind::Rate, Some(rate), _) if rate.is_finite() && rate > 0.0 => {
                self.starts_per_second = Some(rate.clamp(RATES.0, RATES.1));
            }
            (LimitKind::Rate, ..) => return Err("its rate is not a number above 0"),
            (LimitKind::InFlight, _, None | Some(0)) => return Err("its number of calls is not above 0"),
            (LimitKind::InFlight, _, Some(_)) | (LimitKind::Stray, ..) => {}
        }
        self.burst = self.burst.filter(|burst| burst.is_finite() && *burst >= 1.0);
        Ok(self)
    }
}

/// A limit without the time of the calendar, which a gate's state does not read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learned {
    pub(super) limit: LearnedLimit,
    /// The last rejection that it follows from, unless that was before this gate.
    pub(super) rejected: Option<Instant>,
}

impl Learned {
    pub(super) fn dated(self) -> LearnedLimit {
        let at = self
            .rejected
            .and_then(|rejected| SystemTime::now().checked_sub(rejected.elapsed()))
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .map(|since| UNIX_EPOCH + Duration::from_secs(since.as_secs()));
        LearnedLimit {
            at: at.unwrap_or(self.limit.at),
            ..self.limit
        }
    }
}

/// A time as in RFC 3339.
mod wall_time {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// The year 10000 has no text.
    const END: Duration = Duration::from_secs(253_402_300_800);

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) if since < END => serializer.collect_str(&humantime::format_rfc3339(*time)),
            _ => Err(S::Error::custom(
                "the time is not between the years 1970 and 9999",
            )),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}
