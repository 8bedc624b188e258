//! The exit status.

use std::fmt;
use std::process::ExitCode;

/// The end of a run, as its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Every item succeeded.
    Success,
    /// Some items failed.
    SomeFailed,
    /// The run ended before the input did.
    StoppedEarly,
    /// A quota is used up until its reset.
    QuotaExhausted,
    /// Ctrl-C, or the request to terminate.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::SomeFailed => 1,
            Exit::StoppedEarly => 3,
            Exit::QuotaExhausted => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// The exit status after a [`UsageError`].
pub(crate) const USAGE: u8 = 2;

/// Wrong usage or configuration, found before anything was called. Exit status 2.
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl UsageError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl From<String> for UsageError {
    fn from(message: String) -> Self {
        Self(message)
    }
}
