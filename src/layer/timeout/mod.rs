//! Time limits: one for the whole item, one for a single call.

mod error;

pub use error::{TimedOut, TimeoutScope};
