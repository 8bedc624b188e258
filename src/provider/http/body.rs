//! The request body, which knows how far it got.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::connections::{Call, Hold};

/// A body that may go out a little later than the head of the request, and notes when.
///
/// A server may close a kept connection at any moment, and a request that crosses the close is lost: the client cannot
/// distinguish it from one that the server read and then dropped. So a connection that is not above suspicion gets the head
/// first, and the body one turn of the runtime later. On a connection that was closed meanwhile the head fails, the body
/// stays here, and the call is known not to have been sent. It costs a packet, so a connection that was in use a moment
/// ago, of a server that never broke one, gets both at once.
pub(super) struct HeldBody {
    bytes: Option<Bytes>,
    state: State,
    call: Arc<Call>,
}

enum State {
    NotAsked,
    Held(Pin<Box<Sleep>>),
    Free,
}

impl HeldBody {
    pub(super) const fn new(bytes: Bytes, call: Arc<Call>) -> Self {
        Self {
            bytes: Some(bytes),
            state: State::NotAsked,
            call,
        }
    }

    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let State::NotAsked = self.state {
            self.state = match self.call.arrive() {
                Hold::No => State::Free,
                Hold::OneTurn => {
                    self.state = State::Free;
                    // Wakes us once the runtime has looked at its sockets.
                    return pin!(tokio::task::yield_now()).poll(cx);
                }
                Hold::For(time) => State::Held(Box::pin(sleep(time))),
            };
        }
        if let State::Held(sleep) = &mut self.state {
            ready!(sleep.as_mut().poll(cx));
            self.state = State::Free;
        }
        Poll::Ready(())
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.poll_free(cx));
        self.call.set_handed_over();
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
