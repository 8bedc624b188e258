//! What the outcome of a call means: the verdict that retry and the rate limiter act on.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{BoxError, Delivery, ErrorKind, LlmError};

/// What to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Disposition {
    /// It worked.
    Success,
    /// Ask again at once: the answer was bad, not the service. Counts as an attempt.
    RetryNow,
    /// Try again after a backoff. Counts as an attempt.
    Backoff,
    /// The provider limits the rate: everyone who shares the gate pauses. Does not count as an attempt.
    Throttled,
    /// No try will cure it for this item.
    Fatal,
    /// No try will cure it for any item of this account and model: the gate latches.
    ScopeFatal,
}

/// A quota dimension of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QuotaDimension {
    /// Requests per unit of time.
    Requests,
    /// Tokens per unit of time.
    Tokens,
    /// Calls at the same time.
    Concurrency,
}

/// One window of a reported quota. A value that the provider did not send, or sent as `-1` or garbage, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QuotaWindow {
    /// How much the window allows.
    pub limit: Option<u64>,
    /// How much of it is left.
    pub remaining: Option<u64>,
    /// Time until it is full again, counted from the reply.
    #[serde(with = "crate::serde_seconds::option")]
    pub reset: Option<Duration>,
}

/// What the rate-limit headers or the error body of a reply said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ReportedQuota {
    /// The dimension that a rejection was about, where it said so.
    pub dimension: Option<QuotaDimension>,
    /// The window for requests.
    pub requests: QuotaWindow,
    /// The window for tokens.
    pub tokens: QuotaWindow,
}

/// What a classifier makes of the outcome of one call.
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
    /// What to do.
    pub disposition: Disposition,
    /// The category of the failure; `None` for a success or where it is unknown.
    pub kind: Option<ErrorKind>,
    /// How long the provider asked to wait.
    pub retry_after: Option<Duration>,
    /// What rate-limit headers said.
    pub quota: Option<ReportedQuota>,
    /// The call ran out of time while the provider may still have been working on it: a repeat may be billed
    /// twice, so the retry policy repeats it once at most by default. A broken
    /// connection is not meant: there only the attempts are counted.
    pub maybe_billed: bool,
}

impl Verdict {
    /// The call worked.
    pub const SUCCESS: Self = Self::new(Disposition::Success);

    /// A verdict with nothing but its disposition.
    pub const fn new(disposition: Disposition) -> Self {
        Self {
            disposition,
            kind: None,
            retry_after: None,
            quota: None,
            maybe_billed: false,
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

    /// Sets what rate-limit headers said.
    #[must_use]
    pub const fn with_quota(mut self, quota: ReportedQuota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Says that a repeat may be billed twice.
    #[must_use]
    pub const fn with_maybe_billed(mut self, maybe_billed: bool) -> Self {
        self.maybe_billed = maybe_billed;
        self
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
    /// The verdict on one outcome. Called once per call and layer; should be quick and must not panic.
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
/// It serves [`LlmError`] and [`BoxError`]; the latter is downcast, and so are the errors it was made from
/// (its chain of sources), so that the crate's own timeout, gate and batch errors are known too. An unknown
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
            Err(error) => known(&**error).unwrap_or(Verdict::of_kind(ErrorKind::Other)),
        }
    }
}

/// The verdict of the first error of this crate in the chain of sources.
fn known(error: &(dyn std::error::Error + 'static)) -> Option<Verdict> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<LlmError>() {
            return Some(Verdict::from(error));
        }
        if let Some(error) = error.downcast_ref::<crate::layer::timeout::TimedOut>() {
            return Some(error.verdict());
        }
        if let Some(error) = error.downcast_ref::<crate::layer::rate_limiter::Refused>() {
            return Some(Verdict::of_kind(error.kind()));
        }
        if let Some(error) = error.downcast_ref::<crate::batch::BatchError>() {
            return Some(Verdict::of_kind(error.kind()));
        }
        next = error.source();
    }
    None
}

/// The kind of an error of any type, for reports: by downcast to [`LlmError`] or [`BoxError`], else `Other`.
pub(crate) fn kind_of<E: 'static>(error: &E) -> ErrorKind {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<LlmError>() {
        error.kind()
    } else if let Some(error) = error.downcast_ref::<BoxError>() {
        known(&**error)
            .and_then(|verdict| verdict.kind)
            .unwrap_or(ErrorKind::Other)
    } else if let Some(error) = error.downcast_ref::<crate::batch::BatchError>() {
        error.kind()
    } else {
        ErrorKind::Other
    }
}

/// An error of any type as this crate's, without its source: a copy of an [`LlmError`], else `kind` or what is known of
/// it, and its text.
pub(crate) fn describe<E: fmt::Display + 'static>(error: &E, kind: Option<ErrorKind>) -> LlmError {
    let any: &dyn Any = error;
    let own = any.downcast_ref::<LlmError>().or_else(|| {
        any.downcast_ref::<BoxError>()
            .and_then(|error| error.downcast_ref())
    });
    match own {
        Some(error) => error.without_source(),
        None => LlmError::new(kind.unwrap_or_else(|| kind_of(error)), error.to_string()),
    }
}

/// Whether the call that failed with `error` may have reached the provider: all but what is known not to have.
pub(crate) fn was_sent<E: 'static>(error: &E) -> bool {
    let error: &dyn Any = error;
    let mut next: Option<&(dyn std::error::Error + 'static)> = match error.downcast_ref::<BoxError>() {
        Some(error) => Some(&**error),
        None => error.downcast_ref::<LlmError>().map(|error| error as _),
    };
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<LlmError>() {
            return error.delivery() != Delivery::NotSent;
        }
        if error.is::<crate::layer::rate_limiter::Refused>() || error.is::<crate::lazy::MakeFailed>() {
            return false;
        }
        if let Some(crate::batch::BatchError::Source(_)) = error.downcast_ref() {
            return false;
        }
        next = error.source();
    }
    true
}
