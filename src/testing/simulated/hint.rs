//! The form of the wait hint for a throttled client.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// The form of the wait hint in throttle replies.
///
/// The wire formats other than OpenAI's have their own forms. Anthropic sends `retry-after` (at least one
/// second; without it, its 429 means a spend limit) for every form except `retry-after-ms` and `http-date`. Gemini
/// sends no headers: with [`Hint::None`] its error has no details, with [`Hint::Message`] the time is only in the message,
/// and with any other form also in `RetryInfo`.
///
/// As text: `none`, `retry-after-ms`, `retry-after`, `http-date`, `message`, `reset-headers`, `retry-info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// No hint.
    None,
    /// `retry-after-ms`, rounded up to a millisecond.
    RetryAfterMs,
    /// `Retry-After` in whole seconds, rounded up.
    #[default]
    RetryAfterSeconds,
    /// `Retry-After` as an HTTP date: whole seconds of the system clock, rounded up.
    HttpDate,
    /// In the message, as at OpenAI: `Please try again in 26.604s.`
    Message,
    /// `x-ratelimit-reset-requests` and `-tokens`: the time until the quota is **full** again, as documented by OpenAI,
    /// which is longer than the wait for one call.
    ResetHeaders,
    /// `google.rpc.RetryInfo` in the error's details, exact to the nanosecond.
    RetryInfo,
}

impl Hint {
    /// All forms.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::RetryAfterMs,
        Self::RetryAfterSeconds,
        Self::HttpDate,
        Self::Message,
        Self::ResetHeaders,
        Self::RetryInfo,
    ];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::RetryAfterMs => "retry-after-ms",
            Self::RetryAfterSeconds => "retry-after",
            Self::HttpDate => "http-date",
            Self::Message => "message",
            Self::ResetHeaders => "reset-headers",
            Self::RetryInfo => "retry-info",
        }
    }

    /// Returns the wait that a client reads from the hint when the exact wait is `wait` and the quota is full again after
    /// `until_full`.
    pub(super) fn rounded(self, wait: Duration, until_full: Duration) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::RetryAfterMs | Self::Message => Some(up_to_milliseconds(wait)),
            Self::RetryAfterSeconds | Self::HttpDate => Some(up_to_seconds(wait)),
            Self::ResetHeaders => Some(up_to_milliseconds(until_full)),
            Self::RetryInfo => Some(wait),
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error for a text that is not a [`Hint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseHintError {
    text: String,
}

impl fmt::Display for ParseHintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Hint::ALL.map(Hint::as_str).join(", ");
        write!(f, "{:?} is not a form of hint; the forms are {names}", self.text)
    }
}

impl std::error::Error for ParseHintError {}

impl FromStr for Hint {
    type Err = ParseHintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|hint| hint.as_str() == text);
        found.ok_or_else(|| ParseHintError {
            text: text.to_owned(),
        })
    }
}

/// The system time after `wait`, rounded up to a second. A wait is capped at a century.
pub(super) fn moment(wait: Duration) -> SystemTime {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let wait = wait.min(Duration::from_secs(100 * 365 * 86_400));
    SystemTime::UNIX_EPOCH + up_to_seconds(since_epoch + wait)
}

pub(super) fn up_to_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

pub(super) fn up_to_milliseconds(time: Duration) -> Duration {
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

/// A duration in OpenAI's format: `17ms`, `6s`, `8.64s`, `1m2.3s`, `6m0s`.
pub(super) fn openai_duration(time: Duration) -> String {
    let time = up_to_milliseconds(time);
    let (minutes, milliseconds) = (time.as_secs() / 60, time.as_millis() % 60_000);
    if minutes == 0 && milliseconds < 1_000 {
        return format!("{milliseconds}ms");
    }
    let seconds = milliseconds as f64 / 1_000.0;
    if minutes == 0 {
        format!("{seconds}s")
    } else {
        format!("{minutes}m{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_openai_writes_them() {
        let written =
            [17, 6_000, 8_640, 62_300, 360_000, 0].map(|ms| openai_duration(Duration::from_millis(ms)));
        assert_eq!(written, ["17ms", "6s", "8.64s", "1m2.3s", "6m0s", "0ms"]);
    }

    #[test]
    fn every_form_has_a_name() {
        for hint in Hint::ALL {
            assert_eq!(hint.to_string().parse(), Ok(hint));
        }
    }
}
