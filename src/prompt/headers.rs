//! Headers of one prompt's requests.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The header by which a provider gives a request that it knows the answer from before.
#[cfg(any(feature = "reqwest", feature = "structured"))]
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Names and values as the user wrote them. They are checked when the prompt is sent.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// Sets a header in place of one of the same name.
    pub(super) fn set(&mut self, name: String, value: String) {
        self.remove(&name);
        self.0.push((name, value));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names().any(|other| other.eq_ignore_ascii_case(name))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(feature = "reqwest")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Without the values, which may be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, _)| (name, format_args!(".."))))
            .finish()
    }
}
