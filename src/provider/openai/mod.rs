//! OpenAI's chat completions, and every server that speaks them.
//!
//! ```no_run
//! # async fn run() -> Result<(), llm_batch::LlmError> {
//! use llm_batch::LlmRequest;
//! use llm_batch::provider::openai::OpenAi;
//! use tower::ServiceExt;
//!
//! let model = OpenAi::from_env()?.model("gpt-4o-mini");
//! let answer = model.oneshot(LlmRequest::new("Say hello.".into())).await?;
//! println!("{} ({:?})", answer.output, answer.usage);
//! # Ok(()) }
//! ```

mod chat;
mod classification;
mod client;
mod presets;

pub use client::{OpenAi, OpenAiBuilder, TokenLimitField};
pub(crate) use presets::{is_prefix, prefixes};
