//! Setting up the client.

use std::fmt;
use std::sync::Arc;

use super::messages::Messages;
use super::options::{Effort, Options, SMALLEST_THINKING_BUDGET, Thinking};
use crate::error::LlmError;
use crate::prompt::CacheTtl;
use crate::provider::http::Authentication;
use crate::provider::misconfigured::{Misconfigured, configuration};
use crate::provider::model::Model;
use crate::provider::settings::{Server, Settings, settings_methods};

const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";

/// The newest version of the API in November 2026.
const DEFAULT_VERSION: &str = "2026-10-21";

/// A client for Anthropic or a server that speaks its Messages: address, key, and connections. Cheap to clone.
///
/// [`model`](Self::model) makes strategies of it; all of them share its connections. Keep one client per server: every
/// client has its own connections.
///
/// ```
/// use llm_batch::provider::anthropic::Anthropic;
///
/// let client = Anthropic::builder().api_key("secret").build()?;
/// let model = client.model("claude-sonnet-4-5");
/// assert_eq!(model.provider(), "anthropic");
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone)]
pub struct Anthropic {
    messages: Arc<Messages>,
}

impl fmt::Debug for Anthropic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anthropic")
            .field("client", &self.messages.client)
            .field("options", &self.messages.options)
            .finish()
    }
}

impl Anthropic {
    /// A client as the environment describes it: `ANTHROPIC_API_KEY`, and where it is set `ANTHROPIC_BASE_URL`.
    ///
    /// With a base URL the key may be missing, since many local servers want none.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the key is missing or a variable makes no sense;
    /// the message names it.
    pub fn from_env() -> Result<Self, LlmError> {
        AnthropicBuilder::from_environment(Settings::default())?.build()
    }

    /// A client set up by hand. The builder reads only the variables that are named to it.
    pub fn builder() -> AnthropicBuilder {
        AnthropicBuilder::from_settings(Settings::default())
    }

    /// A strategy that asks `model`, unless a prompt names another one.
    ///
    /// Anthropic wants a limit for the output in every request. A prompt that sets none gets 8,192 tokens, and the budget
    /// for thinking on top of them. A limit of 0 only warms the prompt cache; the answer is then empty. A limit above 21,333
    /// is sent as it is; but as an answer of that length takes ten minutes and more, for which Anthropic's own clients
    /// refuse to ask without streaming, use [`Model::with_streaming`] for such answers, or a longer call timeout.
    pub fn model(&self, model: impl Into<String>) -> Model {
        Model::new(Arc::clone(&self.messages) as _, model)
    }
}

/// Sets up an [`Anthropic`] client. Made by [`Anthropic::builder`].
///
/// Options about the answers hold for every model of the client. One prompt, or the
/// [defaults](Model::with_defaults) of one strategy, can say otherwise by its
/// [reasoning effort](crate::Prompt::with_reasoning_effort) or by an extra field (`thinking`, `cache_control`,
/// `output_config`).
///
/// ```
/// use llm_batch::provider::anthropic::{Anthropic, CacheTtl, Effort};
///
/// let client = Anthropic::builder()
///     .api_key("secret")
///     .version("2023-06-01")
///     .beta("context-1m-2025-08-07")
///     .cache_system(CacheTtl::OneHour)
///     .effort(Effort::Low)
///     .build()?;
/// assert!(!format!("{client:?}").contains("secret"));
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct AnthropicBuilder {
    settings: Settings,
    authentication: Authentication,
    betas: Vec<String>,
    options: Options,
}

impl AnthropicBuilder {
    pub(crate) fn from_settings(settings: Settings) -> Self {
        Self {
            settings,
            authentication: Authentication::Header("x-api-key"),
            betas: Vec::new(),
            options: Options {
                version: DEFAULT_VERSION.to_owned(),
                system_cache: None,
                prefix_cache: None,
                thinking: None,
                effort: None,
            },
        }
    }

