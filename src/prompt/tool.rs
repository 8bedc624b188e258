//! Tools that a model may call, and its calls.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::LlmError;

/// A function that the model may call, described to it.
///
/// The model's calls come back in [`LlmResponse::tool_calls`](crate::LlmResponse::tool_calls); the results go into the
/// next prompt with [`Message::tool_result`](crate::Message::tool_result).
///
/// ```
/// use llm_batch::{Prompt, Tool, ToolChoice};
/// use serde_json::json;
///
/// let weather = Tool::new(
///     "weather",
///     json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
/// )
/// .with_description("The weather in a city");
/// let prompt = Prompt::new("Is it raining in Oslo?").with_tool(weather).with_tool_choice(ToolChoice::Required);
/// assert_eq!(prompt.tools()[0].name, "weather");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tool {
    /// The name by which the model calls it.
    pub name: String,
    /// Its purpose, in words for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema of its arguments, an object. None stands for a function without arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// `true` if the provider holds the arguments to the schema; see [`with_strict`](Self::with_strict).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl Tool {
    /// A tool whose arguments follow this JSON Schema.
    pub fn new(name: impl Into<String>, parameters: impl Into<Value>) -> Self {
        Self {
            name: name.into(),
            description: None,
            parameters: Some(parameters.into()),
            strict: None,
        }
    }

    /// Sets the description.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Has the provider hold the arguments to the schema. Off by default.
    ///
    /// The schema is then sent in the subset that the provider takes, as for [`Prompt::with_output_schema`](crate::Prompt::with_output_schema):
    /// in OpenAI's strict form an optional argument may come as null. A schema that has no strict form there is an
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) error. Gemini has no flag per tool: one strict tool makes the
    /// whole choice strict (mode `VALIDATED`).
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = Some(strict);
        self
    }
}

/// `true` if the model has to call a tool, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides. The providers' default where there are tools.
    Auto,
    /// No tool is called.
    None,
    /// Some tool is called.
    Required,
    /// The tool of this name is called.
    Tool(String),
}

/// A call of a tool by the model.
///
/// ```
/// use llm_batch::ToolCall;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Arguments {
///     order: u128,
/// }
///
/// let call = ToolCall::new("call_1", "cancel", r#"{"order": 340282366920938463463374607431768211455}"#);
/// assert_eq!(call.parse::<Arguments>()?.order, u128::MAX);
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// The call's identifier, which its result refers to.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments as the model wrote them, JSON text: integers of any size keep their digits. An answer that was
    /// cut may end inside them.
    pub arguments: String,
    /// A value that the provider wants back with the call: Gemini's `thoughtSignature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Marks an identifier that a provider did not give: it is not sent back to it.
const NUMBERED: &str = "llm-batch-call-";

impl ToolCall {
    /// A call with arguments in JSON text.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            signature: None,
        }
    }

    /// Reads the arguments. No arguments at all are read as an empty object.
    ///
    /// # Errors
    /// [`ErrorKind::Validation`](crate::ErrorKind::Validation) if they are not JSON or do not have the type's form.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, LlmError> {
        serde_json::from_str(self.arguments_or_empty()).map_err(|error| {
            LlmError::validation(format!("the arguments of the call of {}: {error}", self.name))
        })
    }

    /// The arguments; some servers leave out those of a call without any.
    pub(crate) fn arguments_or_empty(&self) -> &str {
        match self.arguments.trim() {
            "" => "{}",
            arguments => arguments,
        }
    }

    /// The identifier where the provider gave one.
    #[cfg(feature = "gemini")]
    pub(crate) fn given_id(id: &str) -> Option<&str> {
        (!id.starts_with(NUMBERED)).then_some(id)
    }

    /// The call in a provider's form. `response` and `number` name one without an identifier, so that it differs from the
    /// calls of other answers. None for a form that has no name.
    pub(crate) fn from_wire(value: &Value, response: &str, number: usize) -> Option<Self> {
        let text = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let numbered = || match response {
            "" => format!("{NUMBERED}{number}"),
            response => format!("{NUMBERED}{response}-{number}"),
        };
        if let Some(call) = value.get("functionCall") {
            return Some(Self {
                id: text(call, "id")
                    .filter(|id| !id.is_empty())
                    .unwrap_or_else(numbered),
                name: text(call, "name")?,
                arguments: json_text(call.get("args")),
                signature: text(value, "thoughtSignature"),
            });
        }
        // Chat completions put name and arguments into `function` or `custom`, the others beside the type.
        let inner = value
            .get("function")
            .or_else(|| value.get("custom"))
            .unwrap_or(value);
        let id = text(value, "call_id").or_else(|| text(value, "id"));
        let is_text = value.get("custom").is_some() || value.get("type") == Some(&"custom_tool_call".into());
        let arguments = inner.get("arguments").or_else(|| inner.get("input"));
        Some(Self {
            id: id.filter(|id| !id.is_empty()).unwrap_or_else(numbered),
            name: text(inner, "name")?,
            arguments: match arguments {
                // The input of a custom tool is text.
                Some(input) if is_text => input.to_string(),
                arguments => json_text(arguments),
            },
            signature: None,
        })
    }
}

/// Arguments as JSON text: most wires send an object, OpenAI's a text.
fn json_text(arguments: Option<&Value>) -> String {
    match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
