//! Push thousands to millions of prompts through LLM providers, and come back with every answer, an account of every
//! token, and no storm of 429s.
//!
//! Three sentences hold the crate together:
//!
//! 1. **A strategy is a [`tower::Service`] of [`LlmRequest`].** A provider, a closure through [`tower::service_fn`], a
//!    fake: all the same thing. Every policy around it is a [`tower::Layer`].
//! 2. **What is shared lives in a handle; what belongs to one item lives in the request.** [`RateLimiter`],
//!    [`TokenLedger`] and [`Events`] are cheap clones; attempt number, retry state, deadline and the
//!    item's own accounts travel with the request, and survive a panic or an abort.
//! 3. **[`llm_batch(n)`](LlmStreamExt::llm_batch) is a [`Stream`](futures_core::Stream) combinator.** It pulls work when it has a
//!    free slot, yields outcomes as they finish, and stops the moment it is dropped.
//!
//! ```no_run
//! # #[cfg(feature = "openai")] mod example {
//! use std::time::Duration;
//!
//! use futures::{StreamExt, stream};
//! use llm_batch::{
//!     BoxError, CallTimeoutLayer, ItemTimeoutLayer, LlmStreamExt, OpenAi, RateLimiter, RateLimiterLayer, RetryLayer,
//!     RetryPolicy, TokenAccountingLayer, TokenLedger,
//! };
//! use tower::ServiceBuilder;
//!
//! async fn run(prompts: Vec<String>) -> Result<(), BoxError> {
//!     let ledger = TokenLedger::new();
//!     let limiter = RateLimiter::builder().requests_per_minute(500).tokens_per_minute(200_000).build()?;
//!     let model = ServiceBuilder::new()
//!         .layer(ItemTimeoutLayer::new(Duration::from_secs(900)))
//!         .layer(RetryLayer::new(RetryPolicy::new(3)))
//!         .layer(RateLimiterLayer::new(limiter.clone()))
//!         .layer(TokenAccountingLayer::new(ledger.clone()))
//!         .layer(CallTimeoutLayer::new(Duration::from_secs(600)))
//!         .service(OpenAi::from_env()?.model("gpt-4o-mini"));
//!
//!     let mut results = stream::iter(prompts).with_strategy(model).llm_batch(10);
//!     while let Some(outcome) = results.next().await {
//!         println!("{}: {:?}", outcome.id, outcome.result.map(|response| response.output));
//!     }
//!     println!("{}", results.summary());
//!     Ok(())
//! }
//! # }
//! ```
//!
//! The same stack in one line: `StandardLayer::new().layer(strategy("openai:gpt-4o-mini")?)`.
//!
//! # Two words
//!
//! An **attempt** is logical: what the retry budget counts, from 1. A **call** is one physical request. A throttled call does
//! not advance the attempt.
//!
//! # The stack, outside in
//!
//! item timeout, retry, rate limiter, token accounting, call timeout, strategy. Reasons:
//!
//! - Retry sleeps holding nothing: neither a permit nor a quota.
//! - Under retry a layer sees calls, above it items.
//! - Quota is not spent while the gate is closed, and the call's clock starts after every wait.
//! - `llm_batch(n)` counts **items**, those that back off too; the limiter's `max_in_flight` counts **calls**.
//!
//! Layers keep the inner service's error type. One that adds a failure asks for a `From`: [`LlmError`] and [`BoxError`] have them
//! all, an error of your own needs one `#[from]` each, a foreign one `.map_err(BoxError::from)`.
//!
//! # Where things are
//!
//! | module | what is in it |
//! |---|---|
//! | [`batch`] | the stream combinator, outcomes, handle, summary, progress |
//! | [`layer`] | one module per middleware |
//! | `price` | price tables, for the cost of calls (feature `prices`) |
//! | [`provider`] | one module per wire format |
//! | [`recipe`] | small pieces for common tasks: escalation, fallback, and programs to copy from |
//! | `structured` | typed answers (feature `structured`) |
//! | [`telemetry`] | the names of metrics, spans and fields |
//! | `testing` | scripted fakes and the simulated provider (feature `testing`) |
//!
//! # Cancel safety and money
//!
//! What a drop loses, what may still be billed, and what is never sent twice:
//!
//! | dropped | lost | may still be billed |
//! |---|---|---|
//! | the stream of [`llm_batch`](LlmStreamExt::llm_batch) | items in flight and outcomes not taken | calls under way |
//! | `results.next()` before it is ready | nothing | nothing |
//! | the future of one item (`oneshot`) | its answer | its call under way, counted with unknown usage |
//! | a wait for the gate | its place in the queue; a grant that was not used is given back whole | nothing |
//! | a backoff | the item's next attempt | nothing |
//! | a call timeout firing | the answer to come | that call, counted with unknown usage |
//! | the [`EventReceiver`]'s `recv` | nothing | nothing |
//!
//! A call is never repeated behind your back: the one retry policy of the stack decides. An HTTP provider repeats a request by
//! itself only if it provably was not sent, and once if Gemini refused it for a context cache that is gone. A call that ran out of time may have been answered and billed, and is repeated once
//! at most by default. `Drain` lets calls under way finish; `Cancel` and a drop do not.
//!
//! # Features
//!
//! | feature | what it adds | default |
//! |---|---|---|
//! | `openai` | the provider for OpenAI (Responses and chat completions) and compatible servers, over `reqwest` | yes |
//! | `anthropic` | the provider for Anthropic's Messages, over `reqwest` | yes |
//! | `gemini` | the provider for Google's Gemini, with its context caches, over `reqwest` | yes |
//! | `rustls`, `native-tls` | the TLS of the providers | `rustls` |
//! | `metrics` | counters and histograms through the `metrics` facade | |
//! | `progress` | a terminal progress bar | |
//! | `prices` | price tables, for the cost of calls | |
//! | `testing` | fakes and the simulated provider | |
//! | `structured` | typed answers: a JSON Schema from a type, answers checked against it | |
//! | `garde` | rules of the type's own, by `garde`, for typed answers | |
//! | `cache` | a cache of answers, as a layer | |
//! | `cli` | the command line `llm-batch` | |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod batch;
pub mod layer;
#[cfg(feature = "prices")]
#[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
pub mod price;
pub mod provider;
pub mod recipe;
#[cfg(feature = "structured")]
#[cfg_attr(docsrs, doc(cfg(feature = "structured")))]
pub mod structured;
pub mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

