//! Calls over HTTP that last until the end of the body.
//!
//! The [`Service`](tower_service::Service) of an HTTP client completes when the *head* of the response has arrived: the body
//! follows, for seconds or minutes if an answer is streamed. A layer around such a service would end the call with the head: the
//! gate lets the next call start, the ledger counts the call as answered, and the call timeout never covers the body.
//!
//! [`HttpCallLayer`] wraps the layers that work per call and makes them see the whole exchange: their inner future ends
//! with the body. The caller gets the head immediately and reads the body as usual; each read drives the call.
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
//! // The usage at the end of a body from OpenAI, streamed or not.
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
//!         // A retry belongs here, outside.
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
//! It supports [`http::Response`] with any [`Body`](http_body::Body), and `reqwest::Response` (feature `reqwest`): so a
//! `reqwest::Client`, `hyper`'s clients, and anything that takes such a service, like `async_openai::Client::with_http_service`.
//!
//! # The view of the layers between
//! - The request, unchanged.
//! - As response an [`http::Response`] of [`FinishedBody`]: status, version and headers of the reply, and the last bytes of its
//!   body. [`HttpClassifier`](crate::HttpClassifier) classifies it; a closure for
//!   [`usage_with`](crate::TokenAccountingLayer::usage_with) reads the usage from [`FinishedBody::json`].
//! - A reply without a success status (such as 429) ends the call with its head, as does an empty body (`HEAD`, 204), so that
//!   the gate learns of a throttle immediately. Such a body does not drive the call.
//! - A body that breaks off is an error, [`BodyFailed`], for which the service's error type needs a `From`.
//!   [`BoxError`](crate::BoxError) and [`LlmError`](crate::LlmError) have it.
//!
//! # The view of the caller
//! The reply of the service inside, byte for byte, with its trailers and size hint. The body yields an error where it broke off, or
//! where a layer ended the call, such as the call timeout's [`TimedOut`](crate::layer::timeout::TimedOut).
//!
//! A call lasts until its body is read. A response that is kept without being read keeps its place at the gate, and since
//! it is not polled no timeout fires: read it, or drop it.
//!
//! # Where retries belong
//! Outside. A retry between would make its next call only after the caller has received the first one's body, which is rejected. (A
//! reply without a success status may be retried inside: its head is held back until the layers have seen it.) A hedge belongs
//! outside as well: of two concurrent calls inside, the body of one is delivered to the caller, and the other fails.
//!
//! # Errors
//! A layer between that calls the service in another task (tower's `Buffer`) gets a [`BodyFailed`]: nothing is sent.
//!
//! # Panics
//! The future panics if a layer between answers with a response that is not its own call's.
//!
//! # Cancel safety
//! Dropping the response, or its body before its end, cancels the call: the ledger counts it with unknown usage, the gate keeps
//! its estimate. The call is complete, however, if the rest of the body had arrived and has no data, or if the body is an event
//! stream whose last event was `[DONE]`, where clients stop reading.

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
