//! The client itself.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};
use secrecy::SecretString;

use super::body::HeldBody;
use super::connections::{CALL, CallGuard, ConnectWhenMissing, Connections, IDLE_TIMEOUT};
use super::events;
use super::key::{Authentication, Key, KeyHeader};
use super::reachable::Reachable;
use super::redirect::same_host_redirect;
use super::reply::Reply;
use super::send_error::{SendError, cause};
use super::tls::with_tls;
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::item;
use crate::provider::request::refuse;
use crate::provider::streaming::{Assemble, Streaming};

/// The number of closed connections in a row that a call meets before it gives up.
const MAX_STALE_CONNECTIONS: usize = 4;

/// The number of redirects within the same host that a call follows.
const MAX_REDIRECTS: usize = 3;

/// The number of headers that a reply may have. hyper's own limit of 100 fails replies that gateways pass through. Of any other
/// one hyper fills a list of that length for each reply, 64 bytes a header; this is about what fits into the 16 KiB that servers
/// and proxies allow for all headers together.
const MAX_HEADERS: usize = 512;

/// Headers that a prompt cannot set: those of authentication, wherever a server takes it, and those that belong to the
/// client, the connection and the body.
const RESERVED: [&str; 21] = [
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-api-key",
    "x-goog-api-key",
];

/// The part of a request that differs from the requests before it.
#[derive(Clone, Copy)]
struct Extra<'a> {
    /// The headers of the prompt.
    own: &'a HeaderMap,
    /// Asks the server to close the connection after it.
    close: bool,
}

/// The configuration of a client.
#[derive(Debug)]
pub(crate) struct HttpConfig {
    pub(crate) key: Key,
    pub(crate) authentication: Authentication,
    pub(crate) headers: HeaderMap,
    /// Its query may hold a key.
    pub(crate) base_url: Url,
    pub(crate) max_response_bytes: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) user_agent: String,
    /// Off for a server on this machine, which no proxy can reach.
    pub(crate) system_proxy: bool,
    pub(crate) max_connections: Option<usize>,
    /// Certificates to trust beside the platform's, as PEM.
    pub(crate) root_certificates: Vec<Vec<u8>>,
}

/// Posts bodies and reads bounded replies.
#[derive(Debug)]
pub(crate) struct HttpClient {
    client: reqwest::Client,
    key: Key,
    /// The key if it is one for good, with its header made once.
    fixed_key: Option<Arc<KeyHeader>>,
    authentication: Authentication,
    headers: HeaderMap,
    /// The values of those headers and query parameters that carry keys of their own.
    secrets: Arc<[SecretString]>,
    max_response_bytes: usize,
    connections: Arc<Connections>,
    reachable: Reachable,
}

impl HttpClient {
    pub(crate) fn new(config: HttpConfig) -> Result<Self, LlmError> {
        let mut builder = reqwest::Client::builder()
            // One connection per call in flight. Over HTTP/2 reqwest would put all calls on one connection, and what
            // exceeds the server's stream limit (mostly 100) would wait unseen while its call clock runs.
            .http1_only()
            .http1_max_headers(MAX_HEADERS)
            // Not asked for. Another crate may have switched reqwest's decoding on.
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            // Redirects are followed below, where it is seen that they stay on the host.
            .redirect(reqwest::redirect::Policy::none())
            // Retry is a layer, and the only one.
            .retry(reqwest::retry::never())
            .pool_idle_timeout(IDLE_TIMEOUT)
            // It has the connect timeout, too: reqwest's own would count the wait for a free connection.
            .connector_layer(ConnectWhenMissing {
                timeout: config.connect_timeout,
            })
            .user_agent(config.user_agent)
            .referer(false);
        // There is no total timeout: the call timeout layer has the clock. Dead peers are found by TCP keep-alive,
        // which reqwest sets to 15 s.
        if !config.system_proxy {
            builder = builder.no_proxy();
        }
        builder = with_tls(builder, &config.root_certificates)?;
        let client = builder.build().map_err(|error| {
            LlmError::new(
                ErrorKind::Configuration,
                format!("no HTTP client: {}", cause(&error)),
            )
        })?;
        let fixed_key = match &config.key {
            Key::Fixed(key) => Some(Arc::new(KeyHeader::new(key.clone(), config.authentication))),
            Key::None | Key::Callback(_) => None,
        };
        Ok(Self {
            client,
            key: config.key,
            fixed_key,
            authentication: config.authentication,
            secrets: secrets_in(&config.headers, &config.base_url),
            headers: config.headers,
            max_response_bytes: config.max_response_bytes,
            connections: Connections::new(config.max_connections),
            reachable: Reachable::default(),
        })
    }

    /// Posts a JSON body, and reads the reply to its end.
    ///
    /// An error says how far the call got. A reply with an error status is not an error here.
    pub(crate) async fn post(&self, url: &Url, body: Bytes, own: &HeaderMap) -> Result<Reply, LlmError> {
        self.exchange(&Method::POST, url, body, own).await
    }

