//! The reasons why a call may not be sent: refusals by its item, and refusals by the gate.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Delivery, Disposition, ErrorKind, LlmError};
use crate::layer::rate_limiter::Quota;

/// A call may not begin; nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallRefused {
    /// The batch is stopping, or the item has its outcome already.
    Stopped,
    /// The item's deadline has passed.
    DeadlinePassed,
}

impl CallRefused {
    /// The category: [`ErrorKind::Aborted`] or [`ErrorKind::TimedOut`].
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Stopped => ErrorKind::Aborted,
            Self::DeadlinePassed => ErrorKind::TimedOut,
        }
    }
}

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "not sent: the batch is stopping",
            Self::DeadlinePassed => "not sent: the item's deadline has passed",
        })
    }
}

impl std::error::Error for CallRefused {}

impl From<CallRefused> for LlmError {
    fn from(error: CallRefused) -> Self {
        Self::new(error.kind(), error.to_string())
            .with_disposition(Disposition::Fatal)
            .with_delivery(Delivery::NotSent)
    }
}

/// The gate refused a call without sending it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refused {
    /// The scope is latched: an earlier call failed in a way that fails every call of this account and model.
    Latched {
        /// The kind of that call's failure.
        kind: ErrorKind,
        /// The message of that failure.
        message: Arc<str>,
    },
    /// The request needs more tokens than a token quota gives in its whole period.
    TooLarge {
        /// The estimated tokens of the request that the quota counts.
        estimate: u64,
        /// The token quota.
        limit: u64,
    },
    /// A quota is used up until its reset, and the gate does not
    /// [wait for it](crate::layer::rate_limiter::RateLimiterBuilder::wait_for_reset).
    QuotaExhausted {
        /// The gate's quota; `None` if the provider reported its own as used up.
        quota: Option<Quota>,
        /// The time of the reset.
        resets_at: SystemTime,
    },
    /// The call had to wait, which needs a running tokio runtime with its timer enabled.
    Closed,
    /// The batch is stopping, or the item's deadline has passed.
    Item(CallRefused),
}

impl Refused {
    /// The category: the latching failure's, [`ErrorKind::InvalidRequest`] for a request that is too large,
    /// [`ErrorKind::QuotaExhausted`], the item's, or [`ErrorKind::Aborted`].
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Latched { kind, .. } => *kind,
            Self::TooLarge { .. } => ErrorKind::InvalidRequest,
            Self::QuotaExhausted { .. } => ErrorKind::QuotaExhausted,
            Self::Closed => ErrorKind::Aborted,
            Self::Item(refused) => refused.kind(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latched { message, .. } => {
                write!(
                    f,
                    "not sent, because an earlier call failed for the whole account or model: {message}"
                )
            }
            Self::TooLarge { estimate, limit } => write!(
                f,
                "not sent: the request takes about {estimate} tokens, the token quota gives {limit} per period; \
                 shorten the prompt, lower its output token limit or raise the quota"
            ),
            Self::QuotaExhausted { quota, resets_at } => {
                f.write_str("not sent: the ")?;
                match quota {
                    Some(quota) => write!(f, "quota of {quota}")?,
                    None => f.write_str("provider's quota")?,
                }
                let resets_at = humantime::format_rfc3339_seconds(*resets_at);
                write!(f, " is used up; it resets at {resets_at}")
            }
            Self::Closed => f.write_str(
                "not sent: waiting at the gate needs a running tokio runtime with its timer enabled",
            ),
            Self::Item(refused) => refused.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for LlmError {
    fn from(error: Refused) -> Self {
        let made = Self::new(error.kind(), error.to_string());
        let made = match error {
            Refused::Item(_) => made.with_disposition(Disposition::Fatal),
            // For every kind: a repeat would be refused, too.
            Refused::Latched { .. } => made.with_disposition(Disposition::ScopeFatal),
            Refused::QuotaExhausted { resets_at, .. } => made
                .with_disposition(Disposition::ScopeFatal)
                .with_retry_after(resets_at.duration_since(SystemTime::now()).unwrap_or_default()),
            _ => made,
        };
        made.with_delivery(Delivery::NotSent).with_source(error)
    }
}

impl From<CallRefused> for Refused {
    fn from(refused: CallRefused) -> Self {
        Self::Item(refused)
    }
}
