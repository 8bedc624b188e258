//! The request that flows down the stack.

use std::sync::Arc;

use tokio::time::Instant;

use crate::item::{CallContext, CallGuard, CallRefused, Item, ItemId};
use crate::prompt::Prompt;
use crate::state::RetryState;

mod estimate;
mod find;

pub use estimate::{CharacterEstimate, Estimate, TokenEstimate};
pub use find::{FindItem, InRequest, Untracked};

/// A request for one item, passed down the stack.
///
/// In a batch the driver creates it. Outside a batch, use [`LlmRequest::prompt`], or [`LlmRequest::new`] for inputs of other types,
/// so that a single call with the resilience of the whole stack is a `oneshot`:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::{LlmError, LlmRequest, LlmResponse};
/// use tower::{ServiceExt, service_fn};
///
/// let strategy = service_fn(async |request: LlmRequest| {
///     Ok::<_, LlmError>(LlmResponse::new(format!("call {}", request.call_number())))
/// });
/// let answer = strategy.oneshot(LlmRequest::prompt("hi")).await.unwrap();
/// # assert_eq!(answer.output, "call 0");
/// # }
/// ```
///
/// A clone represents the same item, and shares its accounts and state. If an outer layer has begun a call, the first clone
/// that is sent is that call, and each further one is a separate call.
#[derive(Clone, Debug)]
pub struct LlmRequest<I = Prompt> {
    input: I,
    context: CallContext,
}

impl LlmRequest {
    /// Creates a request for a prompt outside a batch: index 0, no deadline.
    pub fn prompt(prompt: impl Into<Prompt>) -> Self {
        Self::new(prompt.into())
    }
}

/// The same as [`LlmRequest::prompt`].
impl<P: Into<Prompt>> From<P> for LlmRequest {
    fn from(prompt: P) -> Self {
        Self::prompt(prompt)
    }
}

impl<I> LlmRequest<I> {
    /// Creates a request outside a batch for an input of the strategy's input type: index 0, no deadline. For texts
    /// and prompts see [`prompt`](LlmRequest::prompt).
    pub fn new(input: I) -> Self {
        Self::for_item(input, Item::new(ItemId::Index(0), 0))
    }

    /// Creates a request for an item that the caller keeps, to read its accounts later.
    ///
    /// From now on the item may be in a call: see [`Item::report`].
    pub fn for_item(input: I, item: Arc<Item>) -> Self {
        let context = CallContext::new(item);
        context.expect_call();
        Self { input, context }
    }

    /// Creates a request that is not sent before [`Signals::hand_over`](crate::item::Signals::hand_over).
    pub(crate) fn of_driver(input: I, item: Arc<Item>) -> Self {
        Self {
            input,
            context: CallContext::of_driver(item),
        }
    }

    /// The item's identifier.
    pub fn id(&self) -> &ItemId {
        self.item().id()
    }

    /// The item's position in the input, from 0.
    pub fn index(&self) -> u64 {
        self.item().index()
    }

    /// The input to send.
    pub fn input(&self) -> &I {
        &self.input
    }

    /// The input, mutably.
    pub fn input_mut(&mut self) -> &mut I {
        &mut self.input
    }

    /// Takes the input out.
    pub fn into_input(self) -> I {
        self.input
    }

    /// Returns the same request with another input.
    pub fn map_input<J>(self, f: impl FnOnce(I) -> J) -> LlmRequest<J> {
        LlmRequest {
            input: f(self.input),
            context: self.context,
        }
    }

    /// The number of the attempt, which the retry budget counts, from 1. A throttled call does not advance it.
    pub fn attempt(&self) -> u32 {
        self.item().attempt()
    }

    /// The number of the physical call, from 1; 0 before the first one has begun.
    pub fn call_number(&self) -> u32 {
        self.context.call_number().unwrap_or_else(|| self.item().calls())
    }

    /// The item's state, kept from call to call.
    pub fn state(&self) -> &RetryState {
        self.item().state()
    }

    /// Returns the time by which the item must be done, if it has a deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.item().deadline()
    }

    /// The item's identity and accounts.
    pub const fn item(&self) -> &Arc<Item> {
        self.context.item()
    }

    /// For authors of layers: the request's context (its item and call).
    pub const fn context(&self) -> &CallContext {
        &self.context
    }

    /// The context mutably, to begin a call or to hold it back.
    pub const fn context_mut(&mut self) -> &mut CallContext {
        &mut self.context
    }

    /// For authors of strategies: begins the call of this request, or joins the one that an outer layer has begun. See
    /// [`CallContext::begin_call`].
    ///
    /// # Errors
    /// If no call may begin, because the batch is stopping or the item's deadline has passed. Then send nothing.
    pub fn begin_call(&mut self) -> Result<CallGuard, CallRefused> {
        self.context.begin_call()
    }
}
