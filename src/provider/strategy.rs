//! Strategies from a line of text.

use super::misconfigured::{Misconfigured, configuration};
use super::model::Model;
use super::settings::{Settings, settings_methods};
use crate::error::LlmError;

/// A strategy from `PROVIDER:MODEL`, set up by the environment: `Model::builder(name).build()`.
///
/// | prefix | base URL | variables |
/// |---|---|---|
/// | `openai:` | `https://api.openai.com/v1` | `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID` |
/// | `openai-chat:` | `https://api.openai.com/v1` | the same `OPENAI_API_KEY`, `OPENAI_BASE_URL`, ... |
/// | `openai-responses:` | `https://api.openai.com/v1` | the same `OPENAI_API_KEY`, `OPENAI_BASE_URL`, ... |
/// | `anthropic:` | `https://api.anthropic.com` | `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL` |
/// | `gemini:` | `https://generativelanguage.googleapis.com` | `GEMINI_API_KEY` or `GOOGLE_API_KEY`, `GEMINI_BASE_URL` |
/// | `openai-compatible:` | none | `OPENAI_COMPATIBLE_BASE_URL`, `OPENAI_COMPATIBLE_API_KEY` |
/// | `azure:` | none | `AZURE_OPENAI_ENDPOINT`, `AZURE_OPENAI_API_KEY` |
/// | `openrouter:` | `https://openrouter.ai/api/v1` | `OPENROUTER_BASE_URL`, `OPENROUTER_API_KEY` |
/// | `deepseek:` | `https://api.deepseek.com` | `DEEPSEEK_BASE_URL`, `DEEPSEEK_API_KEY` |
/// | `groq:` | `https://api.groq.com/openai/v1` | `GROQ_BASE_URL`, `GROQ_API_KEY` |
/// | `mistral:` | `https://api.mistral.ai/v1` | `MISTRAL_BASE_URL`, `MISTRAL_API_KEY` |
/// | `xai:` | `https://api.x.ai/v1` | `XAI_BASE_URL`, `XAI_API_KEY` |
/// | `ollama:` | `http://localhost:11434/v1` | `OLLAMA_BASE_URL`, `OLLAMA_API_KEY` |
/// | `vllm:` | `http://localhost:8000/v1` | `VLLM_BASE_URL`, `VLLM_API_KEY` |
/// | `llamacpp:` | `http://localhost:8080/v1` | `LLAMACPP_BASE_URL`, `LLAMACPP_API_KEY` |
/// | `lmstudio:` | `http://localhost:1234/v1` | `LMSTUDIO_BASE_URL`, `LMSTUDIO_API_KEY` |
///
/// `openai:` asks for Responses at OpenAI's own address, and for chat completions at any other; a raw body goes to the one
/// whose form it has. `openai-chat:` and `openai-responses:` say which. From `openai-compatible:` on, all are asked for chat
/// completions. Servers that run on a machine of one's own need no key. The model is everything after the first colon, so
/// `ollama:qwen3:8b` works.
///
/// ```
/// let model = llm_batch::strategy("ollama:qwen3:8b")?;
/// assert_eq!(model.name(), "qwen3:8b");
/// let error = llm_batch::strategy("gpt-4o-mini").unwrap_err();
/// assert!(error.to_string().contains("openai:"));
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the prefix is unknown, the model is missing or a
/// variable is not set; the message names the valid prefixes or the variable. Its [`code`](LlmError::code) says which:
/// `unknown_provider`, `missing_model`, `missing_base_url`, `malformed_base_url`, `missing_api_key`, `malformed_variable`,
/// `malformed_header` or `invalid_option`.
pub fn strategy(name: &str) -> Result<Model, LlmError> {
    Model::builder(name).build()
}

impl Model {
    /// A strategy from `PROVIDER:MODEL` as [`strategy`] takes it, with settings of its own in place of the
    /// environment's.
    pub fn builder(name: impl Into<String>) -> ModelBuilder {
        ModelBuilder {
            name: name.into(),
            settings: Settings::default(),
        }
    }
}

/// Sets up a [`Model`] of any provider. Made by [`Model::builder`].
///
/// Settings that only one provider knows are on the builder of its client.
///
/// ```
/// use llm_batch::provider::Model;
///
/// let model = Model::builder("vllm:qwen3-8b").base_url("http://gpu:8000/v1").header("x-team", "search").build()?;
/// # let _ = model;
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ModelBuilder {
    name: String,
    settings: Settings,
}

impl ModelBuilder {
    settings_methods!();

    /// The strategy.
    ///
    /// # Errors
    /// As [`strategy`], and if the base URL or a header is malformed.
    pub fn build(self) -> Result<Model, LlmError> {
        let Self { name, settings } = self;
        let (prefix, model) = name.split_once(':').ok_or_else(|| {
            configuration(
                Misconfigured::UnknownProvider,
                format!("{name:?} is not PROVIDER:MODEL; providers are {}", prefixes()),
            )
        })?;
        if model.trim().is_empty() && known().contains(&prefix) {
            return Err(configuration(
                Misconfigured::MissingModel,
                format!("{name:?} names no model; write `{prefix}:MODEL`"),
            ));
        }
        match prefix {
            #[cfg(feature = "openai")]
            prefix if super::openai::is_prefix(prefix) => {
                let builder = super::openai::OpenAiBuilder::from_settings(settings);
                builder
                    .server(prefix)
                    .and_then(|builder| builder.build())
                    .map(|client| client.model(model))
            }
            #[cfg(feature = "anthropic")]
            "anthropic" => super::anthropic::AnthropicBuilder::from_environment(settings)
                .and_then(|builder| builder.build())
                .map(|client| client.model(model)),
            #[cfg(feature = "gemini")]
            "gemini" => super::gemini::GeminiBuilder::from_settings(settings)
                .environment()
                .and_then(|builder| builder.build())
                .map(|client| client.model(model)),
            _ => Err(configuration(
                Misconfigured::UnknownProvider,
                format!("{prefix:?} is not a known provider; providers are {}", prefixes()),
            )),
        }
    }
}

/// Every prefix.
fn known() -> Vec<&'static str> {
    let of_each: &[Vec<&'static str>] = &[
        #[cfg(feature = "openai")]
        super::openai::prefixes(),
        #[cfg(feature = "anthropic")]
        vec!["anthropic"],
        #[cfg(feature = "gemini")]
        vec!["gemini"],
    ];
    of_each.concat()
}

/// Returns the prefixes that may stand before a model: `openai:, openai-compatible:, ...`.
fn prefixes() -> String {
    let prefixes: Vec<String> = known().iter().map(|prefix| format!("{prefix}:")).collect();
    prefixes.join(", ")
}
