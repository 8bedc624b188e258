//! The error for an invalid limit.

use std::fmt;

use crate::error::{ErrorKind, LlmError};

/// A number given to the builder is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLimit {
    field: &'static str,
    problem: &'static str,
}

impl InvalidLimit {
    pub(super) const fn new(field: &'static str, problem: &'static str) -> Self {
        Self { field, problem }
    }

    /// Returns the name of the limit, which is the name of the builder's method.
    pub const fn field(&self) -> &'static str {
        self.field
    }

    /// Returns what is wrong with it, such as `must be at least 1`.
    pub const fn problem(&self) -> &'static str {
        self.problem
    }
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate limiter: {} {}", self.field, self.problem)
    }
}

impl std::error::Error for InvalidLimit {}

impl From<InvalidLimit> for LlmError {
    fn from(error: InvalidLimit) -> Self {
        Self::new(ErrorKind::Configuration, error.to_string()).with_source(error)
    }
}