    /// As [`post`](Self::post), by any method. An empty body is none, and such a request is repeated if its connection
    /// breaks.
    #[cfg_attr(not(feature = "gemini"), allow(dead_code))]
    pub(crate) async fn request(&self, method: &Method, url: &Url, body: Bytes) -> Result<Reply, LlmError> {
        self.exchange(method, url, body, &HeaderMap::new()).await
    }

    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        body: Bytes,
        own: &HeaderMap,
    ) -> Result<Reply, LlmError> {
        let key = self.key().await?;
        let extra = Extra { own, close: false };
        let (response, call) = self.follow(method, url, body, key.as_deref(), extra).await?;
        self.read(response, call, key, own).await
    }

    /// The secrets that a reply may echo.
    fn secrets(&self, own: &HeaderMap) -> Arc<[SecretString]> {
        if own.is_empty() {
            return Arc::clone(&self.secrets);
        }
        self.secrets.iter().cloned().chain(secret_headers(own)).collect()
    }

    /// The headers of one prompt. They add to those of the client, and replace none of them.
    pub(crate) fn own_headers<'h>(
        &self,
        headers: impl Iterator<Item = (&'h str, &'h str)>,
    ) -> Result<HeaderMap, LlmError> {
        let mut own = HeaderMap::new();
        for (name, value) in headers {
            let wrong = |what: &str| refuse(format!("the header {name:?} of the prompt {what}"));
            let key = HeaderName::try_from(name).map_err(|_| wrong("has a malformed name"))?;
            if RESERVED.contains(&key.as_str()) || self.headers.contains_key(&key) {
                return Err(wrong(
                    "is one that the client sends itself; set it on the client's builder",
                ));
            }
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong("has a malformed value"))?;
            value.set_sensitive(true);
            own.insert(key, value);
        }
        Ok(own)
    }

    /// Posts a JSON body, and puts the reply together if it comes as a stream of events; a reply that comes whole, as
    /// errors do, is read as by [`post`](Self::post).
    pub(crate) async fn post_streamed(
        &self,
        url: &Url,
        body: Bytes,
        streaming: &Streaming,
        assembler: Box<dyn Assemble>,
        item_call: &item::CallGuard,
        own: &HeaderMap,
    ) -> Result<Reply, LlmError> {
        let key = self.key().await?;
        let close = self.closes_after_stream(url);
        let extra = Extra { own, close };
        let (mut response, mut call) = self
            .follow(&Method::POST, url, body, key.as_deref(), extra)
            .await?;
        if !(response.status().is_success() && events::are_in(response.headers())) {
            return self.read(response, call, key, own).await;
        }
        let status = response.status().as_u16();
        let reusable = !close && keeps_alive(response.version(), response.headers());
        let headers = std::mem::take(response.headers_mut());
        let idle_timeout = streaming.idle_timeout();
        let (body, read_to_end) = events::assemble(
            response,
            self.max_response_bytes,
            idle_timeout,
            assembler,
            item_call,
        )
        .await
        .map_err(|error| error.with_status(status))?;
        if reusable && read_to_end {
            call.set_reusable();
        }
        Ok(Reply {
            status,
            headers,
            body,
            streamed: true,
            key,
            secrets: self.secrets(own),
        })
    }

    async fn key(&self) -> Result<Option<Arc<KeyHeader>>, LlmError> {
        if let Some(fixed) = &self.fixed_key {
            return Ok(Some(Arc::clone(fixed)));
        }
        let key = self.key.current().await?;
        Ok(key.map(|key| Arc::new(KeyHeader::new(key, self.authentication))))
    }

    /// Returns `true` if the connection of a streamed call is closed after it: where the server does so itself, a request that
    /// crosses the close would be lost.
    fn closes_after_stream(&self, url: &Url) -> bool {
        self.connections.closes_after_stream(url.scheme() == "http")
    }

    /// Sends a request to where it belongs, redirects within the host included.
    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        body: Bytes,
        key: Option<&KeyHeader>,
        extra: Extra<'_>,
    ) -> Result<(reqwest::Response, CallGuard), LlmError> {
        let mut url = Cow::Borrowed(url);
        for _ in 0..MAX_REDIRECTS {
            let (response, call) = self.send(method, &url, &body, key, extra).await?;
            match same_host_redirect(&url, &response)? {
                Some(next) => url = Cow::Owned(next),
                None => return Ok((response, call)),
            }
        }
        Err(LlmError::new(
            ErrorKind::InvalidRequest,
            "the server redirects in a circle; check the base URL",
        )
        .with_delivery(Delivery::Rejected))
    }

    /// Sends a request, and again at once while a kept connection turns out to be closed before it went out.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        body: &Bytes,
        key: Option<&KeyHeader>,
        extra: Extra<'_>,
    ) -> Result<(reqwest::Response, CallGuard), LlmError> {
        for _ in 0..MAX_STALE_CONNECTIONS {
            match self.send_once(method, url, body, key, extra).await {
                Err(SendError::Stale) => self.connections.set_closes_unasked(),
                Err(SendError::Failed(error)) => {
                    if error.delivery() == Delivery::MaybeBilled {
                        self.connections.set_broke();
                    }
                    return Err(self.reachable.judge(error, url));
                }
                Ok(reply) => {
                    self.reachable.answered();
                    self.connections.set_known(reply.0.headers());
                    return Ok(reply);
                }
            }
        }
        let message = "the server closes its connections before they can be used";
        let error = LlmError::new(ErrorKind::Connection, message).with_delivery(Delivery::NotSent);
        Err(self.reachable.judge(error, url))
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        body: &Bytes,
        key: Option<&KeyHeader>,
        extra: Extra<'_>,
    ) -> Result<(reqwest::Response, CallGuard), SendError> {
        let mut request = Request::new(method.clone(), url.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Without it a server may choose any coding.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if extra.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(key) = key {
            let (name, value) = key.header().map_err(SendError::Failed)?;
            headers.insert(name, value);
        }
        for (name, value) in self.headers.iter().chain(extra.own) {
            headers.insert(name, value.clone());
        }
        if self.connections.should_look_first() {
            tokio::task::yield_now().await;
        }
        let call = self.connections.call();
        if !body.is_empty() {
            let body = HeldBody::new(body.clone(), call.call());
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        match CALL.scope(call.call(), self.client.execute(request)).await {
            Ok(response) => Ok((response, call)),
            Err(error) => Err(SendError::new(&error, call.call().handed_over())),
        }
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        mut call: CallGuard,
        key: Option<Arc<KeyHeader>>,
        own: &HeaderMap,
    ) -> Result<Reply, LlmError> {
        let status = response.status().as_u16();
        let too_large = || {
            LlmError::new(
                ErrorKind::ResponseTooLarge,
                format!("the reply is larger than {} bytes", self.max_response_bytes),
            )
            .with_status(status)
        };
        let announced = response.content_length().unwrap_or_default();
        if usize::try_from(announced).map_or(true, |announced| announced > self.max_response_bytes) {
            return Err(too_large());
        }
        let headers = std::mem::take(response.headers_mut());
        // Most replies are one chunk, which need not be copied.
        let (mut first, mut body) = (Bytes::new(), BytesMut::new());
        loop {
            let chunk = response.chunk().await.map_err(|error| {
                LlmError::new(
                    ErrorKind::Connection,
                    format!("the reply broke off: {}", cause(&error)),
                )
                .with_status(status)
                .with_delivery(Delivery::MaybeBilled)
            })?;
            match chunk {
                None => break,
                Some(chunk) if first.len() + body.len() + chunk.len() > self.max_response_bytes => {
                    return Err(too_large());
                }
                Some(chunk) if first.is_empty() && body.is_empty() => first = chunk,
                Some(chunk) => {
                    body.extend_from_slice(&std::mem::take(&mut first));
                    body.extend_from_slice(&chunk);
                }
            }
        }
        let body = if body.is_empty() { first } else { body.freeze() };
        if keeps_alive(response.version(), &headers) {
            call.set_reusable();
        }
        Ok(Reply {
            status,
            headers,
            body,
            streamed: false,
            key,
            secrets: self.secrets(own),
        })
    }
}

/// Returns `true` if a header or parameter of this name carries a key of its own.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 6] = ["key", "token", "secret", "auth", "cookie", "sig"];
    WORDS.iter().any(|word| name.to_ascii_lowercase().contains(word))
}

