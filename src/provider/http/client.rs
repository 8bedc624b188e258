//! The client itself.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
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
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::item;
use crate::provider::streaming::{Assemble, Streaming};

/// The number of closed connections in a row that a call meets before it gives up.
const MAX_STALE_CONNECTIONS: usize = 4;

/// The number of redirects within the same host that a call follows.
const MAX_REDIRECTS: usize = 3;

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
        #[cfg(all(feature = "ring", not(feature = "rustls"), not(feature = "native-tls")))]
        {
            builder = builder.tls_backend_preconfigured(tls_with_ring()?);
        }
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
    pub(crate) async fn post(&self, url: &Url, body: Bytes) -> Result<Reply, LlmError> {
        self.request(&Method::POST, url, body).await
    }

    /// As [`post`](Self::post), by any method. An empty body is none, and such a request is repeated if its connection
    /// breaks.
    pub(crate) async fn request(&self, method: &Method, url: &Url, body: Bytes) -> Result<Reply, LlmError> {
        let key = self.key().await?;
        let (response, call) = self.follow(method, url, body, key.as_deref(), false).await?;
        self.read(response, call, key).await
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
    ) -> Result<Reply, LlmError> {
        let key = self.key().await?;
        let close = self.closes_after_stream(url);
        let (mut response, mut call) = self
            .follow(&Method::POST, url, body, key.as_deref(), close)
            .await?;
        if !(response.status().is_success() && events::are_in(response.headers())) {
            return self.read(response, call, key).await;
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
            secrets: Arc::clone(&self.secrets),
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

    /// Sends a request to where it belongs, redirects within the host included. `close` asks the server to close the connection
    /// after it.
    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        body: Bytes,
        key: Option<&KeyHeader>,
        close: bool,
    ) -> Result<(reqwest::Response, CallGuard), LlmError> {
        let mut url = Cow::Borrowed(url);
        for _ in 0..MAX_REDIRECTS {
            let (response, call) = self.send(method, &url, &body, key, close).await?;
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
        close: bool,
    ) -> Result<(reqwest::Response, CallGuard), LlmError> {
        for _ in 0..MAX_STALE_CONNECTIONS {
            match self.send_once(method, url, body, key, close).await {
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
        Err(LlmError::new(ErrorKind::Connection, message).with_delivery(Delivery::NotSent))
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        body: &Bytes,
        key: Option<&KeyHeader>,
        close: bool,
    ) -> Result<(reqwest::Response, CallGuard), SendError> {
        let mut request = Request::new(method.clone(), url.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Without it a server may choose any coding.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(key) = key {
            let (name, value) = key.header().map_err(SendError::Failed)?;
            headers.insert(name, value);
        }
        for (name, value) in &self.headers {
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
            secrets: Arc::clone(&self.secrets),
        })
    }
}

fn secrets_in(headers: &HeaderMap, base_url: &Url) -> Arc<[SecretString]> {
    const WORDS: [&str; 6] = ["key", "token", "secret", "auth", "cookie", "sig"];
    let is_secret = |name: &str| WORDS.iter().any(|word| name.to_ascii_lowercase().contains(word));
    let headers = headers
        .iter()
        .filter(|(name, _)| is_secret(name.as_str()))
        .filter_map(|(_, value)| Some(value.to_str().ok()?.into()));
    // As a server reads them, and as they stand in the address.
    let raw = base_url.query().unwrap_or_default().split('&');
    let raw = raw.filter_map(|pair| pair.split_once('='));
    let parameters = base_url
        .query_pairs()
        .chain(raw.map(|(name, value)| (name.into(), value.into())))
        .filter(|(name, _)| is_secret(name))
        .map(|(_, value)| value.into_owned().into());
    headers.chain(parameters).collect()
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

/// The platform's certificates, checked with ring. A library installs no provider for the whole process.
#[cfg(all(feature = "ring", not(feature = "rustls"), not(feature = "native-tls")))]
fn tls_with_ring() -> Result<rustls::ClientConfig, LlmError> {
    use rustls_platform_verifier::BuilderVerifierExt as _;

    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_platform_verifier())
        .map(|config| config.with_no_client_auth())
        .map_err(|error| LlmError::new(ErrorKind::Configuration, format!("no TLS: {error}")))
}

#[cfg(all(test, feature = "ring", not(feature = "rustls"), not(feature = "native-tls")))]
mod tests {
    /// Without a provider for the whole process, which reqwest alone would ask for and panic.
    #[test]
    fn a_client_is_built_with_ring() {
        assert!(super::tls_with_ring().is_ok());
        assert!(
            crate::OpenAi::builder()
                .base_url("https://127.0.0.1:9/v1")
                .api_key("none needed")
                .build()
                .is_ok()
        );
    }
}
