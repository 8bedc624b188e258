//! The default input: messages, tools and sampling parameters, in no provider's dialect.

mod from_chat;
mod headers;
mod message;
mod reasoning;
mod tool;

use std::fmt;
use std::sync::Arc;

#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
pub(crate) use self::from_chat::says_nothing;
pub(crate) use self::headers::Headers;
#[cfg(any(feature = "reqwest", feature = "structured"))]
pub(crate) use self::headers::IDEMPOTENCY_KEY;
pub use self::message::{CacheTtl, ImageDetail, Message, Part, Role};
pub use self::reasoning::ReasoningEffort;
pub use self::tool::{Tool, ToolCall, ToolChoice};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A prompt in no provider's dialect: system text, messages, tools, sampling parameters.
///
/// A parameter that was not set is not sent. The payload is behind an `Arc`: a clone costs a counter, and a change
/// to a clone copies first.
///
/// ```
/// use llm_batch::{Message, Prompt};
///
/// let prompt = Prompt::new("What is 6 times 7?")
///     .with_system("Answer with a number only.")
///     .with_temperature(0.0)
///     .with_max_output_tokens(16)
///     .with_extra("service_tier", "flex");
/// let follow_up = prompt.clone().with_message(Message::assistant("42")).with_message(Message::user("And 7 times 8?"));
/// assert_eq!(prompt.messages().len(), 1);
/// assert_eq!(follow_up.messages().len(), 3);
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prompt {
    data: Arc<Data>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Data {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<Arc<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_format: Option<OutputFormat>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<ReasoningEffort>,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    #[serde(skip_serializing_if = "Map::is_empty")]
    chat_fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    extra: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_body: Option<Map<String, Value>>,
}

/// The fields of a chat completion's output format beside the schema, for OpenAI's wires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputFormat {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

impl Prompt {
    /// A prompt of one user message.
    pub fn new(text: impl Into<String>) -> Self {
        Self::default().with_message(Message::user(text))
    }

    /// A request body in the provider's own dialect, sent as it is, unknown fields too; fields set on the prompt
    /// besides ([`with_model`](Self::with_model), [`with_extra`](Self::with_extra)) replace those of the body.
    ///
    /// It may have [headers](Self::with_header). All else that is set on it (messages, a temperature, a schema) would not be
    /// sent, and fails unsent as [`InvalidRequest`](crate::ErrorKind::InvalidRequest).
    pub fn raw(body: Map<String, Value>) -> Self {
        let mut prompt = Self::default();
        prompt.data_mut().raw_body = Some(body);
        prompt
    }

    fn data_mut(&mut self) -> &mut Data {
        Arc::make_mut(&mut self.data)
    }

    /// Adds a message at the end.
    #[must_use]
    pub fn with_message(mut self, message: Message) -> Self {
        self.data_mut().messages.push(message);
        self
    }

    /// Sets the system text.
    #[must_use]
    pub fn with_system(mut self, system: impl Into<String>) -> Self {
        self.data_mut().system = Some(system.into());
        self
    }

    /// Sets the model for this prompt alone, in place of the strategy's.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.data_mut().model = Some(model.into());
        self
    }

    /// Sets the sampling temperature.
    #[must_use]
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.data_mut().temperature = Some(temperature);
        self
    }

    /// Sets nucleus sampling.
    #[must_use]
    pub fn with_top_p(mut self, top_p: f64) -> Self {
        self.data_mut().top_p = Some(top_p);
        self
    }

    /// Sets how many tokens may be generated, reasoning included.
    #[must_use]
    pub fn with_max_output_tokens(mut self, tokens: u32) -> Self {
        self.data_mut().max_output_tokens = Some(tokens);
        self
    }

    /// Adds a sequence at which the model stops.
    #[must_use]
    pub fn with_stop(mut self, stop: impl Into<String>) -> Self {
        self.data_mut().stop.push(stop.into());
        self
    }

    /// Sets the sampling seed.
    #[must_use]
    pub fn with_seed(mut self, seed: i64) -> Self {
        self.data_mut().seed = Some(seed);
        self
    }

    /// Asks for an answer of this JSON Schema.
    ///
    /// A provider that takes only a part of JSON Schema is sent what it takes. OpenAI's strict form wants every property, so
    /// one that is optional may come back as null. Typed answers (feature `structured`) take that into account.
    #[must_use]
    pub fn with_output_schema(mut self, schema: Value) -> Self {
        let data = self.data_mut();
        data.output_schema = Some(Arc::new(schema));
        data.output_format = None;
        data.chat_fields.remove("response_format");
        self
    }

    /// The same with a schema that many prompts share.
    #[cfg(feature = "structured")]
    pub(crate) fn set_output_schema(&mut self, schema: Arc<Value>) {
        let data = self.data_mut();
        data.output_schema = Some(schema);
        data.output_format = None;
        data.chat_fields.remove("response_format");
    }

    /// Adds a tool that the model may call.
    ///
    /// Tools that many prompts share are best set once, by [`Model::with_defaults`](crate::provider::Model::with_defaults).
    #[must_use]
    pub fn with_tool(mut self, tool: Tool) -> Self {
        self.data_mut().tools.push(tool);
        self
    }

    /// Sets whether the model has to call a tool, and which.
    #[must_use]
    pub fn with_tool_choice(mut self, choice: ToolChoice) -> Self {
        let data = self.data_mut();
        data.tool_choice = Some(choice);
        data.chat_fields.remove("tool_choice");
        self
    }

    /// Sets whether the model may call several tools in one turn. Unset, the provider's default holds, which is yes.
    ///
    /// Gemini cannot be kept from it: `false` is an [`InvalidRequest`](crate::ErrorKind::InvalidRequest) error there.
    #[must_use]
    pub fn with_parallel_tool_calls(mut self, parallel: bool) -> Self {
        self.data_mut().parallel_tool_calls = Some(parallel);
        self
    }

    /// Sets how much the model reasons before it answers.
    #[must_use]
    pub fn with_reasoning_effort(mut self, effort: ReasoningEffort) -> Self {
        self.data_mut().reasoning_effort = Some(effort);
        self
    }

    /// Sets a header of every request for this prompt, in place of one of the same name. Several values of one header, such as
    /// `anthropic-beta`, are one text, with commas between.
    ///
    /// All attempts have the same headers, but for an `Idempotency-Key`, which stands for one body: where an attempt has another
    /// one (of another rung of [`Escalate`](crate::recipe::Escalate), or changed by a hook), the key gets a number (`row-7-2`), as
    /// providers refuse a key that comes with two. [`feedback`](crate::recipe::feedback) and [`partial`](crate::recipe::partial()) drop
    /// it with their changes, and [`without_header`](Self::without_header) with yours.
    ///
    /// Its value is not shown by `Debug`; it is part of the prompt's JSON, and of its key in a cache of answers. A header that
    /// the client itself sends (authentication, content type, `User-Agent`, those of its builder) cannot be replaced; such a
    /// prompt fails unsent as [`InvalidRequest`](crate::ErrorKind::InvalidRequest), and so does one with a malformed header.
    ///
    /// ```
    /// use llm_batch::Prompt;
    ///
    /// let prompt = Prompt::new("Hello").with_header("Idempotency-Key", "row-7").with_header("x-team", "search");
    /// let other = prompt.clone().with_system("Be brief.").without_header("idempotency-key");
    /// assert_eq!(prompt.header_names().collect::<Vec<_>>(), ["Idempotency-Key", "x-team"]);
    /// assert_eq!(other.header_names().collect::<Vec<_>>(), ["x-team"]);
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.data_mut().headers.set(name.into(), value.into());
        self
    }

    /// Takes a header of [`with_header`](Self::with_header) back. Names are compared without regard to case.
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Self {
        self.remove_header(name);
        self
    }

    /// The same in place.
    pub(crate) fn remove_header(&mut self, name: &str) {
        if self.data.headers.has(name) {
            self.data_mut().headers.remove(name);
        }
    }

    /// Adds a field to the request body as it is, over whatever the provider would send under that name.
    #[must_use]
    pub fn with_extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.data_mut().extra.insert(name.into(), value.into());
        self
    }

    /// The model for this prompt alone.
    pub fn model(&self) -> Option<&str> {
        self.data.model.as_deref()
    }

    /// The system text.
    pub fn system(&self) -> Option<&str> {
        self.data.system.as_deref()
    }

    /// The messages, in order.
    pub fn messages(&self) -> &[Message] {
        &self.data.messages
    }

    /// The text of the user's messages, with a line break between their texts; empty if there is none, as in a
    /// [raw](Self::raw) prompt.
    ///
    /// ```
    /// use llm_batch::{Message, Prompt};
    ///
    /// let prompt = Prompt::new("6 times 7?").with_message(Message::assistant("42")).with_message(Message::user("Sure?"));
    /// assert_eq!(prompt.user_text(), "6 times 7?\nSure?");
    /// ```
    pub fn user_text(&self) -> String {
        let own = self
            .messages()
            .iter()
            .filter(|message| message.role == Role::User);
        let texts = own
            .flat_map(|message| &message.content)
            .filter_map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                _ => None,
            });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// The messages, to change them.
    pub fn messages_mut(&mut self) -> &mut Vec<Message> {
        &mut self.data_mut().messages
    }

    /// The sampling temperature.
    pub fn temperature(&self) -> Option<f64> {
        self.data.temperature
    }

    /// The nucleus sampling parameter.
    pub fn top_p(&self) -> Option<f64> {
        self.data.top_p
    }

    /// Returns the maximum number of tokens that may be generated.
    pub fn max_output_tokens(&self) -> Option<u32> {
        self.data.max_output_tokens
    }

    /// The stop sequences.
    pub fn stop(&self) -> &[String] {
        &self.data.stop
    }

    /// The sampling seed.
    pub fn seed(&self) -> Option<i64> {
        self.data.seed
    }

    /// The JSON Schema of the answer.
    pub fn output_schema(&self) -> Option<&Value> {
        self.data.output_schema.as_deref()
    }

    /// The tools that the model may call.
    pub fn tools(&self) -> &[Tool] {
        &self.data.tools
    }

    /// Returns `true` if the model has to call a tool.
    pub fn tool_choice(&self) -> Option<&ToolChoice> {
        self.data.tool_choice.as_ref()
    }

    /// Returns `true` if the model may call several tools in one turn.
    pub fn parallel_tool_calls(&self) -> Option<bool> {
        self.data.parallel_tool_calls
    }

    /// The reasoning effort.
    pub fn reasoning_effort(&self) -> Option<ReasoningEffort> {
        self.data.reasoning_effort
    }

    /// The names of the headers of its requests, as they were set. Their values, which may be secrets, are not shown.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.data.headers.names()
    }

    /// The headers of its requests.
    #[cfg(feature = "reqwest")]
    pub(crate) fn headers(&self) -> &Headers {
        &self.data.headers
    }

    /// The name, description and strictness of the output schema.
    #[cfg(feature = "openai")]
    pub(crate) fn output_format(&self) -> Option<&OutputFormat> {
        self.data.output_format.as_ref()
    }

    /// Fields that only chat completions have.
    #[cfg(feature = "reqwest")]
    pub(crate) fn chat_fields(&self) -> &Map<String, Value> {
        &self.data.chat_fields
    }

    /// The extra fields of the request body.
    pub fn extra(&self) -> &Map<String, Value> {
        &self.data.extra
    }

    /// The body given to [`Prompt::raw`].
    pub fn raw_body(&self) -> Option<&Map<String, Value>> {
        self.data.raw_body.as_ref()
    }

    /// Characters of all texts, for estimates.
    pub(crate) fn characters(&self) -> u64 {
        let count = |text: &str| text.chars().count() as u64;
        let messages = self.messages().iter().flat_map(|message| &message.content);
        let tools = self.tools().iter().map(|tool| {
            let schema = tool.parameters.as_ref().map_or(0, json_characters);
            count(&tool.name) + tool.description.as_deref().map_or(0, count) + schema
        });
        self.system().map_or(0, count)
            + messages.map(part_characters).sum::<u64>()
            + tools.sum::<u64>()
            + self
                .data
                .raw_body
                .iter()
                .flat_map(Map::values)
                .map(json_characters)
                .sum::<u64>()
    }
}

fn part_characters(part: &Part) -> u64 {
    let count = |text: &str| text.chars().count() as u64;
    match part {
        Part::Text { text } => count(text),
        // OpenAI's documented cost of a low-detail image is 85 tokens.
        Part::Image { .. } => 340,
        Part::ToolCall(call) => count(&call.name) + count(&call.arguments),
        Part::ToolResult { content, .. } => content.iter().map(part_characters).sum(),
        Part::Reasoning { text, .. } => count(text),
        Part::Json { value } => json_characters(value),
        Part::Native { own, .. } => part_characters(own),
    }
}

/// Characters of all strings in a JSON value.
fn json_characters(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(values) => values.iter().map(json_characters).sum(),
        Value::Object(fields) => fields.values().map(json_characters).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.data.fmt(f)
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Self {
        Self::new(text.as_str())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}
