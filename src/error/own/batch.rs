//! The error of an item that the driver itself ends.

use std::fmt;

use crate::error::{BoxError, Delivery, ErrorKind, LlmError, caught_text};

/// The driver ended an item without an answer from its strategy.
#[derive(Debug)]
#[non_exhaustive]
pub enum BatchError {
    /// The batch was stopped before the item finished.
    Aborted {
        /// The reason for the stop.
        reason: String,
    },
    /// The strategy panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The source yielded an error instead of an item.
    Source(BoxError),
}

impl BatchError {
    /// The category.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Aborted { .. } => ErrorKind::Aborted,
            Self::Panicked { .. } => ErrorKind::Panicked,
            Self::Source(_) => ErrorKind::Source,
        }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted { reason } => write!(f, "stopped before it finished: {reason}"),
            Self::Panicked { message } => write!(f, "the strategy panicked: {message}"),
            Self::Source(error) => write!(f, "the input could not be read: {error}"),
        }
    }
}

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Source(error) => Some(&**error),
            Self::Aborted { .. } | Self::Panicked { .. } => None,
        }
    }
}

impl From<BatchError> for LlmError {
    fn from(error: BatchError) -> Self {
        let delivery = match error {
            BatchError::Source(_) => Delivery::NotSent,
            BatchError::Aborted { .. } | BatchError::Panicked { .. } => Delivery::MaybeBilled,
        };
        Self::new(error.kind(), caught_text(&error))
            .with_delivery(delivery)
            .with_source(error)
    }
}
