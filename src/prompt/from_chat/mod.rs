//! A prompt from the body of a chat completion.

mod fields;
mod messages;

use serde_json::{Map, Value};

use self::fields::{boolean, list, nothing_left, number, object, take, take_text, text, wrong};
use self::messages::message;
use super::tool::{Tool, ToolChoice};
use super::{OutputFormat, Prompt, ReasoningEffort};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::LlmError;

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

fn stop(value: Value) -> Result<Vec<String>, LlmError> {
    match value {
        Value::String(stop) => Ok(vec![stop]),
        value => list(value, "stop")?
            .into_iter()
            .map(|stop| text(stop, "stop"))
            .collect(),
    }
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
