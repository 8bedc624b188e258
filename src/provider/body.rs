//! The common part of the request bodies of all wires: the user's own fields over those of a prompt.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

#[cfg(any(feature = "openai", feature = "gemini"))]
use smallvec::SmallVec;

use super::wire_format::Ask;
#[cfg(any(feature = "openai", feature = "gemini"))]
use crate::prompt::Prompt;

/// The user's own body, unchanged but for what the prompt sets besides: extra fields, the model, and the fields that the
/// call needs.
pub(super) struct RawBody<'a> {
    pub(super) ask: &'a Ask<'a>,
    pub(super) raw: &'a Map<String, Value>,
    /// `true` if the body names the model. If not, the address does.
    pub(super) names_model: bool,
    /// The fields that are added where neither the body nor an extra field has them.
    pub(super) added: &'a [(&'static str, Value)],
}

impl Serialize for RawBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            ask,
            raw,
            names_model,
            added,
        } = *self;
        let extra = ask.prompt.extra();
        let is_set = |name: &str| raw.contains_key(name) || extra.contains_key(name);
        let model = ask.prompt.model().filter(|_| names_model);
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in raw {
            match (extra.get(name), model) {
                (Some(value), _) => map.serialize_entry(name, value)?,
                (None, Some(model)) if name == "model" => map.serialize_entry(name, model)?,
                (None, _) => map.serialize_entry(name, value)?,
            }
        }
        if names_model && !is_set("model") {
            map.serialize_entry("model", model.unwrap_or(ask.model))?;
        }
        for (name, value) in extra.iter().filter(|(name, _)| !raw.contains_key(*name)) {
            map.serialize_entry(name, value)?;
        }
        for (name, value) in added.iter().filter(|(name, _)| !is_set(name)) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The fields of Gemini's `thinkingConfig` that exclude each other.
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
const THINKING_AMOUNT: [&str; 2] = ["thinkingBudget", "thinkingLevel"];

/// Lays the user's fields over ours. Settings in an object inside count one by one, too, as far as they go together; a schema
/// is one value.
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
pub(super) fn lay_over(ours: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        match (name.as_str(), ours.get_mut(name), value) {
            ("thinkingConfig", Some(Value::Object(ours)), Value::Object(more)) => {
                if THINKING_AMOUNT.iter().any(|amount| more.contains_key(*amount)) {
                    ours.retain(|name, _| !THINKING_AMOUNT.contains(&name.as_str()));
                }
                ours.extend(more.clone());
            }
            // One of another type has other fields.
            ("format", Some(Value::Object(ours)), Value::Object(more)) if !more.contains_key("type") => {
                ours.extend(more.clone());
            }
            _ => drop(ours.insert(name.clone(), value.clone())),
        }
    }
}

/// Writes fields, except those that an extra field of the same name replaces; these come last.
#[cfg(any(feature = "openai", feature = "gemini"))]
pub(super) struct Fields<'a, M> {
    map: M,
    prompt: &'a Prompt,
    defaults: &'a Prompt,
    /// The fields that have what the extra ones of their names say.
    merged: SmallVec<[&'static str; 2]>,
}

#[cfg(any(feature = "openai", feature = "gemini"))]
impl<'a, M: SerializeMap> Fields<'a, M> {
    pub(super) fn new(map: M, ask: &Ask<'a>) -> Self {
        Self {
            map,
            prompt: ask.prompt,
            defaults: ask.defaults,
            merged: SmallVec::new(),
        }
    }

    pub(super) fn set(&mut self, name: &str, value: Option<impl Serialize>) -> Result<(), M::Error> {
        let Some(value) = value else { return Ok(()) };
        if self.prompt.extra().contains_key(name) || self.defaults.extra().contains_key(name) {
            return Ok(());
        }
        self.map.serialize_entry(name, &value)
    }

    /// Writes an object over which the fields of the extra objects of the same name are [laid](lay_over), so that all count.
    /// Where such a field is not an object, the user's word stands.
    pub(super) fn merge(&mut self, name: &'static str, mut ours: Map<String, Value>) -> Result<(), M::Error> {
        let default = self.defaults.extra().get(name);
        let own = self.prompt.extra().get(name);
        if own.or(default).is_some_and(|word| !word.is_object()) {
            return Ok(());
        }
        for fields in [default, own].into_iter().flatten().filter_map(Value::as_object) {
            lay_over(&mut ours, fields);
        }
        if !ours.is_empty() {
            self.map.serialize_entry(name, &ours)?;
        }
        self.merged.push(name);
        Ok(())
    }

    /// Writes the fields of a chat completion that a prompt has no word for, as far as the wire has them.
    #[cfg(feature = "openai")]
    pub(super) fn chat_fields(&mut self, ask: &Ask<'_>, sent: impl Fn(&str) -> bool) -> Result<(), M::Error> {
        for (name, value) in ask.chat_fields().filter(|(name, _)| sent(name)) {
            self.set(name, Some(value))?;
        }
        Ok(())
    }

    /// Writes the extra fields that are `wanted`.
    pub(super) fn end(mut self, wanted: impl Fn(&str) -> bool) -> Result<M::Ok, M::Error> {
        let (extra, defaults) = (self.prompt.extra(), self.defaults.extra());
        let defaults = defaults.iter().filter(|(name, _)| !extra.contains_key(*name));
        let all = defaults.chain(extra);
        let wanted = |name: &str| !self.merged.contains(&name) && wanted(name);
        for (name, value) in all.filter(|(name, _)| wanted(name)) {
            self.map.serialize_entry(name, value)?;
        }
        self.map.end()
    }
}
