//! The time limit of a whole item.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{BoxError, TimedOut, TimeoutScope, refusal};
use crate::item::{HandOver, Item};
use crate::request::{FindItem, InRequest, Untracked};

/// Limits the time of a whole item: every call and every wait. Place it outermost.
///
/// Use it to guarantee an answer or an error within a time; use [`CallTimeoutLayer`](super::CallTimeoutLayer) to abort
/// one call that hangs and retry it. The [module](super) compares the two.
///
/// The clock starts when the item is picked up ([`Item::started`]), and retry policies below see the deadline in
/// the request, so a wait that would not fit is not begun. The error's source is the item's last failure.
///
/// `poll_ready` is always ready: if the service inside is not (a `ConcurrencyLimit` without a free permit, a connection that is
/// being opened), the future waits for it, so that the limit covers that wait, too. If the future is first polled after the
/// deadline, the service inside is never polled.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use llm_batch::layer::timeout::ItemTimeoutLayer;
/// use llm_batch::{ErrorKind, LlmError, LlmRequest, LlmResponse};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let stalls = service_fn(|_: LlmRequest| std::future::pending::<Result<LlmResponse, LlmError>>());
/// let model = ServiceBuilder::new()
///     .layer(ItemTimeoutLayer::new(Duration::from_millis(5)))
///     .service(stalls);
/// let error = model.oneshot(LlmRequest::new("hi".into())).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ItemTimeoutLayer<F = InRequest> {
    limit: Duration,
    find: F,
}

impl ItemTimeoutLayer {
    /// Limits every item to `limit`.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[track_caller]
    pub const fn new(limit: Duration) -> Self {
        assert!(!limit.is_zero(), "the item timeout must be above zero");
        Self {
            limit,
            find: InRequest,
        }
    }
}

impl<F> ItemTimeoutLayer<F> {
    /// The limit.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// Makes it fit requests of other crates: the clock starts with the request.
    pub fn untracked(self) -> ItemTimeoutLayer<Untracked> {
        ItemTimeoutLayer {
            limit: self.limit,
            find: Untracked,
        }
    }
}

impl<S, F: Clone> Layer<S> for ItemTimeoutLayer<F> {
    type Service = ItemTimeout<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        ItemTimeout {
            inner,
            limit: self.limit,
            find: self.find.clone(),
            ready: false,
        }
    }
}

/// Limits the time of a whole item; created by [`ItemTimeoutLayer`].
#[derive(Debug)]
pub struct ItemTimeout<S, F = InRequest> {
    inner: S,
    limit: Duration,
    find: F,
    /// This instance of the service inside is ready.
    ready: bool,
}

/// A clone has to become ready again.
impl<S: Clone, F: Clone> Clone for ItemTimeout<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit,
            find: self.find.clone(),
            ready: false,
        }
    }
}

impl<S, F> ItemTimeout<S, F> {
    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        self.ready = false;
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, F, Req> Service<Req> for ItemTimeout<S, F>
where
    S: Service<Req> + Clone,
    S::Error: From<TimedOut> + Into<BoxError> + 'static,
    F: FindItem<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ItemTimeoutFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        HandOver::poll_ready(&mut self.inner, &mut self.ready, cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let item = self.find.item(&request).cloned();
        let now = Instant::now();
        let started = item.as_ref().map_or(now, |item| item.started());
        // `None` if it is too far in the future to be represented.
        let deadline = started.checked_add(self.limit);
        if let (Some(item), Some(deadline)) = (&item, deadline) {
            item.signals().limit_deadline(deadline);
        }
        // If no time is left, nothing may be sent.
        let ready = std::mem::take(&mut self.ready) && deadline.is_none_or(|deadline| deadline > now);
        let run = HandOver::after_poll_ready(&mut self.inner, ready, &self.find, request, Some(now), refusal);
        ItemTimeoutFuture {
            run: Some(run),
            polled: false,
            sleep: None,
            deadline,
            limit: self.limit,
            item,
        }
    }
}

/// The future of [`ItemTimeout`].
///
/// # Cancel safety
/// If it is dropped while it waits for the service inside to be ready, nothing has been sent. If it is dropped later, a call
/// under way may still be billed.
#[pin_project]
pub struct ItemTimeoutFuture<S, Req>
where
    S: Service<Req>,
{
    /// `None` once it has ended or was cut.
    #[pin]
    run: Option<HandOver<S, Req>>,
    polled: bool,
    #[pin]
    sleep: Option<Sleep>,
    deadline: Option<Instant>,
    limit: Duration,
    item: Option<Arc<Item>>,
}

impl<S, Req> Future for ItemTimeoutFuture<S, Req>
where
    S: Service<Req>,
    S::Error: From<TimedOut> + Into<BoxError> + 'static,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(run) = this.run.as_mut().as_pin_mut() else {
            panic!("`ItemTimeoutFuture` polled after completion");
        };
        // Checked here too, for a late first poll.
        let first = !std::mem::replace(this.polled, true);
        let late =
            (first || run.is_waiting()) && this.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let timed_out = TimedOut::new(TimeoutScope::Item, *this.limit);
        if !late && let Poll::Ready(result) = run.poll(cx) {
            this.run.set(None);
            // A retry policy that gave up early returns its last error.
            let gave_up = result.is_err()
                && this
                    .item
                    .as_ref()
                    .is_some_and(|item| item.signals().deadline_missed());
            return Poll::Ready(match result {
                Err(error) if gave_up => Err(timed_out.with_source(error).into()),
                result => result,
            });
        }
        if !late && !super::passed(this.sleep.as_mut(), *this.deadline, cx) {
            return Poll::Pending;
        }
        // Dropped before the error is returned, so that the call is closed in the item's accounts.
        this.run.set(None);
        let cause = this.item.as_ref().and_then(|item| {
            item.signals().set_deadline_missed();
            item.signals().take_last_failure()
        });
        Poll::Ready(Err(match cause {
            Some(cause) => timed_out.with_source(cause),
            None => timed_out,
        }
        .into()))
    }
}

impl<S, Req> fmt::Debug for ItemTimeoutFuture<S, Req>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemTimeoutFuture")
            .field("limit", &self.limit)
            .field("item", &self.item)
            .finish_non_exhaustive()
    }
}
