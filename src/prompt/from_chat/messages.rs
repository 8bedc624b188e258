//! The messages of a request.

use serde_json::Value;

use super::fields::{list, nothing_left, object, take, take_text, text, wrong};
use crate::error::LlmError;
use crate::prompt::message::{ImageDetail, Message, Part, Role};
use crate::prompt::tool::ToolCall;

pub(super) fn message(value: Value, at: &str) -> Result<Message, LlmError> {
    let mut fields = object(value, at)?;
    let role = match take_text(&mut fields, at, "role")?.as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        role => {
            return Err(wrong(
                &format!("{at}.role"),
                &format!("is {role:?}, which is not a role"),
            ));
        }
    };
    let content_at = format!("{at}.content");
    let mut content = match take(&mut fields, "content") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![Part::text(text)],
        Some(value) => list(value, &content_at)?
            .into_iter()
            .enumerate()
            .map(|(number, value)| part(value, &format!("{content_at}[{number}]")))
            .collect::<Result<_, _>>()?,
    };
    match role {
        Role::Tool => {
            let id = take_text(&mut fields, at, "tool_call_id")?;
            content = vec![Part::ToolResult {
                id,
                content,
                is_error: false,
            }];
        }
        Role::Assistant => {
            if let Some(text) = take(&mut fields, "reasoning_content") {
                let text = super::fields::text(text, &format!("{at}.reasoning_content"))?;
                // Chat completions take it back as it is, at whichever server.
                let parts = vec![serde_json::json!({ "reasoning_content": text })];
                content.insert(0, Part::Reasoning { text, parts });
            }
            if let Some(parts) = take(&mut fields, "reasoning_details") {
                let parts = list(parts, &format!("{at}.reasoning_details"))?;
                let text = String::new();
                content.insert(0, Part::Reasoning { text, parts });
            }
            if let Some(audio) = take(&mut fields, "audio") {
                let at = format!("{at}.audio");
                let mut audio = object(audio, &at)?;
                content.push(Part::recording(&take_text(&mut audio, &at, "id")?, None));
                nothing_left(&audio, &at)?;
            }
            let calls_at = format!("{at}.tool_calls");
            let calls =
                take(&mut fields, "tool_calls").map_or(Ok(Vec::new()), |calls| list(calls, &calls_at))?;
            for (number, value) in calls.into_iter().enumerate() {
                content.push(tool_call(value, &format!("{calls_at}[{number}]"))?);
            }
        }
        _ => {}
    }
    nothing_left(&fields, at)?;
    if content.is_empty() {
        return Err(wrong(&content_at, "is missing"));
    }
    Ok(Message::new(role, content))
}

fn part(value: Value, at: &str) -> Result<Part, LlmError> {
    let mut fields = object(value, at)?;
    let part = match take_text(&mut fields, at, "type")?.as_str() {
        "text" => Part::text(take_text(&mut fields, at, "text")?),
        "image_url" => {
            let at = format!("{at}.image_url");
            let image = fields
                .remove("image_url")
                .ok_or_else(|| wrong(&at, "is missing"))?;
            let mut image = object(image, &at)?;
            let url = take_text(&mut image, &at, "url")?;
            let detail = match take(&mut image, "detail") {
                None => None,
                Some(detail) => Some(detail_of(&text(detail, &format!("{at}.detail"))?, &at)?),
            };
            nothing_left(&image, &at)?;
            Part::Image { url, detail }
        }
        kind => {
            return Err(wrong(
                &format!("{at}.type"),
                &format!("is {kind:?}, which has no place in a prompt; text and image_url have"),
            ));
        }
    };
    nothing_left(&fields, at)?;
    Ok(part)
}

fn detail_of(detail: &str, at: &str) -> Result<ImageDetail, LlmError> {
    Ok(match detail {
        "low" => ImageDetail::Low,
        "high" => ImageDetail::High,
        "original" => ImageDetail::Original,
        "auto" => ImageDetail::Auto,
        _ => {
            return Err(wrong(
                &format!("{at}.detail"),
                &format!("is {detail:?}, which is not known"),
            ));
        }
    })
}

fn tool_call(value: Value, at: &str) -> Result<Part, LlmError> {
    let mut fields = object(value, at)?;
    let id = take_text(&mut fields, at, "id")?;
    if let Some(kind) = take(&mut fields, "type").filter(|kind| kind != "function") {
        return Err(wrong(
            &format!("{at}.type"),
            &format!("is {kind}, not \"function\""),
        ));
    }
    let at = format!("{at}.function");
    let function = fields
        .remove("function")
        .ok_or_else(|| wrong(&at, "is missing"))?;
    let mut function = object(function, &at)?;
    let name = take_text(&mut function, &at, "name")?;
    let arguments = take_text(&mut function, &at, "arguments")?;
    nothing_left(&function, &at)?;
    nothing_left(&fields, &at)?;
    Ok(Part::ToolCall(ToolCall::new(id, name, arguments)))
}
