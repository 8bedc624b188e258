//! Classification of the outcome of a call: the verdict that retry and the rate limiter act on.

use std::time::Duration;

use crate::error::{
    BoxError, Delivery, Disposition, ErrorKind, LlmError, OwnError, Refused, ReportedQuota, TimedOut,
    own_error,
};

/// A classifier's verdict on the outcome of one call.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::{Disposition, ErrorKind, Verdict};
///
/// let verdict = Verdict::new(Disposition::Throttled)
///     .with_kind(ErrorKind::RateLimit)
///     .with_retry_after(Duration::from_secs(3));
/// assert_eq!(verdict.retry_after, Some(Duration::from_secs(3)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The action to take.
    pub disposition: Disposition,
    /// The category of the failure; `None` for a success or if unknown.
    pub kind: Option<ErrorKind>,
    /// The wait that the provider requested.
    pub retry_after: Option<Duration>,
    /// The quotas that rate-limit headers reported.
    pub quota: Option<ReportedQuota>,
    /// The call timed out while the provider may still have been working on it: a repeat may be billed
    /// twice, so the retry policy repeats it once at most by default. Not set for a broken
    /// connection: there only the attempts are counted.
    pub maybe_billed: bool,
    /// The call provably did not reach the server. With [`ErrorKind::Connection`] no connection could be made, which
    /// retry and the rate limiter treat as overload: the calls wait, and no attempts of their items are used up.
    pub not_sent: bool,
}

impl Verdict {
    /// The call worked.
    pub const SUCCESS: Self = Self::new(Disposition::Success);

    /// A verdict with only a disposition.
    pub const fn new(disposition: Disposition) -> Self {
        Self {
            disposition,
            kind: None,
            retry_after: None,
            quota: None,
            maybe_billed: false,
            not_sent: false,
        }
    }

    /// The default verdict for a failure of `kind`.
    pub const fn of_kind(kind: ErrorKind) -> Self {
        Self::new(kind.disposition()).with_kind(kind)
    }

    /// Sets the category.
    #[must_use]
    pub const fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Sets the wait hint.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Sets the quotas that rate-limit headers reported.
    #[must_use]
    pub const fn with_quota(mut self, quota: ReportedQuota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Sets whether a repeat may be billed twice.
    #[must_use]
    pub const fn with_maybe_billed(mut self, maybe_billed: bool) -> Self {
        self.maybe_billed = maybe_billed;
        self
    }

    /// Sets whether the call provably did not reach the server.
    #[must_use]
    pub const fn with_not_sent(mut self, not_sent: bool) -> Self {
        self.not_sent = not_sent;
        self
    }

    /// Returns `true` if the server has no capacity for the call now, or cannot be reached.
    pub(crate) fn is_overload(&self) -> bool {
        self.disposition == Disposition::Backoff
            && match self.kind {
                Some(ErrorKind::Overloaded) => true,
                Some(ErrorKind::Connection) => self.not_sent,
                _ => false,
            }
    }
}

impl From<&LlmError> for Verdict {
    fn from(error: &LlmError) -> Self {
        Self {
            disposition: error.disposition(),
            kind: Some(error.kind()),
            retry_after: error.retry_after(),
            quota: error.quota().copied(),
            maybe_billed: error.delivery() == Delivery::MaybeBilled
                && matches!(error.kind(), ErrorKind::Timeout | ErrorKind::TimedOut),
            not_sent: error.delivery() == Delivery::NotSent,
        }
    }
}

impl From<&TimedOut> for Verdict {
    /// A call that timed out may be repeated, although it may have been billed; an item that timed out has ended.
    fn from(error: &TimedOut) -> Self {
        Self::new(error.disposition())
            .with_kind(ErrorKind::TimedOut)
            .with_maybe_billed(true)
    }
}

impl From<OwnError<'_>> for Verdict {
    fn from(error: OwnError<'_>) -> Self {
        match error {
            OwnError::Llm(error) => Self::from(error),
            OwnError::TimedOut(error) => Self::from(error),
            // The item has ended.
            OwnError::Refused(Refused::Item(_)) | OwnError::CallRefused(_) => {
                Self::new(Disposition::Fatal).with_kind(error.kind())
            }
            OwnError::Refused(Refused::Latched { .. }) => {
                Self::new(Disposition::ScopeFatal).with_kind(error.kind())
            }
            OwnError::Refused(_) | OwnError::Batch(_) | OwnError::MakeFailed(_) => {
                Self::of_kind(error.kind())
            }
        }
    }
}

/// Turns the outcome of a call into a [`Verdict`].
///
/// Closures implement it:
///
/// ```
/// use llm_batch::{Classify, Disposition, Verdict};
///
/// let by_status = |outcome: Result<&u16, &std::io::Error>| match outcome {
///     Ok(200) => Verdict::SUCCESS,
///     Ok(429) => Verdict::new(Disposition::Throttled),
///     Ok(_) => Verdict::new(Disposition::Fatal),
///     Err(_) => Verdict::new(Disposition::Backoff),
/// };
/// assert_eq!(by_status.classify(Ok(&429)).disposition, Disposition::Throttled);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot judge the outcomes of calls with the response `{Res}` and the error `{Err}`",
    label = "`{Self}` does not classify these outcomes",
    note = "the default classifier knows the errors `LlmError` and `BoxError`: wrap the strategy of another crate with \
            `.map_err(BoxError::from)`, or give the layer a closure whose argument has its type written out: \
            `.classify_with(|outcome: Result<&{Res}, &{Err}>| ...)`"
)]
pub trait Classify<Res, Err> {
    /// Returns the verdict on one outcome. Called once per call and layer; must be fast and must not panic.
    fn classify(&self, outcome: Result<&Res, &Err>) -> Verdict;
}

#[diagnostic::do_not_recommend]
impl<Res, Err, F> Classify<Res, Err> for F
where
    F: Fn(Result<&Res, &Err>) -> Verdict,
{
    fn classify(&self, outcome: Result<&Res, &Err>) -> Verdict {
        self(outcome)
    }
}

/// The default classifier: every response is a success, an error is judged by its [`ErrorKind`].
///
/// It supports [`LlmError`] and [`BoxError`]; the latter and its chain of sources are downcast,
/// so that the crate's own timeout, gate and batch errors are recognised too. An unknown
/// error is [`ErrorKind::Other`], retried after a backoff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindClassifier;

impl<Res> Classify<Res, LlmError> for KindClassifier {
    fn classify(&self, outcome: Result<&Res, &LlmError>) -> Verdict {
        outcome.map_or_else(Verdict::from, |_| Verdict::SUCCESS)
    }
}

impl<Res> Classify<Res, BoxError> for KindClassifier {
    fn classify(&self, outcome: Result<&Res, &BoxError>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::SUCCESS,
            Err(error) => own_error(error).map_or(Verdict::of_kind(ErrorKind::Other), Verdict::from),
        }
    }
}
