//! Strategies from a line of text.

use tower::util::BoxCloneSyncService;

use super::openai::{OpenAi, find, prefixes};
use crate::error::{ErrorKind, LlmError};
use crate::request::LlmRequest;
use crate::response::LlmResponse;

/// A strategy from `PROVIDER:MODEL`, set up by the environment.
///
/// | prefix | base URL | variables |
/// |---|---|---|
/// | `openai:` | `https://api.openai.com/v1` | `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID` |
/// | `openai-compatible:` | none | `OPENAI_COMPATIBLE_BASE_URL`, `OPENAI_COMPATIBLE_API_KEY` |
/// | `ollama:` | `http://localhost:11434/v1` | `OLLAMA_BASE_URL`, `OLLAMA_API_KEY` |
/// | `vllm:` | `http://localhost:8000/v1` | `VLLM_BASE_URL`, `VLLM_API_KEY` |
/// | `llamacpp:` | `http://localhost:8080/v1` | `LLAMACPP_BASE_URL`, `LLAMACPP_API_KEY` |
/// | `lmstudio:` | `http://localhost:1234/v1` | `LMSTUDIO_BASE_URL`, `LMSTUDIO_API_KEY` |
///
/// Only OpenAI itself needs a key. The model is everything after the first colon, so `ollama:qwen3:8b` works.
///
/// ```
/// let model = llm_batch::strategy("ollama:qwen3:8b")?;
/// # let _ = model;
/// let error = llm_batch::strategy("gpt-4o-mini").unwrap_err();
/// assert!(error.to_string().contains("openai:"));
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Configuration`] if the prefix is unknown, the model is missing or a variable is not set; the message names
/// the valid prefixes or the variable.
pub fn strategy(name: &str) -> Result<BoxCloneSyncService<LlmRequest, LlmResponse, LlmError>, LlmError> {
    make(name, None)
}

/// A strategy from `PROVIDER:MODEL` with the server at `base_url`, whatever the environment says about the address.
///
/// # Errors
/// As [`strategy`], and if `base_url` is malformed.
pub fn strategy_with_base_url(
    name: &str,
    base_url: &str,
) -> Result<BoxCloneSyncService<LlmRequest, LlmResponse, LlmError>, LlmError> {
    make(name, Some(base_url))
}

fn make(
    name: &str,
    base_url: Option<&str>,
) -> Result<BoxCloneSyncService<LlmRequest, LlmResponse, LlmError>, LlmError> {
    let configuration = |message: String| LlmError::new(ErrorKind::Configuration, message);
    let (prefix, model) = name.split_once(':').ok_or_else(|| {
        configuration(format!(
            "{name:?} is not PROVIDER:MODEL; providers are {}",
            prefixes()
        ))
    })?;
    find(prefix)?;
    if model.trim().is_empty() {
        return Err(configuration(format!(
            "{name:?} names no model; write `{prefix}:MODEL`"
        )));
    }
    let mut builder = OpenAi::builder();
    if let Some(url) = base_url {
        builder = builder.base_url(url);
    }
    let client = builder.server(prefix)?.build()?;
    Ok(BoxCloneSyncService::new(client.model(model)))
}
