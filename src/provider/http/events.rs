//! A reply as a stream of server-sent events, put together.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use sse_stream::SseByteStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::send_error::cause;
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::item::CallGuard;
use crate::provider::streaming::{Assemble, Piece};
use crate::provider::wire::repair::{joined, repaired};

/// The time that the end of the body may take after the last event. It only saves the connection.
const END_OF_BODY: Duration = Duration::from_millis(500);

/// Returns `true` if a reply is a stream of events.
pub(super) fn are_in(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| {
        kind.trim_start()
            .to_ascii_lowercase()
            .starts_with("text/event-stream")
    })
}

/// Reads the events of a response to their end, and returns the body that they make together, and whether the connection
/// can be used again.
pub(crate) async fn assemble(
    response: reqwest::Response,
    max_bytes: usize,
    idle_timeout: Option<Duration>,
    mut assembler: Box<dyn Assemble>,
    call: &CallGuard,
) -> Result<(Bytes, bool), LlmError> {
    let mut stray = Stray::default();
    let mut events = {
        let stray = &mut stray;
        let chunks = chunks(response, max_bytes, idle_timeout).inspect_ok(move |chunk| stray.take(chunk));
        // Some servers forget the blank line after the last event, without which the parser drops it.
        let blank_line = stream::once(future::ready(Ok(Bytes::from_static(b"\n\n"))));
        SseByteStream::new(chunks.chain(blank_line))
    };
    let mut ended: Option<Instant> = None;
    let mut has_repairs = false;
    let mut number = 0;
    // The event that could not be read: the last one of a stream that was cut, or a hole in the answer.
    let mut unread = None;
    let broken = loop {
        let next = match ended {
            Some(ended) => timeout_at(ended + END_OF_BODY, events.next()).await.ok(),
            None => Some(events.next().await),
        };
        match next {
            Some(None) => break None,
            None => break Some(cut("it does not end")),
            Some(Some(Ok(event))) => {
                let data = event.data.as_deref().unwrap_or_default();
                if data.trim().is_empty() {
                    continue;
                }
                if let Some(number) = unread {
                    return Err(unreadable(number));
                }
                number += 1;
                let name = event.event.as_deref().unwrap_or("message");
                let mut piece = assembler.push(name, data);
                if piece == Piece::Unreadable
                    && let Some(repaired) = repaired(data.as_bytes())
                {
                    piece = assembler.push(name, &repaired);
                    has_repairs = true;
                }
                match piece {
                    Piece::Other => {}
                    Piece::Token => call.set_first_token(),
                    Piece::End => ended = ended.or_else(|| Some(Instant::now())),
                    // What follows a complete answer cannot make a hole in it.
                    Piece::Unreadable if assembler.is_complete() && !assembler.ends_with_stream() => {}
                    Piece::Unreadable => unread = Some(number),
                }
            }
            Some(Some(Err(sse_stream::Error::Body(error)))) => {
                break Some(match error.downcast::<LlmError>() {
                    Ok(error) => *error,
                    Err(error) => cut(&error.to_string()),
                });
            }
            Some(Some(Err(error))) => break Some(cut(&error.to_string())),
        }
    };
    drop(events);
    let read_to_end = broken.is_none();
    let stray = stray.error();
    // What is complete stays an answer, whatever happens to the connection afterwards.
    let is_cut = assembler.ends_with_stream() && (stray.is_some() || broken.is_some() || unread.is_some());
    if is_cut || !assembler.is_complete() {
        return match (stray, broken) {
            (Some(error), _) => Ok((error, read_to_end)),
            (None, Some(broken)) => Err(broken),
            (None, None) => Err(cut("it ended before the answer was complete")),
        };
    }
    let mut body = assembler.into_body().to_string();
    if has_repairs {
        body = joined(&body);
    }
    Ok((body.into(), read_to_end))
}

/// A stream with an event that is not what it should be: the answer would have a hole. It is not quoted, as it may echo a secret.
fn unreadable(number: usize) -> LlmError {
    let message =
        format!("event {number} of the streamed reply cannot be read: the answer would have a hole");
    LlmError::new(ErrorKind::ServerError, message).with_delivery(Delivery::MaybeBilled)
}

/// The pieces of a body, read no further than its bound, none of them later than the idle timeout.
fn chunks(
    response: reqwest::Response,
    max_bytes: usize,
    idle_timeout: Option<Duration>,
) -> BoxStream<'static, Result<Bytes, LlmError>> {
    stream::try_unfold((response, 0), move |(mut response, read)| async move {
        let chunk = match idle_timeout {
            None => response.chunk().await,
            Some(idle) => timeout(idle, response.chunk()).await.map_err(|_| {
                let message = format!("nothing came for {idle:?} in the middle of the reply");
                LlmError::new(ErrorKind::TimedOut, message).with_delivery(Delivery::MaybeBilled)
            })?,
        };
        let Some(chunk) = chunk.map_err(|error| cut(&cause(&error)))? else {
            return Ok(None);
        };
        let read = read + chunk.len();
        if read > max_bytes {
            let message = format!("the reply is larger than {max_bytes} bytes");
            return Err(LlmError::new(ErrorKind::ResponseTooLarge, message));
        }
        Ok(Some((chunk, (response, read))))
    })
    .boxed()
}

/// A stream that broke off: sent, and perhaps billed.
fn cut(why: &str) -> LlmError {
    LlmError::new(
        ErrorKind::Connection,
        format!("the stream of the reply broke off: {why}"),
    )
    .with_delivery(Delivery::MaybeBilled)
}

/// The lines of a stream that are not part of an event: Gemini writes an error that happens on the way as bare JSON.
#[derive(Debug, Default)]
struct Stray {
    line: Vec<u8>,
    lines: Vec<u8>,
}

impl Stray {
    fn take(&mut self, chunk: &[u8]) {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let name = self.line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !matches!(name.trim_ascii_end(), b"" | b"data" | b"event" | b"id" | b"retry") {
            self.lines.extend_from_slice(&self.line);
        }
        self.line.clear();
    }

    /// The error that the lines are.
    fn error(&mut self) -> Option<Bytes> {
        self.end_line();
        let value: Value = serde_json::from_slice(&self.lines).ok()?;
        // Sometimes it is the one element of an array.
        let value = match value {
            Value::Array(mut values) if values.len() == 1 => values.pop()?,
            value => value,
        };
        value.get("error")?;
        Some(value.to_string().into())
    }
}
