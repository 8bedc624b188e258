//! Setting up the client.

use std::fmt;
use std::sync::Arc;

use reqwest::Url;

use super::chat::ChatFormat;
use super::presets::find;
use crate::error::LlmError;
use crate::provider::http::Authentication;
use crate::provider::model::Model;
use crate::provider::settings::{Client, Server, Settings, configuration, settings_methods, variable};

const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

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
#[derive(Clone)]
pub struct OpenAi {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) provider: String,
    pub(super) token_limit: TokenLimitField,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("client", &self.inner.client)
            .field("provider", &self.inner.provider)
            .field("token_limit", &self.inner.token_limit)
            .finish()
    }
}

impl OpenAi {
    /// A client as the environment describes it: `OPENAI_API_KEY`, and where they are set `OPENAI_BASE_URL`,
    /// `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`.
    ///
    /// With a base URL the key may be missing, since many local servers want none.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the key is missing or a variable makes no sense;
    /// the message names it.
    pub fn from_env() -> Result<Self, LlmError> {
        Self::builder().server("openai")?.build()
    }

    /// A client set up by hand. The builder reads no variable that it was not told to.
    pub fn builder() -> OpenAiBuilder {
        OpenAiBuilder::from_settings(Settings::default())
    }

    /// A strategy that asks `model`, unless a prompt names another one.
    pub fn model(&self, model: impl Into<String>) -> Model {
        self.chat(model)
    }

    /// A strategy that asks `model` for chat completions.
    pub fn chat(&self, model: impl Into<String>) -> Model {
        Model::new(Arc::new(ChatFormat::new(self.clone())), model)
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
    settings: Settings,
    organization: Option<String>,
    project: Option<String>,
    token_limit: TokenLimitField,
    provider: Option<&'static str>,
}

impl OpenAiBuilder {
    pub(crate) fn from_settings(settings: Settings) -> Self {
        Self {
            settings,
            organization: None,
            project: None,
            token_limit: TokenLimitField::default(),
            provider: None,
        }
    }

    settings_methods!();

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

    /// Sets the name of the field for the output token limit; the default is `max_completion_tokens`.
    pub fn token_limit_field(mut self, field: TokenLimitField) -> Self {
        self.token_limit = field;
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
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the prefix is unknown, or a variable that is
    /// needed is not set; the message names the prefixes or the variable.
    pub fn server(mut self, prefix: &str) -> Result<Self, LlmError> {
        let preset = find(prefix)?;
        self.provider = Some(preset.prefix);
        self.token_limit = preset.token_limit;
        let has_key = self
            .settings
            .read_environment(preset.base_url_variable, &[preset.key_variable])?;
        if !has_key && preset.needs_key && self.settings.base_url.is_none() {
            return Err(configuration(format!(
                "{} is not set; set it to your API key, or {} to a server that needs none",
                preset.key_variable, preset.base_url_variable
            )));
        }
        if self.settings.base_url.is_none() {
            self.settings.base_url = preset.base_url.map(str::to_owned);
        }
        if self.settings.base_url.is_none() {
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
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the base URL or a header is malformed, the key's
    /// variable is not set, or no key was given for OpenAI itself.
    pub fn build(self) -> Result<OpenAi, LlmError> {
        let named = [
            ("openai-organization", self.organization),
            ("openai-project", self.project),
        ];
        let client = self.settings.connect(Server {
            base_url: DEFAULT_BASE_URL,
            authentication: Authentication::Bearer,
            headers: named
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        })?;
        if !client.has_key && client.base_url.host_str() == Some("api.openai.com") {
            return Err(configuration(
                "OpenAI needs an API key; set OPENAI_API_KEY and use OpenAi::from_env, or give one to the builder",
            ));
        }
        let provider = provider_name(&client.base_url)
            .or(self.provider)
            .unwrap_or("openai")
            .to_owned();
        Ok(OpenAi {
            inner: Arc::new(Inner {
                client,
                provider,
                token_limit: self.token_limit,
            }),
        })
    }
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
