//! Faults of an answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{BoxError, ErrorKind, LlmError, chain};

/// A fault of an answer.
///
/// ```
/// use llm_batch::Fault;
///
/// let fault = Fault::new("/address/street", "is missing");
/// assert_eq!(fault.to_string(), "/address/street: is missing");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// The place: a JSON pointer (RFC 6901) into the answer, such as `/tags/0`; empty for the answer as a whole. A missing
    /// field is named itself, not what it is missing from.
    pub path: String,
    /// The description, for people and models.
    pub message: String,
}

impl Fault {
    /// A fault at a JSON pointer; the empty one is the answer as a whole.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same fault of a value that stands at this path.
    pub(super) fn below(mut self, base: &str) -> Self {
        self.path.insert_str(0, base);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// The reasons why an answer failed validation: the source of the [`LlmError`].
///
/// ```
/// use llm_batch::{Fault, InvalidOutput, LlmError};
///
/// let error = LlmError::from(InvalidOutput::new([Fault::new("/age", "is missing")]));
/// assert_eq!(error.to_string(), "validation: /age: is missing");
/// assert_eq!(InvalidOutput::of(&error).unwrap().faults.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InvalidOutput {
    /// All known faults; a path may occur more than once.
    pub faults: Vec<Fault>,
    /// The answer as JSON, valid and invalid parts alike; `None` if it is not JSON.
    pub value: Option<Value>,
}

impl InvalidOutput {
    /// An error with these faults, of an answer that is not JSON or not known.
    pub fn new(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self {
            faults: faults.into_iter().collect(),
            value: None,
        }
    }

    /// One fault of the answer as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self::new([Fault::new("", message)])
    }

    /// Sets the answer as JSON.
    #[must_use]
    pub fn with_value(mut self, value: Value) -> Self {
        self.value = Some(value);
        self
    }

    /// Finds a validation failure in the error's chain of sources; `None` if there is none.
    pub fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        chain(error).find_map(|error| error.downcast_ref())
    }
}

impl fmt::Display for InvalidOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, fault) in self.faults.iter().enumerate() {
            if position > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidOutput {}

/// A validation failure: ask again, at once.
impl From<InvalidOutput> for LlmError {
    fn from(invalid: InvalidOutput) -> Self {
        Self::new(ErrorKind::Validation, invalid.to_string()).with_source(invalid)
    }
}

/// Returns the error of a user's own parser: its own word where it is one of these types, else one fault.
pub(super) fn error_of(error: BoxError) -> LlmError {
    let error = match error.downcast::<LlmError>() {
        Ok(own) => return *own,
        Err(error) => error,
    };
    match error.downcast::<InvalidOutput>() {
        Ok(invalid) => (*invalid).into(),
        Err(error) => InvalidOutput::whole(error.to_string()).into(),
    }
}
