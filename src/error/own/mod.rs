//! The errors of the batch, the layers and `lazy`, and the one look-up of them inside an error of any type.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tower::load_shed::error::Overloaded;

use super::{BoxError, Delivery, ErrorKind, LlmError};

mod batch;
mod make_failed;
mod refused;
mod timed_out;

pub use batch::BatchError;
pub use make_failed::MakeFailed;
pub use refused::{CallRefused, Refused};
pub use timed_out::{TimedOut, TimeoutScope};

/// The depth to which a chain of sources is followed, because it may be cyclic.
const DEEPEST: usize = 64;

/// An error of this crate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OwnError<'a> {
    Llm(&'a LlmError),
    TimedOut(&'a TimedOut),
    Refused(&'a Refused),
    CallRefused(&'a CallRefused),
    Batch(&'a BatchError),
    MakeFailed(&'a MakeFailed),
}

/// `value` as one of this crate's errors. Both `dyn Error` and `dyn Any` have the method.
macro_rules! downcast {
    ($value:expr) => {
        None.or_else(|| $value.downcast_ref().map(OwnError::Llm))
            .or_else(|| $value.downcast_ref().map(OwnError::TimedOut))
            .or_else(|| $value.downcast_ref().map(OwnError::Refused))
            .or_else(|| $value.downcast_ref().map(OwnError::CallRefused))
            .or_else(|| $value.downcast_ref().map(OwnError::Batch))
            .or_else(|| $value.downcast_ref().map(OwnError::MakeFailed))
    };
}

impl<'a> OwnError<'a> {
    fn of(error: &'a (dyn StdError + 'static)) -> Option<Self> {
        downcast!(error)
    }

    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::Llm(error) => error.kind(),
            Self::TimedOut(_) => ErrorKind::TimedOut,
            Self::Refused(error) => error.kind(),
            Self::CallRefused(error) => error.kind(),
            Self::Batch(error) => error.kind(),
            Self::MakeFailed(error) => error.kind(),
        }
    }

    /// Returns whether the failed call was sent; `None` if only the source can tell.
    fn was_sent(self) -> Option<bool> {
        match self {
            Self::Llm(error) => match error.delivery() {
                Delivery::NotSent => Some(false),
                Delivery::Rejected | Delivery::MaybeBilled => error.is_of_provider().then_some(true),
            },
            Self::Refused(_)
            | Self::CallRefused(_)
            | Self::MakeFailed(_)
            | Self::Batch(BatchError::Source(_)) => Some(false),
            Self::TimedOut(_) | Self::Batch(_) => None,
        }
    }
}

/// `error` and its chain of sources, at most 64 of them.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source()).take(DEEPEST)
}

/// `error` as a `dyn Error`, whose sources can be followed: a [`BoxError`], or one of this crate's own.
fn as_error<E: 'static>(error: &E) -> Option<&(dyn StdError + 'static)> {
    let any: &dyn Any = error;
    if let Some(error) = any.downcast_ref::<BoxError>() {
        return Some(&**error);
    }
    let own: Option<OwnError<'_>> = downcast!(any);
    Some(match own? {
        OwnError::Llm(error) => error,
        OwnError::TimedOut(error) => error,
        OwnError::Refused(error) => error,
        OwnError::CallRefused(error) => error,
        OwnError::Batch(error) => error,
        OwnError::MakeFailed(error) => error,
    })
}

/// The first error of this crate in `error` and its chain of sources. Searches [`BoxError`] and this crate's own types.
pub(crate) fn own_error<E: 'static>(error: &E) -> Option<OwnError<'_>> {
    chain(as_error(error)?).find_map(OwnError::of)
}

/// The kind of an error of any type, for reports: [`ErrorKind::Other`] if unknown.
pub(crate) fn kind_of<E: 'static>(error: &E) -> ErrorKind {
    own_error(error).map_or(ErrorKind::Other, OwnError::kind)
}

/// Returns whether the call that failed with `error` was sent; `None` if unknown.
pub(crate) fn was_sent<E: 'static>(error: &E) -> Option<bool> {
    as_error(error)
        .into_iter()
        .flat_map(chain)
        .find_map(|error| match OwnError::of(error) {
            Some(own) => own.was_sent(),
            None => error.is::<Overloaded>().then_some(false),
        })
}

/// Returns `true` if tower's `LoadShed` rejected the call.
pub(crate) fn was_shed<E: 'static>(error: &E) -> bool {
    as_error(error)
        .into_iter()
        .flat_map(chain)
        .any(|error| error.is::<Overloaded>())
}

/// The refusal of a call as an error of type `E`, if `E` is [`LlmError`] or [`BoxError`]; `None` for other types.
pub(crate) fn refusal<E: 'static>(refused: CallRefused) -> Option<E> {
    let mut made: Option<E> = None;
    let any: &mut dyn Any = &mut made;
    if let Some(made) = any.downcast_mut::<Option<LlmError>>() {
        *made = Some(refused.into());
    } else if let Some(made) = any.downcast_mut::<Option<BoxError>>() {
        *made = Some(refused.into());
    }
    made
}

/// Converts an error of any type without its source: copies an [`LlmError`], else uses `kind`, or the kind known for it, and
/// its text.
pub(crate) fn describe<E: fmt::Display + 'static>(error: &E, kind: Option<ErrorKind>) -> LlmError {
    let any: &dyn Any = error;
    let own = any.downcast_ref::<LlmError>().or_else(|| {
        any.downcast_ref::<BoxError>()
            .and_then(|error| error.downcast_ref())
    });
    match own {
        Some(error) => error.without_source(),
        None => LlmError::new(kind.unwrap_or_else(|| kind_of(error)), caught_text(error)),
    }
}

/// The text of a value whose `Display` may panic.
pub(crate) fn caught_text(value: &impl fmt::Display) -> String {
    catch_unwind(AssertUnwindSafe(|| value.to_string()))
        .unwrap_or_else(|_| "(text unavailable: its Display panicked)".to_owned())
}
