//! Preset providers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::super::latency::Latency;
use super::builder::SimulatedProviderBuilder;
use super::hint::Hint;
use super::quota::Quota;

/// A preset of a simulated provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// Answers in about 100 ms; no quota, no faults.
    Steady,
    /// Moderate trouble: 60 requests in every two seconds, hints in whole seconds, 3 % resets, 2 % 503s, 1 % stalls of
    /// two seconds. With `max_attempts` of 8 every item succeeds.
    #[default]
    Throttled,
    /// All faults together: rejected calls that count, tokens by a fixed window, a concurrency limit, no hints; resets,
    /// truncated and garbage bodies, slow bodies, streams that are cut or fail, an outage of five seconds. With
    /// `max_attempts` of 8 or more, nearly every item succeeds.
    Chaos,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 3] = [Self::Steady, Self::Throttled, Self::Chaos];

    /// The name after `sim:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Throttled => "throttled",
            Self::Chaos => "chaos",
        }
    }

    fn apply(self, builder: SimulatedProviderBuilder) -> SimulatedProviderBuilder {
        let ms = Duration::from_millis;
        match self {
            Self::Steady => builder.latency(Latency::log_normal(ms(100), ms(250))),
            Self::Throttled => builder
                .request_quota(Quota::new(60, ms(2_000)).fixed_window())
                .latency(Latency::log_normal(ms(150), ms(800)))
                .reset_rate(0.03)
                .status_rate(503, 0.02)
                .stall(0.01, ms(2_000)),
            Self::Chaos => builder
                .request_quota(Quota::per_second(40))
                .count_rejected(true)
                .token_quota(Quota::new(30_000, ms(5_000)).fixed_window())
                .concurrency(40)
                .hint(Hint::None)
                .latency(Latency::log_normal(ms(150), ms(1_500)))
                .reset_before_rate(0.01)
                .reset_rate(0.05)
                .status_rate(503, 0.03)
                .status_rate(500, 0.02)
                .truncated_rate(0.02)
                .garbage_rate(0.02)
                .slow_body(0.05, ms(1_000))
                .stall(0.01, ms(3_000))
                .stream_cut_rate(0.02)
                .stream_error_rate(0.02)
                .outage(ms(4_000), ms(5_000), 503),
        }
    }
}

impl SimulatedProviderBuilder {
    /// Starts from a preset, and resets all earlier settings except the seed.
    pub fn preset(self, preset: Preset) -> Self {
        preset.apply(Self::new().seed(self.config.seed))
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error for a text that is not a [`Preset`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsePresetError {
    text: String,
}

impl fmt::Display for ParsePresetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Preset::ALL.map(Preset::as_str).join(", ");
        write!(
            f,
            "{:?} is not a preset of the simulated provider; the presets are {names}",
            self.text
        )
    }
}

impl std::error::Error for ParsePresetError {}

impl FromStr for Preset {
    type Err = ParsePresetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|preset| preset.as_str() == text);
        found.ok_or_else(|| ParsePresetError {
            text: text.to_owned(),
        })
    }
}
