//! The input of a batch.

use std::fmt;

use crate::error::BoxError;
use crate::item::ItemId;
use crate::prompt::Prompt;

/// One work item: an input with an id, a context that is returned with the outcome, and a strategy.
///
/// A stream rarely has to yield it: [`IntoWorkItem`] turns texts, prompts and tuples into one, and
/// [`with_strategy`](crate::LlmStreamExt::with_strategy) attaches the strategy. Create it yourself for inputs of your
/// own type, or to give each item its own strategy:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{LlmError, LlmRequest, LlmStreamExt, WorkItem};
/// use tower::service_fn;
///
/// let double = service_fn(async |request: LlmRequest<u32>| Ok::<_, LlmError>(request.input() * 2));
/// let items = stream::iter([1, 2, 3])
///     .map(|number| WorkItem::new(number).with_id(format!("n{number}")).with_context(number));
///
/// let mut results = items.with_strategy(double).llm_batch(2);
/// while let Some(outcome) = results.next().await {
///     assert_eq!(outcome.result.unwrap(), outcome.context * 2);
/// }
/// # }
/// ```
#[must_use = "a work item does nothing until it goes through a batch"]
pub struct WorkItem<I = Prompt, C = (), S = NoStrategy> {
    pub(super) id: Option<ItemId>,
    // An error instead of an input fails the item without a call.
    pub(super) input: Result<I, BoxError>,
    pub(super) context: C,
    pub(super) strategy: S,
}

/// The placeholder for a strategy that is attached later by
/// [`with_strategy`](crate::LlmStreamExt::with_strategy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoStrategy;

impl<I> WorkItem<I> {
    /// Creates an item with `input`, of the strategy's input type. Its id is its index unless one is set.
    pub const fn new(input: I) -> Self {
        Self {
            id: None,
            input: Ok(input),
            context: (),
            strategy: NoStrategy,
        }
    }

    /// Creates an item whose input could not be read: its outcome is that error ([`ErrorKind::Source`]), without a call.
    ///
    /// [`ErrorKind::Source`]: crate::ErrorKind::Source
    pub fn failed(error: impl Into<BoxError>) -> Self {
        Self {
            id: None,
            input: Err(error.into()),
            context: (),
            strategy: NoStrategy,
        }
    }
}

impl WorkItem {
    /// Creates an item with a prompt.
    pub fn prompt(prompt: impl Into<Prompt>) -> Self {
        Self::new(prompt.into())
    }
}

impl<I, C, S> WorkItem<I, C, S> {
    /// Sets the item's identifier. Identifiers need not be unique.
    pub fn with_id(mut self, id: impl Into<ItemId>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the context, which is returned with the outcome.
    pub fn with_context<D>(self, context: D) -> WorkItem<I, D, S> {
        WorkItem {
            id: self.id,
            input: self.input,
            context,
            strategy: self.strategy,
        }
    }

    /// Sets the strategy of this item only. To mix strategies of different types in one stream, give them one common type with
    /// [`boxed_strategy`](crate::StrategyExt::boxed_strategy).
    pub fn with_strategy<T>(self, strategy: T) -> WorkItem<I, C, T> {
        WorkItem {
            id: self.id,
            input: self.input,
            context: self.context,
            strategy,
        }
    }

    /// The item's identifier, if one was set.
    pub const fn id(&self) -> Option<&ItemId> {
        self.id.as_ref()
    }

    /// The input; `None` if it could not be read.
    pub fn input(&self) -> Option<&I> {
        self.input.as_ref().ok()
    }

    /// The context that comes back with the outcome.
    pub const fn context(&self) -> &C {
        &self.context
    }
}

impl<I: fmt::Debug, C: fmt::Debug, S> fmt::Debug for WorkItem<I, C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkItem")
            .field("id", &self.id)
            .field("input", &self.input)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// The items that a stream may yield to [`with_strategy`](crate::LlmStreamExt::with_strategy).
///
/// | item | becomes |
/// |---|---|
/// | `&str`, `String`, [`Prompt`] | a prompt, named by its index |
/// | `(id, prompt)` | a prompt with an id; [`ItemId`] lists what an id may be |
/// | `(id, prompt, context)` | the same with a context that comes back with the outcome |
/// | [`WorkItem`] | itself: for inputs of other types |
/// | `Result` of any of these | an `Err` becomes a failed outcome without a call, with the context type's default |
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used as a work item",
    label = "this stream yields `{Self}`",
    note = "yield `&str`, `String`, `Prompt`, `(id, prompt)`, `(id, prompt, context)`, a `Result` of one of these, or \
            `WorkItem::new(input)` for an input of another type"
)]
pub trait IntoWorkItem {
    /// The strategy's input, inside an [`LlmRequest`](crate::LlmRequest).
    type Input;
    /// The context that comes back with the outcome.
    type Context;

    /// Converts it into a work item.
    fn into_work_item(self) -> WorkItem<Self::Input, Self::Context>;
}

macro_rules! prompts {
    ($($text:ty),*) => {$(
        impl IntoWorkItem for $text {
            type Input = Prompt;
            type Context = ();

            fn into_work_item(self) -> WorkItem {
                WorkItem::prompt(self)
            }
        }
    )*};
}

prompts!(&str, String, &String, Prompt);

impl<Id: Into<ItemId>, P: Into<Prompt>> IntoWorkItem for (Id, P) {
    type Input = Prompt;
    type Context = ();

    fn into_work_item(self) -> WorkItem {
        WorkItem::prompt(self.1).with_id(self.0)
    }
}

impl<Id: Into<ItemId>, P: Into<Prompt>, C> IntoWorkItem for (Id, P, C) {
    type Input = Prompt;
    type Context = C;

    fn into_work_item(self) -> WorkItem<Prompt, C> {
        WorkItem::prompt(self.1).with_id(self.0).with_context(self.2)
    }
}

impl<I, C> IntoWorkItem for WorkItem<I, C> {
    type Input = I;
    type Context = C;

    fn into_work_item(self) -> Self {
        self
    }
}

impl<T, E> IntoWorkItem for Result<T, E>
where
    T: IntoWorkItem<Context: Default>,
    E: Into<BoxError>,
{
    type Input = T::Input;
    type Context = T::Context;

    fn into_work_item(self) -> WorkItem<T::Input, T::Context> {
        match self {
            Ok(item) => item.into_work_item(),
            Err(error) => WorkItem::failed(error).with_context(T::Context::default()),
        }
    }
}
