//! The stream combinator, its outcomes, handle and summary.
//!
//! [`with_strategy`](LlmStreamExt::with_strategy) attaches a strategy to the items of a stream, and
//! [`llm_batch`](LlmStreamExt::llm_batch) runs them, `n` at a time:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use futures::{StreamExt, stream};
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
//! # let model = tower::service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("hi".to_owned())));
//! # let prompts = ["a", "b"];
//!
//! let mut results = stream::iter(prompts).with_strategy(model).llm_batch(10);
//! while let Some(outcome) = results.next().await {
//!     match outcome.result {
//!         Ok(response) => println!("{}: {}", outcome.id, response.output),
//!         Err(error) => eprintln!("{}: {error}", outcome.id),
//!     }
//! }
//! println!("{}", results.summary());
//! # }
//! ```
//!
//! # After each item
//! A batch is a stream, so a hook after each item is one line of [`StreamExt`](futures::StreamExt); data of the item that the hook
//! needs beside the id travels as the context:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use futures::{StreamExt, stream};
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
//! # let model = tower::service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("hi".to_owned())));
//!
//! let items = ["short", "rather long"].map(|text| (text, text, text.len()));
//! let batch = stream::iter(items).with_strategy(model).llm_batch(10);
//! let handle = batch.handle();
//! let mut results = batch.inspect(|outcome| println!("{} of {} bytes: {}", outcome.id, outcome.context, outcome.is_ok()));
//! while results.next().await.is_some() {}
//! println!("{}", handle.statistics());
//! # }
//! ```
//!
//! # Order of events
//! - Nothing happens until the stream is polled. A poll pulls items while there are free slots and starts each on its
//!   own tokio task; nothing is taken from the source, and nothing reserved, without a free slot.
//! - Items in flight and finished items not yet taken are never more than `n` together. A slow consumer slows
//!   the source down and harms no call; if it stops polling, at most `n` items are paid for.
//! - A strategy that is shared is cloned for each item. The clone becomes ready and is called in the item's task.
//! - An item cannot end the batch: an error, a panic, an abort are outcomes. A panic of the source reaches the consumer,
//!   after the items in flight were aborted.
//! - Every item taken from the source has exactly one outcome, also after a stop.
//!
//! # Ending early
//! | cause | method |
//! |---|---|
//! | time | [`batch_timeout`](LlmBatch::batch_timeout) |
//! | a kind of failure | [`stop_when`](LlmBatch::stop_when) |
//! | a signal | [`stop_on`](LlmBatch::stop_on) |
//! | an explicit call | [`BatchHandle::stop`], [`BatchHandle::cancel`] |
//!
//! A stop takes effect immediately, on any thread, even while the consumer does not poll the stream: no item is taken, no call
//! begins and no failed call is retried. [`StopMode`] decides whether calls under way finish. The first cause is kept as the
//! [`Termination`]. The account and the handle outlive the stream. With `llm_batch_local` the time limit and the signal take effect
//! when the stream is polled.
//!
//! # Cancel safety and money
//! The work that a drop loses, the calls that may still be billed, and the calls that are never sent twice:
//!
//! - **A dropped `next()`** loses nothing. Items continue in their tasks, outcomes wait in the stream. So it may be used in a
//!   `select!`.
//! - **The dropped stream** aborts every item in flight, and loses the outcomes that were not taken. A call under way is
//!   cut: the provider has the request, works on it, and may bill it. The account, still available through the
//!   handle, counts each as a call with unknown usage; tokens are not guessed. Items not taken from the source were
//!   never sent. To keep what is paid for, call [`BatchHandle::stop`] and take the remaining outcomes.
//! - **A drain** ([`StopMode::Drain`]) loses nothing that is paid for: an item whose call is under way, or whose answer is still
//!   processed above the stack, runs to its end; a new call of such an item is rejected. Items that wait are aborted; their
//!   report has what they spent before.
//! - **A cancel** ([`StopMode::Cancel`]) costs what a drop costs, but each item has its outcome, with its report.
//! - **A panic** in a strategy ends only its item. Finished calls are in the report; the usage of an unfinished one is unknown.
//! - **The end of the runtime** ends the items; a stream that outlives it yields them as aborted.
//! - **The work of `on_complete`** runs in a task of the runtime when the stream is dropped early, once all items have ended, if
//!   the runtime still runs. [`LlmBatch::close`] ends the batch early and waits for it.
//! - The driver calls a strategy once per item and never again: only a retry layer, which you add, repeats a call.
//!   An aborted item is never retried.
//!
//! With [`llm_batch_local`](LlmStreamExt::llm_batch_local) the same holds, except that items stand still while the
//! stream is not polled: their calls make no progress while no `next()` is polled.

mod bottleneck;
mod driver;
mod ending;
mod ext;
mod finished;
mod handle;
mod options;
mod outcome;
#[cfg(feature = "progress")]
mod progress;
mod result;
mod shared;
mod slots;
mod statistics;
mod strategy;
mod stream;
mod summary;
mod task;
mod tasks;
mod termination;
mod work_item;

pub use crate::error::BatchError;
pub use bottleneck::{Bottleneck, BottleneckCause, FoundLimit};
pub use ext::{LlmStreamExt, WithStrategy};
pub use handle::BatchHandle;
pub use outcome::Outcome;
#[cfg(feature = "progress")]
#[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
pub use progress::{Progress, RunningProgress};
pub use result::BatchResult;
pub use strategy::{BatchItem, BoxStrategy, StrategyError, StrategyExt};
pub use stream::LlmBatch;
pub use summary::{BatchSummary, FailureGroup, Percentiles};
pub use tasks::{InPlace, Placement, Spawned};
pub use termination::{StopMode, Termination};
pub use work_item::{IntoWorkItem, NoStrategy, WorkItem};
