//! Push thousands to millions of prompts through LLM providers, and get every answer, an account of every
//! token, and no storm of 429s.
//!
//! The crate has three principles:
//!
//! 1. **A strategy is a [`tower::Service`] of [`LlmRequest`].** A provider, a closure through [`tower::service_fn`] and a
//!    fake are all strategies. Every policy around a strategy is a [`tower::Layer`].
//! 2. **Shared state is in handles; the state of one item is in its request.** [`RateLimiter`],
//!    [`TokenLedger`] and [`Events`] are handles that are cheap to clone; attempt number, retry state, deadline and the
//!    item's own accounts travel with the request, and survive a panic or an abort.
//! 3. **[`llm_batch(n)`](LlmStreamExt::llm_batch) is a [`Stream`](futures_core::Stream) combinator.** It pulls work when it has a
//!    free slot, yields outcomes as they finish, and stops when it is dropped.
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
//! The same stack in one line: `StandardLayer::new().layer(strategy("openai:gpt-4o-mini")?)`. A single call with the same
//! resilience: `model.oneshot(LlmRequest::prompt("hi"))`. A batch that fits in memory: `.llm_batch(10).into_result().await`.
//!
//! # Attempts and calls
//!
//! An **attempt** is logical: the retry budget counts attempts, from 1. A **call** is one physical request. A throttled call does
//! not advance the attempt.
//!
//! # The stack, from the outside in
//!
//! Item timeout, retry, rate limiter, token accounting, call timeout, strategy. Reasons:
//!
//! - A backoff in the retry layer holds neither a permit nor a quota.
//! - Inside retry a layer sees calls, outside it items.
//! - Quota is not spent while the gate is closed, and the call's clock starts after every wait.
//! - `llm_batch(n)` counts **items**, including those that back off; the limiter's `max_in_flight` counts **calls**.
//!
//! Layers keep the inner service's error type. A layer with its own failure needs a `From` for it: [`LlmError`] and [`BoxError`]
//! implement all of them, your own error needs one `#[from]` each, a foreign one `.map_err(BoxError::from)`.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`batch`] | the stream combinator, outcomes, handle, summary, progress |
//! | [`item`] | one item's accounts, and the protocol between layers, for authors of layers |
//! | [`layer`] | one module per middleware |
//! | `price` | price tables, for the cost of calls (feature `prices`) |
//! | [`provider`] | one module per wire format |
//! | [`recipe`] | building blocks for common tasks: escalation, fallback, and programs to copy from |
//! | `structured` | typed answers (feature `structured`) |
//! | [`telemetry`] | the names of metrics, spans and fields |
//! | `testing` | scripted fakes and the simulated provider (feature `testing`) |
//!
//! # Names of methods
//! Builders, layers, policies and streams are configured by methods named after the setting (`max_throttles(5)`). Values that have a
//! getter of that name, and [`StandardLayer`], add the prefix `with_` (`prompt.with_temperature(0.2)`). A method that takes a closure
//! has the suffix `_with` (`estimate_with(|request| ..)`), and so does the generic form of a method (`on_error_with`).
//!
//! # Cancel safety and money
//!
//! The work that a drop loses, and the calls that may still be billed:
//!
//! | dropped | lost | may still be billed |
//! |---|---|---|
//! | the stream of [`llm_batch`](LlmStreamExt::llm_batch) | items in flight and outcomes not taken | calls under way |
//! | `results.next()` before it is ready | nothing | nothing |
//! | the future of one item (`oneshot`) | its answer | its call under way, counted with unknown usage |
//! | a wait for the gate | its place in the queue; an unused grant is returned whole | nothing |
//! | a backoff | the item's next attempt | nothing |
//! | a call, when its timeout passes | its answer | that call, counted with unknown usage |
//! | a response, or its body, of an [`HttpCallLayer`] | the rest of the body | that call, counted with unknown usage |
//! | the [`EventReceiver`]'s `recv` | nothing | nothing |
//!
//! The stack's retry policy decides about every repeat of a call, with two exceptions: an HTTP provider repeats a request on its own
//! if it provably was not sent, and once if Gemini rejected it because its context cache no longer exists. A call that timed out may
//! have been answered and billed, and is repeated once at most by default. `Drain` lets calls under way finish; `Cancel` and a drop
//! do not.
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `openai` | the provider for OpenAI (Responses and chat completions) and compatible servers, over `reqwest` | yes |
//! | `anthropic` | the provider for Anthropic's Messages, over `reqwest` | yes |
//! | `gemini` | the provider for Google's Gemini, with its context caches, over `reqwest` | yes |
//! | `rustls`, `ring`, `native-tls` | the TLS of the providers: rustls with aws-lc, rustls with ring, or the system's | `rustls` |
//! | `metrics` | counters and histograms through the `metrics` facade | |
//! | `progress` | a terminal progress bar | |
//! | `prices` | price tables, for the cost of calls | |
//! | `testing` | fakes and the simulated provider | |
//! | `structured` | typed answers: a JSON Schema from a type, answers validated against it | |
//! | `garde` | validation rules of the type, by `garde`, for typed answers | |
//! | `cache` | a cache of answers, as a layer | |
//! | `cli` | the command line `llm-batch` | |
//!
//! # Semantic versioning
//! This crate's signatures contain types of other crates: `tower` 0.5, `tower-service` and `tower-layer` 0.3,
//! `futures-core` 0.3, `http` 1, `serde_json` 1 and `tokio` 1; with features also `schemars` 1 (`structured`), `reqwest` 0.13
//! ([`HttpClassifier`] classifies its responses) and `garde` 0.23 (`validate_with_garde`). A new major version of one of them (for
//! 0.x: a new minor version) comes only with a breaking version of this crate, such as 0.2 after 0.1. Use [`tower`], [`futures`],
//! [`http`] and `schemars` as re-exported here to get matching versions. Every other dependency may change in any release.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod batch;
pub mod item;
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
mod lazy;
mod prompt;
mod request;
pub mod response;
#[cfg(any(feature = "reqwest", feature = "structured", feature = "testing"))]
mod schema;
mod serde_seconds;
mod state;
mod usage;
mod usd;

