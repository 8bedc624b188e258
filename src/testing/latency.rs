//! The duration of a simulated call.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326;

/// A distribution of latencies.
///
/// As text: `200ms` is constant, `100ms..300ms` uniform, `200ms~2s` log-normal with that median and 99th percentile.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::testing::Latency;
///
/// let latency: Latency = "200ms~2s".parse()?;
/// assert_eq!(latency, Latency::log_normal(Duration::from_millis(200), Duration::from_secs(2)));
/// # Ok::<(), llm_batch::testing::ParseLatencyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency(Shape);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Constant(Duration),
    Uniform { min: Duration, max: Duration },
    LogNormal { median: Duration, p99: Duration },
}

impl Latency {
    /// No latency.
    pub const ZERO: Self = Self::constant(Duration::ZERO);

    /// A constant latency.
    pub const fn constant(time: Duration) -> Self {
        Self(Shape::Constant(time))
    }

    /// A uniform distribution from `min` to `max`. They are swapped if `min` is larger.
    pub fn uniform(min: Duration, max: Duration) -> Self {
        Self(Shape::Uniform {
            min: min.min(max),
            max: max.max(min),
        })
    }

    /// A log-normal distribution with a heavy tail, as with real providers: half of the calls take less than `median`, one in a hundred
    /// more than `p99`. No sample is above ten times `p99`. A `p99` below the median counts as the median.
    pub fn log_normal(median: Duration, p99: Duration) -> Self {
        Self(Shape::LogNormal {
            median,
            p99: p99.max(median),
        })
    }

    /// Draws one latency. Every distribution takes the same number of draws, so that scenarios stay comparable.
    pub(crate) fn sample(&self, rng: &mut fastrand::Rng) -> Duration {
        let (first, second) = (rng.f64(), rng.f64());
        match self.0 {
            Shape::Constant(time) => time,
            Shape::Uniform { min, max } => min + (max - min).mul_f64(first),
            Shape::LogNormal { median, .. } if median.is_zero() => Duration::ZERO,
            Shape::LogNormal { median, p99 } => {
                let ratio = p99.as_secs_f64() / median.as_secs_f64();
                // The Box-Muller transform; `1 - first` is never 0.
                let normal = (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos();
                let factor = (normal * ratio.ln() / NORMAL_P99).exp();
                median.mul_f64(factor.min(10.0 * ratio))
            }
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<Duration> for Latency {
    fn from(time: Duration) -> Self {
        Self::constant(time)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        match self.0 {
            Shape::Constant(constant) => write!(f, "{}", time(constant)),
            Shape::Uniform { min, max } => write!(f, "{}..{}", time(min), time(max)),
            Shape::LogNormal { median, p99 } => write!(f, "{}~{}", time(median), time(p99)),
        }
    }
}

/// The error for a text that is not a [`Latency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseLatencyError {
    text: String,
}

impl fmt::Display for ParseLatencyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a latency; write 200ms (constant), 100ms..300ms (uniform) or 200ms~2s (median and 99th percentile)",
            self.text
        )
    }
}

impl std::error::Error for ParseLatencyError {}

impl FromStr for Latency {
    type Err = ParseLatencyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = |part: &str| {
            humantime::parse_duration(part.trim()).map_err(|_| ParseLatencyError {
                text: text.to_owned(),
            })
        };
        if let Some((min, max)) = text.split_once("..") {
            Ok(Self::uniform(time(min)?, time(max)?))
        } else if let Some((median, p99)) = text.split_once('~') {
            Ok(Self::log_normal(time(median)?, time(p99)?))
        } else {
            time(text).map(Self::constant)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_normal_has_its_median_and_its_tail() {
        let latency = Latency::log_normal(Duration::from_millis(100), Duration::from_secs(1));
        let mut rng = fastrand::Rng::with_seed(1);
        let mut samples: Vec<_> = (0..20_000)
            .map(|_| latency.sample(&mut rng).as_secs_f64())
            .collect();
        samples.sort_by(f64::total_cmp);
        assert!((samples[10_000] - 0.1).abs() < 0.01, "{}", samples[10_000]);
        assert!((samples[19_800] - 1.0).abs() < 0.15, "{}", samples[19_800]);
        assert!(samples[19_999] <= 10.0);
    }

    #[test]
    fn text_round_trips() {
        for text in ["200ms", "100ms..300ms", "200ms~2s"] {
            assert_eq!(
                text.parse::<Latency>().map(|latency| latency.to_string()),
                Ok(text.to_owned())
            );
        }
        assert!("fast".parse::<Latency>().is_err());
    }
}
