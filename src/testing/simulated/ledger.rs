//! The simulated provider's ledger.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::usage::TokenUsage;

/// The calls and billed tokens of the simulated provider, to compare with a client's accounts.
///
/// Every call that was received ends in exactly one way:
/// `received = in_flight + answered + garbled + cut + reset_unread + throttled + rejected (all statuses)`,
/// see [`is_balanced`](Self::is_balanced).
///
/// A client that accounts correctly has known usage equal to `billed_answered`, and one call with unknown usage for
/// each one that was `cut`, `garbled` or `reset_unread` (and for each rejection that may have been billed,
/// such as a 502). If a client disconnects while the last byte is written to its socket, the two
/// sides may differ by that call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Ledger {
    /// Calls that arrived.
    pub received: u64,
    /// Calls that have not ended yet.
    pub in_flight: u64,
    /// The maximum number of calls in flight at the same time.
    pub most_in_flight: u64,
    /// Calls answered in full: the whole body of a valid answer was written to the socket, a stream up to its last
    /// event. Includes refusals.
    pub answered: u64,
    /// Calls answered with a complete body that is not an answer: truncated JSON or garbage.
    pub garbled: u64,
    /// Calls cut after the request was read: the sum of the next four.
    pub cut: u64,
    /// Connections reset before the head of the response.
    pub cut_before_head: u64,
    /// Responses that ended in the middle of their body: connections reset, and streams without their last event.
    pub cut_in_body: u64,
    /// Streams that ended with an error event.
    pub error_events: u64,
    /// Calls whose client disconnected before the response was complete, including rejections.
    pub disconnected: u64,
    /// Connections reset before the request was read.
    pub reset_unread: u64,
    /// Calls rejected because of a quota (429).
    pub throttled: u64,
    /// Calls rejected for other reasons, by status.
    pub rejected: BTreeMap<u16, u64>,
    /// Tokens billed for calls answered in full.
    pub billed_answered: TokenUsage,
    /// Tokens billed for calls that were generated, but cut or garbled.
    pub billed_cut: TokenUsage,
    /// Context caches created (Gemini's `cachedContents`). Creating one is not a call.
    pub caches_created: u64,
    /// Tokens billed as input for their creation. Calls that use a cache count its tokens as `cached_input`.
    pub cache_creation_tokens: u64,
}

impl Ledger {
    /// All tokens billed for calls.
    pub fn billed(&self) -> TokenUsage {
        self.billed_answered + self.billed_cut
    }

    /// Calls rejected, throttled ones included.
    pub fn rejections(&self) -> u64 {
        self.throttled + self.rejected.values().sum::<u64>()
    }

    /// Returns `true` if every received call is counted in exactly one category.
    pub fn is_balanced(&self) -> bool {
        let ended = self.answered + self.garbled + self.cut + self.reset_unread + self.rejections();
        self.received == self.in_flight + ended
            && self.cut == self.cut_before_head + self.cut_in_body + self.error_events + self.disconnected
    }

    pub(super) fn start(&mut self) {
        self.received += 1;
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    pub(super) fn end(&mut self, end: End, generated: Option<TokenUsage>) {
        self.in_flight -= 1;
        let generated = generated.unwrap_or_default();
        match end {
            End::Answered => {
                self.answered += 1;
                self.billed_answered += generated;
                return;
            }
            End::Garbled => self.garbled += 1,
            End::CutBeforeHead => {
                self.cut += 1;
                self.cut_before_head += 1;
            }
            End::CutInBody => {
                self.cut += 1;
                self.cut_in_body += 1;
            }
            End::ErrorEvent => {
                self.cut += 1;
                self.error_events += 1;
            }
            End::Disconnected => {
                self.cut += 1;
                self.disconnected += 1;
            }
            End::ResetUnread => self.reset_unread += 1,
            End::Throttled => self.throttled += 1,
            End::Rejected(status) => *self.rejected.entry(status).or_default() += 1,
        }
        self.billed_cut += generated;
    }
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Garbled,
    CutBeforeHead,
    CutInBody,
    ErrorEvent,
    Disconnected,
    ResetUnread,
    Throttled,
    Rejected(u16),
}
