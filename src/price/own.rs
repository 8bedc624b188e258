//! A user's own list: TOML, US dollars per million tokens.

use toml::{Table, Value};

use super::models::{ANY, Models};
use super::rates::{Class, Price, Rates};
use super::{Rate, wrong};
use crate::error::LlmError;

/// Nano-dollars a token in a dollar per million tokens.
const NANOS: f64 = 1e3;

/// Reads the list.
pub(super) fn read(bytes: &[u8]) -> Result<Models, LlmError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| wrong("neither the JSON nor the TOML of a price list: it is not UTF-8"))?;
    let file: Table = toml::from_str(text).map_err(|error| {
        wrong(format!(
            "neither the JSON nor the TOML of a price list: {}",
            error.message()
        ))
    })?;
    let mut models = Models::default();
    for (key, value) in &file {
        let (true, Value::Table(entries)) = (key == "models", value) else {
            return Err(wrong(format!(
                "`{key}` is not known; prices stand under [models.\"PROVIDER:MODEL\"]"
            )));
        };
        for (name, value) in entries {
            let named = |message: String| wrong(format!("model {name:?}: {message}"));
            let price = price(value).map_err(named)?;
            // A colon may also be a part of the model's name, as in qwen3:8b.
            if let Some((provider, model)) = name.split_once(':') {
                models.insert(provider, model, price.clone());
            }
            models.insert(ANY, name, price);
        }
    }
    Ok(models)
}

fn price(value: &Value) -> Result<Price, String> {
    let mut price = Price::default();
    read_rates(&mut price, None, value, &["above"])?;
    if let Some(tiers) = value.get("above") {
        let tiers = tiers
            .as_array()
            .ok_or("`above` is a list: above = [{ tokens = 200_000, input = 2.5 }]")?;
        for tier in tiers {
            let above = tier.get("tokens").and_then(Value::as_integer);
            let above = above
                .and_then(|tokens| u64::try_from(tokens).ok())
                .ok_or("`above` needs `tokens`, a whole number")?;
            read_rates(&mut price, Some(above), tier, &["tokens"])?;
        }
    }
    if price.is_empty() {
        return Err("there is no price".to_owned());
    }
    Ok(price)
}

/// The rates in a table, and those under its `batch`. It may hold the keys `also` beside them.
fn read_rates(price: &mut Price, above: Option<u64>, value: &Value, also: &[&str]) -> Result<(), String> {
    let table = value.as_table().ok_or("prices are a table: { input = 0.15 }")?;
    for (key, value) in table {
        match value {
            _ if also.contains(&key.as_str()) => {}
            Value::Table(batch) if key == "batch" => {
                for (key, value) in batch {
                    set(price.rates_mut(above, Rate::Batch), key, value)
                        .map_err(|message| format!("batch: {message}"))?;
                }
            }
            value => set(price.rates_mut(above, Rate::Online), key, value)?,
        }
    }
    Ok(())
}

fn set(rates: &mut Rates, key: &str, value: &Value) -> Result<(), String> {
    let Some(class) = Class::ALL.into_iter().find(|class| class.key() == key) else {
        let keys = Class::ALL.map(|class| format!("`{}`", class.key())).join(", ");
        return Err(format!(
            "`{key}` is not known; there are {keys}, `batch` and `above`"
        ));
    };
    let dollars = match value {
        Value::Float(dollars) => Some(*dollars),
        Value::Integer(dollars) => Some(*dollars as f64),
        _ => None,
    };
    match dollars {
        Some(dollars) if dollars.is_finite() && dollars >= 0.0 => {
            rates.set(class, dollars * NANOS);
            Ok(())
        }
        Some(dollars) => Err(format!(
            "`{key}` is {dollars}; a price is a number of US dollars per million tokens, of at least 0"
        )),
        None => Err(format!(
            "`{key}` is a {}; a price is a number of US dollars per million tokens",
            value.type_str()
        )),
    }
}
