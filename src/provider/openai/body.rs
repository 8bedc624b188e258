//! The common part of the request bodies of both wires.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::prompt::Prompt;
use crate::provider::wire_format::Ask;

/// Writes the user's own body, unchanged but for what the prompt sets besides, and for what a stream needs.
pub(super) fn serialize_raw<S: Serializer>(
    ask: &Ask<'_>,
    raw: &Map<String, Value>,
    for_stream: &[(&str, Value)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let extra = ask.prompt.extra();
    let model = ask.prompt.model().filter(|_| !extra.contains_key("model"));
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in raw {
        match (extra.get(name), model) {
            (Some(value), _) => map.serialize_entry(name, value)?,
            (None, Some(model)) if name == "model" => map.serialize_entry(name, model)?,
            (None, _) => map.serialize_entry(name, value)?,
        }
    }
    if !raw.contains_key("model") && !extra.contains_key("model") {
        map.serialize_entry("model", model.unwrap_or(ask.model))?;
    }
    for (name, value) in extra.iter().filter(|(name, _)| !raw.contains_key(*name)) {
        map.serialize_entry(name, value)?;
    }
    if ask.streamed {
        for (name, value) in for_stream {
            if !raw.contains_key(*name) && !extra.contains_key(*name) {
                map.serialize_entry(name, value)?;
            }
        }
    }
    map.end()
}

/// Writes fields, except those that an extra field of the same name replaces; these come last.
pub(super) struct Fields<'a, M> {
    map: M,
    prompt: &'a Prompt,
    defaults: &'a Prompt,
}

impl<'a, M: SerializeMap> Fields<'a, M> {
    pub(super) fn new(map: M, ask: &Ask<'a>) -> Self {
        Self {
            map,
            prompt: ask.prompt,
            defaults: ask.defaults,
        }
    }

    pub(super) fn set(&mut self, name: &str, value: Option<impl Serialize>) -> Result<(), M::Error> {
        let replaced = self.prompt.extra().contains_key(name) || self.defaults.extra().contains_key(name);
        match value {
            Some(value) if !replaced => self.map.serialize_entry(name, &value),
            _ => Ok(()),
        }
    }

    pub(super) fn end(mut self) -> Result<M::Ok, M::Error> {
        let (extra, defaults) = (self.prompt.extra(), self.defaults.extra());
        let defaults = defaults.iter().filter(|(name, _)| !extra.contains_key(*name));
        for (name, value) in defaults.chain(extra) {
            self.map.serialize_entry(name, value)?;
        }
        self.map.end()
    }
}
