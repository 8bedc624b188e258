//! Gemini's subset: the keywords that `responseJsonSchema` is documented to read.

use serde_json::Value;

use super::rewrite::{Rules, rewrite};
use super::{Refusal, recursion::recursion};

const RULES: Rules = Rules {
    string_formats: &["date-time", "date", "time", "duration"],
    number_formats: &["float", "double", "int32", "int64"],
    has: |keyword, _| matches!(keyword, "minimum" | "maximum" | "minItems" | "maxItems"),
    constants: false,
    tuples: true,
    open: true,
    all_required: false,
};

/// The schema as Gemini takes it.
pub(super) fn subset(schema: &Value) -> Result<Value, Refusal> {
    let made = rewrite(schema, &RULES)?;
    // A schema that contains itself is written out to some depth, which needs a property that may be left out.
    match recursion(&made, false) {
        Some(path) => Err(Refusal::new(
            &path,
            "a reference that comes back to itself through required properties only",
        )),
        None => Ok(made),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::wire::schema::{Dialect, for_wire};

    #[test]
    fn only_known_keywords_are_sent() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "kind": {"const": "a", "default": "a"},
                "unit": {"type": ["string", "null"], "enum": ["C", "F", null], "description": "Which"},
                "flag": {"const": true},
                "at": {"type": "string", "format": "email", "pattern": "@"},
                "n": {"type": "integer", "format": "int32", "exclusiveMinimum": 0, "maximum": 9},
                "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
                "map": {"type": "object", "additionalProperties": {"type": "number", "multipleOf": 2}},
                "any": true,
                "list": {"type": "array"},
                "told": {"$ref": "#/$defs/Text", "description": "Beside"},
            },
            "required": ["kind"],
            "additionalProperties": false,
            "$defs": {"Text": {"type": "string", "title": "T"}, "Unused": {"type": "null"}},
        });
        assert_eq!(
            subset(&schema).unwrap(),
            json!({
                "type": "object",
                "properties": {
                    "kind": {"type": "string", "enum": ["a"]},
                    "unit": {"description": "Which", "anyOf": [{"type": "string", "enum": ["C", "F"]}, {"type": "null"}]},
                    "flag": {"type": "boolean", "description": "enum: [true]"},
                    "at": {"type": "string", "description": "format: email, pattern: @"},
                    "n": {"type": "integer", "format": "int32", "maximum": 9, "description": "exclusiveMinimum: 0"},
                    "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
                    "map": {"type": "object", "additionalProperties": {"type": "number", "description": "multipleOf: 2"}},
                    "any": {},
                    "list": {"type": "array"},
                    "told": {"type": "string", "title": "T", "description": "Beside"},
                },
                "required": ["kind"],
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn recursion_needs_an_optional_property() {
        let tree = |required| {
            json!({
                "type": "object", "required": required,
                "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
            })
        };
        assert!(for_wire(&tree(json!([])), Dialect::Gemini).is_ok());
        let error = for_wire(&tree(json!(["children"])), Dialect::Gemini).unwrap_err();
        assert!(
            error.message().contains("at /properties/children/items"),
            "{error}"
        );
    }
}
