//! The reasons to stop, by the names of all providers and gateways: a gateway passes on the name of the server behind it.

use crate::error::{Delivery, ErrorKind, LlmError};
use crate::response::FinishReason;

/// The meaning of a reason to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer is whole, or the reason is not known.
    Whole(FinishReason),
    /// It was cut by a limit on its length.
    Cut,
    /// A filter of the provider's or the gateway's stopped it.
    Filtered,
    /// The server gave it up.
    Broken(ErrorKind),
}

impl Ending {
    pub(super) fn of(reason: &str) -> Self {
        match reason.to_ascii_lowercase().as_str() {
            "stop" | "stop_sequence" | "end_turn" => Self::Whole(FinishReason::Stop),
            "tool_calls" | "tool_call" | "tool_use" | "function_call" => Self::Whole(FinishReason::ToolCalls),
            "length"
            | "max_tokens"
            | "max_output_tokens"
            | "max_length"
            | "model_length"
            | "model_context_window_exceeded" => Self::Cut,
            // Zhipu's `sensitive`, Bedrock's `guardrail_intervened`, Cohere's `ERROR_TOXIC`. Gemini writes its own in capitals.
            "content_filter"
            | "content_filtered"
            | "guardrail_intervened"
            | "sensitive"
            | "safety"
            | "prohibited_content"
            | "blocklist"
            | "spii"
            | "model_armor"
            | "jailbreak"
            | "image_safety"
            | "image_prohibited_content"
            | "error_toxic"
            | "refusal" => Self::Filtered,
            // DeepSeek's.
            "insufficient_system_resource" => Self::Broken(ErrorKind::Overloaded),
            // vLLM and SGLang abort, Zhipu's network fails, Ollama has only loaded the model.
            "abort" | "aborted" | "cancelled" | "canceled" | "network_error" | "error" | "load"
            | "unload" => Self::Broken(ErrorKind::ServerError),
            _ => Self::Whole(FinishReason::Other(reason.to_owned())),
        }
    }
}

/// Returns the place at which an answer was cut, if it is of no use: it has nothing in it, or it should be JSON.
pub(super) fn useless_cut(text: &str, is_empty: bool, structured: bool) -> Option<&'static str> {
    let place = if text.trim().is_empty() {
        "before any text came"
    } else {
        "inside the JSON"
    };
    (is_empty || structured).then_some(place)
}

/// The answer that a filter stopped.
#[cfg(any(feature = "openai", feature = "anthropic"))]
pub(super) fn filtered(output: String) -> LlmError {
    let message = "the provider's filter stopped the answer";
    LlmError::new(ErrorKind::ContentFilter, message).with_raw_output(output)
}

/// The answer that the server gave up.
pub(super) fn broken(kind: ErrorKind, reason: &str, output: String) -> LlmError {
    let message = format!("the provider broke the answer off ({reason})");
    LlmError::new(kind, message)
        .with_code(reason)
        .with_raw_output(output)
        .with_delivery(Delivery::MaybeBilled)
}

/// The end of an answer with nothing in it, for a reason that does not say that the model had finished.
#[cfg(any(feature = "openai", feature = "anthropic"))]
pub(super) fn nothing(reason: &str) -> LlmError {
    LlmError::new(
        ErrorKind::ModelFault,
        format!("the model stopped without an answer ({reason})"),
    )
    .with_code(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_keeps_its_text() {
        for reason in ["Weird_Reason", "", "aborting"] {
            let other = FinishReason::Other(reason.to_owned());
            assert_eq!(Ending::of(reason), Ending::Whole(other), "{reason}");
        }
        assert_eq!(Ending::of("MAX_TOKENS"), Ending::Cut);
        assert_eq!(Ending::of("ERROR_TOXIC"), Ending::Filtered);
    }
}
