//! Google's Gemini: `generateContent`, and context caches that many prompts share.
//!
//! ```no_run
//! # async fn run() -> Result<(), llm_batch::LlmError> {
//! use llm_batch::LlmRequest;
//! use llm_batch::provider::gemini::Gemini;
//! use tower::ServiceExt;
//!
//! let model = Gemini::from_env()?.model("gemini-2.5-flash");
//! let answer = model.oneshot(LlmRequest::new("Say hello.".into())).await?;
//! println!("{} ({:?})", answer.output, answer.usage);
//! # Ok(()) }
//! ```
//!
//! # Requests
//! System text, and messages of [`Role::System`](crate::Role::System) or [`Role::Developer`](crate::Role::Developer), become `systemInstruction`. An image with a `data:` URL becomes
//! `inlineData`; one with an `https:` or `gs:` address becomes `fileData`. Sampling parameters and schema go into
//! `generationConfig`, and so does the reasoning effort, as `thinkingConfig`. Tools become `functionDeclarations`, a choice
//! among them `toolConfig`; calls and results `functionCall` and `functionResponse` parts, with the signature that came with
//! a call. A result that is a JSON object is sent as it is, other text as the field `output`, and that of a failure as
//! `error`. An [extra](crate::Prompt::with_extra) field is a field of the body; `generationConfig` as an extra field is laid
//! over the one that is sent, field by field:
//!
//! ```
//! use llm_batch::Prompt;
//! use serde_json::json;
//!
//! let prompt = Prompt::new("Why is the sky blue?")
//!     .with_max_output_tokens(2_000)
//!     .with_extra("generationConfig", json!({"thinkingConfig": {"thinkingBudget": 0}}))
//!     .with_extra("serviceTier", "flex");
//! # let _ = prompt;
//! ```
//!
//! # Replies
//! The text is that of the first candidate, without thoughts, which count as output in the usage. Function calls are in
//! [`ResponseMetadata::tool_calls`](crate::ResponseMetadata::tool_calls), each as the part that it came in. Parts marked as `thought` are
//! [`ResponseMetadata::reasoning`](crate::ResponseMetadata::reasoning); a `thoughtSignature` on any other part is only in the
//! raw body. Grounding, recitation and URL metadata are [`ResponseMetadata::citations`](crate::ResponseMetadata::citations),
//! `inlineData` and `fileData` [`ResponseMetadata::media`](crate::ResponseMetadata::media), `logprobsResult` and `avgLogprobs`
//! [`ResponseMetadata::logprobs`](crate::ResponseMetadata::logprobs).
//!
//! An answer that the provider wants continued (`CONTINUATION`) is continued within the call, up to eight times; its usage is
//! that of all parts.

mod classification;
mod client;
mod content;
mod context_cache;
mod generate;
mod options;
mod server;
mod tools;

pub use client::{Gemini, GeminiBuilder};
pub use context_cache::ContextCache;
pub use options::{ApiVersion, HarmBlockThreshold, HarmCategory, SchemaForm, ThinkingLevel};