    /// Creates a builder from `settings`; what they leave open is taken from the environment.
    pub(crate) fn from_environment(mut settings: Settings) -> Result<Self, LlmError> {
        let has_key = settings.read_environment("ANTHROPIC_BASE_URL", &["ANTHROPIC_API_KEY"])?;
        if !has_key && settings.base_url.is_none() {
            return Err(configuration(
                Misconfigured::MissingApiKey,
                "ANTHROPIC_API_KEY is not set; set it to your API key, or ANTHROPIC_BASE_URL to a server that needs none",
            ));
        }
        Ok(Self::from_settings(settings))
    }

    settings_methods!();

    /// Sends the key as `Authorization: Bearer KEY`, as many gateways want it, in place of `x-api-key`.
    pub fn bearer(mut self) -> Self {
        self.authentication = Authentication::Bearer;
        self
    }

    /// Sets the version of the API (`anthropic-version`); the default is `2026-10-21`.
    ///
    /// From that version on the API refuses requests with sampling parameters, so a prompt that sets one fails before it
    /// is sent. `2023-06-01` still takes them, for the models that know them.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.options.version = version.into();
        self
    }

    /// Asks for a beta feature (`anthropic-beta`); may be called for several.
    pub fn beta(mut self, name: impl Into<String>) -> Self {
        self.betas.push(name.into());
        self
    }

    /// Marks the end of the system text for the provider's prompt cache, so that what comes up to there is read from it
    /// by later calls. A prefix below the model's smallest cacheable length, 1,024 tokens or more, is not cached.
    ///
    /// A message is marked by [`Message::with_cache`](crate::Message::with_cache).
    pub fn cache_system(mut self, ttl: CacheTtl) -> Self {
        self.options.system_cache = Some(ttl);
        self
    }

    /// Marks the whole prompt for the provider's prompt cache, up to its last block that can be cached: for conversations
    /// that go on, and prompts that are asked again.
    pub fn cache_prefix(mut self, ttl: CacheTtl) -> Self {
        self.options.prefix_cache = Some(ttl);
        self
    }

    /// Sets whether and how far models think. Unless set, nothing is sent, and the model's own default holds.
    pub fn thinking(mut self, thinking: Thinking) -> Self {
        self.options.thinking = Some(thinking);
        self
    }

    /// Sets how much effort models take. Unless set, nothing is sent, and the model's own default holds.
    pub fn effort(mut self, effort: Effort) -> Self {
        self.options.effort = Some(effort);
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the base URL or a header is malformed, the key's
    /// variable is not set, no key was given for Anthropic itself, or the thinking budget is below 1,024 tokens.
    pub fn build(mut self) -> Result<Anthropic, LlmError> {
        if let Some(Thinking::Enabled { budget_tokens }) = self.options.thinking
            && budget_tokens < SMALLEST_THINKING_BUDGET
        {
            return Err(configuration(
                Misconfigured::InvalidOption,
                format!(
                    "a thinking budget of {budget_tokens} tokens is too small; Anthropic wants {SMALLEST_THINKING_BUDGET} at least"
                ),
            ));
        }
        // A header of the user's own replaces ours, so the version that counts is the one in it.
        let own = self.settings.headers.iter();
        if let Some((_, version)) = own
            .rev()
            .find(|(name, _)| name.eq_ignore_ascii_case("anthropic-version"))
        {
            self.options.version.clone_from(&version.0);
        }
        let mut headers = vec![("anthropic-version", self.options.version.clone())];
        if !self.betas.is_empty() {
            headers.push(("anthropic-beta", self.betas.join(",")));
        }
        let client = self.settings.connect(Server {
            base_url: DEFAULT_BASE_URL,
            authentication: self.authentication,
            headers,
        })?;
        if !client.has_key && client.base_url.host_str() == Some("api.anthropic.com") {
            return Err(configuration(
                Misconfigured::MissingApiKey,
                "Anthropic needs an API key; set ANTHROPIC_API_KEY and use Anthropic::from_env, or give one to the builder",
            ));
        }
        Ok(Anthropic {
            messages: Arc::new(Messages::new(client, self.options)),
        })
    }
}
