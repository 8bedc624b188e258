//! The error of both timeout layers.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::{BoxError, Disposition, ErrorKind, LlmError};

/// The scope of a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutScope {
    /// One physical call, without any wait before it.
    Call,
    /// The whole item: every call and every wait.
    Item,
}

/// A time limit of this library passed.
///
/// Its source, if any, is the item's last failure, which it was still retrying.
#[derive(Debug)]
pub struct TimedOut {
    scope: TimeoutScope,
    limit: Duration,
    source: Option<BoxError>,
}

impl TimedOut {
    /// Creates the error for a time limit of `limit`.
    pub const fn new(scope: TimeoutScope, limit: Duration) -> Self {
        Self {
            scope,
            limit,
            source: None,
        }
    }

    /// Sets the last failure of the item as the source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the scope of the time limit.
    pub const fn scope(&self) -> TimeoutScope {
        self.scope
    }

    /// The configured limit.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    pub(crate) const fn disposition(&self) -> Disposition {
        match self.scope {
            TimeoutScope::Call => Disposition::Backoff,
            TimeoutScope::Item => Disposition::Fatal,
        }
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            TimeoutScope::Call => write!(f, "the call took longer than {:?} (call timeout)", self.limit)?,
            TimeoutScope::Item => write!(f, "the item took longer than {:?} (item timeout)", self.limit)?,
        }
        match &self.source {
            Some(source) => write!(f, "; last failure: {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for TimedOut {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<TimedOut> for LlmError {
    fn from(error: TimedOut) -> Self {
        let disposition = error.disposition();
        Self::new(ErrorKind::TimedOut, error.to_string())
            .with_disposition(disposition)
            .with_source(error)
    }
}
