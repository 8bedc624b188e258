//! The wait before a retry.

use std::time::Duration;

/// Exponential backoff with jitter over the upper half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) initial: Duration,
    pub(super) base: f64,
    /// `None` where it was not set.
    pub(super) max: Option<Duration>,
}

/// The default longest wait, unless the initial one is longer.
const MAX: Duration = Duration::from_secs(60);

impl Backoff {
    pub(super) const DEFAULT: Self = Self {
        initial: Duration::from_secs(1),
        base: 2.0,
        max: None,
    };

    /// The longest wait: the configured one, or else 60 s, or the initial wait if that is longer.
    fn longest(&self) -> Duration {
        self.max.unwrap_or(MAX.max(self.initial))
    }

    /// The wait after failure number `failure` (from 1), with `jitter` in `[0, 1)`: between half of the full wait and the
    /// full wait.
    pub(super) fn wait(&self, failure: u32, jitter: f64) -> Duration {
        if self.initial.is_zero() {
            return Duration::ZERO;
        }
        let exponent = i32::try_from(failure.saturating_sub(1)).unwrap_or(i32::MAX);
        // The maximum also caps infinity.
        let longest = self.longest();
        let whole = (self.initial.as_secs_f64() * self.base.powi(exponent)).min(longest.as_secs_f64());
        Duration::try_from_secs_f64(whole * (0.5 + jitter / 2.0)).unwrap_or(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_never_overflows() {
        let waits = [1, 2, 3, 6, 7, 1_000, u32::MAX].map(|failure| Backoff::DEFAULT.wait(failure, 0.0));
        assert_eq!(
            waits.map(|wait| wait.as_secs_f64()),
            [0.5, 1.0, 2.0, 16.0, 30.0, 30.0, 30.0]
        );
        let endless = Backoff {
            initial: Duration::MAX,
            base: f64::MAX,
            max: Some(Duration::MAX),
        };
        assert!(endless.wait(u32::MAX, 0.999) > Duration::from_secs(1 << 60));
        assert_eq!(
            Backoff {
                initial: Duration::ZERO,
                ..endless
            }
            .wait(9, 0.5),
            Duration::ZERO
        );
    }

    #[test]
    fn the_default_maximum_is_never_below_the_initial_wait() {
        let from = |initial| Backoff {
            initial: Duration::from_secs(initial),
            ..Backoff::DEFAULT
        };
        assert_eq!(from(90).wait(1, 0.0), Duration::from_secs(45));
        assert_eq!(from(90).wait(5, 0.0), Duration::from_secs(45));
        assert_eq!(from(50).wait(5, 0.0), Duration::from_secs(30));
        let set = Backoff {
            max: Some(Duration::from_secs(60)),
            ..from(90)
        };
        assert_eq!(set.wait(1, 0.0), Duration::from_secs(30));
    }
}
