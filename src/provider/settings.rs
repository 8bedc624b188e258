//! The settings of every client, whatever wire it speaks.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;

use super::http::{Authentication, HttpClient, HttpConfig, Key};
use super::misconfigured::{Misconfigured, configuration, variable};
use crate::error::LlmError;

/// A reply of an LLM is some kilobytes; 32 MiB leaves room for embedded images and stops a runaway server.
const DEFAULT_MAX_RESPONSE: usize = 32 * 1024 * 1024;

/// Long enough for a lost SYN or two to be sent again.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings that all client builders share. [`settings_methods`] makes the builders' methods of them.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) base_url: Option<String>,
    pub(crate) key: Key,
    pub(crate) key_variable: Option<String>,
    pub(crate) headers: Vec<(String, SecretHeader)>,
    pub(crate) max_response_bytes: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) user_agent: Option<String>,
    pub(crate) keep_raw_body: bool,
    pub(crate) max_connections: Option<usize>,
    pub(crate) root_certificates: Vec<Vec<u8>>,
}

/// A header's value, which may be a key.
#[derive(Clone)]
pub(crate) struct SecretHeader(pub(crate) String);

impl fmt::Debug for SecretHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base_url: None,
            key: Key::None,
            key_variable: None,
            headers: Vec::new(),
            max_response_bytes: DEFAULT_MAX_RESPONSE,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            user_agent: None,
            keep_raw_body: false,
            max_connections: None,
            root_certificates: Vec::new(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the address no more than the place: a query may be a secret, and so is a password.
        let base_url = self.base_url.as_ref().map(|url| match Url::parse(url.trim()) {
            Ok(url) => format!("{}{}", url.origin().ascii_serialization(), url.path()),
            Err(_) => "malformed".to_owned(),
        });
        f.debug_struct("Settings")
            .field("base_url", &base_url)
            .field("key", &self.key)
            .field("key_variable", &self.key_variable)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// The additions of a provider to the settings of its user.
#[derive(Clone, Debug)]
pub(crate) struct Server<'a> {
    /// The base URL unless the user says otherwise.
    pub(crate) base_url: &'a str,
    /// The form in which it wants the key.
    pub(crate) authentication: Authentication,
    /// Headers of its own. The user's replace those of the same name.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Settings {
    /// Returns `true` if a key was given, or a variable that holds it.
    pub(crate) const fn has_key(&self) -> bool {
        !self.key.is_none() || self.key_variable.is_some()
    }

    /// Takes base URL and key from the environment where the user gave none. Returns whether there is a key.
    pub(crate) fn read_environment(
        &mut self,
        base_url_variable: &str,
        key_variables: &[&str],
    ) -> Result<bool, LlmError> {
        if self.base_url.is_none() {
            self.base_url = variable(base_url_variable)?;
        }
        for name in key_variables {
            if self.has_key() {
                break;
            }
            if let Some(key) = variable(name)? {
                self.key = Key::fixed(&key);
            }
        }
        Ok(self.has_key())
    }

    /// The client of a server at these settings.
    pub(crate) fn connect(self, server: Server<'_>) -> Result<Client, LlmError> {
        let Server {
            base_url: default,
            authentication,
            headers: own,
        } = server;
        let base_url = base_url(self.base_url.as_deref().unwrap_or(default))?;
        let key = match &self.key_variable {
            None => self.key,
            Some(name) => match variable(name)? {
                Some(key) => Key::fixed(&key),
                None => {
                    return Err(configuration(
                        Misconfigured::MissingApiKey,
                        format!("{name} is not set; set it to your API key"),
                    ));
                }
            },
        };
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let extra = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.0.as_str()));
        let mut headers = HeaderMap::new();
        for (name, value) in own.chain(extra) {
            let malformed = |what| {
                configuration(
                    Misconfigured::MalformedHeader,
                    format!("the {what} of the header {name:?} is malformed"),
                )
            };
            let mut value = HeaderValue::try_from(value).map_err(|_| malformed("value"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(name).map_err(|_| malformed("name"))?, value);
        }
        let has_key = !key.is_none() || !self.headers.is_empty();
        let http = HttpClient::new(HttpConfig {
            key,
            authentication,
            headers,
            base_url: base_url.clone(),
            max_response_bytes: self.max_response_bytes,
            connect_timeout: self.connect_timeout,
            user_agent: self
                .user_agent
                .unwrap_or_else(|| concat!("llm-batch/", env!("CARGO_PKG_VERSION")).to_owned()),
            system_proxy: !is_this_machine(&base_url),
            max_connections: self.max_connections,
            root_certificates: self.root_certificates,
        })?;
        Ok(Client {
            http,
            base_url,
            keep_raw_body: self.keep_raw_body,
            has_key,
            is_local: false,
        })
    }
}

/// A client as it was set up: connections, address, key.
pub(crate) struct Client {
    pub(crate) http: HttpClient,
    pub(crate) base_url: Url,
    pub(crate) keep_raw_body: bool,
    /// `true` if there is a key, or a header that may be one.
    pub(crate) has_key: bool,
    /// `true` if it is a server on a machine of the user's own, which needs no start ramp.
    pub(crate) is_local: bool,
}

