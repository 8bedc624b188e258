//! Classes of calls at one gate.

/// The class of a call at its gate. A waiting call of a higher class goes before those of lower ones.
///
/// [`RateLimiter::with_priority`](super::RateLimiter::with_priority) returns a handle to the same gate whose calls have this class, so a layer, a
/// [stack](crate::StandardLayer) or a single call may have one; with [`RateLimiterLayer::keyed`](super::RateLimiterLayer::keyed) each
/// request does. Within a class the queue is first come, first served.
///
/// No class starves: while calls of a lower class wait too, one of every 8 grants goes to them. So the next interactive call
/// waits for at most one grant of another class. [`RateLimiterBuilder::strict_priority`](super::RateLimiterBuilder::strict_priority)
/// gives them none.
///
/// ```
/// use llm_batch::layer::rate_limiter::{Priority, RateLimiter, RateLimiterLayer};
/// use llm_batch::{LlmRequest, StandardLayer};
///
/// # fn main() -> Result<(), llm_batch::layer::rate_limiter::InvalidLimit> {
/// let gate = RateLimiter::builder().requests_per_minute(500).build()?;
/// // One stack for each use of the account:
/// let bulk = StandardLayer::new().with_limiter(gate.with_priority(Priority::Bulk));
/// let interactive = StandardLayer::new().with_limiter(gate.with_priority(Priority::Interactive));
/// // or one layer for both:
/// let by_request = RateLimiterLayer::keyed(move |request: &LlmRequest| {
///     let is_short = request.input().user_text().len() < 2_000;
///     gate.with_priority(if is_short { Priority::Interactive } else { Priority::Bulk })
/// });
/// # let _ = (bulk, interactive, by_request);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// A person waits for the answer. The highest class, which sorts first.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// Work that may wait.
    Bulk,
}

impl Priority {
    /// The classes, from the highest to the lowest.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Bulk];
}

/// While several classes wait, the lower ones get one of this many grants.
const TURNS: u8 = 8;

/// Whose turn it is while several classes wait.
#[derive(Debug, Default)]
pub(super) struct Rota {
    strict: bool,
    /// For each class but the lowest: the grants in a row that it got while a lower one waited.
    in_row: [u8; Priority::ALL.len() - 1],
}

impl Rota {
    pub(super) fn new(strict: bool) -> Self {
        Self {
            strict,
            ..Self::default()
        }
    }

    /// Returns the class whose turn it is, of those that wait.
    pub(super) fn next(&self, waits: impl Fn(Priority) -> bool) -> Option<Priority> {
        let mut turn = None;
        for class in Priority::ALL.into_iter().filter(|class| waits(*class)) {
            turn = Some(class);
            let in_row = self.in_row.get(class as usize).copied().unwrap_or_default();
            if self.strict || in_row < TURNS - 1 {
                break;
            }
        }
        turn
    }

    /// A call of `class` was let through; `waits` those that wait still.
    pub(super) fn granted(&mut self, class: Priority, waits: impl Fn(Priority) -> bool) {
        for (in_row, of) in self.in_row.iter_mut().zip(Priority::ALL) {
            if of < class {
                *in_row = 0;
            } else if of == class {
                let passed = Priority::ALL
                    .into_iter()
                    .any(|other| other > class && waits(other));
                *in_row = if passed { (*in_row + 1).min(TURNS - 1) } else { 0 };
            }
        }
    }
}
