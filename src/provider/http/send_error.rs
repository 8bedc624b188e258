//! The reason why a request got no reply, and how far it came.

use std::error::Error as StdError;
use std::io;

use crate::error::{Delivery, ErrorKind, LlmError, chain};

/// The reason why a reply is missing.
pub(super) enum SendError {
    /// A kept connection was closed before the whole request was on it: not sent, and safe to repeat.
    Stale,
    Failed(LlmError),
}

impl SendError {
    pub(super) fn new(error: &reqwest::Error, handed_over: bool) -> Self {
        let cause = cause(error);
        if error.is_builder() {
            let message = format!("the request cannot be sent: {cause}");
            return Self::Failed(LlmError::new(ErrorKind::Configuration, message));
        }
        if error.is_connect() {
            let message = if is_out_of_files(error) {
                "no connection: too many open files; raise the limit (`ulimit -n`) or lower the concurrency"
                    .to_owned()
            } else {
                format!("no connection: {cause}")
            };
            return Self::Failed(
                LlmError::new(ErrorKind::Connection, message).with_delivery(Delivery::NotSent),
            );
        }
        // A broken pipe comes from writing alone, so the end of the request never left.
        if !handed_over || is_broken_pipe(error) {
            return Self::Stale;
        }
        let message = format!("the connection broke before the reply: {cause}");
        Self::Failed(LlmError::new(ErrorKind::Connection, message).with_delivery(Delivery::MaybeBilled))
    }
}

/// The chain of errors below `error`.
fn sources<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    error.source().into_iter().flat_map(chain)
}

fn io_errors(error: &reqwest::Error) -> impl Iterator<Item = &io::Error> {
    sources(error).filter_map(|source| source.downcast_ref())
}

fn is_broken_pipe(error: &reqwest::Error) -> bool {
    io_errors(error).any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// `EMFILE` and `ENFILE`, which have no kind of their own. The numbers are those of every Unix.
fn is_out_of_files(error: &reqwest::Error) -> bool {
    cfg!(unix) && io_errors(error).any(|error| matches!(error.raw_os_error(), Some(23 | 24)))
}

/// The innermost error, which says what happened. The outer ones name the URL, which may hold secrets.
pub(super) fn cause(error: &reqwest::Error) -> String {
    sources(error)
        .last()
        .map_or_else(|| "unknown".to_owned(), ToString::to_string)
}
