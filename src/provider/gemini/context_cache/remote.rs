//! The provider's side: the resource `cachedContents`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::error::{Delivery, Disposition, ErrorKind, LlmError};
use crate::provider::gemini::classification;
use crate::provider::gemini::content::OBJECTS;
use crate::provider::gemini::server::Server;
use crate::provider::http::Reply;
use crate::provider::request::write;
use crate::provider::wire;
use crate::provider::wire::digits::Restored;

/// An end for a server whose list never ends. The pages are as large as the provider makes them.
const MOST_PAGES: usize = 100;

/// The time limit of one request, the reading of a large context included. All calls wait for the same request, so one
/// that is never answered must not hold them for good.
const LONGEST_REQUEST: Duration = Duration::from_secs(600);

/// A cache at the provider as of now.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) name: Arc<str>,
    /// The life that is left; zero if it has ended.
    pub(super) left: Duration,
    pub(super) tokens: Option<u64>,
}

/// One content for one model, as the provider knows it.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) server: Arc<Server>,
    /// `models/NAME`.
    pub(super) model: String,
    pub(super) display_name: String,
    /// The content as it is sent.
    pub(super) fields: Map<String, Value>,
}

impl Remote {
    /// The live caches of the same identity.
    pub(super) async fn list(&self) -> Result<Vec<Found>, LlmError> {
        let mut found = Vec::new();
        let mut page_token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut url = self.address("cachedContents");
            url.query_pairs_mut().append_pair("pageSize", "1000");
            if let Some(token) = &page_token {
                url.query_pairs_mut().append_pair("pageToken", token);
            }
            let (page, now) = self.send(&Method::GET, &url, None).await?;
            let caches = page.get("cachedContents").and_then(Value::as_array);
            let own = caches.into_iter().flatten().filter(|cache| self.is_own(cache));
            found.extend(own.filter_map(|cache| read(cache, now, Duration::ZERO)));
            page_token = match page.get("nextPageToken").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => Some(token.to_owned()),
                _ => break,
            };
        }
        found.retain(|cache| !cache.left.is_zero());
        Ok(found)
    }

    fn is_own(&self, cache: &Value) -> bool {
        let text = |name| cache.get(name).and_then(Value::as_str).unwrap_or_default();
        text("displayName") == self.display_name && text("model") == self.model
    }

    pub(super) async fn create(&self, to_live: Duration) -> Result<Found, LlmError> {
        let mut body = self.fields.clone();
        body.insert("model".to_owned(), self.model.clone().into());
        body.insert("displayName".to_owned(), self.display_name.clone().into());
        body.insert("ttl".to_owned(), seconds(to_live).into());
        let url = self.address("cachedContents");
        let (cache, now) = self
            .send(&Method::POST, &url, Some(&body.into()))
            .await
            .map_err(not_made)?;
        read(&cache, now, to_live).ok_or_else(|| {
            let message = "the provider made a context cache and did not name it";
            LlmError::new(ErrorKind::ServerError, message).with_delivery(Delivery::NotSent)
        })
    }

    /// Has the cache live on for `to_live` from now.
    pub(super) async fn renew(&self, name: &Arc<str>, to_live: Duration) -> Result<Found, LlmError> {
        let body = json!({ "ttl": seconds(to_live) });
        let (cache, now) = self
            .send(&Method::PATCH, &self.address(name), Some(&body))
            .await?;
        Ok(read(&cache, now, to_live).unwrap_or(Found {
            name: Arc::clone(name),
            left: to_live,
            tokens: None,
        }))
    }

    /// Removes the cache; one that is gone already is not an error.
    pub(super) async fn delete(&self, name: &str) -> Result<(), LlmError> {
        match self.send(&Method::DELETE, &self.address(name), None).await {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn address(&self, resource: &str) -> Url {
        let path: Vec<_> = resource.split('/').collect();
        self.server.address(&self.model, &path)
    }

    /// Sends a request, and returns the reply's body, and the provider's time.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        body: Option<&Value>,
    ) -> Result<(Value, SystemTime), LlmError> {
        let body = match body {
            Some(value) => write(&Restored {
                value,
                names: OBJECTS,
            })?
            .into(),
            None => Bytes::new(),
        };
        let http = &self.server.client.http;
        let reply = timeout(LONGEST_REQUEST, http.request(method, url, body))
            .await
            .map_err(|_| {
                let message = format!("the provider did not answer for {LONGEST_REQUEST:?}");
                LlmError::new(ErrorKind::TimedOut, message)
            })??;
        let now = wire::server_time(&reply.headers);
        if !(200..300).contains(&reply.status) {
            let reply: Reply = reply.redacted().unwrap_or(reply);
            return Err(classification::error_of_resource(&reply));
        }
        let body = wire::trim(&reply.body);
        // The reply to a removal may be empty.
        Ok((serde_json::from_slice(body).unwrap_or(Value::Null), now))
    }
}

/// Returns `true` if the provider does not know the cache, which it reports by 403 or 404.
pub(super) fn is_missing(error: &LlmError) -> bool {
    error.kind() == ErrorKind::CacheMissing || matches!(error.status(), Some(403 | 404))
}

/// Reads a cache that lives for `unsaid` where its end is not reported.
fn read(cache: &Value, now: SystemTime, unsaid: Duration) -> Option<Found> {
    let name = cache.get("name").and_then(Value::as_str)?;
    let expires = cache.get("expireTime").and_then(Value::as_str);
    let expires = expires.and_then(|time| humantime::parse_rfc3339_weak(time).ok());
    Some(Found {
        name: name.into(),
        left: expires.map_or(unsaid, |expires| expires.duration_since(now).unwrap_or_default()),
        tokens: cache
            .pointer("/usageMetadata/totalTokenCount")
            .and_then(Value::as_u64),
    })
}

fn seconds(time: Duration) -> String {
    let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    format!("{}s", whole.max(1))
}

/// The error for the calls that need a cache that could not be made: none of them was sent.
fn not_made(error: LlmError) -> LlmError {
    let kind = match error.kind() {
        // It is not the model that is gone, nor a cache.
        ErrorKind::CacheMissing => ErrorKind::PermissionDenied,
        kind => kind,
    };
    let small = kind == ErrorKind::InvalidRequest && error.message().to_lowercase().contains("too small");
    let advice = if small {
        "; put more into it, or send the content with each prompt, without a cache"
    } else {
        ""
    };
    let message = format!("the context cache could not be made: {}{advice}", error.message());
    let mut made = LlmError::new(kind, message).with_delivery(Delivery::NotSent);
    if let Some(status) = error.status() {
        made = made.with_status(status);
    }
    if let Some(code) = error.code() {
        made = made.with_code(code);
    }
    if let Some(wait) = error.retry_after() {
        made = made.with_retry_after(wait);
    }
    made.with_disposition(match error.disposition() {
        // What is refused now is refused for every prompt.
        Disposition::Fatal => Disposition::ScopeFatal,
        disposition => disposition,
    })
    .with_source(error)
}
