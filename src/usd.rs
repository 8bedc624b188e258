//! US dollars.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// US dollars, in whole billionths (nano-dollars).
///
/// They are integers, so that a sum does not depend on the order in which calls end, and two accounts can be compared. The cost of a
/// call is rounded once, to the nearest billionth: the error of a million calls is at most 0.0005 dollars. Sums saturate
/// at 18 billion dollars.
///
/// In JSON it is a number of dollars, exact below 2^51 billionths (2.2 million dollars).
///
/// ```
/// use llm_batch::Usd;
///
/// let calls = [0.00021, 1.25, 0.0].map(|dollars| Usd::from_dollars(dollars).unwrap());
/// let sum: Usd = calls.iter().sum();
/// assert_eq!(sum.to_string(), "$1.25");
/// assert_eq!(calls[0].to_string(), "$0.00021");
/// assert_eq!(sum.nanos(), 1_250_210_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Usd(u64);

/// Nano-dollars in a dollar.
const NANOS: f64 = 1e9;

impl Usd {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// From billionths of a dollar.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// From dollars, rounded to the nearest billionth; `None` if the number is negative, infinite or NaN. Larger values
    /// saturate.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        (dollars.is_finite() && dollars >= 0.0).then(|| Self((dollars * NANOS).round() as u64))
    }

    /// Billionths of a dollar.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Dollars, to the precision of an `f64`.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS
    }
}

impl Add for Usd {
    type Output = Self;

    /// Saturating.
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Self> for Usd {
    fn sum<I: Iterator<Item = &'a Self>>(iter: I) -> Self {
        iter.copied().sum()
    }
}

/// `$1,234.50`; below a dollar three significant digits, as in `$0.0123`.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.dollars();
        let decimals = match dollars {
            d if d >= 0.995 || self.0 == 0 => 2,
            // The first significant digit, and two more.
            d => (2 - d.log10().floor() as i32).clamp(2, 9) as usize,
        };
        let text = format!("{dollars:.decimals$}");
        let (whole, mut fraction) = text.split_once('.').unwrap_or((&text, ""));
        while fraction.len() > 2 && fraction.ends_with('0') {
            fraction = &fraction[..fraction.len() - 1];
        }
        f.write_str("$")?;
        for (position, digit) in whole.chars().enumerate() {
            if position > 0 && (whole.len() - position).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        write!(f, ".{fraction}")
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| serde::de::Error::custom(format!("{dollars} is not an amount of dollars")))
    }
}
