//! Recipes: small building blocks for common tasks with language models, and programs to copy from.
//!
//! Each one is a strategy, a layer or a hook on top of the crate; the rest of the crate does not depend on them.
//!
//! | task | use | example |
//! |---|---|---|
//! | call a better model only if a cheap one answers badly | [`Escalate`], [`models`] | `examples/escalate.rs` |
//! | raise the temperature after bad answers | [`temperatures`] | `examples/temperatures.rs` |
//! | change anything else from rung to rung | [`LadderLayer`] | [`LadderLayer`] |
//! | report the faults of an answer to the next attempt | `feedback` (feature `structured`) | `examples/feedback.rs` |
//! | keep the good fields, and request the rest | `partial` (feature `structured`) | `examples/partial.rs` |
//! | switch to another provider | [`Fallback`] | `examples/fallback.rs` |
//! | call once for identical requests | [`layer::cache`](crate::layer) (feature `cache`) | `examples/response_cache.rs` |
//! | share one long context among many prompts | `Gemini::context_cache`, `AnthropicBuilder::cache_system` | `examples/context_cache.rs`, `examples/prompt_cache.rs` |
//! | use several accounts or deployments at once | [`Balance`] | `examples/two_accounts.rs` |
//! | rotate keys of one account | `api_key_with` | [below](#rotating-keys) |
//! | use a client that blocks | `spawn_blocking` | [below](#a-client-that-blocks) |
//! | watch the cost as it grows | [`Events`](crate::Events) | [below](#watching-the-cost) |
//! | embed texts, or send anything other than a prompt | your own input type | [below](#embeddings) |
//! | use `async-openai` | a strategy around it, or layers inside it | `examples/async_openai_strategy.rs`, `examples/async_openai.rs` |
//! | use `genai` | a strategy around it | `examples/genai_strategy.rs` |
//! | run agents | a framework as a strategy, or a strategy that calls a strategy | `examples/agentai_strategy.rs`, `examples/agent.rs`, [`rig` below](#agents) |
//! | migrate from the Python package `async-batch-llm` | the [table of its names](migration) | |
//!
//! # Rotating keys
//! Keys of **one account** share its quotas, so they share a gate. The provider's client requests a key before every call:
//!
//! ```no_run
//! # #[cfg(feature = "openai")] fn example(keys: Vec<String>) -> Result<(), llm_batch::BoxError> {
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! use llm_batch::{OpenAi, StandardLayer};
//! use tower::Layer;
//!
//! let next = AtomicUsize::new(0);
//! let client = OpenAi::builder()
//!     .api_key_with(move || {
//!         let key = keys[next.fetch_add(1, Ordering::Relaxed) % keys.len()].clone();
//!         async move { Ok(key) }
//!     })
//!     .build()?;
//! let model = StandardLayer::new().layer(client.model("gpt-4o-mini"));
//! # let _ = model;
//! # Ok(()) }
//! ```
//!
//! Keys of **several accounts** have separate quotas, so each has its own gate and accounts, and [`Balance`] sends each call where it
//! can start first.
//!
//! For an account that is used only while the other one is throttled, see [`Fallback`].
//!
//! # A client that blocks
//! Its call runs on a separate thread. A thread cannot be stopped: a call that is cut continues there to its end, and may be billed.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, RateLimiter, StandardLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! fn blocking_client(prompt: &str) -> std::io::Result<String> {
//!     Ok(prompt.to_uppercase())
//! }
//!
//! let strategy = service_fn(async |request: LlmRequest<String>| {
//!     let call = tokio::task::spawn_blocking(move || blocking_client(request.input()));
//!     match call.await {
//!         Ok(Ok(text)) => Ok(LlmResponse::new(text)),
//!         Ok(Err(error)) => Err(LlmError::transient(error.to_string()).with_source(error)),
//!         Err(panicked) => Err(LlmError::fatal("the client panicked").with_source(panicked)),
//!     }
//! });
//! // tokio has 512 threads for blocking calls by default.
//! let gate = RateLimiter::builder().max_in_flight(256).build()?;
//! let model = StandardLayer::new().with_limiter(gate).layer(strategy);
//! assert_eq!(model.oneshot(LlmRequest::new("hi".to_owned())).await?.output, "HI");
//! # Ok(()) }
//! ```
//!
//! # Watching the cost
//! A hook on the [`Events`](crate::Events) of a run sees the usage of every call as it ends, failed ones too, and misses none.
//! Unknown usage is counted separately, not as zero. For the prices of many models use a `PriceTable` (feature `prices`).
//!
//! ```
//! # #[cfg(not(feature = "testing"))] fn main() {}
//! # #[cfg(feature = "testing")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use std::sync::{Arc, Mutex};
//!
//! use futures::{StreamExt, stream};
//! use llm_batch::testing::FakeStrategy;
//! use llm_batch::{EventKind, Events, LlmRequest, LlmStreamExt, StandardLayer, TokenUsage};
//! use tower::Layer;
//!
//! let spent = Arc::new(Mutex::new((0.0, 0)));
//! let events = Events::new();
//! events.on_event({
//!     let spent = Arc::clone(&spent);
//!     move |event| {
//!         let (EventKind::CallCompleted { usage, .. } | EventKind::CallFailed { usage, .. }) = event.kind else {
//!             return;
//!         };
//!         let mut spent = spent.lock().unwrap();
//!         match usage {
//!             Some(usage) => spent.0 += (usage.input as f64 * 0.15 + usage.output as f64 * 0.60) / 1e6,
//!             None => spent.1 += 1,
//!         }
//!     }
//! });
//!
//! let model = FakeStrategy::new(|_: &LlmRequest| "ok")
//!     .usage(TokenUsage::new(1_000, 500))
//!     .timeout_on_call(3);
//! let results = stream::iter(["a", "b", "c", "d"])
//!     .with_strategy(StandardLayer::new().with_events(&events).layer(model))
//!     .llm_batch(1)
//!     .events(&events);
//! assert_eq!(results.collect::<Vec<_>>().await.len(), 4);
//! let (dollars, unknown) = *spent.lock().unwrap();
//! assert_eq!((format!("{dollars:.5}"), unknown), ("0.00180".to_owned(), 1));
//! # }
//! ```
//!
//! # Embeddings
//! Input and output may have any type. Here one item is a list of texts, embedded in one call:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
//! use futures::{StreamExt, stream};
//! use llm_batch::{
//!     LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy,
//!     TokenAccountingLayer, TokenLedger, TokenUsage, WorkItem,
//! };
//! use tower::{ServiceBuilder, service_fn};
//!
//! // In place of your own client.
//! let embed = service_fn(async |request: LlmRequest<Vec<String>>| {
//!     let vectors: Vec<Vec<f32>> = request.input().iter().map(|text| vec![text.len() as f32]).collect();
//!     let tokens = request.input().iter().map(|text| text.len() as u64 / 4).sum();
//!     Ok::<_, LlmError>(LlmResponse::new(vectors).with_usage(TokenUsage::new(tokens, 0)))
//! });
//!
//! let limiter = RateLimiter::builder().tokens_per_minute(1_000_000).build()?;
//! let ledger = TokenLedger::new();
//! let strategy = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryPolicy::new(3)))
//!     // For your own input type, estimate its tokens.
//!     .layer(RateLimiterLayer::new(limiter).estimate_with(|request: &LlmRequest<Vec<String>>| {
//!         request.input().iter().map(|text| text.len() as u64 / 4).sum()
//!     }))
//!     .layer(TokenAccountingLayer::new(ledger.clone()))
//!     .service(embed);
//!
//! let texts: Vec<String> = (0..1_000).map(|n| format!("text number {n:04}")).collect();
//! let items: Vec<_> = texts.chunks(100).map(|chunk| WorkItem::new(chunk.to_vec())).collect();
//! let mut results = stream::iter(items).with_strategy(strategy).llm_batch(4).in_order();
//! let mut vectors = Vec::new();
//! while let Some(outcome) = results.next().await {
//!     vectors.extend(outcome.result?.output);
//! }
//! assert_eq!((vectors.len(), ledger.snapshot().calls), (1_000, 10));
//! # Ok(()) }
//! ```
//!
//! # Agents
//! An agent that makes several calls for one item is a strategy like any other. The place of a layer decides its scope: with the
//! layers inside, around the model, each call passes the gate and is accounted; outside, around the agent, a time limit applies to
//! the whole item. `examples/agent.rs` is such a hand-written agent, with a tool.
//!
//! A framework's agent is an innermost strategy. `examples/agentai_strategy.rs` uses `agentai`. The following one uses `rig` 0.46;
//! it is **text, not compiled here**, because that version needs a newer Rust (1.97) than this crate, and its names change
//! from month to month:
//!
//! ```text
//! use rig::prelude::*;
//! use rig::{completion::Prompt as _, providers::openai};
//!
//! let agent = Arc::new(openai::Client::from_env()?.agent("gpt-4o-mini").preamble("Be brief.").build());
//! let strategy = service_fn(move |request: LlmRequest<String>| {
//!     let agent = Arc::clone(&agent);
//!     async move {
//!         let text = agent.prompt(request.input().as_str()).await;
//!         text.map(LlmResponse::new).map_err(|error| LlmError::transient(error.to_string()).with_source(error))
//!     }
//! });
//! let model = StandardLayer::new().layer(strategy);
//! ```
//!
//! The gate cannot classify an error that is only text, so convert the framework's details (status, retry hint) into the
//! [`LlmError`](crate::LlmError), as `examples/genai_strategy.rs` does; and turn off the framework's own retries.

mod balance;
mod escalate;
mod fallback;
#[cfg(feature = "structured")]
mod feedback;
#[cfg(feature = "structured")]
mod partial;

#[doc = include_str!("../../docs/migration.md")]
pub mod migration {}

pub use balance::{Balance, BalanceFuture};
pub use escalate::{Escalate, EscalateFuture, Ladder, LadderLayer, models, temperatures};
pub use fallback::{Fallback, FallbackFuture};
#[cfg(feature = "structured")]
#[cfg_attr(docsrs, doc(cfg(feature = "structured")))]
pub use feedback::feedback;
#[cfg(feature = "structured")]
#[cfg_attr(docsrs, doc(cfg(feature = "structured")))]
pub use partial::{Merge, MergeFuture, Partial, PartialFuture, partial};
