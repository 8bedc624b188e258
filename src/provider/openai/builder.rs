//! Setting up the client.

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;

use super::presets::find;
use super::service::ChatCompletions;
use crate::error::{BoxError, ErrorKind, LlmError};
use crate::provider::http::{HttpClient, HttpConfig, Key};

const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

/// A reply of an LLM is some kilobytes; 32 MiB leaves room for embedded images and stops a runaway server.
const DEFAULT_MAX_RESPONSE: usize = 32 * 1024 * 1024;

/// Long enough for a lost SYN or two to be sent again.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the field that carries the output token limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenLimitField {
    /// `max_completion_tokens`: OpenAI's own, whose reasoning models reject the other.
    #[default]
    MaxCompletionTokens,
    /// `max_tokens`: what most compatible servers know.
    MaxTokens,
}

/// A client for OpenAI or a compatible server: address, key, and connections. Cheap to clone.
///
/// [`model`](Self::model) makes strategies of it; all of them share its connections. Keep one client per server: every
/// client has its own connections.
///
/// ```
/// use llm_batch::provider::openai::OpenAi;
///
/// let client = OpenAi::builder().base_url("http://localhost:8000/v1").build()?;
/// let model = client.model("qwen3-8b");
/// # let _ = model;
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenAi {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) http: HttpClient,
    pub(super) endpoint: Url,
    pub(super) provider: String,
    pub(super) token_limit: TokenLimitField,
    pub(super) keep_raw_body: bool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            http: _,
            endpoint,
            provider,
            token_limit,
            keep_raw_body,
        } = self;
        // Of the address no more than the place: user names, passwords and queries may be secrets.
        f.debug_struct("OpenAi")
            .field("host", &endpoint.host_str())
            .field("path", &endpoint.path())
            .field("provider", provider)
            .field("token_limit", token_limit)
            .field("keep_raw_body", keep_raw_body)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    /// A client as the environment describes it: `OPENAI_API_KEY`, and where they are set `OPENAI_BASE_URL`,
    /// `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`.
    ///
    /// With a base URL the key may be missing, since many local servers want none.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the key is missing or a variable makes no sense; the message names it.
    pub fn from_env() -> Result<Self, LlmError> {
        Self::builder().server("openai")?.build()
    }

    /// A client set up by hand. The builder reads no variable that it was not told to.
    pub fn builder() -> OpenAiBuilder {
        OpenAiBuilder::default()
    }

    /// A strategy that asks `model`, unless a prompt names another one.
    pub fn model(&self, model: impl Into<String>) -> ChatCompletions {
        ChatCompletions::new(self.clone(), model.into())
    }
}

/// Sets up an [`OpenAi`] client. Made by [`OpenAi::builder`].
///
/// ```
/// use std::time::Duration;
/// use llm_batch::provider::openai::{OpenAi, TokenLimitField};
///
/// let client = OpenAi::builder()
///     .base_url("https://llm.example.com/v1")
///     .api_key("secret")
///     .header("x-team", "search")
///     .token_limit_field(TokenLimitField::MaxTokens)
///     .connect_timeout(Duration::from_secs(5))
///     .build()?;
/// assert!(!format!("{client:?}").contains("secret"));
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct OpenAiBuilder {
    base_url: Option<String>,
    key: Key,
    key_variable: Option<String>,
    organization: Option<String>,
    project: Option<String>,
    headers: Vec<(String, SecretHeader)>,
    max_response_bytes: usize,
    token_limit: TokenLimitField,
    connect_timeout: Duration,
    user_agent: Option<String>,
    keep_raw_body: bool,
    max_connections: Option<usize>,
    provider: Option<&'static str>,
}

/// A header's value, which may be a key.
#[derive(Clone)]
struct SecretHeader(String);

impl fmt::Debug for SecretHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Default for OpenAiBuilder {
    fn default() -> Self {
        Self {
            base_url: None,
            key: Key::None,
            key_variable: None,
            organization: None,
            project: None,
            headers: Vec::new(),
            max_response_bytes: DEFAULT_MAX_RESPONSE,
            token_limit: TokenLimitField::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            user_agent: None,
            keep_raw_body: false,
            max_connections: None,
            provider: None,
        }
    }
}

impl OpenAiBuilder {
    /// Sets where the server is, up to and including the version: the default is `https://api.openai.com/v1`. A query
    /// is kept, as some gateways want one.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }

