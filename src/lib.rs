//! Push very many prompts through LLM providers.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod batch;
pub mod layer;
pub mod provider;
pub mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

mod classify;
mod error;
mod events;
mod item;
mod lazy;
mod prompt;
mod request;
mod response;
mod serde_seconds;
mod state;
mod usage;

#[cfg(feature = "progress")]
#[cfg_attr(docsrs, doc(cfg(feature = "progress")))]
pub use batch::Progress;
pub use batch::{
    BatchError, BatchHandle, BatchSummary, BoxStrategy, IntoWorkItem, LlmBatch, LlmStreamExt, Outcome,
    StopMode, StrategyError, StrategyExt, Termination, WorkItem,
};
pub use classify::{
    Classify, Disposition, KindClassifier, QuotaDimension, QuotaWindow, ReportedQuota, Verdict,
};
pub use error::{BoxError, Delivery, ErrorKind, LlmError};
pub use events::{Event, EventError, EventKind, EventReceiver, Events};
pub use item::{CallGuard, FindItem, InRequest, Item, ItemId, ItemReport, Untracked, WaitReason, Waits};
pub use lazy::{Lazy, LazyFuture, MakeFailed, lazy};
pub use prompt::{Message, Part, Prompt, Role};
pub use provider::HttpClassifier;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
pub use provider::{openai::OpenAi, strategy};
pub use request::{CharacterEstimate, Estimate, LlmRequest};
pub use response::{FinishReason, InResponse, LlmResponse, ReportsUsage, ResponseMetadata};
pub use state::RetryState;
pub use usage::TokenUsage;
