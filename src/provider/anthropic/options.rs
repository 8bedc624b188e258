//! Settings that only this provider has.

use serde::{Deserialize, Serialize};

use crate::prompt::CacheTtl;

/// The least that Anthropic takes.
pub(super) const SMALLEST_THINKING_BUDGET: u32 = 1_024;

/// The extent to which the model thinks before it answers, if at all. Thoughts are billed as output and count towards the
/// output token limit.
///
/// ```
/// use llm_batch::provider::anthropic::{Anthropic, Thinking};
///
/// let builder = Anthropic::builder().api_key("secret").thinking(Thinking::Enabled { budget_tokens: 2_048 });
/// # let _ = builder.build()?;
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Thinking {
    /// The model decides.
    Adaptive,
    /// Up to a budget.
    Enabled {
        /// Tokens, at least 1,024.
        budget_tokens: u32,
    },
    /// Not at all.
    Disabled,
}

/// The effort that the model takes, in tokens of every kind (`output_config.effort`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Effort {
    /// The least.
    Low,
    /// Between low and high.
    Medium,
    /// The models' default.
    High,
    /// More than high; not every model knows it.
    XHigh,
    /// As much as it takes; not every model knows it.
    Max,
}

/// The options that a client adds to each request.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) version: String,
    pub(super) system_cache: Option<CacheTtl>,
    pub(super) prefix_cache: Option<CacheTtl>,
    pub(super) thinking: Option<Thinking>,
    pub(super) effort: Option<Effort>,
}
