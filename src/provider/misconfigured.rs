//! Mistakes in the set-up of a client, and the variables that set it up.

use std::env;

use crate::error::{ErrorKind, LlmError};

/// A mistake in the set-up. Its code is public: [`LlmError::code`] of errors of the kind `Configuration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misconfigured {
    UnknownProvider,
    MissingModel,
    #[cfg(feature = "openai")]
    MissingBaseUrl,
    MalformedBaseUrl,
    MissingApiKey,
    MalformedVariable,
    MalformedHeader,
    #[cfg(feature = "anthropic")]
    InvalidOption,
}

impl Misconfigured {
    const fn code(self) -> &'static str {
        match self {
            Self::UnknownProvider => "unknown_provider",
            Self::MissingModel => "missing_model",
            #[cfg(feature = "openai")]
            Self::MissingBaseUrl => "missing_base_url",
            Self::MalformedBaseUrl => "malformed_base_url",
            Self::MissingApiKey => "missing_api_key",
            Self::MalformedVariable => "malformed_variable",
            Self::MalformedHeader => "malformed_header",
            #[cfg(feature = "anthropic")]
            Self::InvalidOption => "invalid_option",
        }
    }
}

pub(crate) fn configuration(wrong: Misconfigured, message: impl Into<String>) -> LlmError {
    LlmError::new(ErrorKind::Configuration, message.into()).with_code(wrong.code())
}

/// A variable's value; an empty one counts as not set.
pub(crate) fn variable(name: &str) -> Result<Option<String>, LlmError> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.trim().is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(configuration(
            Misconfigured::MalformedVariable,
            format!("{name} is not valid Unicode"),
        )),
    }
}
