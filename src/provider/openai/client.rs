//! Setting up the client.

use std::fmt;
use std::sync::Arc;

use reqwest::Url;

use super::by_prompt::ByPrompt;
use super::chat::ChatFormat;
use super::presets::{self, OPENAI, Preset, TokenLimitField, Wire};
use super::responses::ResponsesFormat;
use super::server::Server;
use crate::error::LlmError;
use crate::provider::http::Authentication;
use crate::provider::misconfigured::{Misconfigured, configuration, variable};
use crate::provider::model::Model;
use crate::provider::settings::{self, Settings, settings_methods};

const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

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
    server: Arc<Server>,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
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

    /// A client set up by hand. The builder reads only the variables that are named to it.
    pub fn builder() -> OpenAiBuilder {
        OpenAiBuilder::from_settings(Settings::default())
    }

    /// A strategy that asks `model`, unless a prompt names another one: for [responses](Self::responses) at OpenAI's own
    /// address (`api.openai.com`, and those of its regions), for [chat completions](Self::chat) anywhere else.
    ///
    /// A [raw](crate::Prompt::raw) body goes where its form belongs: with `messages` to chat completions, with `input` to
    /// responses.
    ///
    /// A client of a [server](OpenAiBuilder::server) whose prefix names the wire (`openai-chat`, `openai-responses`) keeps
    /// to it, and one of a server that is not OpenAI (`groq`, `vllm`, ...) to chat completions.
    pub fn model(&self, model: impl Into<String>) -> Model {
        match self.server.wire {
            Wire::Chat => self.chat(model),
            Wire::Responses => self.responses(model),
            Wire::ByHost => {
                let prefers_responses = presets::is_openai(&self.server.client.base_url);
                Model::new(Arc::new(ByPrompt::new(&self.server, prefers_responses)), model)
            }
        }
    }

    /// A strategy that asks `model` for chat completions, whatever the server.
    ///
    /// ```
    /// use llm_batch::Prompt;
    /// use llm_batch::provider::openai::OpenAi;
    ///
    /// let model = OpenAi::builder().api_key("secret").build()?.chat("gpt-4o-mini");
    /// let body = model.request_body(&Prompt::new("Hello"))?;
    /// assert_eq!(body, br#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}"#);
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    pub fn chat(&self, model: impl Into<String>) -> Model {
        Model::new(Arc::new(ChatFormat::new(Arc::clone(&self.server))), model)
    }

    /// A strategy that asks `model` for OpenAI's Responses, whatever the server.
    ///
    /// Nothing is kept at the provider (`store: false`, which an extra field of that name changes). Of messages with a
    /// phase only the final answer is the output. Stop sequences and a seed have no field on this wire: a prompt that has
    /// one is refused unsent, and so is an answer in the background, which would not be there yet.
    ///
    /// Where a model with tools reasons (an effort or a `reasoning` field is set, or it is one of OpenAI's that do so by
    /// default), its encrypted reasoning is asked for, as the next turn has to bring it back beside the calls of tools. An
    /// extra field `include` of your own replaces that: name `reasoning.encrypted_content` in it.
    ///
    /// ```
    /// use llm_batch::Prompt;
    /// use llm_batch::provider::openai::OpenAi;
    ///
    /// let model = OpenAi::builder().base_url("http://localhost:8000/v1").build()?.responses("qwen3-8b");
    /// let body = model.request_body(&Prompt::new("Hello"))?;
    /// assert_eq!(body, br#"{"model":"qwen3-8b","input":"Hello","store":false}"#);
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    pub fn responses(&self, model: impl Into<String>) -> Model {
        Model::new(Arc::new(ResponsesFormat::new(Arc::clone(&self.server))), model)
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
    token_limit: Option<TokenLimitField>,
    bearer: bool,
    preset: Option<&'static Preset>,
}

