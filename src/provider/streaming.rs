//! Streamed replies.

use std::time::Duration;

use serde_json::Value;

/// Requests the answer as server-sent events, and assembles them inside the call.
///
/// The response is the same. Streaming adds the time to the first token to the item's report, and an idle timeout,
/// which distinguishes a stuck call from a slow one.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::provider::{Model, Streaming};
///
/// let streaming = Streaming::new().with_idle_timeout(Duration::from_secs(30));
/// let model = Model::builder("vllm:qwen3-8b").build()?.with_streaming(streaming);
/// # let _ = model;
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming {
    idle_timeout: Option<Duration>,
}

/// Providers think for minutes before the first token (OpenAI's and Anthropic's own clients wait ten), but keep a stream
/// alive with events or comments meanwhile.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

impl Streaming {
    /// Streaming with an idle timeout of 120 s.
    pub const fn new() -> Self {
        Self {
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
        }
    }

    /// Sets how long the stream may be silent before the call counts as stuck: [`ErrorKind::TimedOut`], sent, may have
    /// been billed. Events count, and so do comments that keep the connection alive.
    ///
    /// The clock runs once the reply has begun. Until then the call may wait in the queue of a server that sends nothing
    /// before the first token (llama.cpp): that wait is for the call timeout.
    ///
    /// [`ErrorKind::TimedOut`]: crate::ErrorKind::TimedOut
    #[must_use]
    pub const fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Disables the idle timeout; only the call timeout remains.
    #[must_use]
    pub const fn without_idle_timeout(mut self) -> Self {
        self.idle_timeout = None;
        self
    }

    /// The idle timeout; `None` if it is disabled.
    pub const fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Self::new()
    }
}

/// The kind of an event in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Nothing of the answer: set-up, a ping, an unknown event.
    Other,
    /// A piece of the answer, thoughts included.
    Token,
    /// The last event: the answer is complete.
    #[cfg_attr(not(any(feature = "openai", feature = "anthropic")), allow(dead_code))]
    End,
    /// It cannot be read, so that the answer would have a hole.
    Unreadable,
}

/// Puts the events of a stream together to the reply that the provider would have sent whole.
///
/// Must never panic, whatever the events hold.
pub(crate) trait Assemble: Send {
    /// Takes the next event. `name` is the event's type, `message` where it has none.
    fn push(&mut self, name: &str, data: &str) -> Piece;

    /// Returns `true` if the answer is complete when the stream ends here. If not, it was cut.
    fn is_complete(&self) -> bool;

    /// Returns `true` if only the end of the stream says that nothing follows, so that one that breaks off before it was cut.
    fn ends_with_stream(&self) -> bool {
        false
    }

    /// The reply's body as it would have been sent whole. An error event becomes a body with that error.
    fn into_body(self: Box<Self>) -> Value;
}
