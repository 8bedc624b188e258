//! The stream combinator and what rides on it.

mod driver;
mod error;
mod ext;
mod handle;
mod outcome;
#[cfg(feature = "progress")]
mod progress;
mod statistics;
mod strategy;
mod stream;
mod summary;
mod task;
mod tasks;
mod termination;
mod work_item;

pub use error::BatchError;
pub use ext::{LlmStreamExt, WithStrategy};
pub use handle::BatchHandle;
pub use outcome::Outcome;
#[cfg(feature = "progress")]
#[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
pub use progress::{Progress, RunningProgress};
pub use strategy::{BatchItem, BoxStrategy, StrategyError, StrategyExt};
pub use stream::LlmBatch;
pub use summary::{BatchSummary, FailureGroup, Percentiles};
pub use tasks::{InPlace, Placement, Spawned};
pub use termination::{StopMode, Termination};
pub use work_item::{IntoWorkItem, NoStrategy, WorkItem};
