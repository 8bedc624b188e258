//! The turns of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tool::ToolCall;
use crate::response::{LlmResponse, MediaFile, Wire, call_part};

/// The speaker of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The application, inside the conversation.
    System,
    /// The application, by the name that OpenAI's newer models have for it. Where a provider has no such role, and at
    /// OpenAI-compatible servers of other makers, it is sent as [`Role::System`].
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The tools that the model called. Its content is [`Part::ToolResult`] alone.
    Tool,
}

/// One turn of a conversation.
///
/// ```
/// use llm_batch::{LlmResponse, Message, Prompt};
///
/// /// The prompt that answers the calls in a response.
/// fn answered(prompt: Prompt, response: &LlmResponse, run: impl Fn(&str, &str) -> String) -> Prompt {
///     let results = response.tool_calls().into_iter().map(|call| {
///         let result = run(&call.name, &call.arguments);
///         Message::tool_result(call.id, result)
///     });
///     results.fold(prompt.with_message(Message::from(response)), Prompt::with_message)
/// }
/// # let _ = answered(Prompt::new("x"), &LlmResponse::new(String::new()), |_, _| String::new());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// The speaker of the message.
    pub role: Role,
    /// The content of the message.
    pub content: Vec<Part>,
    /// Marks the end of the message for the prompt cache; see [`with_cache`](Self::with_cache).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheTtl>,
}

impl Message {
    /// A message of several parts.
    pub fn new(role: Role, content: Vec<Part>) -> Self {
        Self {
            role,
            content,
            cache: None,
        }
    }

    /// A text of the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, vec![Part::text(text)])
    }

    /// A text of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, vec![Part::text(text)])
    }

    /// A text of the application, inside the conversation.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, vec![Part::text(text)])
    }

    /// A text of the application for OpenAI's newer models; see [`Role::Developer`].
    pub fn developer(text: impl Into<String>) -> Self {
        Self::new(Role::Developer, vec![Part::text(text)])
    }

    /// A turn of the model in which it calls tools. `Message::from(&response)` is such a turn with everything else that the
    /// model said.
    pub fn tool_calls(calls: impl IntoIterator<Item = ToolCall>) -> Self {
        Self::new(Role::Assistant, calls.into_iter().map(Part::ToolCall).collect())
    }

    /// The result of the tool call with this [identifier](ToolCall::id). Several results in a row are one turn.
    pub fn tool_result(id: impl Into<String>, text: impl Into<String>) -> Self {
        let result = Part::ToolResult {
            id: id.into(),
            content: vec![Part::text(text)],
            is_error: false,
        };
        Self::new(Role::Tool, vec![result])
    }

    /// Returns `true` for a turn of the model that is reasoning and nothing else, as far as this wire is concerned. Blank texts
    /// say nothing.
    #[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
    pub(crate) fn is_reasoning_alone(&self, sent: Wire) -> bool {
        let mut reasons = false;
        let is_nothing_else = |part: &Part| match part {
            Part::Reasoning { .. } => {
                reasons = true;
                true
            }
            Part::Text { text } => text.trim().is_empty(),
            _ => false,
        };
        let mut parts = self.content.iter().filter_map(|part| part.on(sent));
        self.role == Role::Assistant && parts.all(is_nothing_else) && reasons
    }

    /// Marks the end of this message for the provider's prompt cache: later prompts that begin with the same messages read
    /// them from it.
    ///
    /// It is a mark where caching is asked for: at Anthropic, and at OpenRouter, which passes it on. OpenAI, Gemini and
    /// servers of one's own cache what prompts have in common without being asked, and take no such mark, so there it
    /// changes nothing.
    #[must_use]
    pub fn with_cache(mut self, ttl: CacheTtl) -> Self {
        self.cache = Some(ttl);
        self
    }
}

/// The turn of the model in a conversation that goes on: its text, its tool calls, and of its reasoning what the same
/// provider wants back.
///
/// Where the answer holds more than that, the same provider gets every part in its order, and other providers the text and
/// the tool calls. It then comes from [`ResponseMetadata::turn`](crate::ResponseMetadata::turn): clear that if you change
/// the output or the calls of a response before.
///
/// A recording of a chat completion goes back by its identifier, which OpenAI knows until the recording expires; other providers
/// get its transcript.
impl From<&LlmResponse> for Message {
    fn from(response: &LlmResponse) -> Self {
        let id = response.metadata.response_id.as_deref().unwrap_or_default();
        if let Some(turn) = &response.metadata.turn {
            return Self::new(Role::Assistant, turn.message_parts(id));
        }
        let mut content = Vec::new();
        if let Some(reasoning) = &response.metadata.reasoning {
            content.push(Part::Reasoning {
                text: reasoning.text.clone(),
                parts: reasoning.parts.clone(),
            });
        }
        let is_said = !response.output.trim().is_empty();
        if is_said {
            content.push(Part::text(response.output.as_str()));
        }
        let media = response.metadata.media.as_ref();
        content.extend(
            media
                .into_iter()
                .flat_map(|media| &media.audio)
                .filter_map(|audio| spoken(audio, is_said)),
        );
        let calls = response.metadata.tool_calls.iter().enumerate();
        content.extend(calls.map(|(number, value)| call_part(value, id, number)));
        Self::new(Role::Assistant, content)
    }
}

