//! The output of a batch.

use serde::{Deserialize, Serialize};

use crate::error::LlmError;
use crate::item::{ItemId, ItemReport};
use crate::response::LlmResponse;

/// The outcome of one item: its answer or error, and its accounts over all calls.
///
/// A failure is a value like any other; an item cannot end the batch.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
/// use tower::service_fn;
///
/// let shout = service_fn(async |request: LlmRequest| match request.input().messages().len() {
///     1 => Ok(LlmResponse::new("HI".to_owned())),
///     _ => Err(LlmError::fatal("one message only")),
/// });
/// let mut results = stream::iter([("greeting", "hi")]).with_strategy(shout).llm_batch(1);
/// let outcome = results.next().await.unwrap();
/// assert_eq!((outcome.index, outcome.id), (0, "greeting".into()));
/// assert_eq!(outcome.result.unwrap().output, "HI");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome<R = LlmResponse, E = LlmError, C = ()> {
    /// The item's position in the input, from 0.
    pub index: u64,
    /// Its identifier.
    pub id: ItemId,
    /// The context that was passed with it.
    pub context: C,
    /// The answer, or the error.
    pub result: Result<R, E>,
    /// Its accounts: attempts, calls, tokens, waits.
    pub report: ItemReport,
}

impl<R, E, C> Outcome<R, E, C> {
    /// Returns `true` if there is an answer.
    pub const fn is_ok(&self) -> bool {
        self.result.is_ok()
    }

    /// Returns `true` if the item failed.
    pub const fn is_err(&self) -> bool {
        self.result.is_err()
    }

    /// Takes the answer out, if there is one.
    pub fn ok(self) -> Option<R> {
        self.result.ok()
    }

    /// Takes the error out, if there is one.
    pub fn err(self) -> Option<E> {
        self.result.err()
    }

    /// The answer, if there is one.
    pub const fn response(&self) -> Option<&R> {
        match &self.result {
            Ok(response) => Some(response),
            Err(_) => None,
        }
    }

    /// The error, if there is one.
    pub const fn error(&self) -> Option<&E> {
        match &self.result {
            Ok(_) => None,
            Err(error) => Some(error),
        }
    }
}
