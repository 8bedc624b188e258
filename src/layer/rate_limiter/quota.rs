//! The quotas of an account, as its provider states them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::error::InvalidLimit;
use crate::error::QuotaDimension;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The part of the period whose refill a bucket holds by default: a second of a minute.
const DEFAULT_BURST: u32 = 60;

/// An amount that calls may take per period: requests, tokens, or input and output tokens apart.
///
/// A [gate](super::RateLimiterBuilder::quota) keeps any number of them at once. The period is a minute unless it is set.
///
/// A quota of less than a day is refilled continuously, and at most its [`burst`](Self::burst) is taken at once. A quota of a
/// day counts in a fixed window: all of it may be taken from one reset to the next ([`resets_at`](Self::resets_at)). A window that
/// is used up refuses calls ([`Refused::QuotaExhausted`](super::Refused::QuotaExhausted)), or has them
/// [wait for the reset](super::RateLimiterBuilder::wait_for_reset).
///
/// As a text it is what a provider's page of limits says: `500 requests per minute`, `2_000_000 tokens per day resetting at 08:00`.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::rate_limiter::{Quota, RateLimiter};
///
/// let limiter = RateLimiter::builder()
///     .quota(Quota::requests(50).per_minute())
///     .quota(Quota::input_tokens(30_000).per_minute().excluding_cached_reads())
///     .quota(Quota::output_tokens(8_000).per_minute().burst(Duration::from_secs(10)))
///     // Midnight on the Pacific coast, in winter.
///     .quota(Quota::requests(1_000).per_day().resets_at(Duration::from_secs(8 * 3_600)))
///     .build()?;
/// assert_eq!(limiter.quotas().len(), 4);
/// assert_eq!("10 requests per second".parse(), Ok(Quota::requests(10).per_second()));
/// # Ok::<(), llm_batch::layer::rate_limiter::InvalidLimit>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a quota does nothing until a gate has it"]
pub struct Quota {
    dimension: QuotaDimension,
    limit: u64,
    period: Duration,
    refill: Option<Refill>,
    excluding_cached_reads: bool,
}

/// The way in which a quota comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refill {
    /// Continuously, up to what this time refills.
    Continuous { burst: Duration },
    /// All at once, this long after midnight UTC and every period from there.
    Window { offset: Duration },
}

impl Quota {
    const fn new(dimension: QuotaDimension, limit: u64) -> Self {
        Self {
            dimension,
            limit,
            period: MINUTE,
            refill: None,
            excluding_cached_reads: false,
        }
    }

    /// A quota of calls.
    pub const fn requests(limit: u64) -> Self {
        Self::new(QuotaDimension::Requests, limit)
    }

    /// A quota of tokens, input and output together.
    pub const fn tokens(limit: u64) -> Self {
        Self::new(QuotaDimension::Tokens, limit)
    }

    /// A quota of input tokens.
    pub const fn input_tokens(limit: u64) -> Self {
        Self::new(QuotaDimension::InputTokens, limit)
    }

    /// A quota of output tokens, reasoning included.
    pub const fn output_tokens(limit: u64) -> Self {
        Self::new(QuotaDimension::OutputTokens, limit)
    }