    /// Sets the API key, sent as a bearer token. White space around it is dropped.
    pub fn api_key(mut self, key: impl AsRef<str>) -> Self {
        self.key = Key::fixed(key.as_ref());
        self
    }

    /// Takes the API key from this environment variable, read by [`build`](Self::build).
    pub fn api_key_env(mut self, variable: impl Into<String>) -> Self {
        self.key_variable = Some(variable.into());
        self
    }

    /// Asks `callback` for the API key before every call: for keys that expire or rotate.
    ///
    /// It is awaited inside the call, so keep a cache in it where asking is slow. If it fails, the call fails unsent: with
    /// the callback's error where that is an [`LlmError`], else as something to try again later.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use llm_batch::provider::openai::OpenAi;
    ///
    /// let keys = ["first", "second"];
    /// let turn = AtomicUsize::new(0);
    /// let client = OpenAi::builder()
    ///     .api_key_with(move || {
    ///         let key = keys[turn.fetch_add(1, Ordering::Relaxed) % keys.len()];
    ///         async move { Ok(key.to_owned()) }
    ///     })
    ///     .build()?;
    /// # let _ = client;
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    pub fn api_key_with<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        self.key = Key::callback(callback);
        self
    }

    /// Sets the organisation that calls are billed to (`OpenAI-Organization`).
    pub fn organization(mut self, id: impl Into<String>) -> Self {
        self.organization = Some(id.into());
        self
    }

    /// Sets the project that calls are billed to (`OpenAI-Project`).
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// Adds a header to every request, over one that the client would send under that name. Its value is treated as a
    /// secret.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), SecretHeader(value.into())));
        self
    }

    /// Sets how large a reply may be, in bytes; the default is 32 MiB. A larger one is
    /// [`ErrorKind::ResponseTooLarge`].
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Sets the name of the field for the output token limit; the default is `max_completion_tokens`.
    pub fn token_limit_field(mut self, field: TokenLimitField) -> Self {
        self.token_limit = field;
        self
    }

    /// Sets how long making a connection may take; the default is 10 s. There is no limit on the call as a whole:
    /// that is for a call timeout layer, which sees it apart from waits.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the `User-Agent`; the default names this crate and its version.
    pub fn user_agent(mut self, agent: impl Into<String>) -> Self {
        self.user_agent = Some(agent.into());
        self
    }

    /// Keeps each reply's body, unmodified, in [`ResponseMetadata::raw_body`](crate::ResponseMetadata::raw_body). Off by
    /// default.
    pub fn keep_raw_body(mut self, keep: bool) -> Self {
        self.keep_raw_body = keep;
        self
    }

    /// Sets how many connections may be open at once; there is no limit of its own by default, since the batch's
    /// concurrency and the gate's in-flight cap bound the calls, and there are never more connections than calls. Calls
    /// beyond the limit wait for a connection with their call clock running.
    ///
    /// # Panics
    /// If `connections` is 0.
    #[track_caller]
    pub fn max_connections(mut self, connections: usize) -> Self {
        assert!(connections > 0, "a client without connections cannot call");
        self.max_connections = Some(connections);
        self
    }

    /// Makes it a client of the server with this prefix, as [`strategy`](crate::strategy) lists them (`openai`, `ollama`,
    /// ...): its address, its key and its dialect, as the server's variables say. What was set before is kept.
    ///
    /// ```
    /// use llm_batch::provider::openai::OpenAi;
    ///
    /// let client = OpenAi::builder().base_url("http://gpu:8000/v1").server("vllm")?.keep_raw_body(true).build()?;
    /// # let _ = client;
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the prefix is unknown, or a variable that is needed is not set; the message names the
    /// prefixes or the variable.
    pub fn server(mut self, prefix: &str) -> Result<Self, LlmError> {
        let preset = find(prefix)?;
        self.provider = Some(preset.prefix);
        self.token_limit = preset.token_limit;
        let base_url = match self.base_url.take() {
            Some(url) => Some(url),
            None => variable(preset.base_url_variable)?,
        };
        if self.key.is_none() && self.key_variable.is_none() {
            match variable(preset.key_variable)? {
                Some(key) => self.key = Key::fixed(&key),
                None if preset.needs_key && base_url.is_none() => {
                    return Err(configuration(format!(
                        "{} is not set; set it to your API key, or {} to a server that needs none",
                        preset.key_variable, preset.base_url_variable
                    )));
                }
                None => {}
            }
        }
        self.base_url = base_url.or_else(|| preset.base_url.map(str::to_owned));
        if self.base_url.is_none() {
            return Err(configuration(format!(
                "`{}:` needs a base URL; set {} to it",
                preset.prefix, preset.base_url_variable
            )));
        }
        if preset.prefix == "openai" {
            self.organization = self
                .organization
                .map_or_else(|| variable("OPENAI_ORG_ID"), |id| Ok(Some(id)))?;
            self.project = self
                .project
                .map_or_else(|| variable("OPENAI_PROJECT_ID"), |id| Ok(Some(id)))?;
        }
        Ok(self)
    }

    /// The client.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the base URL or a header is malformed, the key's variable is not set, or no key was
    /// given for OpenAI itself.
    pub fn build(self) -> Result<OpenAi, LlmError> {
        let base_url = self.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL);
        let endpoint = endpoint(base_url)?;
        let key = match &self.key_variable {
            None => self.key,
            Some(name) => match variable(name)? {
                Some(key) => Key::fixed(&key),
                None => {
                    return Err(configuration(format!(
                        "{name} is not set; set it to your API key"
                    )));
                }
            },
        };
        if key.is_none() && self.headers.is_empty() && endpoint.host_str() == Some("api.openai.com") {
            return Err(configuration(
                "OpenAI needs an API key; set OPENAI_API_KEY and use OpenAi::from_env, or give one to the builder",
            ));
        }

        let mut headers = HeaderMap::new();
        let named = [
            ("openai-organization", &self.organization),
            ("openai-project", &self.project),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let extra = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.0.as_str()));
        for (name, value) in named.chain(extra) {
            let malformed = |what| configuration(format!("the {what} of the header {name:?} is malformed"));
            let mut value = HeaderValue::try_from(value).map_err(|_| malformed("value"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(name).map_err(|_| malformed("name"))?, value);
        }

        let http = HttpClient::new(HttpConfig {
            key,
            headers,
            max_response_bytes: self.max_response_bytes,
            connect_timeout: self.connect_timeout,
            user_agent: self
                .user_agent
                .unwrap_or_else(|| concat!("llm-batch/", env!("CARGO_PKG_VERSION")).to_owned()),
            system_proxy: !is_this_machine(&endpoint),
            max_connections: self.max_connections,
        })?;
        let provider = provider_name(&endpoint)
            .or(self.provider)
            .unwrap_or("openai")
            .to_owned();
        Ok(OpenAi {
            inner: Arc::new(Inner {
                http,
                endpoint,
                provider,
                token_limit: self.token_limit,
                keep_raw_body: self.keep_raw_body,
            }),
        })
    }
}

