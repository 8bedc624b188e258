//! OpenAI's wires, Responses and chat completions, and every server that speaks one of them.
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
//!
//! # How the servers differ
//!
//! A server is known by its prefix, as [`strategy`](crate::strategy) lists them with their addresses and variables, or by
//! its host. What it wants differently is sent differently:
//!
//! | prefix | provider's name | wire | output token limit | what else |
//! |---|---|---|---|---|
//! | `openai:` | `openai` | Responses at OpenAI, else chat | `max_completion_tokens` | knows the role `developer` |
//! | `openai-chat:` | `openai` | chat | `max_completion_tokens` | knows the role `developer` |
//! | `openai-responses:` | `openai` | Responses | `max_completion_tokens` | knows the role `developer` |
//! | `openai-compatible:` | `openai-compatible` | chat | `max_tokens` | takes `reasoning_content` back |
//! | `azure:` | `azure.ai.openai` | chat | `max_completion_tokens` | knows the role `developer`; the key in the header `api-key`; a base URL without a path gets `/openai/v1`; the model is the deployment's name |
//! | `openrouter:` | `openrouter` | chat | `max_tokens` | takes `cache_control` marks |
//! | `deepseek:` | `deepseek` | chat | `max_tokens` | takes `reasoning_content` back; no JSON Schema: `json_object` is asked for, and the schema put into the system text; limits calls at the same time, not their rate |
//! | `groq:` | `groq` | chat | `max_completion_tokens` | |
//! | `mistral:` | `mistral_ai` | chat | `max_tokens` | `random_seed` in place of `seed`; no `stream_options` |
//! | `xai:` | `x_ai` | chat | `max_completion_tokens` | |
//! | `ollama:` | `ollama` | chat | `max_tokens` | takes `reasoning_content` back |
//! | `vllm:` | `vllm` | chat | `max_tokens` | takes `reasoning_content` back |
//! | `llamacpp:` | `llamacpp` | chat | `max_tokens` | takes `reasoning_content` back |
//! | `lmstudio:` | `lmstudio` | chat | `max_tokens` | takes `reasoning_content` back |
//!
//! Azure's dated versions are a base URL with their path and query:
//! `https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21`. Several of the others have
//! Responses too: [`OpenAi::responses`] asks for them, and so does `openai-responses:` with their base URL.
//!
//! A difference in the answers of a server is read wherever it comes from, since gateways pass it on:
//!
//! | what | seen at |
//! |---|---|
//! | an error inside a reply with status 200, whole or as a piece of a stream | OpenRouter, Responses, LiteLLM |
//! | the error's stable name in `metadata.error_type`, whether to retry in `availability.retryable`, the upstream's message in `metadata.raw` | OpenRouter |
//! | what the call cost in `usage.cost`, kept as [`ResponseMetadata::cost`](crate::ResponseMetadata::cost) | OpenRouter |
//! | the input split into `prompt_cache_hit_tokens` and `prompt_cache_miss_tokens` | DeepSeek |
//! | usage of a stream in its last piece, in a piece of its own, or under `x_groq` | DeepSeek, Mistral, OpenRouter; OpenAI; Groq |
//! | reasoning in `reasoning_content` or `reasoning`, or as parts of the content, kept as [`ResponseMetadata::reasoning`](crate::ResponseMetadata::reasoning) | DeepSeek, Groq, OpenRouter, vLLM, Mistral |
//! | the reasoning's details, which a later turn sends back, in `reasoning_details` | OpenRouter |
//! | sources as `annotations`, or in `citations` and `search_results` beside the choices, kept as [`ResponseMetadata::citations`](crate::ResponseMetadata::citations) | OpenAI, OpenRouter; Perplexity, xAI |
//! | images in `images`, audio in `audio`, kept as [`ResponseMetadata::media`](crate::ResponseMetadata::media) | OpenRouter; OpenAI |
//! | blank lines before a reply and comments in a stream, which keep the connection alive | DeepSeek, OpenRouter |
//! | an error as plain text, flat, as a list, under `detail`, with a number as its code, or as a web page | xAI, Mistral, Google, FastAPI, llama.cpp and vLLM, gateways |
//!
//! Log probabilities come as [`ResponseMetadata::logprobs`](crate::ResponseMetadata::logprobs) where the extra field
//! `logprobs` (with Responses: `include` and `top_logprobs`) asks for them.
//!
//! Fields that only one server knows are extra fields of a prompt or of a strategy's defaults: OpenRouter's `models` and
//! `provider`, OpenAI's `service_tier`.
//!
//! ```
//! use llm_batch::Prompt;
//! use llm_batch::provider::Model;
//! use serde_json::json;
//!
//! let routing = Prompt::default().with_extra("provider", json!({"require_parameters": true, "sort": "price"}));
//! let model = Model::builder("openrouter:qwen/qwen3-8b").api_key("secret").build()?.with_defaults(routing);
//! # let _ = model;
//! # Ok::<(), llm_batch::LlmError>(())
//! ```

mod by_prompt;
mod chat;
mod classification;
mod client;
mod content;
mod json;
mod presets;
mod reply;
mod responses;
mod schema;
mod server;
mod tools;
mod usage;

pub use client::{OpenAi, OpenAiBuilder};
pub use presets::TokenLimitField;
pub(crate) use presets::{is_prefix, prefixes};
