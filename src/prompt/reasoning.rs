//! The extent of a model's reasoning before it answers.

use serde::{Deserialize, Serialize};

/// The effort that a model spends on reasoning before it answers.
///
/// | | OpenAI, both wires | Anthropic | Gemini |
/// |---|---|---|---|
/// | `None` | `none` | `thinking: disabled` | `thinkingBudget: 0` |
/// | `Minimal` | `minimal` | error | `MINIMAL` |
/// | `Low`, `Medium`, `High`, `XHigh` | the same | `thinking: adaptive` and `output_config.effort` | `thinkingLevel` |
/// | `Max` | `max` | the same | error |
/// | `Tokens(n)` | error | `thinking: enabled`, `budget_tokens: n` | `thinkingBudget: n` |
///
/// An effort that a provider has no word for is an [`InvalidRequest`](crate::ErrorKind::InvalidRequest) error before anything is sent; what a
/// model does not know, the provider rejects. Gemini's models up to 2.5 and Anthropic's up to 4.5 take a number of
/// tokens, later ones an effort. On Anthropic a client's own
/// [`thinking`](crate::provider::anthropic::AnthropicBuilder::thinking) stays beside an effort.
///
/// ```
/// use llm_batch::{Prompt, ReasoningEffort};
///
/// let prompt = Prompt::new("Prove it.").with_reasoning_effort(ReasoningEffort::High);
/// assert_eq!("xhigh".parse(), Ok(ReasoningEffort::XHigh));
/// assert_eq!("2048".parse(), Ok(ReasoningEffort::Tokens(2_048)));
/// # let _ = prompt;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReasoningEffort {
    /// Not at all.
    None,
    /// As little as it can.
    Minimal,
    /// A little.
    Low,
    /// Between low and high.
    Medium,
    /// Much.
    High,
    /// More than high.
    XHigh,
    /// As much as it takes.
    Max,
    /// Up to a number of tokens.
    Tokens(u32),
}

impl ReasoningEffort {
    const NAMES: [(&str, Self); 7] = [
        ("none", Self::None),
        ("minimal", Self::Minimal),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("xhigh", Self::XHigh),
        ("max", Self::Max),
    ];

    /// The effort of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find_map(|(known, effort)| (*known == name).then_some(*effort))
    }

    /// The name of an effort; none for a number of tokens.
    #[cfg(any(feature = "openai", feature = "anthropic"))]
    pub(crate) fn name(self) -> Option<&'static str> {
        Self::NAMES
            .iter()
            .find_map(|(name, effort)| (*effort == self).then_some(*name))
    }
}

impl std::str::FromStr for ReasoningEffort {
    type Err = String;

    /// Reads a name as above in lower case, or a number of tokens.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::named(text).or_else(|| text.parse().ok().map(Self::Tokens)).ok_or_else(|| {
            format!("{text:?} is not a reasoning effort; write none, minimal, low, medium, high, xhigh, max or a number of tokens")
        })
    }
}
