//! A prompt from the body of a chat completion.

use serde_json::{Map, Value};

use super::message::{ImageDetail, Message, Part, Role};
use super::tool::{Tool, ToolCall, ToolChoice};
use super::{OutputFormat, Prompt, ReasoningEffort};
use crate::error::{Delivery, ErrorKind, LlmError};

/// Fields of a request that a prompt has no word for. They are kept, and sent where there are chat completions.
const CHAT_FIELDS: [&str; 24] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "metadata",
    "modalities",
    "moderation",
    "n",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "response_format",
    "safety_identifier",
    "service_tier",
    "store",
    "top_k",
    "top_logprobs",
    "user",
    "verbosity",
    "web_search_options",
];

impl Prompt {
    /// A prompt from the body of an OpenAI chat completion, as OpenAI's SDKs send it and
    /// batch files hold it, so that a model of any provider can be asked for it.
    ///
    /// Taken are `model`, `messages` of every role (text, images, tool calls and results, recordings of the model's), `tools`, `tool_choice`,
    /// `parallel_tool_calls`, `temperature`, `top_p`, `max_completion_tokens` or `max_tokens`, `stop`, `seed`,
    /// `response_format` with a JSON Schema, and `reasoning_effort`. Other documented fields are kept for chat completions
    /// alone: asked over another wire, such a prompt fails as [`ErrorKind::InvalidRequest`] with the field's name, but for
    /// a value that says nothing (`"n": 1`, `"store": false`, null). So nothing is lost without a word.
    ///
    /// Sent as a chat completion again, it is the same request; only `max_tokens` takes the name that the server wants, a
    /// single stop text becomes a list, a content of a single text part becomes that text, and a tool's null an empty text.
    ///
    /// ```
    /// use llm_batch::{Prompt, Role};
    /// use serde_json::{Value, json};
    ///
    /// let Value::Object(body) = json!({
    ///     "model": "gpt-4o-mini",
    ///     "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    ///     "max_completion_tokens": 64,
    /// }) else { unreachable!() };
    /// let prompt = Prompt::from_chat_request(body)?;
    /// assert_eq!(prompt.messages()[0].role, Role::Developer);
    /// assert_eq!(prompt.max_output_tokens(), Some(64));
    ///
    /// let Value::Object(unknown) = json!({"messages": [{"role": "user", "content": "Hello"}], "temperatur": 0}) else { unreachable!() };
    /// assert!(Prompt::from_chat_request(unknown).unwrap_err().to_string().contains("`temperatur`"));
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`], with the name of the field, if a field is unknown, or a value is not what the field
    /// takes.
    pub fn from_chat_request(body: Map<String, Value>) -> Result<Self, LlmError> {
        let mut prompt = Self::default();
        let data = prompt.data_mut();
        let mut has_messages = false;
        for (name, value) in body {
            if value.is_null() {
                continue;
            }
            let at = name.as_str();
            match at {
                "model" => data.model = Some(text(value, at)?),
                "messages" => {
                    data.messages = list(value, at)?
                        .into_iter()
                        .enumerate()
                        .map(|(number, value)| message(value, &format!("messages[{number}]")))
                        .collect::<Result<_, _>>()?;
                    has_messages = true;
                }
                "temperature" => data.temperature = Some(number(&value, at)?),
                "top_p" => data.top_p = Some(number(&value, at)?),
                "max_completion_tokens" | "max_tokens" => {
                    let tokens = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
                    let tokens = tokens.ok_or_else(|| wrong(at, "is not a number of tokens"))?;
                    if data.max_output_tokens.is_some_and(|other| other != tokens) {
                        return Err(wrong(at, "differs from the other limit of output tokens"));
                    }
                    data.max_output_tokens = Some(tokens);
                }
                "stop" => data.stop = stop(value)?,
                "seed" => {
                    let seed = value.as_i64();
                    data.seed = Some(seed.ok_or_else(|| wrong(at, "is not an integer of 64 bits"))?);
                }
                "tools" => {
                    data.tools = list(value, at)?
                        .into_iter()
                        .enumerate()
                        .map(|(number, value)| tool(value, &format!("tools[{number}]")))
                        .collect::<Result<_, _>>()?;
                }
                "tool_choice" => match choice(&value)? {
                    Some(choice) => data.tool_choice = Some(choice),
                    // Other choices are those of chat completions alone.
                    None => drop(data.chat_fields.insert(name, value)),
                },
                "parallel_tool_calls" => data.parallel_tool_calls = Some(boolean(&value, at)?),
                "reasoning_effort" => {
                    let effort = ReasoningEffort::named(&text(value, at)?);
                    data.reasoning_effort = Some(effort.ok_or_else(|| wrong(at, "is not a known effort"))?);
                }
                "response_format" if value["type"] == "json_schema" => {
                    let (schema, format) = json_schema(value)?;
                    data.output_schema = Some(std::sync::Arc::new(schema));
                    data.output_format = Some(format);
                }
                "stream" if value == false => {}
                "stream" => {
                    return Err(wrong(
                        at,
                        "is set; leave it out, and have answers streamed by the strategy",
                    ));
                }
                // It is of use for streams alone, whose framing is the strategy's.
                "stream_options" => {}
                _ if CHAT_FIELDS.contains(&at) => drop(data.chat_fields.insert(name, value)),
                _ => {
                    return Err(wrong(
                        at,
                        "is not a known field of a chat completion; leave it out, or set it as an extra field",
                    ));
                }
            }
        }
        if !has_messages {
            return Err(wrong("messages", "is missing"));
        }
        if data.messages.is_empty() {
            return Err(wrong("messages", "is empty"));
        }
        Ok(prompt)
    }
}

fn wrong(at: &str, what: &str) -> LlmError {
    LlmError::new(ErrorKind::InvalidRequest, format!("`{at}` {what}")).with_delivery(Delivery::NotSent)
}

/// Returns `true` if a field's value is what holds without it, so that it can be left out.
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
pub(crate) fn says_nothing(name: &str, value: &Value) -> bool {
    match name {
        "n" => value.as_f64() == Some(1.0),
        "frequency_penalty" | "presence_penalty" => value.as_f64() == Some(0.0),
        "logprobs" | "store" => *value == false,
        "response_format" => value["type"] == "text",
        "modalities" => *value == Value::from(vec!["text"]),
        "service_tier" => *value == "auto",
        "logit_bias" | "metadata" => value.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

fn text(value: Value, at: &str) -> Result<String, LlmError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong(at, "is not text")),
    }
}

fn list(value: Value, at: &str) -> Result<Vec<Value>, LlmError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(wrong(at, "is not a list")),
    }
}

fn object(value: Value, at: &str) -> Result<Map<String, Value>, LlmError> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(wrong(at, "is not an object")),
    }
}

fn number(value: &Value, at: &str) -> Result<f64, LlmError> {
    value.as_f64().ok_or_else(|| wrong(at, "is not a number"))
}

fn boolean(value: &Value, at: &str) -> Result<bool, LlmError> {
    value.as_bool().ok_or_else(|| wrong(at, "is not true or false"))
}

/// Takes a field that is text.
fn take_text(fields: &mut Map<String, Value>, at: &str, name: &str) -> Result<String, LlmError> {
    let at = format!("{at}.{name}");
    match fields.remove(name) {
        Some(value) => text(value, &at),
        None => Err(wrong(&at, "is missing")),
    }
}

/// Takes a field that may be missing.
fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

/// Refuses the fields that are left, which are not known. Null, an empty list and an empty text say nothing.
fn nothing_left(fields: &Map<String, Value>, at: &str) -> Result<(), LlmError> {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    match fields.iter().find(|(_, value)| !says_nothing(value)) {
        None => Ok(()),
        Some((name, _)) => Err(wrong(
            &format!("{at}.{name}"),
            "has no place in a prompt; leave it out",
        )),
    }
}

fn stop(value: Value) -> Result<Vec<String>, LlmError> {
    match value {
        Value::String(stop) => Ok(vec![stop]),
        value => list(value, "stop")?
            .into_iter()
            .map(|stop| text(stop, "stop"))
            .collect(),
    }
}

fn message(value: Value, at: &str) -> Result<Message, LlmError> {
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
                let text = self::text(text, &format!("{at}.reasoning_content"))?;
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

fn tool(value: Value, at: &str) -> Result<Tool, LlmError> {
    let mut fields = object(value, at)?;
    match take_text(&mut fields, at, "type")?.as_str() {
        "function" => {}
        kind => {
            return Err(wrong(
                &format!("{at}.type"),
                &format!("is {kind:?}; a prompt has functions alone"),
            ));
        }
    }
    let function_at = format!("{at}.function");
    let function = fields
        .remove("function")
        .ok_or_else(|| wrong(&function_at, "is missing"))?;
    nothing_left(&fields, at)?;
    function_of(function, &function_at)
}

/// A tool of the fields `name`, `description`, `parameters` and `strict`.
fn function_of(value: Value, at: &str) -> Result<Tool, LlmError> {
    let mut fields = object(value, at)?;
    let tool = Tool {
        name: take_text(&mut fields, at, "name")?,
        description: take(&mut fields, "description")
            .map(|value| text(value, &format!("{at}.description")))
            .transpose()?,
        parameters: take(&mut fields, "parameters"),
        strict: take(&mut fields, "strict")
            .map(|value| boolean(&value, &format!("{at}.strict")))
            .transpose()?,
    };
    if tool.parameters.as_ref().is_some_and(|schema| !schema.is_object()) {
        return Err(wrong(&format!("{at}.parameters"), "is not an object"));
    }
    nothing_left(&fields, at)?;
    Ok(tool)
}

fn choice(value: &Value) -> Result<Option<ToolChoice>, LlmError> {
    let at = "tool_choice";
    Ok(match value {
        Value::String(word) => match word.as_str() {
            "auto" => Some(ToolChoice::Auto),
            "none" => Some(ToolChoice::None),
            "required" => Some(ToolChoice::Required),
            _ => None,
        },
        Value::Object(fields) if value["type"] == "function" => {
            let mut fields = fields.clone();
            fields.remove("type");
            let function_at = "tool_choice.function";
            let mut function = object(fields.remove("function").unwrap_or_default(), function_at)?;
            let name = take_text(&mut function, function_at, "name")?;
            nothing_left(&function, function_at)?;
            nothing_left(&fields, at)?;
            Some(ToolChoice::Tool(name))
        }
        _ => None,
    })
}

fn json_schema(value: Value) -> Result<(Value, OutputFormat), LlmError> {
    let at = "response_format";
    let mut fields = object(value, at)?;
    fields.remove("type");
    let format = fields.remove("json_schema");
    nothing_left(&fields, at)?;
    let at = "response_format.json_schema";
    let mut format = object(format.unwrap_or_default(), at)?;
    let schema = take(&mut format, "schema").filter(Value::is_object);
    let schema = schema.ok_or_else(|| wrong("response_format.json_schema.schema", "is not an object"))?;
    let said = OutputFormat {
        name: take_text(&mut format, at, "name")?,
        description: take(&mut format, "description")
            .map(|value| text(value, "response_format.json_schema.description"))
            .transpose()?,
        strict: take(&mut format, "strict")
            .map(|value| boolean(&value, "response_format.json_schema.strict"))
            .transpose()?,
    };
    nothing_left(&format, at)?;
    Ok((schema, said))
}

impl Tool {
    /// A tool from JSON: a tool of a chat completion (`{"type": "function", "function": {...}}`), or its plain form
    /// (`name`, `description`, `parameters`, `strict`), which is also that of OpenAI's Responses.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`], with the name of the field, if it is neither.
    pub fn from_json(value: Value) -> Result<Self, LlmError> {
        if value.get("function").is_some() {
            return tool(value, "tool");
        }
        let mut fields = object(value, "tool")?;
        if let Some(kind) = take(&mut fields, "type").filter(|kind| kind != "function") {
            return Err(wrong("tool.type", &format!("is {kind}, not \"function\"")));
        }
        function_of(fields.into(), "tool")
    }
}
