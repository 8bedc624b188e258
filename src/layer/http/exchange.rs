//! The inner end of a call: the service whose future ends with the body.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::Body;
use pin_project::pin_project;
use tower_service::Service;

use super::error::BodyFailed;
use super::finished::{FinishedBody, Tail};
use super::passage::{CURRENT, Caller, Passage};
use super::reply::HttpReply;
use crate::error::BoxError;

/// The maximum number of frames without data after the read part for the body to count as read to its end.
const LAST_FRAMES: usize = 8;

/// The innermost service of an [`HttpCallLayer`](super::HttpCallLayer), which creates it. Its future ends when the body has
/// been delivered to the caller.
#[derive(Clone)]
pub struct Exchange<S> {
    inner: S,
    keep: usize,
}

impl<S> Exchange<S> {
    pub(super) const fn new(inner: S, keep: usize) -> Self {
        Self { inner, keep }
    }

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

impl<S, Req> Service<Req> for Exchange<S>
where
    S: Service<Req>,
    S::Response: HttpReply,
    S::Error: From<BodyFailed>,
{
    type Response = http::Response<FinishedBody>;
    type Error = S::Error;
    type Future = ExchangeFuture<S::Future, <S::Response as HttpReply>::Body>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let passage = CURRENT.try_with(Arc::clone).ok();
        let step = match passage.and_then(|passage| passage.downcast().ok()) {
            None => Step::Refused(
                "not sent: a layer inside `HttpCallLayer` makes the call in another task, such as tower's `Buffer`",
            ),
            Some(passage) if Passage::is_carrying(&passage) => Step::Refused(
                "not sent: the body of the previous call was already delivered; a retry belongs outside of `HttpCallLayer`",
            ),
            Some(passage) => Step::Sending {
                future: self.inner.call(request),
                passage,
            },
        };
        ExchangeFuture {
            step,
            tail: Tail::new(self.keep),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Exchange<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// The future of [`Exchange`].
#[pin_project]
pub struct ExchangeFuture<Fut, B> {
    #[pin]
    step: Step<Fut, B>,
    tail: Tail,
}

#[pin_project(project = StepProj)]
enum Step<Fut, B> {
    Refused(&'static str),
    Sending {
        #[pin]
        future: Fut,
        passage: Arc<Passage<B>>,
    },
    Carrying {
        #[pin]
        body: B,
        passage: Arc<Passage<B>>,
        head: Option<http::response::Parts>,
    },
    Done,
}

impl<Fut, R, E> Future for ExchangeFuture<Fut, R::Body>
where
    Fut: Future<Output = Result<R, E>>,
    R: HttpReply,
    E: From<BodyFailed>,
{
    type Output = Result<http::Response<FinishedBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let ended = match this.step.as_mut().project() {
                StepProj::Refused(why) => Err(BodyFailed::misplaced(why).into()),
                StepProj::Sending { future, passage } => match ready!(future.poll(cx)) {
                    Err(error) => Err(error),
                    Ok(reply) => {
                        let (head, body) = reply.into_http().into_parts();
                        let seen = copy_of(&head);
                        let empty = body.is_end_stream();
                        if head.status.is_success() && !empty {
                            let passage = Arc::clone(passage);
                            let head = http::Response::from_parts(head, None);
                            if passage.put_head(head, body.size_hint(), cx) {
                                this.step.set(Step::Carrying {
                                    body,
                                    passage,
                                    head: Some(seen),
                                });
                                // The caller gets the head before anything is read: an unwanted body is not read.
                                return Poll::Pending;
                            }
                            Err(BodyFailed::overtaken().into())
                        } else if passage.put_reply(http::Response::from_parts(head, Some(body))) {
                            Ok(http::Response::from_parts(seen, this.tail.finish(empty)))
                        } else {
                            Err(BodyFailed::overtaken().into())
                        }
                    }
                },
                StepProj::Carrying { body, passage, head } => {
                    let end = ready!(carry(body, passage, this.tail, cx));
                    match (end, head.take()) {
                        (Ok(()), Some(head)) => Ok(http::Response::from_parts(head, this.tail.finish(true))),
                        (Ok(()), None) => continue,
                        (Err(failed), _) => Err(failed.into()),
                    }
                }
                StepProj::Done => panic!("`ExchangeFuture` polled after completion"),
            };
            // Drops the body and the connection.
            this.step.set(Step::Done);
            return Poll::Ready(ended);
        }
    }
}

/// Delivers one frame to the caller. Ready at the end of the body.
fn carry<B>(
    mut body: Pin<&mut B>,
    passage: &Passage<B>,
    tail: &mut Tail,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BodyFailed>>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut frames = 0;
    loop {
        let leaves = match passage.room(cx) {
            None => return Poll::Pending,
            Some(Caller::Gone) => return Poll::Ready(Err(BodyFailed::abandoned())),
            Some(caller) => caller == Caller::Leaves,
        };
        let frame = match body.as_mut().poll_frame(cx) {
            Poll::Pending if leaves && tail.is_done() => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Ready(Some(Err(error))) => {
                let error = error.into();
                let failed = BodyFailed::broken(&error);
                passage.put_error(error);
                return Poll::Ready(Err(failed));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
        let data = frame.data_ref().map_or(&[][..], |data| data);
        if !leaves {
            tail.push(data);
            let last = body.is_end_stream();
            passage.put_frame(frame, body.size_hint());
            return if last { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        if tail.is_done() {
            return Poll::Ready(Ok(()));
        }
        // The caller has read everything if only the end is missing.
        frames += 1;
        if !data.is_empty() || frames > LAST_FRAMES {
            return Poll::Pending;
        }
    }
}

/// The copy of the head for the layers.
fn copy_of(head: &http::response::Parts) -> http::response::Parts {
    let (mut copy, ()) = http::Response::new(()).into_parts();
    copy.status = head.status;
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

impl<Fut, B> fmt::Debug for ExchangeFuture<Fut, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeFuture").finish_non_exhaustive()
    }
}