    /// Sets the period: a second to a day.
    pub const fn per(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Sets the period to a second.
    pub const fn per_second(self) -> Self {
        self.per(SECOND)
    }

    /// Sets the period to a minute, which is the default.
    pub const fn per_minute(self) -> Self {
        self.per(MINUTE)
    }

    /// Sets the period to an hour.
    pub const fn per_hour(self) -> Self {
        self.per(HOUR)
    }

    /// Sets the period to a day. The quota then counts in a window that resets at midnight UTC, unless
    /// [`resets_at`](Self::resets_at) or [`burst`](Self::burst) sets otherwise.
    pub const fn per_day(self) -> Self {
        self.per(DAY)
    }

    /// Refills continuously, and lets calls take at once what is refilled in this time: a sixtieth of the period by default,
    /// all of it at most.
    ///
    /// A bucket that holds all of its period lets nearly twice the limit through in the first one. An amount above what the bucket holds waits
    /// until it is full and leaves a debt.
    pub const fn burst(mut self, time: Duration) -> Self {
        self.refill = Some(Refill::Continuous { burst: time });
        self
    }

    /// Counts in fixed windows in place of a continuous refill: they begin at this time of day, since midnight UTC, and every
    /// period from there, which has to divide a day evenly. For a reset at local midnight pass what a UTC clock shows then.
    ///
    /// The time of day comes from the system's clock when the gate is made, and from tokio's from then on.
    pub const fn resets_at(mut self, time_of_day: Duration) -> Self {
        self.refill = Some(Refill::Window { offset: time_of_day });
        self
    }

    /// Does not count tokens that the provider read from its prompt cache, as Anthropic does not for most models. Before a call that
    /// part is not known: all of the prompt is reserved, and the part refunded when the call ends.
    pub const fn excluding_cached_reads(mut self) -> Self {
        self.excluding_cached_reads = true;
        self
    }

    /// What it counts.
    pub const fn dimension(&self) -> QuotaDimension {
        self.dimension
    }

    /// The amount per period.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The period.
    pub const fn period(&self) -> Duration {
        self.period
    }

    pub(super) const fn excludes_cached_reads(&self) -> bool {
        self.excluding_cached_reads
    }

    pub(super) fn refill(&self) -> Refill {
        self.refill.unwrap_or(if self.period == DAY {
            Refill::Window {
                offset: Duration::ZERO,
            }
        } else {
            Refill::Continuous {
                burst: self.period / DEFAULT_BURST,
            }
        })
    }

    pub(super) fn check(&self) -> Result<(), InvalidLimit> {
        let wrong = |problem| Err(InvalidLimit::new("quota", problem));
        if self.limit == 0 {
            return wrong("must be at least 1");
        }
        if self.period < SECOND || self.period > DAY {
            return wrong("must have a period from one second to one day");
        }
        let counts_input = matches!(
            self.dimension,
            QuotaDimension::Tokens | QuotaDimension::InputTokens
        );
        if self.excluding_cached_reads && !counts_input {
            return wrong("can exclude cached reads only if it counts input tokens, or all tokens");
        }
        match self.refill() {
            Refill::Continuous { burst } => {
                if burst.is_zero() || burst > self.period {
                    return wrong("must have a burst above zero and of at most its period");
                }
                let most = self.period.as_nanos().min(u128::from(u32::MAX));
                if u128::from(self.limit) > most {
                    return wrong(
                        "is too large to be refilled continuously: 4294967295 per period and one per nanosecond are the most",
                    );
                }
            }
            Refill::Window { offset } => {
                if offset >= DAY {
                    return wrong("must reset at a time of day, which is below 24 hours");
                }
                if !DAY.as_nanos().is_multiple_of(self.period.as_nanos()) {
                    return wrong("with a reset must have a period that divides a day evenly");
                }
            }
        }
        Ok(())
    }
}

/// The form that [`FromStr`] reads: `1000 requests per day resetting at 08:00`.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} per ", self.limit, self.dimension.words())?;
        match PERIODS.iter().find(|(_, period)| *period == self.period) {
            Some((name, _)) => f.write_str(name)?,
            None => f.write_str(&compact(self.period))?,
        }
        match self.refill {
            Some(Refill::Continuous { burst }) => write!(f, " with burst {}", compact(burst))?,
            Some(Refill::Window { offset }) => {
                let seconds = offset.as_secs();
                write!(f, " resetting at {:02}:{:02}", seconds / 3_600, seconds / 60 % 60)?;
                if !seconds.is_multiple_of(60) {
                    write!(f, ":{:02}", seconds % 60)?;
                }
            }
            None => {}
        }
        if self.excluding_cached_reads {
            f.write_str(" excluding cached reads")?;
        }
        Ok(())
    }
}

