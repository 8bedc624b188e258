//! The handling of the content of an answer beside its text, for the readers of all wires.

use serde_json::Value;

#[cfg(any(feature = "openai", feature = "anthropic"))]
use crate::prompt::Message;
use crate::response::Citation;
#[cfg(any(feature = "openai", feature = "gemini"))]
use crate::response::MediaFile;

/// A message that no part is left of for a provider.
pub(super) const NOTHING_LEFT: &str =
    "a message has no content that this provider takes; give it a text, or leave it out";

/// The messages, each with `true` if it ends the turn of its speaker.
#[cfg(any(feature = "openai", feature = "anthropic"))]
pub(super) fn with_ends(messages: &[Message]) -> impl Iterator<Item = (&Message, bool)> {
    let next = messages.iter().skip(1).map(Some).chain([None]);
    let is_end = |(message, next): (_, Option<&Message>)| {
        let message: &Message = message;
        (message, next.is_none_or(|next| next.role != message.role))
    };
    messages.iter().zip(next).map(is_end)
}

/// A box around what holds something; none for what holds nothing, as most answers do.
pub(super) fn unless_empty<T: Default + PartialEq>(value: T) -> Option<Box<T>> {
    (value != T::default()).then(|| Box::new(value))
}

/// A field that is text and not empty.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// The same, owned.
pub(super) fn owned(value: &Value, name: &str) -> Option<String> {
    text(value, name).map(str::to_owned)
}

/// Adds a passage of reasoning: passages are paragraphs.
#[cfg(any(feature = "openai", feature = "anthropic"))]
pub(super) fn add_passage(text: &mut String, passage: &str) {
    if !text.is_empty() && !passage.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(passage);
}

/// A source, unless nothing is known of it.
pub(super) fn source(url: Option<String>, title: Option<String>, quote: Option<String>) -> Option<Citation> {
    let source = Citation { url, title, quote };
    (source != Citation::default()).then_some(source)
}

/// A file whose content is in base64.
#[cfg(any(feature = "openai", feature = "gemini"))]
pub(super) fn file(mime_type: Option<String>, data: Option<String>) -> MediaFile {
    MediaFile {
        mime_type,
        data,
        ..MediaFile::default()
    }
}

/// A file by its address, which may be a `data:` URL that holds it.
#[cfg(any(feature = "openai", feature = "gemini"))]
pub(super) fn file_at(url: &str) -> MediaFile {
    let inline = url.strip_prefix("data:").and_then(|rest| {
        let (head, data) = rest.split_once(',')?;
        Some((head.strip_suffix(";base64")?, data))
    });
    match inline {
        Some((kind, data)) => {
            let kind = kind.split(';').next().filter(|kind| !kind.is_empty());
            file(kind.map(str::to_owned), Some(data.to_owned()))
        }
        None => MediaFile {
            url: Some(url.to_owned()),
            ..MediaFile::default()
        },
    }
}
