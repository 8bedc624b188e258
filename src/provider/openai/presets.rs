//! The servers that can be named in a line, as data.

use super::TokenLimitField;
use crate::error::LlmError;
use crate::provider::settings::configuration;

/// A server that speaks OpenAI's chat completions.
#[derive(Debug)]
pub(crate) struct Preset {
    /// What stands before the colon in `PREFIX:MODEL`, and the provider's name in metadata.
    pub(crate) prefix: &'static str,
    /// Where the server is; none if only the user knows.
    pub(crate) base_url: Option<&'static str>,
    /// The variable that overrides the base URL.
    pub(crate) base_url_variable: &'static str,
    /// The variable that holds the key.
    pub(crate) key_variable: &'static str,
    /// Whether the server is of no use without a key.
    pub(crate) needs_key: bool,
    /// How the server wants the output token limit.
    pub(crate) token_limit: TokenLimitField,
}

/// A server on this machine that wants no key, though it takes one. These know the older field at least.
const fn local(
    prefix: &'static str,
    base_url: &'static str,
    base_url_variable: &'static str,
    key_variable: &'static str,
) -> Preset {
    Preset {
        prefix,
        base_url: Some(base_url),
        base_url_variable,
        key_variable,
        needs_key: false,
        token_limit: TokenLimitField::MaxTokens,
    }
}

/// Every known server. The ports are the servers' documented defaults.
pub(crate) const PRESETS: &[Preset] = &[
    Preset {
        prefix: "openai",
        base_url: Some("https://api.openai.com/v1"),
        base_url_variable: "OPENAI_BASE_URL",
        key_variable: "OPENAI_API_KEY",
        needs_key: true,
        token_limit: TokenLimitField::MaxCompletionTokens,
    },
    Preset {
        prefix: "openai-compatible",
        base_url: None,
        base_url_variable: "OPENAI_COMPATIBLE_BASE_URL",
        key_variable: "OPENAI_COMPATIBLE_API_KEY",
        needs_key: false,
        token_limit: TokenLimitField::MaxTokens,
    },
    local(
        "ollama",
        "http://localhost:11434/v1",
        "OLLAMA_BASE_URL",
        "OLLAMA_API_KEY",
    ),
    local(
        "vllm",
        "http://localhost:8000/v1",
        "VLLM_BASE_URL",
        "VLLM_API_KEY",
    ),
    local(
        "llamacpp",
        "http://localhost:8080/v1",
        "LLAMACPP_BASE_URL",
        "LLAMACPP_API_KEY",
    ),
    local(
        "lmstudio",
        "http://localhost:1234/v1",
        "LMSTUDIO_BASE_URL",
        "LMSTUDIO_API_KEY",
    ),
];

/// The server with this prefix.
pub(super) fn find(prefix: &str) -> Result<&'static Preset, LlmError> {
    PRESETS
        .iter()
        .find(|preset| preset.prefix == prefix)
        .ok_or_else(|| {
            configuration(format!(
                "{prefix:?} is no known server; servers are {}",
                prefixes().join(", ")
            ))
        })
}

/// Whether a server has this prefix.
pub(crate) fn is_prefix(prefix: &str) -> bool {
    PRESETS.iter().any(|preset| preset.prefix == prefix)
}

/// Every prefix.
pub(crate) fn prefixes() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.prefix).collect()
}
