//! The body that carries its call.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};
use tokio::task::unconstrained;

use super::passage::Passage;
use crate::error::BoxError;

/// A body that drives the call it belongs to: reading it drives the call, and dropping it before its end cancels the call. See the
/// [module](super).
#[pin_project(PinnedDrop)]
pub struct HttpCallBody<B> {
    /// The body, if the call ended with the head.
    #[pin]
    rest: Option<B>,
    /// The call, until it has ended. The mutex is never locked; it only makes the type `Sync`.
    call: Option<Mutex<Pin<Box<dyn Call + Send>>>>,
    /// The failure of the call, to be returned after the last frame.
    failure: Option<BoxError>,
    passage: Arc<Passage<B>>,
}

/// A type-erased call through all layers.
pub(super) trait Call {
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
}

impl<F, T, E> Call for F
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    fn poll_end(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.poll(cx).map_ok(|_| ()).map_err(Into::into)
    }
}

impl<B> HttpCallBody<B> {
    pub(super) fn rest(body: B, passage: Arc<Passage<B>>) -> Self {
        Self {
            rest: Some(body),
            call: None,
            failure: None,
            passage,
        }
    }

    pub(super) fn carried(call: Option<Pin<Box<dyn Call + Send>>>, passage: Arc<Passage<B>>) -> Self {
        Self {
            rest: None,
            call: call.map(Mutex::new),
            failure: None,
            passage,
        }
    }
}

impl<B> Body for HttpCallBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Some(rest) = this.rest.as_pin_mut() {
            let frame = rest.poll_frame(cx);
            return frame.map(|frame| {
                frame.map(|frame| match frame {
                    Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
                    Err(error) => Err(error.into()),
                })
            });
        }
        this.passage.before_poll(cx);
        // Taken out during the poll, so that a call that panics is not polled again.
        if let Some(mut call) = this.call.take() {
            let polled = call
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .poll_end(cx);
            match polled {
                Poll::Pending => *this.call = Some(call),
                Poll::Ready(Ok(())) => {}
                // Returns the body's own error; the layers got a copy of it.
                Poll::Ready(Err(error)) => *this.failure = this.passage.take_error().or(Some(error)),
            }
        }
        if let Some(frame) = this.passage.take_frame(cx) {
            return Poll::Ready(Some(Ok(frame)));
        }
        match this.call {
            Some(_) => Poll::Pending,
            None => Poll::Ready(this.failure.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.rest {
            Some(rest) => rest.is_end_stream(),
            None => self.call.is_none() && self.failure.is_none() && self.passage.waiting().is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(rest) = &self.rest {
            return rest.size_hint();
        }
        let waiting = self.passage.waiting().unwrap_or(0);
        if self.call.is_none() {
            return SizeHint::with_exact(waiting);
        }
        let mut hint = self.passage.hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(waiting));
        }
        hint.set_lower(hint.lower().saturating_add(waiting));
        hint
    }
}

#[pinned_drop]
impl<B> PinnedDrop for HttpCallBody<B> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        let Some(call) = this.call.take() else { return };
        let mut call = call.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !std::thread::panicking() {
            // One last poll: the end may have arrived unread. It does not use the budget of the dropping task.
            this.passage.leave();
            let end = std::future::poll_fn(|cx| call.as_mut().poll_end(cx));
            let mut cx = Context::from_waker(Waker::noop());
            // A panic was reported by the panic hook; the call still ends.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let _ = std::pin::pin!(unconstrained(end)).poll(&mut cx);
            }));
        }
        drop(call);
        this.passage.abandon();
    }
}

impl<B> fmt::Debug for HttpCallBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCallBody")
            .field("in_flight", &self.call.is_some())
            .finish_non_exhaustive()
    }
}
