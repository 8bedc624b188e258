//! The request that flows down the stack, and how many tokens it will probably take.

use std::any::Any;
use std::sync::Arc;

use tokio::time::Instant;

use crate::item::{Item, ItemId};
use crate::prompt::Prompt;
use crate::state::RetryState;

/// One item on its way down the stack.
///
/// In a batch the driver makes it; outside one, [`LlmRequest::new`] does, which makes a single call with the
/// whole stack's resilience a `oneshot`:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, Prompt};
/// use tower::{ServiceExt, service_fn};
///
/// let strategy = service_fn(async |request: LlmRequest| {
///     Ok::<_, LlmError>(LlmResponse::new(format!("call {}", request.call_number())))
/// });
/// let answer = strategy.oneshot(LlmRequest::new(Prompt::from("hi"))).await.unwrap();
/// # assert_eq!(answer.output, "call 0");
/// # }
/// ```
///
/// A clone is a new try of the same item: it shares the item's accounts and state, but not the physical call that
/// an outer layer may have opened for the original.
#[derive(Debug)]
pub struct LlmRequest<I = Prompt> {
    input: I,
    item: Arc<Item>,
    pub(crate) open_call: Option<u32>,
}

impl<I: Clone> Clone for LlmRequest<I> {
    fn clone(&self) -> Self {
        // Without the open call: a retry or a hedge that clones the request makes a physical call of its own.
        Self {
            input: self.input.clone(),
            item: Arc::clone(&self.item),
            open_call: None,
        }
    }
}

impl<I> LlmRequest<I> {
    /// A request outside a batch: index 0, no deadline.
    pub fn new(input: I) -> Self {
        Self::for_item(input, Item::new(ItemId::Index(0), 0))
    }

    /// A request for an item that the caller keeps, to read its accounts later.
    pub fn for_item(input: I, item: Arc<Item>) -> Self {
        Self {
            input,
            item,
            open_call: None,
        }
    }

    /// What names the item.
    pub fn id(&self) -> &ItemId {
        self.item.id()
    }

    /// The item's position in the input, from 0.
    pub fn index(&self) -> u64 {
        self.item.index()
    }

    /// What to send.
    pub fn input(&self) -> &I {
        &self.input
    }

    /// What to send, to change it.
    pub fn input_mut(&mut self) -> &mut I {
        &mut self.input
    }

    /// Takes the input out.
    pub fn into_input(self) -> I {
        self.input
    }

    /// The same request with another input.
    pub fn map_input<J>(self, f: impl FnOnce(I) -> J) -> LlmRequest<J> {
        LlmRequest {
            input: f(self.input),
            item: self.item,
            open_call: self.open_call,
        }
    }

    /// The attempt, from 1: what the retry budget counts. A throttled call does not advance it.
    pub fn attempt(&self) -> u32 {
        self.item.attempt()
    }

    /// The physical call, from 1; 0 before the first one was opened.
    pub fn call_number(&self) -> u32 {
        self.open_call.unwrap_or_else(|| self.item.calls())
    }

    /// What the item remembers from call to call.
    pub fn state(&self) -> &RetryState {
        self.item.state()
    }

    /// When the item must be done, if it has a deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.item.deadline()
    }

    /// The item's identity and accounts.
    pub fn item(&self) -> &Arc<Item> {
        &self.item
    }
}

/// Tells how many tokens a request will probably take, input and output together.
///
/// A token quota reserves the estimate before the call and settles with what was really used, so an estimate need
/// only be roughly right. Closures implement it.
///
/// ```
/// use llm_batch::Estimate;
/// let by_length = |request: &String| request.len() as u64 / 4;
/// assert_eq!(by_length.estimate(&"x".repeat(400)), 100);
/// ```
pub trait Estimate<Req> {
    /// Tokens that `request` will probably take.
    fn estimate(&self, request: &Req) -> u64;
}

impl<Req, F: Fn(&Req) -> u64> Estimate<Req> for F {
    fn estimate(&self, request: &Req) -> u64 {
        self(request)
    }
}

/// The default [`Estimate`]: four characters a token, plus the output token limit, or 256 where none is set.
///
/// It knows [`LlmRequest`]s of [`Prompt`], `String` and `&'static str`; for any other request it says 0, which means
/// that the size is unknown: a token quota then goes by what earlier calls used. Four characters a token is OpenAI's rule of thumb for English; the 256 is about what an
/// unbounded chat answer takes, and settlement corrects both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CharacterEstimate;

/// Output tokens assumed where no limit is set.
const DEFAULT_OUTPUT: u64 = 256;

impl<Req: 'static> Estimate<Req> for CharacterEstimate {
    fn estimate(&self, request: &Req) -> u64 {
        let request: &dyn Any = request;
        let text = |text: &str| (text.chars().count() as u64).div_ceil(4) + DEFAULT_OUTPUT;
        if let Some(request) = request.downcast_ref::<LlmRequest<Prompt>>() {
            let prompt = request.input();
            prompt.characters().div_ceil(4) + prompt.max_output_tokens().map_or(DEFAULT_OUTPUT, u64::from)
        } else if let Some(request) = request.downcast_ref::<LlmRequest<String>>() {
            text(request.input())
        } else if let Some(request) = request.downcast_ref::<LlmRequest<&'static str>>() {
            text(request.input())
        } else {
            0
        }
    }
}
