//! A call over HTTP is one call until its body has ended.
//!
//! A [`Service`](tower_service::Service) of an HTTP client is done when the *head* of the response is there: the body follows, for
//! seconds or minutes where an answer is streamed. A layer around such a service would end the call with the head: the
//! gate lets the next call start, the ledger counts the call as answered, and the call timeout never sees the body.
//!
//! [`HttpCallLayer`] stands around the layers that work per call and makes them see the whole exchange: their inner future ends
//! when the body does. The caller has the head at once and reads the body as usual; each read drives the call on.
//!
//! ```no_run
//! # #[cfg(feature = "reqwest")] mod example {
//! use std::time::Duration;
//!
//! use llm_batch::layer::http::{FinishedBody, HttpCallLayer};
//! use llm_batch::{
//!     BoxError, CallTimeoutLayer, HttpClassifier, RateLimiter, RateLimiterLayer, TokenAccountingLayer, TokenLedger, TokenUsage,
//! };
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! // What OpenAI says at the end of a body, streamed or not.
//! fn usage(outcome: Result<&http::Response<FinishedBody>, &BoxError>) -> Option<TokenUsage> {
//!     let reply = outcome.ok()?;
//!     if !reply.status().is_success() {
//!         return Some(TokenUsage::ZERO);
//!     }
//!     reply.body().json().rev().find_map(|value| {
//!         let usage = value.get("usage")?;
//!         Some(TokenUsage::new(usage["prompt_tokens"].as_u64()?, usage["completion_tokens"].as_u64()?))
//!     })
//! }
//!
//! async fn run(limiter: RateLimiter, ledger: TokenLedger, request: reqwest::Request) -> Result<(), BoxError> {
//!     let per_call = ServiceBuilder::new()
//!         .layer(RateLimiterLayer::new(limiter).classify_with(HttpClassifier).untracked())
//!         .layer(TokenAccountingLayer::new(ledger).usage_with(usage).untracked())
//!         .layer(CallTimeoutLayer::new(Duration::from_secs(600)))
//!         .into_inner();
//!     let client = ServiceBuilder::new()
//!         // A retry would stand here, outside.
//!         .layer(HttpCallLayer::new(per_call))
//!         .map_err(BoxError::from)
//!         .service(reqwest::Client::new());
//!     let response: reqwest::Response = client.oneshot(request).await?;
//!     let text = response.text().await?;
//!     # let _ = text;
//!     Ok(())
//! }
//! # }
//! ```
//!
//! It serves [`http::Response`] of any [`Body`](http_body::Body), and `reqwest::Response` (feature `reqwest`): so a `reqwest::Client`,
//! `hyper`'s clients, and whatever takes a service of those, such as `async_openai::Client::with_http_service`.
//!
//! # What the layers between see
//! - The request, unchanged.
//! - As response an [`http::Response`] of [`FinishedBody`]: status, version and headers of the reply, and what passed through its
//!   body. [`HttpClassifier`](crate::HttpClassifier) judges it; a closure for
//!   [`usage_with`](crate::TokenAccountingLayer::usage_with) reads the usage from [`FinishedBody::json`].
//! - A reply without a success status (a 429, say) ends the call with its head, as does an empty body (`HEAD`, 204), so that
//!   the gate knows of a throttle at once. Such a body is not carried.
//! - A body that breaks is an error, [`BodyFailed`], which the service's error type has to be made from. [`BoxError`](crate::BoxError) and
//!   [`LlmError`](crate::LlmError) are.
//!
//! # What the caller sees
//! The reply of the service inside, byte for byte, with its trailers and size hint. The body yields an error where it broke, and
//! where a layer ended the call: a [`TimedOut`](crate::layer::timeout::TimedOut) of the call timeout, for one.
//!
//! A call lasts for as long as its body is read. A response that is kept without being read keeps its place at the gate, and since
//! nothing polls it no timeout fires: read it, or drop it.
//!
//! # Where retries belong
//! Outside. A retry between would make its next call only after the caller has seen the first one's body, which is refused. (A
//! reply without a success status may be retried inside: its head is held back until the layers have seen it.) A hedge belongs
//! outside as well: of two calls at once inside, the body of one passes to the caller, and the other fails.
//!
//! # Errors
//! A layer between that calls the service in another task (tower's `Buffer`) gets a [`BodyFailed`]: nothing is sent.
//!
//! # Panics
//! The future panics if a layer between answers with a response that is not its own call's.
//!
//! # Cancel safety
//! Dropping the response, or its body before its end, cancels the call: the ledger counts it with unknown usage, the gate keeps
//! its estimate. Not so if the rest of the body had arrived without any data in it, or if the body is an event stream whose last
//! event was `[DONE]`: clients stop reading there, and the call is complete.

mod body;
mod error;
mod exchange;
mod finished;
mod layer;
mod passage;
mod reply;

pub use body::HttpCallBody;
pub use error::BodyFailed;
pub use exchange::{Exchange, ExchangeFuture};
pub use finished::FinishedBody;
pub use layer::{HttpCall, HttpCallFuture, HttpCallLayer};
pub use reply::HttpReply;
