//! Where the API key comes from.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{BoxError, Delivery, ErrorKind, LlmError};

type Callback = Arc<dyn Fn() -> BoxFuture<'static, Result<SecretString, BoxError>> + Send + Sync>;

/// The source of the API key. Shown nowhere.
#[derive(Clone, Default)]
pub(crate) enum Key {
    /// The server wants none.
    #[default]
    None,
    /// One key for good.
    Fixed(Arc<Bearer>),
    /// Asked before every call.
    Callback(Callback),
}

impl Key {
    /// A key as a person or a variable holds it, stray white space and all.
    pub(crate) fn fixed(key: &str) -> Self {
        Self::Fixed(Arc::new(Bearer::new(key.trim().into())))
    }

    pub(crate) fn callback<F, Fut>(callback: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        Self::Callback(Arc::new(move || {
            let key = callback();
            Box::pin(async move { Ok(SecretString::from(key.await?.trim())) })
        }))
    }

    /// The key for the next call.
    pub(crate) async fn current(&self) -> Result<Option<Arc<Bearer>>, LlmError> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(key) => Ok(Some(Arc::clone(key))),
            Self::Callback(callback) => match callback().await {
                Ok(key) if key.expose_secret().is_empty() => Ok(None),
                Ok(key) => Ok(Some(Arc::new(Bearer::new(key)))),
                Err(error) => Err(LlmError::from(error).with_delivery(Delivery::NotSent)),
            },
        }
    }

    pub(crate) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// A key, and the header value that carries it; none can carry some characters.
#[derive(Debug)]
pub(crate) struct Bearer {
    key: SecretString,
    header: Option<HeaderValue>,
}

impl Bearer {
    fn new(key: SecretString) -> Self {
        let mut header = HeaderValue::try_from(format!("Bearer {}", key.expose_secret())).ok();
        if let Some(header) = &mut header {
            header.set_sensitive(true);
        }
        Self { key, header }
    }

    pub(super) const fn key(&self) -> &SecretString {
        &self.key
    }

    pub(super) fn header(&self) -> Result<HeaderValue, LlmError> {
        self.header.clone().ok_or_else(|| {
            LlmError::new(
                ErrorKind::Configuration,
                "the API key holds characters that no header can carry",
            )
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Fixed(_) => "Fixed",
            Self::Callback(_) => "Callback",
        })
    }
}
