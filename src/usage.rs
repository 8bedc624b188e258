//! Token counts, normalised across providers.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Tokens of one call, one item or one batch, with the same meaning for every provider.
///
/// `input` **includes** `cached_input` and `cache_write`; `output` **includes** `reasoning`. Providers differ
/// in this (Anthropic's `input_tokens` excludes cached tokens, Gemini's `candidatesTokenCount` excludes
/// thoughts); the providers of this crate convert.
///
/// Unknown usage is not zero: where a call may not have reported its usage, this type is inside an
/// `Option`, and `None` means unknown.
///
/// ```
/// use llm_batch::TokenUsage;
///
/// let mut usage = TokenUsage::new(1_000, 200);
/// usage.cached_input = 600;
/// assert_eq!(usage.total(), 1_200);
/// assert_eq!(usage.cache_hit_rate(), 0.6);
/// assert_eq!(usage.effective_input(0.1), 460);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TokenUsage {
    /// Tokens sent, cached ones included.
    pub input: u64,
    /// Tokens generated, reasoning included.
    pub output: u64,
    /// The part of `input` that the provider read from its prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cached_input: u64,
    /// The part of `input` that the provider wrote to its prompt cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write: u64,
    /// The part of `cache_write` with the provider's longer retention, at its own price: one hour with Anthropic,
    /// twelve hours with OpenAI.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_long: u64,
    /// The part of `output` that was reasoning and is not in the answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the shape serde asks for
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl TokenUsage {
    /// No tokens: the usage of a call that was not sent or was rejected.
    pub const ZERO: Self = Self::new(0, 0);

    /// Creates a usage of `input` and `output` tokens, without cached or reasoning tokens.
    pub const fn new(input: u64, output: u64) -> Self {
        Self {
            input,
            output,
            cached_input: 0,
            cache_write: 0,
            cache_write_long: 0,
            reasoning: 0,
        }
    }

    /// Input plus output.
    pub const fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The share of the input that came from the provider's cache, 0 to 1; 0 without input.
    pub fn cache_hit_rate(&self) -> f64 {
        if self.input == 0 {
            return 0.0;
        }
        self.cached_input.min(self.input) as f64 / self.input as f64
    }

    /// Input tokens at full price, when a cached token costs `rate` of one (0 to 1; values outside are
    /// clamped, NaN counts as 1).
    ///
    /// `input - trunc(cached_input * (1 - rate))`. Known rates: Gemini 0.10, OpenAI 0.50, Anthropic 0.10,
    /// DeepSeek 0.02 (their price pages, November 2026); your own prices take precedence.
    pub fn effective_input(&self, rate: f64) -> u64 {
        let rate = if rate.is_nan() { 1.0 } else { rate.clamp(0.0, 1.0) };
        let saved = (self.cached_input.min(self.input) as f64 * (1.0 - rate)).trunc() as u64;
        self.input - saved.min(self.input)
    }
}

impl Add for TokenUsage {
    type Output = Self;

    /// Adds field by field, saturating.
    fn add(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            cache_write_long: self.cache_write_long.saturating_add(other.cache_write_long),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }
}

impl AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for TokenUsage {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Self> for TokenUsage {
    fn sum<I: Iterator<Item = &'a Self>>(iter: I) -> Self {
        iter.copied().sum()
    }
}
