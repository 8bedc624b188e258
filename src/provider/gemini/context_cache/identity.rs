//! The name by which a cache is known.

use serde_json::{Map, Value};

/// The number of characters that the provider takes of a display name.
const LONGEST_NAME: usize = 128;

/// The name of a cache of this content and model: the same in every run and every process.
pub(super) fn display_name(model: &str, fields: &Map<String, Value>) -> String {
    let mut hash = Fnv::default();
    hash.add(model.as_bytes());
    hash.add(&[0]);
    add_object(&mut hash, fields);
    let name = format!("llm-batch {:032x} {model}", hash.0);
    name.chars().take(LONGEST_NAME).collect()
}

/// FNV-1a over 128 bits: enough that two contents never meet by chance, and the same on every machine.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        const PRIME: u128 = (1 << 88) + 0x13b;
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
}

/// The fields by name, so that their order does not matter.
fn add_object(hash: &mut Fnv, fields: &Map<String, Value>) {
    let mut names: Vec<_> = fields.keys().collect();
    names.sort();
    hash.add(b"{");
    for name in names {
        add_value(hash, &Value::String(name.clone()));
        hash.add(b":");
        add_value(hash, &fields[name]);
        hash.add(b",");
    }
    hash.add(b"}");
}

fn add_value(hash: &mut Fnv, value: &Value) {
    match value {
        Value::Object(fields) => add_object(hash, fields),
        Value::Array(values) => {
            hash.add(b"[");
            for value in values {
                add_value(hash, value);
                hash.add(b",");
            }
            hash.add(b"]");
        }
        // As JSON, in which texts have marks around them and no two values look the same.
        plain => hash.add(plain.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(model: &str, json: &str) -> String {
        display_name(model, &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_name_is_that_of_content_and_model() {
        let own = name("models/m", r#"{"a": [1, {"x": "y", "z": null}], "b": "c"}"#);
        assert_eq!(
            own,
            name("models/m", r#"{"b": "c", "a": [1, {"z": null, "x": "y"}]}"#)
        );
        for other in [
            name("models/n", r#"{"a": [1, {"x": "y", "z": null}], "b": "c"}"#),
            name("models/m", r#"{"a": [1, {"x": "y", "z": null}], "b": "d"}"#),
            name("models/m", r#"{"a": [{"x": "y", "z": null}, 1], "b": "c"}"#),
            name("models/m", r#"{"a": "[1,{x:y}]", "b": "c"}"#),
        ] {
            assert_ne!(own, other);
        }
        // Names of earlier runs must be found: it never changes.
        assert_eq!(
            name("models/m", r#"{"contents": []}"#),
            "llm-batch 394f1741bb8b591c6702866ec54852cd models/m"
        );
        assert_eq!(name(&"long".repeat(100), "{}").chars().count(), LONGEST_NAME);
    }
}
