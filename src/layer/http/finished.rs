//! The record of a delivered body.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

/// The record of a body that was delivered to the caller: its length, whether it was complete, and its last bytes.
///
/// It is the body of the [`http::Response`] that the layers inside an [`HttpCallLayer`](super::HttpCallLayer) see.
pub struct FinishedBody {
    tail: Bytes,
    length: u64,
    complete: bool,
}

impl FinishedBody {
    /// The last bytes of the body: all of it, unless it was longer than the
    /// [limit](super::HttpCallLayer::keep_bytes). Empty for a reply without a success status, whose body was not delivered yet.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// The number of bytes delivered.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Returns `true` if the body was delivered to its end.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The JSON values in [`tail`](Self::tail), in order: the body itself if it is JSON, or else the data of each event of an event
    /// stream. Anything else (`[DONE]`, an event of which only the end was kept) is skipped.
    pub fn json(&self) -> impl DoubleEndedIterator<Item = Value> + '_ {
        let whole = serde_json::from_slice(&self.tail).ok();
        let lines = if whole.is_some() { &[][..] } else { self.tail() };
        let events = (lines.split(|byte| matches!(byte, b'\n' | b'\r')))
            .filter_map(|line| serde_json::from_slice(line.strip_prefix(b"data:")?).ok());
        whole.into_iter().chain(events)
    }
}

impl fmt::Debug for FinishedBody {
    /// Omits the bytes, which may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishedBody")
            .field("length", &self.length)
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

/// Keeps the last bytes of the delivered body.
#[derive(Debug)]
pub(super) struct Tail {
    kept: Vec<u8>,
    keep: usize,
    length: u64,
}

impl Tail {
    pub(super) const fn new(keep: usize) -> Self {
        Self {
            kept: Vec::new(),
            keep,
            length: 0,
        }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.length = self.length.saturating_add(data.len() as u64);
        let data = &data[data.len().saturating_sub(self.keep)..];
        self.kept.extend_from_slice(data);
        // Trimmed at twice the size, so that bytes are not moved with each piece.
        if self.kept.len() / 2 >= self.keep {
            self.kept.drain(..self.kept.len() - self.keep);
        }
    }

    fn kept(&self) -> &[u8] {
        &self.kept[self.kept.len().saturating_sub(self.keep)..]
    }

    /// Returns `true` if the last event of an event stream was `[DONE]`.
    pub(super) fn is_done(&self) -> bool {
        let kept = self.kept().trim_ascii_end();
        (kept.strip_suffix(b"[DONE]")).is_some_and(|before| before.trim_ascii_end().ends_with(b"data:"))
    }

    pub(super) fn finish(&self, complete: bool) -> FinishedBody {
        FinishedBody {
            length: self.length,
            complete,
            tail: Bytes::copy_from_slice(self.kept()),
        }
    }
}
