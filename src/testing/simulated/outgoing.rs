//! Response bodies being sent.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use tokio::time::sleep;

use super::call::Call;
use super::ledger::End;
use super::socket::Connection;

/// Time for bytes already written to reach the client before a connection is reset.
const BEFORE_RESET: Duration = Duration::from_millis(2);
/// The number of pieces of a slow body.
const DRIBBLES: usize = 8;

/// A response body being sent. If it is dropped before its last piece, the client has disconnected.
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// The wait until the next piece.
    wait: Duration,
    /// The pause before each piece.
    pause: Duration,
    /// The text to send after this time of silence.
    keep_alive: Option<(Duration, &'static str)>,
    /// A stall when this many pieces are left.
    stall: Option<(usize, Duration)>,
    reset: bool,
    call: Call,
    end: End,
    connection: Connection,
}

impl Outgoing {
    /// A body that is written in `pieces` over `time`, and ends with `end`.
    pub(super) fn new(
        pieces: VecDeque<Bytes>,
        time: Duration,
        call: Call,
        end: End,
        connection: Connection,
    ) -> Self {
        let pause = time / u32::try_from(pieces.len().max(1)).unwrap_or(u32::MAX);
        Self {
            wait: pause,
            pieces,
            pause,
            keep_alive: None,
            stall: None,
            reset: false,
            call,
            end,
            connection,
        }
    }

    /// Resets the connection after the last piece.
    pub(super) fn reset(mut self) -> Self {
        self.reset = true;
        self
    }

    /// Stalls in the middle.
    pub(super) fn stall(mut self, time: Duration) -> Self {
        self.stall = (!time.is_zero()).then_some((self.pieces.len().div_ceil(2), time));
        self
    }

    /// Delays the first piece by `delay`, and sends `sign` at each `interval` of silence.
    pub(super) fn keep_alive(mut self, delay: Duration, interval: Duration, sign: &'static str) -> Self {
        self.wait += delay;
        self.keep_alive = Some((interval, sign));
        self
    }

    pub(super) fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(Some(self), async |outgoing| {
            outgoing?.next().await
        }))
    }

    async fn next(mut self) -> Option<(io::Result<Bytes>, Option<Self>)> {
        if self.reset && self.pieces.is_empty() {
            sleep(BEFORE_RESET).await;
            self.call.end(self.end);
            return Some((Err(self.connection.reset_error()), None));
        }
        if let Some((left, time)) = self.stall
            && self.pieces.len() <= left
        {
            self.stall = None;
            sleep(time).await;
        }
        if let Some((interval, sign)) = self.keep_alive
            && self.wait > interval
        {
            sleep(interval).await;
            self.wait -= interval;
            return Some((Ok(Bytes::from_static(sign.as_bytes())), Some(self)));
        }
        if !self.wait.is_zero() {
            sleep(self.wait).await;
        }
        self.wait = self.pause;
        let piece = self.pieces.pop_front()?;
        if self.pieces.is_empty() && !self.reset {
            self.call.end(self.end);
            return Some((Ok(piece), None));
        }
        Some((Ok(piece), Some(self)))
    }
}

/// The pieces of a body that is sent over `time`.
pub(super) fn pieces(mut body: Bytes, time: Duration) -> VecDeque<Bytes> {
    let count = if time.is_zero() { 1 } else { DRIBBLES };
    let length = body.len().div_ceil(count).max(1);
    let mut pieces = VecDeque::new();
    while body.len() > length {
        pieces.push_back(body.split_to(length));
    }
    pieces.push_back(body);
    pieces
}