fn configuration(message: impl Into<String>) -> LlmError {
    LlmError::new(ErrorKind::Configuration, message.into())
}

/// A variable's value; an empty one counts as not set.
fn variable(name: &str) -> Result<Option<String>, LlmError> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.trim().is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(configuration(format!("{name} is not valid Unicode"))),
    }
}

/// The address of chat completions under a base URL.
fn endpoint(base_url: &str) -> Result<Url, LlmError> {
    // The text itself stays out of the message: it may hold a password.
    let malformed = |what: &str| {
        configuration(format!(
            "the base URL {what}; it should look like https://api.openai.com/v1"
        ))
    };
    let mut url =
        Url::parse(base_url.trim()).map_err(|error| malformed(&format!("is malformed ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(malformed("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(malformed("holds a user name or password; send them as a header"));
    }
    url.path_segments_mut()
        .map_err(|()| malformed("has no path"))?
        .pop_if_empty()
        .extend(["chat", "completions"]);
    url.set_fragment(None);
    Ok(url)
}

/// Whether the server is on this machine.
fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

/// The OpenTelemetry names of providers that are known by their host.
fn provider_name(url: &Url) -> Option<&'static str> {
    const HOSTS: &[(&str, &str)] = &[
        ("openai.com", "openai"),
        ("openai.azure.com", "azure.ai.openai"),
        ("groq.com", "groq"),
        ("mistral.ai", "mistral_ai"),
        ("deepseek.com", "deepseek"),
        ("openrouter.ai", "openrouter"),
        ("x.ai", "x_ai"),
        ("perplexity.ai", "perplexity"),
        ("cohere.com", "cohere"),
        ("googleapis.com", "gcp.gemini"),
    ];
    let host = url.host_str()?;
    HOSTS.iter().find_map(|(domain, name)| {
        let rest = host.strip_suffix(domain)?;
        (rest.is_empty() || rest.ends_with('.')).then_some(*name)
    })
}
