//! Retries: tower's [`Retry`] with a policy for calls to language models.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, Prompt};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let policy = RetryPolicy::new(3).on_error(|error, next: &mut LlmRequest<Prompt>| {
//!     // Adds the fault to the prompt of the next attempt.
//!     let text = format!("Your answer was rejected: {}", error.message());
//!     *next.input_mut() = next.input().clone().with_message(llm_batch::Message::user(text));
//! });
//! let model = ServiceBuilder::new()
//!     .layer(RetryLayer::new(policy))
//!     .service(service_fn(async |request: LlmRequest| match request.input().messages().len() {
//!         1 => Err(LlmError::validation("expected a number")),
//!         _ => Ok(LlmResponse::new("42".to_owned())),
//!     }));
//! let answer = model.oneshot(LlmRequest::new("How many?".into())).await.unwrap();
//! assert_eq!(answer.output, "42");
//! # }
//! ```
//!
//! # The order of decisions
//! After each call the [classifier](crate::Classify) returns its verdict. If the call failed, the `on_error` hook sees
//! the error and may edit the next request; it sees every failure, including the last one, throttles and call timeouts. Then:
//!
//! | verdict | budget | wait before the next call |
//! |---|---|---|
//! | retry now (a validation failure) | attempts | none |
//! | backoff | attempts | `min(initial * base^(k-1), max) * U[0.5, 1)` before attempt k+1 |
//! | throttled | throttles | none if a gate below will hold the call, else the hint, else the backoff |
//! | fatal | | the item fails |
//!
//! A wait is never shorter than the provider's hint. A wait that would not fit the item's deadline is not begun: the
//! item fails immediately, and [`ItemTimeout`](super::timeout::ItemTimeout) turns its error into a
//! [`TimedOut`](super::timeout::TimedOut) with the cause as source.
//!
//! [`LlmRequest::attempt`](crate::LlmRequest::attempt) counts *attempts*; a throttled call does not
//! advance it: the outcomes `429, invalid, 429, ok` are the attempts 1, 1, 2, 2.
//!
//! # Where it belongs
//! Outside everything that works per call: a backoff then holds neither a quota nor a permit. It should be the only layer
//! that retries: an SDK or a gateway with its own retries multiplies the calls.
//!
//! [`RetryLayer`] is tower's with one difference: it waits for the service inside in the call's future. tower's own layer would
//! still send the next call if a stop came while it waited for a permit.
//!
//! If the service below fails in `poll_ready` on its first poll, tower's `Retry` ends the item without
//! consulting the policy. An error that comes while the call waits is a failed attempt. The layers of this crate wait in
//! their futures and are always ready.
//!
//! # Panics
//! A wait panics outside a tokio runtime, or in one without time enabled.
//!
//! # Cancel safety
//! A dropped future ends the item: no call is begun afterwards, and a backoff under way is recorded up to that
//! moment.

mod backoff;
mod future;
mod hook;
mod layer;
mod policy;

pub use future::RetryWait;
pub use hook::{NoHook, OnError, OnErrorFn};
pub use layer::{RetryLayer, WhenReady};
pub use policy::RetryPolicy;
pub use tower::retry::Retry;
