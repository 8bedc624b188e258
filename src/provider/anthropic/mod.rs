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
//! | image | a `data:` URL as `base64` source, an `https:` one as `url` source |
//! | raw part | as it is, a `cache_control` of its own too |
//! | output token limit | `max_tokens`, 8,192 unless set; see [`Anthropic::model`] |
//! | temperature, `top_p` | as they are; an error where the [version](AnthropicBuilder::version) takes none |
//! | stop sequences | `stop_sequences` |
//! | seed | an error: Anthropic has no counterpart |
//! | output schema | `output_config.format` |
//! | extra field | as it is, in place of a field of that name: `metadata`, `tools`, `thinking`, ... |
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
mod usage;

pub use client::{Anthropic, AnthropicBuilder};
pub use options::{CacheTtl, Effort, Thinking};
pub use usage::CacheWrites;