impl OpenAiBuilder {
    pub(crate) fn from_settings(settings: Settings) -> Self {
        Self {
            settings,
            organization: None,
            project: None,
            token_limit: None,
            bearer: false,
            preset: None,
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

    /// Sets the name of the field for the output token limit. The default is the one that the server is known to want,
    /// and `max_completion_tokens` for an unknown one.
    pub fn token_limit_field(mut self, field: TokenLimitField) -> Self {
        self.token_limit = Some(field);
        self
    }

    /// Sends the key as a bearer token also to a server that has a header of its own for keys: to Azure, whose Entra ID
    /// gives tokens in place of keys. Anywhere else it is the default.
    ///
    /// ```
    /// use llm_batch::provider::openai::OpenAi;
    ///
    /// # async fn fresh_token() -> Result<String, llm_batch::BoxError> { Ok("token".to_owned()) }
    /// let client = OpenAi::builder()
    ///     .base_url("https://my-resource.openai.azure.com")
    ///     .api_key_with(fresh_token)
    ///     .bearer()
    ///     .build()?;
    /// let model = client.model("my-deployment");
    /// assert_eq!(model.provider(), "azure.ai.openai");
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    pub fn bearer(mut self) -> Self {
        self.bearer = true;
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
        let preset = presets::find(prefix)?;
        self.preset = Some(preset);
        let has_key = self
            .settings
            .read_environment(preset.base_url_variable, &[preset.key_variable])?;
        if !has_key && preset.needs_key && self.settings.base_url.is_none() {
            return Err(configuration(
                Misconfigured::MissingApiKey,
                format!(
                    "{} is not set; set it to your API key, or {} to a server that needs none",
                    preset.key_variable, preset.base_url_variable
                ),
            ));
        }
        if self.settings.base_url.is_none() {
            self.settings.base_url = preset.base_url.map(str::to_owned);
        }
        if self.settings.base_url.is_none() {
            return Err(configuration(
                Misconfigured::MissingBaseUrl,
                format!(
                    "`{}:` needs a base URL; set {} to it",
                    preset.prefix, preset.base_url_variable
                ),
            ));
        }
        if preset.name == OPENAI.name {
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
    /// variable is not set, or no key was given for a provider that needs one.
    pub fn build(self) -> Result<OpenAi, LlmError> {
        let base_url = self.settings.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL);
        // The address comes before the client's name: `openai:` may be set to ask another provider.
        let at_address = Url::parse(base_url.trim()).ok().and_then(|url| presets::at(&url));
        let preset = at_address.or(self.preset).unwrap_or(&OPENAI);
        let named = [
            ("openai-organization", self.organization),
            ("openai-project", self.project),
        ];
        let mut client = self.settings.connect(settings::Server {
            base_url: DEFAULT_BASE_URL,
            authentication: match preset.key_header {
                Some(header) if !self.bearer => Authentication::Header(header),
                _ => Authentication::Bearer,
            },
            headers: named
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        })?;
        if !client.has_key && at_address.is_some_and(|preset| preset.needs_key) {
            return Err(configuration(
                Misconfigured::MissingApiKey,
                format!(
                    "{} needs an API key; set {} (read for `{}:`), or give one to the builder",
                    client.base_url.host_str().unwrap_or(preset.prefix),
                    preset.key_variable,
                    preset.prefix
                ),
            ));
        }
        if let Some(path) = preset.path
            && client.base_url.path() == "/"
        {
            client.base_url.set_path(path);
        }
        client.is_local = preset.is_local();
        let provider = match at_address {
            Some(preset) => preset.name,
            None => presets::other_name(&client.base_url).unwrap_or(preset.name),
        };
        Ok(OpenAi {
            server: Arc::new(Server {
                client,
                provider: provider.to_owned(),
                preset,
                token_limit: self.token_limit.unwrap_or(preset.token_limit),
                wire: self.preset.map_or(Wire::ByHost, |preset| preset.wire),
            }),
        })
    }
}