/// One word: `1h30m`.
fn compact(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

const PERIODS: [(&str, Duration); 4] = [
    ("second", SECOND),
    ("minute", MINUTE),
    ("hour", HOUR),
    ("day", DAY),
];

const FORM: &str = "is not understood: write it as `500 requests per minute`, `30000 input tokens per minute excluding cached reads`, \
     `1000 tokens per 10s with burst 2s` or `1000 requests per day resetting at 08:00` (UTC)";

/// Reads `NUMBER requests|tokens|input tokens|output tokens per second|minute|hour|day|TIME`, followed by any of
/// `with burst TIME`, `resetting at HH:MM` (or `HH:MM:SS`, in UTC) and `excluding cached reads`.
impl FromStr for Quota {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        let wrong = |problem| InvalidLimit::new("quota", problem);
        let words: Vec<_> = text.split_whitespace().collect();
        let (number, rest) = words.split_first().ok_or_else(|| wrong(FORM))?;
        let limit = amount(number)
            .ok_or_else(|| wrong("must begin with a whole number, such as 500, 1000000 or 1_000_000"))?;
        let (quota, rest) = match rest {
            ["requests" | "request", rest @ ..] => (Self::requests(limit), rest),
            ["tokens" | "token", rest @ ..] => (Self::tokens(limit), rest),
            ["input", "tokens" | "token", rest @ ..] => (Self::input_tokens(limit), rest),
            ["output", "tokens" | "token", rest @ ..] => (Self::output_tokens(limit), rest),
            _ => {
                return Err(wrong(
                    "must count requests, tokens, input tokens or output tokens, named after the number",
                ));
            }
        };
        let ["per", period, options @ ..] = rest else {
            return Err(wrong(FORM));
        };
        let named = PERIODS.iter().find(|(name, _)| name == period);
        let period = match named {
            Some((_, period)) => *period,
            None => time(period).ok_or_else(|| {
                wrong("must be per second, minute, hour, day, or a time with its unit, such as 10s")
            })?,
        };
        let (mut quota, mut rest) = (quota.per(period), options);
        while !rest.is_empty() {
            (quota, rest) = match rest {
                ["with", "burst", burst, rest @ ..] if quota.refill.is_none() => {
                    let burst = time(burst)
                        .ok_or_else(|| wrong("must have a time with its unit as burst, such as 2s"))?;
                    (quota.burst(burst), rest)
                }
                ["resetting", "at", at, rest @ ..] if quota.refill.is_none() => {
                    let at = time_of_day(at)
                        .ok_or_else(|| wrong("must reset at a time of day in UTC, such as 08:00"))?;
                    (quota.resets_at(at), rest)
                }
                ["excluding", "cached", "reads", rest @ ..] if !quota.excluding_cached_reads => {
                    (quota.excluding_cached_reads(), rest)
                }
                _ => return Err(wrong(FORM)),
            };
        }
        quota.check()?;
        Ok(quota)
    }
}

fn amount(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('_');
    digits.parse().ok().filter(|_| is_number)
}

fn time(text: &str) -> Option<Duration> {
    let has_unit = !text.bytes().all(|byte| byte.is_ascii_digit());
    humantime::parse_duration(text).ok().filter(|_| has_unit)
}

fn time_of_day(text: &str) -> Option<Duration> {
    let part = |part: &str, most: u64| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse().ok().filter(|number| digits && *number <= most)
    };
    let mut parts = text.split(':');
    let (hours, minutes) = (part(parts.next()?, 23)?, part(parts.next()?, 59)?);
    let seconds = parts.next().map_or(Some(0), |text| part(text, 59))?;
    (parts.next().is_none()).then(|| Duration::from_secs(hours * 3_600 + minutes * 60 + seconds))
}

/// A quota of a gate, and what is left of it; from [`RateLimiter::quotas`](super::RateLimiter::quotas).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QuotaState {
    /// The quota.
    pub quota: Quota,
    /// The amount that may be taken now; negative after a debt.
    pub available: f64,
    /// The time at which all of it comes back, if it is counted in windows.
    pub resets_at: Option<SystemTime>,
}