impl Client {
    /// The address of `path` under the base URL. A query of the base URL is kept.
    pub(crate) fn endpoint(&self, path: &[&str]) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the address no more than the place: a query may be a secret.
        f.debug_struct("Client")
            .field("host", &self.base_url.host_str())
            .field("path", &self.base_url.path())
            .field("keep_raw_body", &self.keep_raw_body)
            .finish_non_exhaustive()
    }
}

fn base_url(text: &str) -> Result<Url, LlmError> {
    // The text itself stays out of the message: it may hold a password.
    let malformed = |what: &str| {
        configuration(
            Misconfigured::MalformedBaseUrl,
            format!("the base URL {what}; it should look like https://api.openai.com/v1"),
        )
    };
    let mut url = Url::parse(text.trim()).map_err(|error| malformed(&format!("is malformed ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(malformed("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(malformed("holds a user name or password; send them as a header"));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Returns `true` if the server is on this machine.
fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

/// The methods of a client builder whose field `settings` is a [`Settings`]. `$client` is what it builds, for the
/// examples in the docs.
macro_rules! settings_methods {
    () => {
        /// Sets where the server is, in place of the provider's own address. A query is kept, as some gateways want one.
        pub fn base_url(mut self, url: impl Into<String>) -> Self {
            self.settings.base_url = Some(url.into());
            self
        }

        /// Sets the API key. White space around it is dropped.
        pub fn api_key(mut self, key: impl AsRef<str>) -> Self {
            self.settings.key = crate::provider::http::Key::fixed(key.as_ref());
            self
        }

        /// Takes the API key from this environment variable, read by [`build`](Self::build).
        pub fn api_key_env(mut self, variable: impl Into<String>) -> Self {
            self.settings.key_variable = Some(variable.into());
            self
        }

        /// Asks `callback` for the API key before every call: for keys that expire or rotate.
        ///
        /// It is awaited inside the call, so keep a cache in it where asking is slow. If it fails, the call fails unsent:
        /// with the callback's error where that is an [`LlmError`](crate::LlmError), else as something to try again later.
        ///
        /// ```
        /// use std::sync::atomic::{AtomicUsize, Ordering};
        /// use llm_batch::provider::Model;
        ///
        /// let keys = ["first", "second"];
        /// let turn = AtomicUsize::new(0);
        /// let model = Model::builder("vllm:qwen3-8b")
        ///     .api_key_with(move || {
        ///         let key = keys[turn.fetch_add(1, Ordering::Relaxed) % keys.len()];
        ///         async move { Ok(key.to_owned()) }
        ///     })
        ///     .build()?;
        /// # let _ = model;
        /// # Ok::<(), llm_batch::LlmError>(())
        /// ```
        pub fn api_key_with<F, Fut>(mut self, callback: F) -> Self
        where
            F: Fn() -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<String, crate::error::BoxError>> + Send + 'static,
        {
            self.settings.key = crate::provider::http::Key::callback(callback);
            self
        }

        /// Adds a header to every request, over one that the client would send under that name. Its value is treated
        /// as a secret.
        pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.settings.headers.push((
                name.into(),
                crate::provider::settings::SecretHeader(value.into()),
            ));
            self
        }

        /// Trusts the certificates in this PEM text beside those of the platform: for a server or a proxy with a certificate
        /// authority of its own. May be called for several.
        ///
        /// ```no_run
        /// use llm_batch::provider::Model;
        ///
        /// let authority = std::fs::read("authority.pem")?;
        /// let model = Model::builder("vllm:qwen3-8b")
        ///     .base_url("https://gpu.example.internal/v1")
        ///     .root_certificate(authority)
        ///     .build()?;
        /// # let _ = model;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
            self.settings.root_certificates.push(pem.into());
            self
        }

        /// Sets how large a reply may be, in bytes; the default is 32 MiB. A larger one is
        /// [`ErrorKind::ResponseTooLarge`](crate::ErrorKind::ResponseTooLarge).
        pub fn max_response_bytes(mut self, bytes: usize) -> Self {
            self.settings.max_response_bytes = bytes;
            self
        }

        /// Sets how long making a connection may take; the default is 10 s. There is no limit on the call as a whole:
        /// that is for a call timeout layer, which sees it apart from waits.
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.connect_timeout = timeout;
            self
        }

        /// Sets the `User-Agent`; the default names this crate and its version.
        pub fn user_agent(mut self, agent: impl Into<String>) -> Self {
            self.settings.user_agent = Some(agent.into());
            self
        }

        /// Keeps each reply's body in [`ResponseMetadata::raw_body`](crate::ResponseMetadata::raw_body): unmodified,
        /// or as put together from a stream; of a failure in [`LlmError::raw_body`](crate::LlmError::raw_body). Off by default.
        pub fn keep_raw_body(mut self, keep: bool) -> Self {
            self.settings.keep_raw_body = keep;
            self
        }

        /// Sets how many connections may be open at once; there is no limit of its own by default, since the batch's
        /// concurrency and the gate's in-flight cap bound the calls, and there are never more connections than calls.
        /// Calls beyond the limit wait for a connection with their call clock running.
        ///
        /// # Panics
        /// If `connections` is 0.
        #[track_caller]
        pub fn max_connections(mut self, connections: usize) -> Self {
            assert!(connections > 0, "a client without connections cannot call");
            self.settings.max_connections = Some(connections);
            self
        }
    };
}
pub(crate) use settings_methods;
