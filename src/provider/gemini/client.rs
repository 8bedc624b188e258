//! Setting up the client.

use std::fmt;
use std::sync::Arc;

use reqwest::Url;

use super::context_cache::ContextCache;
use super::generate::GenerateFormat;
use super::options::{
    ApiVersion, HarmBlockThreshold, HarmCategory, Options, SafetySetting, SchemaForm, ThinkingLevel,
};
use super::server::{Server, Version};
use crate::error::LlmError;
use crate::prompt::Prompt;
use crate::provider::http::Authentication;
use crate::provider::misconfigured::{Misconfigured, configuration};
use crate::provider::model::Model;
use crate::provider::settings::{self, Settings, settings_methods};

const DEFAULT_BASE_URL: &str = "https://generativelanguage.googleapis.com";
const BASE_URL_VARIABLE: &str = "GEMINI_BASE_URL";
const KEY_VARIABLES: [&str; 2] = ["GEMINI_API_KEY", "GOOGLE_API_KEY"];

/// A client for Google's Gemini API: address, key, and connections. Cheap to clone.
///
/// [`model`](Self::model) makes strategies of it; all of them share its connections. Keep one client per server: every
/// client has its own connections.
///
/// ```
/// use llm_batch::provider::gemini::Gemini;
///
/// let client = Gemini::builder().api_key("secret").build()?;
/// let model = client.model("gemini-2.5-flash");
/// assert_eq!(model.provider(), "gcp.gemini");
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone)]
pub struct Gemini {
    server: Arc<Server>,
}

impl fmt::Debug for Gemini {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

impl Gemini {
    /// A client as the environment describes it: the key in `GEMINI_API_KEY`, else in `GOOGLE_API_KEY`, and where it is set
    /// `GEMINI_BASE_URL`.
    ///
    /// With a base URL the key may be missing, since a gateway may want none.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the key is missing or a variable makes no sense;
    /// the message names it.
    pub fn from_env() -> Result<Self, LlmError> {
        Self::builder().environment()?.build()
    }

    /// A client set up by hand. The builder reads only the variables that are named to it.
    pub fn builder() -> GeminiBuilder {
        GeminiBuilder::from_settings(Settings::default())
    }

    /// A strategy that asks `model`, unless a prompt names another one. `models/` before the name may be left out.
    pub fn model(&self, model: impl Into<String>) -> Model {
        Model::new(
            Arc::new(GenerateFormat::new(Arc::clone(&self.server), None)),
            model,
        )
    }

    /// A context cache of `content` (system text, messages, tools, and the extra field `toolConfig`) for `model`, made at
    /// its first use; see [`ContextCache`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) if the content cannot be sent, or is empty.
    pub fn context_cache(&self, model: impl Into<String>, content: Prompt) -> Result<ContextCache, LlmError> {
        ContextCache::new(Arc::clone(&self.server), model.into(), content)
    }
}

impl ContextCache {
    /// A strategy that asks the cache's model, with the cached context before each prompt.
    pub fn model(&self) -> Model {
        let format = GenerateFormat::new(Arc::clone(self.server()), Some(self.clone()));
        Model::new(Arc::new(format), self.model_name())
    }
}

/// Sets up a [`Gemini`] client. Made by [`Gemini::builder`].
///
/// ```
/// use llm_batch::provider::gemini::{ApiVersion, Gemini, HarmBlockThreshold, HarmCategory};
///
/// let client = Gemini::builder()
///     .api_key("secret")
///     .version(ApiVersion::V1Beta)
///     .safety_setting(HarmCategory::Harassment, HarmBlockThreshold::OnlyHigh)
///     .thinking_budget(0)
///     .build()?;
/// assert!(!format!("{client:?}").contains("secret"));
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct GeminiBuilder {
    settings: Settings,
    version: Option<ApiVersion>,
    options: Options,
}

impl GeminiBuilder {
    pub(crate) fn from_settings(settings: Settings) -> Self {
        Self {
            settings,
            version: None,
            options: Options::default(),
        }
    }

    settings_methods!();

    /// Sets the version of the API. The default is `v1`, and `v1beta` for models whose name ends in `-latest`, which only that
    /// one knows. A base URL that ends in a version has the last word.
    pub fn version(mut self, version: ApiVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets how output schemas are sent; the default is as JSON Schema.
    pub fn schema_form(mut self, form: SchemaForm) -> Self {
        self.options.schema_form = form;
        self
    }

    /// Sets from where on the provider's safety filter blocks content of a category. The last word on a category counts.
    pub fn safety_setting(mut self, category: HarmCategory, threshold: HarmBlockThreshold) -> Self {
        self.options.safety.retain(|setting| setting.category != category);
        self.options.safety.push(SafetySetting { category, threshold });
        self
    }

    /// Sets how many tokens a model may think: 0 turns thinking off, -1 leaves it to the model. Which values a model takes is in
    /// the provider's documentation.
    pub fn thinking_budget(mut self, tokens: i32) -> Self {
        self.options.thinking.thinking_budget = Some(tokens);
        self
    }

    /// Sets how much a model thinks, for models that take a level in place of a budget.
    pub fn thinking_level(mut self, level: ThinkingLevel) -> Self {
        self.options.thinking.thinking_level = Some(level);
        self
    }

    /// Asks for summaries of the thoughts. They are not part of the answer's text; see
    /// [`keep_raw_body`](Self::keep_raw_body).
    pub fn include_thoughts(mut self, include: bool) -> Self {
        self.options.thinking.include_thoughts = Some(include);
        self
    }

    /// Takes from the environment what was not set.
    pub(crate) fn environment(mut self) -> Result<Self, LlmError> {
        let has_key = self
            .settings
            .read_environment(BASE_URL_VARIABLE, &KEY_VARIABLES)?;
        if !has_key && self.settings.base_url.is_none() {
            let [first, second] = KEY_VARIABLES;
            return Err(configuration(
                Misconfigured::MissingApiKey,
                format!(
                    "{first} is not set, and neither is {second}; set one to your API key, or {BASE_URL_VARIABLE} to a \
                 server that needs none"
                ),
            ));
        }
        Ok(self)
    }

    /// The client.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the base URL or a header is malformed, the key's
    /// variable is not set, or no key was given for Google itself.
    pub fn build(self) -> Result<Gemini, LlmError> {
        let client = self.settings.connect(settings::Server {
            base_url: DEFAULT_BASE_URL,
            authentication: Authentication::Header("x-goog-api-key"),
            headers: Vec::new(),
        })?;
        let host = client.base_url.host_str().unwrap_or_default();
        if !client.has_key && host.ends_with("googleapis.com") {
            return Err(configuration(
                Misconfigured::MissingApiKey,
                "Gemini needs an API key; set GEMINI_API_KEY and use Gemini::from_env, or give one to the builder",
            ));
        }
        let version = if ends_in_version(&client.base_url) {
            Version::InBaseUrl
        } else {
            self.version.map_or(Version::OfModel, Version::Fixed)
        };
        Ok(Gemini {
            server: Arc::new(Server {
                client,
                version,
                options: self.options,
            }),
        })
    }
}

/// Returns `true` if the last step of the path is `v1`, `v1beta`, `v1beta1`, ...
fn ends_in_version(url: &Url) -> bool {
    let path = url.path().trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or_default();
    let Some(rest) = last.strip_prefix('v') else {
        return false;
    };
    let stage = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let stage_name = stage.trim_end_matches(|c: char| c.is_ascii_digit());
    stage.len() < rest.len() && matches!(stage_name, "" | "alpha" | "beta")
}
