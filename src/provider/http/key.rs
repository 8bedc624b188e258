//! The source of the API key, and the form in which a server wants it.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
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
    Fixed(SecretString),
    /// Asked before every call.
    Callback(Callback),
}

impl Key {
    /// A key as a person or a variable holds it, stray white space and all.
    pub(crate) fn fixed(key: &str) -> Self {
        Self::Fixed(key.trim().into())
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
    pub(crate) async fn current(&self) -> Result<Option<SecretString>, LlmError> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(key) => Ok(Some(key.clone())),
            Self::Callback(callback) => match callback().await {
                Ok(key) => Ok(Some(key).filter(|key| !key.expose_secret().is_empty())),
                Err(error) => Err(LlmError::from(error).with_delivery(Delivery::NotSent)),
            },
        }
    }

    pub(crate) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// The form in which a server wants the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// `Authorization: Bearer KEY`.
    #[cfg_attr(not(any(feature = "openai", feature = "anthropic")), allow(dead_code))]
    Bearer,
    /// The key alone, in this header.
    Header(&'static str),
}

/// A key, and the header that carries it.
#[derive(Debug)]
pub(super) struct KeyHeader {
    key: SecretString,
    name: HeaderName,
    /// None if the key holds characters that no header can carry.
    value: Option<HeaderValue>,
}

impl KeyHeader {
    pub(super) fn new(key: SecretString, authentication: Authentication) -> Self {
        let exposed = key.expose_secret();
        let (name, value) = match authentication {
            Authentication::Bearer => (AUTHORIZATION, HeaderValue::try_from(format!("Bearer {exposed}"))),
            Authentication::Header(name) => (HeaderName::from_static(name), HeaderValue::try_from(exposed)),
        };
        let mut value = value.ok();
        if let Some(value) = &mut value {
            value.set_sensitive(true);
        }
        Self { key, name, value }
    }

    pub(super) const fn key(&self) -> &SecretString {
        &self.key
    }

    pub(super) fn header(&self) -> Result<(HeaderName, HeaderValue), LlmError> {
        let value = self.value.clone().ok_or_else(|| {
            LlmError::new(
                ErrorKind::Configuration,
                "the API key holds characters that no header can carry",
            )
        })?;
        Ok((self.name.clone(), value))
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
