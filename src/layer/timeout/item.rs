//! The limit on a whole item.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{TimedOut, TimeoutScope};
use crate::error::BoxError;
use crate::item::Item;
use crate::request::{FindItem, InRequest, Untracked};

/// Limits the time of a whole item: every call and every wait. Place it outermost.
///
/// The clock starts when the item is picked up ([`Item::started`]), and retry policies below see the deadline in
/// the request, so a wait that would not fit is not begun. The error's source is what the item last failed with.
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
    /// Every item may take `limit`.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[track_caller]
    pub const fn new(limit: Duration) -> Self {
        assert!(!limit.is_zero(), "an item timeout of zero lets no item through");
        Self {
            limit,
            find: InRequest,
        }
    }
}

impl<F> ItemTimeoutLayer<F> {
    /// For requests of other crates: the clock starts with the request.
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
        }
    }
}

/// Limits the time of a whole item; made by [`ItemTimeoutLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ItemTimeout<S, F = InRequest> {
    inner: S,
    limit: Duration,
    find: F,
}

impl<S, F> ItemTimeout<S, F> {
    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to change it.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, F, Req> Service<Req> for ItemTimeout<S, F>
where
    S: Service<Req>,
    S::Error: From<TimedOut> + Into<BoxError>,
    F: FindItem<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ItemTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let item = self.find.item(&request).cloned();
        let now = Instant::now();
        let started = item.as_ref().map_or(now, |item| item.started());
        // None: so far away that it cannot be told.
        let deadline = started.checked_add(self.limit);
        if let (Some(item), Some(deadline)) = (&item, deadline) {
            item.limit_deadline(deadline);
        }
        // Without time left nothing may be sent.
        let late = deadline.is_some_and(|deadline| deadline <= now);
        ItemTimeoutFuture {
            run: (!late).then(|| self.inner.call(request)),
            late,
            sleep: None,
            deadline,
            limit: self.limit,
            item,
        }
    }
}

/// The future of [`ItemTimeout`].
#[pin_project]
#[derive(Debug)]
pub struct ItemTimeoutFuture<Fut> {
    #[pin]
    run: Option<Fut>,
    late: bool,
    #[pin]
    sleep: Option<Sleep>,
    deadline: Option<Instant>,
    limit: Duration,
    item: Option<Arc<Item>>,
}

impl<Fut, Res, E> Future for ItemTimeoutFuture<Fut>
where
    Fut: Future<Output = Result<Res, E>>,
    E: From<TimedOut> + Into<BoxError>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let timed_out = TimedOut::new(TimeoutScope::Item, *this.limit);
        if let Some(run) = this.run.as_mut().as_pin_mut() {
            if let Poll::Ready(result) = run.poll(cx) {
                // A retry policy that gave up early hands its last error up.
                let gave_up =
                    result.is_err() && this.item.as_ref().is_some_and(|item| item.deadline_missed());
                return Poll::Ready(match result {
                    Err(error) if gave_up => Err(timed_out.with_source(error).into()),
                    result => result,
                });
            }
            if !super::passed(this.sleep, *this.deadline, cx) {
                return Poll::Pending;
            }
            // Dropped before the error is returned, so that whoever reads the item's accounts next finds the call closed.
            this.run.set(None);
            if let Some(item) = this.item {
                // What no layer watched was cut.
                item.settle_call(true, false);
            }
        } else if !std::mem::take(this.late) {
            // Polled after its end.
            return Poll::Pending;
        } else if let Some(item) = this.item {
            item.settle_call(false, false);
        }
        let cause = this.item.as_ref().and_then(|item| {
            item.set_deadline_missed();
            item.take_last_failure()
        });
        Poll::Ready(Err(match cause {
            Some(cause) => timed_out.with_source(cause),
            None => timed_out,
        }
        .into()))
    }
}
