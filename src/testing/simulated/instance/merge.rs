//! The merge of schemas.

use serde_json::{Map, Value, json};

pub(super) fn without(fields: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let others = fields.iter().filter(|(other, _)| *other != name);
    others
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Adds the requirements of `part`. Properties in both, and anything else that cannot be merged, become `allOf`.
pub(super) fn merge(fields: &mut Map<String, Value>, part: Map<String, Value>) {
    for (name, value) in part {
        let Some(known) = fields.get_mut(&name) else {
            fields.insert(name, value);
            continue;
        };
        match (name.as_str(), known, value) {
            ("properties", Value::Object(known), Value::Object(more)) => {
                for (name, schema) in more {
                    match known.get_mut(&name) {
                        None => drop(known.insert(name, schema)),
                        Some(both) if *both != schema => *both = json!({ "allOf": [both.take(), schema] }),
                        Some(_) => {}
                    }
                }
            }
            ("required", Value::Array(known), Value::Array(more)) => known.extend(more),
            ("minimum" | "exclusiveMinimum" | "minItems" | "minLength" | "minProperties", known, value)
                if value.as_f64() > known.as_f64() =>
            {
                *known = value;
            }
            ("maximum" | "exclusiveMaximum" | "maxItems" | "maxLength" | "maxProperties", known, value)
                if value.as_f64() < known.as_f64() =>
            {
                *known = value;
            }
            // Two lists of variants or parts both apply.
            ("anyOf" | "oneOf" | "allOf", known, value) if *known != value => {
                let both = [
                    json!({ (name.as_str()): known.take() }),
                    json!({ (name.as_str()): value }),
                ];
                fields.remove(&name);
                match fields.get_mut("allOf") {
                    Some(Value::Array(parts)) => parts.extend(both),
                    _ => drop(fields.insert("allOf".to_owned(), Value::Array(both.to_vec()))),
                }
            }
            ("additionalProperties", known, value @ (Value::Object(_) | Value::Bool(false))) => {
                *known = value
            }
            // Titles, descriptions, types: the nearer one takes precedence.
            _ => {}
        }
    }
}
