//! The requirements on a strategy: the bounds of `llm_batch`, with messages for compiler errors.

use tower::util::BoxCloneSyncService;
use tower_service::Service;

use super::work_item::WorkItem;
use crate::error::{BatchError, BoxError, LlmError};
use crate::item::ItemId;
use crate::request::LlmRequest;
use crate::response::LlmResponse;

/// The error of a strategy: any type that implements `From<BatchError>`, because the driver has to fail items too.
///
/// [`LlmError`] and [`BoxError`] implement it. Your own error needs one `From<BatchError>` (`#[from]` with
/// `thiserror`), a foreign one `.map_err(BoxError::from)` around its service.
#[diagnostic::on_unimplemented(
    message = "the strategy's error `{Self}` cannot say that an item was stopped or panicked",
    label = "`{Self}` does not implement `StrategyError`",
    note = "implement `From<BatchError>` for your own error (it must be `Send + 'static` too), or wrap the strategy of \
            another crate with `.map_err(BoxError::from)`"
)]
pub trait StrategyError: From<BatchError> + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<E: From<BatchError> + Send + 'static> StrategyError for E {}

/// An item that carries a strategy: the input of [`llm_batch`](crate::LlmStreamExt::llm_batch).
///
/// Sealed: the one implementor is [`WorkItem`] with a strategy that is a `Service<LlmRequest<Input>>`.
#[diagnostic::on_unimplemented(
    message = "the items of this stream carry no strategy that takes them: `{Self}`",
    label = "no strategy for `{Self}`",
    note = "attach one before `llm_batch`: `.with_strategy(strategy)`, where the strategy is a \
            `tower::Service<LlmRequest<Input>>` for the input that the stream yields (`Prompt` for texts)"
)]
pub trait BatchItem: sealed::Sealed {
    /// The strategy's input, inside an [`LlmRequest`].
    type Input;
    /// The context that comes back with the outcome.
    type Context;
    /// The strategy's response.
    type Response;
    /// The strategy's error.
    type Error;
    /// The strategy's future.
    type Future: Future<Output = Result<Self::Response, Self::Error>>;
    /// The strategy.
    type Strategy: Service<
            LlmRequest<Self::Input>,
            Response = Self::Response,
            Error = Self::Error,
            Future = Self::Future,
        >;

    #[doc(hidden)]
    fn into_parts(self, _: sealed::Token) -> Parts<Self::Input, Self::Context, Self::Strategy>;
}

/// A work item taken apart.
#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct Parts<I, C, S> {
    pub(super) id: Option<ItemId>,
    pub(super) input: Result<I, BoxError>,
    pub(super) context: C,
    pub(super) strategy: S,
}

#[diagnostic::do_not_recommend]
impl<I, C, S: Service<LlmRequest<I>>> BatchItem for WorkItem<I, C, S> {
    type Input = I;
    type Context = C;
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;
    type Strategy = S;

    fn into_parts(self, _: sealed::Token) -> Parts<I, C, S> {
        Parts {
            id: self.id,
            input: self.input,
            context: self.context,
            strategy: self.strategy,
        }
    }
}

pub(super) mod sealed {
    /// Only this crate implements the traits of the batch.
    pub trait Sealed {}

    impl<I, C, S> Sealed for super::WorkItem<I, C, S> {}

    /// Only this crate calls their methods.
    #[derive(Debug)]
    pub struct Token;
}

/// A type-erased strategy, so that a stream can mix them. `I` is the input, `O` the output.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{BoxStrategy, LlmError, LlmRequest, LlmResponse, LlmStreamExt, StrategyExt, WorkItem};
/// use tower::service_fn;
///
/// let quick = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("quick".to_owned())));
/// let good = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("good".to_owned())));
/// let strategies: [BoxStrategy; 2] = [quick.boxed_strategy(), good.boxed_strategy()];
///
/// let items = stream::iter(["a", "b", "c"])
///     .enumerate()
///     .map(|(i, text)| WorkItem::prompt(text).with_strategy(strategies[i % 2].clone()));
/// let outputs: Vec<_> = items.llm_batch(2).in_order().map(|o| o.result.unwrap().output).collect().await;
/// assert_eq!(outputs, ["quick", "good", "quick"]);
/// # }
/// ```
pub type BoxStrategy<I = crate::Prompt, O = String, E = LlmError> =
    BoxCloneSyncService<LlmRequest<I>, LlmResponse<O>, E>;

/// Methods of every strategy.
pub trait StrategyExt<I>: Service<LlmRequest<I>> {
    /// Boxes the strategy as a [`BoxStrategy`].
    fn boxed_strategy<O>(self) -> BoxStrategy<I, O, Self::Error>
    where
        Self: Service<LlmRequest<I>, Response = LlmResponse<O>> + Clone + Send + Sync + Sized + 'static,
        Self::Future: Send + 'static,
    {
        BoxCloneSyncService::new(self)
    }
}

impl<I, S: Service<LlmRequest<I>>> StrategyExt<I> for S {}