/// The values, and their parts: of `Bearer KEY` or `session=KEY; path=/` a server may echo the key alone.
fn secret_headers(headers: &HeaderMap) -> impl Iterator<Item = SecretString> {
    headers
        .iter()
        .filter(|(name, _)| is_secret(name.as_str()))
        .filter_map(|(_, value)| value.to_str().ok())
        .flat_map(|value| {
            let parts = value.split([' ', ';', ',', '=', '"']);
            std::iter::once(value).chain(parts.filter(move |part| part.len() < value.len()))
        })
        .map(SecretString::from)
}

fn secrets_in(headers: &HeaderMap, base_url: &Url) -> Arc<[SecretString]> {
    // As a server reads them, and as they stand in the address.
    let raw = base_url.query().unwrap_or_default().split('&');
    let raw = raw.filter_map(|pair| pair.split_once('='));
    let parameters = base_url
        .query_pairs()
        .chain(raw.map(|(name, value)| (name.into(), value.into())))
        .filter(|(name, _)| is_secret(name))
        .map(|(_, value)| value.into_owned().into());
    secret_headers(headers).chain(parameters).collect()
}

/// Returns `true` if the server leaves the connection open after the reply, as far as it says.
fn keeps_alive(version: http::Version, headers: &HeaderMap) -> bool {
    let said = |word: &str| {
        headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|option| option.trim().eq_ignore_ascii_case(word))
            })
    };
    if version < http::Version::HTTP_11 {
        said("keep-alive")
    } else {
        !said("close")
    }
}