/// A recording of an answer. `is_said` if the words of the answer are there beside it.
fn spoken(recording: &MediaFile, is_said: bool) -> Option<Part> {
    let words = recording
        .transcript
        .as_deref()
        .filter(|_| !is_said)
        .map(Part::text);
    match &recording.id {
        Some(id) => Some(Part::recording(id, words)),
        None => words,
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    Image {
        /// An `https:` address, or a `data:` URL with the image itself in base64.
        url: String,
        /// The detail in which the model looks at it. Unset, the provider decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<ImageDetail>,
    },
    /// A call of a tool, in a turn of the model.
    ToolCall(ToolCall),
    /// The result of a call, in a turn of [`Role::Tool`].
    ToolResult {
        /// The identifier of the call.
        id: String,
        /// Text, or several parts.
        content: Vec<Part>,
        /// The tool failed, and the content says why. OpenAI has no mark for it: there the content alone is sent.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    /// The reasoning of a former answer, as [`response::Reasoning`](crate::response::Reasoning) holds it.
    ///
    /// It is sent where the provider whose it is takes it back (Anthropic's signed thoughts, encrypted reasoning of
    /// OpenAI's Responses, OpenRouter's `reasoning_details`, Gemini's thoughts, DeepSeek's `reasoning_content`), and left out
    /// everywhere else, as it means nothing to other models. Anthropic and Responses refuse reasoning that nothing follows, so
    /// it is left out at the end of a turn there. A turn that has nothing else is left out with it.
    Reasoning {
        /// The readable text.
        text: String,
        /// The parts in the provider's form.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        parts: Vec<Value>,
    },
    /// A part in the provider's own dialect, sent as it is.
    Json {
        /// The part.
        value: Value,
    },
    /// A part of a model's turn that only the provider that sent it can read: what its own tools did, a signed or cited
    /// text. [`Message::from`] makes it of an answer.
    Native {
        /// The interface that takes it.
        wire: Wire,
        /// The part for that interface.
        own: Box<Part>,
        /// The part for all others. None leaves it out there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        elsewhere: Option<Box<Part>>,
    },
}

impl Part {
    /// A piece of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// An image by its `https:` or `data:` URL.
    pub fn image(url: impl Into<String>) -> Self {
        Self::Image {
            url: url.into(),
            detail: None,
        }
    }

    /// An image, and how closely the model looks at it.
    pub fn image_with_detail(url: impl Into<String>, detail: ImageDetail) -> Self {
        Self::Image {
            url: url.into(),
            detail: Some(detail),
        }
    }

    /// The part that is sent over a wire, if any.
    #[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
    pub(crate) fn on(&self, sent: Wire) -> Option<&Self> {
        match self {
            Self::Native { wire, own, .. } if *wire == sent => own.on(sent),
            Self::Native { elsewhere, .. } => elsewhere.as_deref()?.on(sent),
            part => Some(part),
        }
    }

    /// A former recording of a chat completion, which knows it by its identifier. Other wires get its `words`.
    pub(super) fn recording(id: &str, words: Option<Self>) -> Self {
        Self::Native {
            wire: Wire::ChatCompletions,
            own: Box::new(Self::json(serde_json::json!({ "audio": { "id": id } }))),
            elsewhere: words.map(Box::new),
        }
    }

    /// A part in the provider's own dialect.
    pub fn json(value: impl Into<Value>) -> Self {
        Self::Json { value: value.into() }
    }
}

/// The detail in which a model looks at an image, which also decides how many tokens it costs.
///
/// OpenAI's wires take all of them. Anthropic and Gemini have no such setting per image and look at it in full, so there
/// [`Low`](Self::Low) is an [`InvalidRequest`](crate::ErrorKind::InvalidRequest) error and the others change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ImageDetail {
    /// At a low resolution, for few tokens.
    Low,
    /// At a high resolution.
    High,
    /// At the image's own resolution, where the model takes it.
    Original,
    /// The provider decides.
    Auto,
}

/// The time for which the provider's prompt cache keeps a prefix; every use starts the time anew.
///
/// Writing costs 1.25 times the price of input for five minutes and twice that price for an hour; reading a tenth
/// (Anthropic's price page, November 2026).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CacheTtl {
    /// Five minutes, Anthropic's default.
    #[default]
    #[serde(rename = "5m")]
    FiveMinutes,
    /// One hour.
    #[serde(rename = "1h")]
    OneHour,
}

impl CacheTtl {
    /// The mark. Five minutes is what is meant without a time.
    #[cfg(any(feature = "openai", feature = "anthropic"))]
    pub(crate) fn mark(self) -> Value {
        match self {
            Self::FiveMinutes => serde_json::json!({ "type": "ephemeral" }),
            Self::OneHour => serde_json::json!({ "type": "ephemeral", "ttl": "1h" }),
        }
    }
}
