//! Recipes.

mod escalate;
mod fallback;

pub use escalate::{Escalate, EscalateFuture, Ladder, LadderLayer, models, temperatures};
pub use fallback::{Fallback, FallbackFuture};
