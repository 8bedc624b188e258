//! The request body, which knows how far it got.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::connections::Call;

/// Whether a request's body was handed to a connection. Until then no server can have acted on the request.
#[derive(Clone, Debug, Default)]
pub(super) struct HandedOver(Arc<AtomicBool>);

impl HandedOver {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A body that goes out only after the head of the request did, and notes when.
///
/// A server may close a kept connection at any moment, and a request that crosses the close is lost: the client cannot
/// tell it from one that the server read and then dropped. So the connection gets the head first, and the body one turn
/// of the runtime later. On a connection that was closed meanwhile the head fails, the body stays here, and the call is
/// known not to have been sent.
pub(super) struct HeldBody {
    bytes: Option<Bytes>,
    hold: Hold,
    patience: Option<Duration>,
    handed_over: HandedOver,
    call: Arc<Call>,
}

enum Hold {
    NotYet,
    Patience(Pin<Box<Sleep>>),
    Over,
}

impl HeldBody {
    pub(super) fn new(bytes: Bytes, call: Arc<Call>, patience: Option<Duration>) -> (Self, HandedOver) {
        let handed_over = HandedOver::default();
        let body = Self {
            bytes: Some(bytes),
            hold: Hold::NotYet,
            patience,
            handed_over: handed_over.clone(),
            call,
        };
        (body, handed_over)
    }

    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.hold {
            Hold::Over => Poll::Ready(()),
            Hold::Patience(sleep) => {
                ready!(sleep.as_mut().poll(cx));
                self.hold = Hold::Over;
                Poll::Ready(())
            }
            Hold::NotYet => match self.patience {
                Some(patience) => {
                    self.hold = Hold::Patience(Box::pin(sleep(patience)));
                    self.poll_hold(cx)
                }
                None => {
                    self.hold = Hold::Over;
                    // Wakes us once the runtime has looked at its sockets.
                    pin!(tokio::task::yield_now()).poll(cx)
                }
            },
        }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.call.arrive();
        ready!(self.poll_hold(cx));
        self.handed_over.0.store(true, Ordering::Release);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
