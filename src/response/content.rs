//! The parts of an answer beside its text: reasoning, log probabilities, citations, images and audio.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The reasoning of a model, as far as the provider reveals it.
///
/// It is never part of [`LlmResponse::output`](crate::LlmResponse::output). The number of tokens is in
/// [`TokenUsage::reasoning`](crate::TokenUsage::reasoning).
///
/// ```
/// use llm_batch::LlmResponse;
///
/// fn thoughts(response: &LlmResponse) -> &str {
///     response.metadata.reasoning.as_ref().map_or("", |reasoning| &reasoning.text)
/// }
/// # assert_eq!(thoughts(&LlmResponse::new(String::new())), "");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Reasoning {
    /// The readable text, or the summary where the provider sends only that. Empty if the reasoning is encrypted.
    pub text: String,
    /// The reasoning as the provider sent it, with the signatures and encrypted parts that a later turn has to send
    /// back; empty where it was plain text.
    ///
    /// Anthropic's `thinking` and `redacted_thinking` blocks, OpenRouter's `reasoning_details`, the `reasoning` items of
    /// OpenAI's Responses, Gemini's `thought` parts, Mistral's `thinking` parts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Value>,
}

/// The log probabilities of the tokens of an answer, where they were asked for.
///
/// ```
/// use llm_batch::LlmResponse;
///
/// /// The probability of the first token, for a classifier that answers with one.
/// fn confidence(response: &LlmResponse) -> Option<f64> {
///     let logprobs = response.metadata.logprobs.as_ref()?;
///     Some(logprobs.tokens.first()?.logprob.exp())
/// }
/// # assert_eq!(confidence(&LlmResponse::new(String::new())), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Logprobs {
    /// The tokens of the answer in order. Empty where the provider reports only the mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenLogprob>,
    /// The mean over all tokens, where the provider reports it (Gemini).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
}

/// A token and its log probability.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token as text.
    pub token: String,
    /// Its natural logarithm of the probability: 0 is certain, minus infinity impossible (`null` in JSON, which has no infinity).
    #[serde(deserialize_with = "number_or_minus_infinity")]
    pub logprob: f64,
    /// Its bytes, where the provider sends them: a token can be a part of a character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    /// The most likely tokens at this position, as many as were asked for; empty in each of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenLogprob>,
}

fn number_or_minus_infinity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|number| number.unwrap_or(f64::NEG_INFINITY))
}

/// The references of an answer: web pages, files, passages of documents.
///
/// ```
/// use llm_batch::LlmResponse;
///
/// fn urls(response: &LlmResponse) -> Vec<&str> {
///     let citations = response.metadata.citations.as_ref();
///     let sources = citations.map_or(&[][..], |citations| &citations.sources);
///     sources.iter().filter_map(|source| source.url.as_deref()).collect()
/// }
/// # assert!(urls(&LlmResponse::new(String::new())).is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Citations {
    /// The sources, in the order in which the provider names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Citation>,
    /// The citations as the provider sent them, with the places in the text that they support.
    ///
    /// OpenAI's `annotations`, Anthropic's `citations`, Perplexity's `search_results`; of Gemini an object each with
    /// `groundingMetadata`, `citationMetadata` or `urlContextMetadata`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Value>,
}

/// A source that an answer refers to. Every field may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Citation {
    /// The address of a web page or document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The title of the page or document, or the name of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The passage of the source that is cited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
}

/// The choices after the first of a reply with several (`n`, Gemini's `candidateCount`). The first one is
/// [`LlmResponse::output`](crate::LlmResponse::output).
///
/// ```
/// use llm_batch::LlmResponse;
///
/// fn number_of_answers(response: &LlmResponse) -> usize {
///     let further = response.metadata.further_choices.as_ref();
///     1 + further.map_or(0, |further| further.choices.len())
/// }
/// # assert_eq!(number_of_answers(&LlmResponse::new(String::new())), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FurtherChoices {
    /// The choices in the provider's form and order. They are not read, and not checked against a schema.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Value>,
}

/// The images and audio of an answer.
///
/// ```
/// use llm_batch::LlmResponse;
///
/// fn first_image(response: &LlmResponse) -> Option<&str> {
///     response.metadata.media.as_ref()?.images.first()?.data.as_deref()
/// }
/// # assert_eq!(first_image(&LlmResponse::new(String::new())), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Media {
    /// Images, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<MediaFile>,
    /// Audio, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audio: Vec<MediaFile>,
    /// Files of other types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<MediaFile>,
}

/// An image, a recording or another file of an answer. Every field may be missing.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MediaFile {
    /// The media type (`image/png`), where the provider reports it. OpenAI's audio has the format of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// The content in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The address, where the content was not sent along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The provider's identifier, by which a later turn can refer to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The words of a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<String>,
}

impl fmt::Debug for MediaFile {
    /// Shows the size of the content in place of the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |data: &String| format!("{} characters of base64", data.len());
        f.debug_struct("MediaFile")
            .field("mime_type", &self.mime_type)
            .field("data", &self.data.as_ref().map(size))
            .field("url", &self.url)
            .field("id", &self.id)
            .field("transcript", &self.transcript)
            .finish()
    }
}