mod classify;
mod error;
mod events;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod item;
mod lazy;
mod prompt;
mod request;
mod response;
mod serde_seconds;
mod state;
mod usage;
mod usd;

#[cfg(feature = "progress")]
#[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
pub use batch::Progress;
pub use batch::{
    BatchError, BatchHandle, BatchSummary, BoxStrategy, IntoWorkItem, LlmBatch, LlmStreamExt, Outcome,
    StopMode, StrategyError, StrategyExt, Termination, WorkItem,
};
pub use classify::{
    Classify, Disposition, KindClassifier, QuotaDimension, QuotaWindow, ReportedQuota, Verdict,
};
pub use error::{BoxError, Delivery, ErrorKind, LlmError};
pub use events::{Event, EventError, EventKind, EventReceiver, Events};
pub use item::{CallGuard, FindItem, InRequest, Item, ItemId, ItemReport, Untracked, WaitReason, Waits};
pub use layer::ServiceBuilderExt;
pub use layer::rate_limiter::{RateLimiter, RateLimiterLayer};
pub use layer::retry::{RetryLayer, RetryPolicy};
pub use layer::standard::StandardLayer;
pub use layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
pub use layer::token_accounting::{TokenAccountingLayer, TokenLedger};
pub use lazy::{Lazy, LazyFuture, MakeFailed, lazy};
#[cfg(feature = "prices")]
#[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
pub use price::PriceTable;
pub use prompt::{Message, Part, Prompt, Role};
pub use provider::HttpClassifier;
#[cfg(feature = "anthropic")]
#[cfg_attr(docsrs, doc(cfg(feature = "anthropic")))]
pub use provider::anthropic::Anthropic;
#[cfg(feature = "gemini")]
#[cfg_attr(docsrs, doc(cfg(feature = "gemini")))]
pub use provider::gemini::Gemini;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
pub use provider::openai::OpenAi;
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use provider::{Model, strategy};
pub use request::{CharacterEstimate, Estimate, LlmRequest};
pub use response::{FinishReason, InResponse, LlmResponse, ReportsUsage, ResponseMetadata, UnknownUsage};
pub use state::RetryState;
#[cfg(feature = "structured")]
#[cfg_attr(docsrs, doc(cfg(feature = "structured")))]
pub use structured::{Fault, InvalidOutput, StructuredExt};
pub use usage::TokenUsage;
pub use usd::Usd;

/// The README's programs, compiled.
#[cfg(all(doctest, feature = "openai", feature = "structured"))]
#[doc = include_str!("../README.md")]
struct Readme;
