//! The common part of the requests of all wires.
//!
//! A prompt that no wire could carry is refused here, before its wire looks at it.

use serde::Serialize;

#[cfg(any(feature = "anthropic", feature = "gemini"))]
use serde_json::value::RawValue;

use super::wire_format::Ask;
use crate::error::{Delivery, ErrorKind, LlmError};
#[cfg(any(feature = "anthropic", feature = "gemini"))]
use crate::prompt::ToolCall;
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
use crate::prompt::says_nothing;
use crate::prompt::{Message, Part, Prompt, Role, ToolChoice};

/// The body as JSON.
pub(super) fn write(body: &impl Serialize) -> Result<Vec<u8>, LlmError> {
    serde_json::to_vec(body).map_err(|error| refuse(format!("the prompt cannot be written as JSON: {error}")))
}

/// A prompt that cannot be sent.
pub(super) fn refuse(message: impl Into<String>) -> LlmError {
    LlmError::new(ErrorKind::InvalidRequest, message.into()).with_delivery(Delivery::NotSent)
}

/// Refuses what makes sense on no wire.
pub(super) fn check(ask: &Ask<'_>) -> Result<(), LlmError> {
    if ask.prompt.raw_body().is_some() {
        return check_raw(ask.prompt);
    }
    ask.prompt.messages().iter().try_for_each(check_message)?;
    let Some(ToolChoice::Tool(name)) = ask.tool_choice() else {
        return Ok(());
    };
    let tools = ask.tools();
    // Those of an extra field or a context cache are not known here.
    if tools.is_empty() || tools.iter().any(|tool| tool.name == *name) {
        return Ok(());
    }
    Err(refuse(format!(
        "the tool choice is {name:?}, but the prompt has no tool of that name"
    )))
}

/// A raw body has its own fields for these, of names that are not known here.
fn check_raw(prompt: &Prompt) -> Result<(), LlmError> {
    let set = [
        ("messages", !prompt.messages().is_empty()),
        ("a system text", prompt.system().is_some()),
        ("a temperature", prompt.temperature().is_some()),
        ("`top_p`", prompt.top_p().is_some()),
        ("a limit of output tokens", prompt.max_output_tokens().is_some()),
        ("stop sequences", !prompt.stop().is_empty()),
        ("a seed", prompt.seed().is_some()),
        ("an output schema", prompt.output_schema().is_some()),
        ("tools", !prompt.tools().is_empty()),
        ("a tool choice", prompt.tool_choice().is_some()),
        ("parallel tool calls", prompt.parallel_tool_calls().is_some()),
        ("a reasoning effort", prompt.reasoning_effort().is_some()),
        ("fields of a chat completion", !prompt.chat_fields().is_empty()),
    ];
    let set: Vec<_> = set
        .into_iter()
        .filter_map(|(what, is_set)| is_set.then_some(what))
        .collect();
    if set.is_empty() {
        return Ok(());
    }
    Err(refuse(format!(
        "a raw body is sent as it is, and cannot have beside it: {}; put it into the body, or set the body's own field by \
         `with_extra`",
        set.join(", ")
    )))
}

/// Refuses a message with a part that its role cannot have.
pub(super) fn check_message(message: &Message) -> Result<(), LlmError> {
    message
        .content
        .iter()
        .try_for_each(|part| check_part(message.role, part))
}

fn check_part(role: Role, part: &Part) -> Result<(), LlmError> {
    let wrong = |what: &str| Err(refuse(what));
    match (role, part) {
        (Role::Tool, Part::ToolResult { id, .. }) if id.is_empty() => {
            wrong("a tool result has no identifier; give it that of its call")
        }
        (Role::Tool, Part::ToolResult { content, .. }) => {
            let is_content =
                |part: &Part| matches!(part, Part::Text { .. } | Part::Image { .. } | Part::Json { .. });
            if content.iter().all(is_content) {
                return Ok(());
            }
            wrong(
                "a tool result has a part that only a message of the assistant may have; texts, images and JSON may stand in it",
            )
        }
        (Role::Tool, _) => wrong("a message of the tools may hold tool results alone"),
        (_, Part::ToolResult { .. }) => {
            wrong("a tool result stands in a message of another role; use Message::tool_result")
        }
        (Role::Assistant, Part::Native { own, elsewhere, .. }) => {
            let mut parts = std::iter::once(own).chain(elsewhere);
            parts.try_for_each(|part| check_part(role, part))
        }
        (Role::Assistant, _) => Ok(()),
        (_, Part::ToolCall(_) | Part::Reasoning { .. } | Part::Native { .. }) => {
            wrong("tool calls, reasoning and native parts stand in messages of the assistant alone")
        }
        _ => Ok(()),
    }
}

/// The arguments of a call as the object that a wire wants them to be, with all digits.
#[cfg(any(feature = "anthropic", feature = "gemini"))]
pub(super) fn arguments(call: &ToolCall) -> Result<&RawValue, LlmError> {
    let arguments = call.arguments_or_empty();
    serde_json::from_str::<&RawValue>(arguments)
        .ok()
        .filter(|_| arguments.starts_with('{'))
        .ok_or_else(|| {
            refuse(format!(
                "the arguments of the tool call {:?} are not a JSON object, which this provider takes alone",
                call.id
            ))
        })
}

/// Refuses the fields of a chat completion that another wire does not have, but for those that say nothing.
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
pub(super) fn check_chat_fields(ask: &Ask<'_>, shared: &[&str], provider: &str) -> Result<(), LlmError> {
    let is_lost = |name: &str, value| !shared.contains(&name) && !says_nothing(name, value);
    match ask.chat_fields().find(|(name, value)| is_lost(name, value)) {
        None => Ok(()),
        Some((name, _)) => Err(refuse(format!(
            "`{name}` is a field of chat completions, which is not translated for {provider}; leave it out, set \
             {provider}'s own field by `with_extra`, or ask a model by chat completions"
        ))),
    }
}
