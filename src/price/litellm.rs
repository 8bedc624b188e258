//! LiteLLM's public list: JSON, US dollars per token.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::models::{ANY, Models, canonical};
use super::rates::{Class, Price};
use super::{Rate, wrong};
use crate::error::LlmError;

/// The entry that is documentation.
const DOCUMENTATION: &str = "sample_spec";

/// An entry by where its price goes.
struct Entry {
    provider: String,
    model: String,
    price: Price,
}

/// Reads the list.
pub(super) fn read(bytes: &[u8]) -> Result<Models, LlmError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let entries = reader
        .deserialize_map(Entries)
        .and_then(|entries| reader.end().map(|()| entries))
        .map_err(|error| wrong(format!("not the JSON of a price list: {error}")))?;
    let mut models = Models::default();
    // `deepseek/deepseek-chat` outranks a `deepseek-chat` of the same provider, wherever they stand.
    let mut prefixed = Vec::new();
    for (key, text) in entries {
        let Some((is_prefixed, entry)) = entry(&key, text)? else {
            continue;
        };
        if is_prefixed {
            prefixed.push(entry);
        } else {
            models.insert(&entry.provider, &entry.model, entry.price);
        }
    }
    for entry in prefixed {
        models.insert(&entry.provider, &entry.model, entry.price);
    }
    Ok(models)
}

/// One entry, and whether its key begins with the provider; none without a price for tokens.
fn entry(key: &str, text: &RawValue) -> Result<Option<(bool, Entry)>, LlmError> {
    if key == DOCUMENTATION || !text.get().starts_with('{') {
        return Ok(None);
    }
    let fields: Map<String, Value> =
        serde_json::from_str(text.get()).map_err(|error| wrong(format!("model {key:?}: {error}")))?;
    let mut price = Price::default();
    for (name, value) in &fields {
        let Some(field) = Field::new(name) else {
            continue;
        };
        let Some(dollars) = number(value) else {
            continue;
        };
        if !dollars.is_finite() || dollars < 0.0 {
            return Err(wrong(format!(
                "model {key:?}: `{name}` is {dollars}; a price is a number of at least 0"
            )));
        }
        let rates = price.rates_mut(field.above, field.rate);
        if !field.is_old || rates.get(field.class).is_none() {
            rates.set(field.class, tidy(dollars * 1e9));
        }
    }
    if price.is_empty() {
        return Ok(None);
    }
    let (provider, model, is_prefixed) = match fields.get("litellm_provider").and_then(Value::as_str) {
        Some(provider) => {
            let model = [provider, canonical(provider)]
                .into_iter()
                .find_map(|provider| key.strip_prefix(provider)?.strip_prefix('/'));
            (provider, model.unwrap_or(key), model.is_some())
        }
        None => match key.split_once('/') {
            Some((provider, model)) => (provider, model, true),
            None => (ANY, key, false),
        },
    };
    let entry = Entry {
        provider: provider.to_owned(),
        model: model.to_owned(),
        price,
    };
    Ok(Some((is_prefixed, entry)))
}

/// The meaning of the name of a field.
struct Field {
    class: Class,
    above: Option<u64>,
    rate: Rate,
    /// `true` if a newer name outranks it.
    is_old: bool,
}

impl Field {
    fn new(name: &str) -> Option<Self> {
        let (name, rate) = match name.strip_suffix("_batches") {
            Some(name) => (name, Rate::Batch),
            None => (name, Rate::Online),
        };
        let (name, above) = match threshold(name) {
            Some((name, above)) => (name, Some(above)),
            None => (name, None),
        };
        let (class, is_old) = match name {
            "input_cost_per_token" => (Class::Input, false),
            "output_cost_per_token" => (Class::Output, false),
            "output_cost_per_reasoning_token" => (Class::Reasoning, false),
            "cache_read_input_token_cost" => (Class::CachedInput, false),
            "input_cost_per_token_cache_hit" => (Class::CachedInput, true),
            "cache_creation_input_token_cost" => (Class::CacheWrite, false),
            "cache_creation_input_token_cost_above_1hr" | "cache_creation_input_token_cost_above_12hr" => {
                (Class::CacheWriteLong, false)
            }
            _ => return None,
        };
        Some(Self {
            class,
            above,
            rate,
            is_old,
        })
    }
}

/// `x_above_200k_tokens` is `x` above 200,000.
fn threshold(name: &str) -> Option<(&str, u64)> {
    let (name, count) = name.strip_suffix("_tokens")?.rsplit_once("_above_")?;
    let (digits, unit) = match count.strip_suffix('k') {
        Some(digits) => (digits, 1_000),
        None => (count, 1),
    };
    Some((name, digits.parse::<u64>().ok()?.checked_mul(unit)?))
}

/// A price, also as a text; none for what stands in its place where there is no price.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Without the last digits of a product, which are noise: 150.00000000000003 is 150.
fn tidy(nanodollars: f64) -> f64 {
    let tidy = (nanodollars * 1e6).round() / 1e6;
    if tidy.is_finite() { tidy } else { nanodollars }
}

/// The entries as they stand in the text, each to be read alone.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an entry for each model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map
                .next_value()
                .map_err(|error| A::Error::custom(format!("model {key:?}: {error}")))?;
            entries.push((key, value));
        }
        Ok(entries)
    }
}