#[cfg(feature = "progress")]
#[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
#[doc(inline)]
pub use batch::Progress;
#[doc(inline)]
pub use batch::{
    BatchError, BatchHandle, BatchResult, BatchSummary, BoxStrategy, IntoWorkItem, LlmBatch, LlmStreamExt,
    Outcome, StopMode, StrategyError, StrategyExt, Termination, WorkItem,
};
#[doc(inline)]
pub use classify::{Classify, KindClassifier, Verdict};
#[doc(inline)]
pub use error::{
    BoxError, Delivery, Disposition, ErrorKind, LlmError, MakeFailed, QuotaDimension, QuotaWindow,
    ReportedQuota,
};
#[doc(inline)]
pub use events::{Event, EventError, EventKind, EventReceiver, Events};
#[doc(inline)]
pub use item::{Item, ItemId, ItemReport, WaitReason, Waits};
#[doc(inline)]
pub use layer::ServiceBuilderExt;
#[doc(inline)]
pub use layer::http::HttpCallLayer;
#[doc(inline)]
pub use layer::rate_limiter::{RateLimiter, RateLimiterLayer};
#[doc(inline)]
pub use layer::retry::{RetryLayer, RetryPolicy};
#[doc(inline)]
pub use layer::standard::StandardLayer;
#[doc(inline)]
pub use layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
#[doc(inline)]
pub use layer::token_accounting::{TokenAccountingLayer, TokenLedger};
#[doc(inline)]
pub use lazy::{Lazy, LazyFuture, lazy};
#[cfg(feature = "prices")]
#[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
#[doc(inline)]
pub use price::PriceTable;
#[doc(inline)]
pub use prompt::{
    CacheTtl, ImageDetail, Message, Part, Prompt, ReasoningEffort, Role, Tool, ToolCall, ToolChoice,
};
#[doc(inline)]
pub use provider::HttpClassifier;
#[cfg(feature = "anthropic")]
#[cfg_attr(docsrs, doc(cfg(feature = "anthropic")))]
#[doc(inline)]
pub use provider::anthropic::Anthropic;
#[cfg(feature = "gemini")]
#[cfg_attr(docsrs, doc(cfg(feature = "gemini")))]
#[doc(inline)]
pub use provider::gemini::Gemini;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
#[doc(inline)]
pub use provider::openai::OpenAi;
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
#[doc(inline)]
pub use provider::{Model, strategy};
#[doc(inline)]
pub use request::{CharacterEstimate, Estimate, FindItem, InRequest, LlmRequest, TokenEstimate, Untracked};
#[doc(inline)]
pub use response::{FinishReason, InResponse, LlmResponse, ReportsUsage, ResponseMetadata, UnknownUsage};
#[doc(inline)]
pub use state::RetryState;
#[cfg(feature = "structured")]
#[cfg_attr(docsrs, doc(cfg(feature = "structured")))]
#[doc(inline)]
pub use structured::{Fault, InvalidOutput, StructuredExt};
#[doc(inline)]
pub use usage::TokenUsage;
#[doc(inline)]
pub use usd::Usd;

// The crates whose types users have to name, in the version of this crate's signatures.
#[doc(no_inline)]
pub use ::{futures, http, tower};
#[cfg(feature = "structured")]
#[cfg_attr(docsrs, doc(cfg(feature = "structured")))]
#[doc(no_inline)]
pub use ::schemars;

/// The README's programs, compiled.
#[cfg(all(doctest, feature = "openai", feature = "structured"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The programs of the page on testing, compiled and run.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../docs/testing-your-batch.md")]
struct TestingYourBatch;

/// The program of the page on limits, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/choosing-limits.md")]
struct ChoosingLimits;

/// The programs of the page on the pace, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/how-the-gate-paces.md")]
struct HowTheGatePaces;

/// The programs of the page for users of the Python package, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/migration.md")]
struct Migration;
