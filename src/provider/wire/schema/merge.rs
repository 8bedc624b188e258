//! Two schemas that both hold, as one.

use serde_json::{Map, Value};

/// A schema of everything that both say, in the order and with the texts of the first. `None` where they say different
/// things about the same.
pub(super) fn merged(
    mut first: Map<String, Value>,
    second: Map<String, Value>,
) -> Option<Map<String, Value>> {
    for (keyword, value) in second {
        let Some(own) = first.get_mut(&keyword) else {
            first.insert(keyword, value);
            continue;
        };
        if *own == value {
            continue;
        }
        match (keyword.as_str(), own, value) {
            ("title" | "description" | "default" | "examples" | "$schema" | "$id", ..) => {}
            // One of them allows no more than its own; together they allow what both name.
            ("additionalProperties" | "unevaluatedProperties", own, _) => *own = Value::Bool(false),
            ("properties" | "$defs" | "definitions", Value::Object(own), Value::Object(others)) => {
                for (name, other) in others {
                    match own.get(&name) {
                        None => {
                            own.insert(name, other);
                        }
                        Some(one) if *one == other => {}
                        Some(_) => return None,
                    }
                }
            }
            ("required", Value::Array(own), Value::Array(others)) => {
                for other in others {
                    if !own.contains(&other) {
                        own.push(other);
                    }
                }
            }
            _ => return None,
        }
    }
    Some(first)
}
