//! A reply as it was read.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};

use super::key::KeyHeader;
use crate::provider::wire::repair::{joined, repaired};
use crate::provider::wire::trim;

/// Shorter keys are not secrets: they are what servers without keys are given ("x", "none", "EMPTY"), and may be a part of any
/// word of a reply.
const SHORTEST_SECRET: usize = 8;

/// A reply, whatever its status, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// `true` if it came as a stream, and was put together.
    pub(crate) streamed: bool,
    pub(super) key: Option<Arc<KeyHeader>>,
    /// The other parts of the request that must not be shown.
    pub(super) secrets: Arc<[SecretString]>,
}

impl Reply {
    #[cfg(any(fuzzing, all(test, feature = "gemini")))]
    pub(crate) fn for_test(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
            streamed: false,
            key: None,
            secrets: Arc::default(),
        }
    }

    /// The same reply with its invalid JSON repaired; `None` if it is valid, or cannot be repaired.
    pub(crate) fn repaired(&self) -> Option<Self> {
        let body = repaired(trim(&self.body))?;
        Some(self.with_body(joined(&body)))
    }

    fn with_body(&self, body: String) -> Self {
        Self {
            status: self.status,
            headers: self.headers.clone(),
            body: body.into(),
            streamed: self.streamed,
            key: self.key.clone(),
            secrets: Arc::clone(&self.secrets),
        }
    }

    /// The same reply without the secrets that the request carried, if it echoes any: for errors that quote it.
    pub(crate) fn redacted(&self) -> Option<Self> {
        let text = String::from_utf8_lossy(&self.body);
        let key = self.key.as_deref().map(KeyHeader::key);
        let mut echoed = key
            .into_iter()
            .chain(&*self.secrets)
            .map(|secret| secret.expose_secret())
            .filter(|secret| secret.len() >= SHORTEST_SECRET && text.contains(*secret))
            .peekable();
        echoed.peek()?;
        let clean = echoed.fold(text.clone().into_owned(), |text, secret| {
            text.replace(secret, "[redacted]")
        });
        Some(self.with_body(clean))
    }
}
