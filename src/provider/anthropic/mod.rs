//! Anthropic's Messages, and every server that speaks them.
//!
//! ```no_run
//! # async fn run() -> Result<(), llm_batch::LlmError> {
//! use llm_batch::LlmRequest;
//! use llm_batch::provider::anthropic::Anthropic;
//! use tower::ServiceExt;
//!
//! let model = Anthropic::from_env()?.model("claude-sonnet-4-5");
//! let answer = model.oneshot(LlmRequest::new("Say hello.".into())).await?;
//! println!("{} ({:?})", answer.output, answer.usage);
//! # Ok(()) }
//! ```
//!
//! # Requests
//!
//! | [`Prompt`](crate::Prompt) | request |
//! |---|---|
//! | system text | `system` |
//! | messages | `messages`, system turns among them; a last turn of the assistant is a prefill, which newer models refuse |
//! | system and developer messages before the first turn | `system`, after the system text |
//! | tools, tool choice, parallel calls | `tools`, `tool_choice` with `disable_parallel_tool_use` |
//! | tool calls and results | `tool_use` blocks, `tool_result` blocks of one user turn |
//! | reasoning of an earlier answer | its signed `thinking` blocks |
//! | mark of a message for the cache | `cache_control` of its last block |
//! | reasoning effort | `thinking` and `output_config.effort`; see [`ReasoningEffort`](crate::ReasoningEffort) |
//! | image | a `data:` URL as `base64` source, an `https:` one as `url` source |
//! | raw part | as it is, a `cache_control` of its own too |
//! | output token limit | `max_tokens`, 8,192 unless set; see [`Anthropic::model`] |
//! | temperature, `top_p` | as they are; an error where the [version](AnthropicBuilder::version) takes none |
//! | stop sequences | `stop_sequences` |
//! | seed | an error: Anthropic has no counterpart |
//! | output schema | `output_config.format` |
//! | extra field | as it is, in place of a field of that name: `metadata`, `thinking`, ... |
//!
//! An error here is [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest), and nothing is sent. Extra fields and
//! [raw](crate::Prompt::raw) bodies are not looked into.
//!
//! # Replies
//!
//! The output is the text of all text blocks. The metadata has tool calls as the `tool_use` blocks that came, thinking
//! blocks as [`ResponseMetadata::reasoning`](crate::ResponseMetadata::reasoning), and the citations of text blocks as
//! [`ResponseMetadata::citations`](crate::ResponseMetadata::citations).
//!
//! A refusal is [`ErrorKind::ContentFilter`](crate::ErrorKind::ContentFilter) with the text so far and its usage. A reply that
//! stops with `pause_turn`, which long runs of Anthropic's own tools do, is continued inside the call.

mod classification;
mod client;
mod messages;
mod options;
mod pause;
mod request;
mod response;
mod stream;
mod turns;
mod usage;

#[doc(no_inline)]
pub use crate::prompt::CacheTtl;
pub use client::{Anthropic, AnthropicBuilder};
pub use options::{Effort, Thinking};
pub use usage::CacheWrites;
