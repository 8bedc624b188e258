//! OpenAI's strict form.
//!
//! Its rules, from the guide to structured outputs (February 2026): the root is an object and no choice; every object is
//! closed and all its properties are required; a choice is `anyOf`; `default` and keywords beside `$ref` are refused.
//! A schema that has no strict form (a map, a value of any type) is sent as it is, and the model follows it as well as it can.

use serde_json::{Map, Value};

use super::rewrite::{Rules, rewrite};
use crate::schema::walk::{for_each_part, visit};

const RULES: Rules = Rules {
    string_formats: &[
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
    ],
    number_formats: &[],
    has: |keyword, _| {
        matches!(
            keyword,
            "minimum"
                | "maximum"
                | "exclusiveMinimum"
                | "exclusiveMaximum"
                | "multipleOf"
                | "pattern"
                | "minItems"
                | "maxItems"
        )
    },
    constants: true,
    tuples: false,
    open: false,
    all_required: true,
};

const MAX_PROPERTIES: usize = 5_000;
const MAX_NESTING: usize = 10;
const MAX_CHOICES: usize = 1_000;
/// Of all names and choices together.
const MAX_CHARACTERS: usize = 120_000;

/// The schema's strict form, if it has one.
pub(super) fn strict(schema: &Value) -> Option<Value> {
    let made = rewrite(schema, &RULES).ok()?;
    (made.get("type").is_some_and(|kind| kind == "object") && is_within_limits(&made)).then_some(made)
}

fn is_within_limits(schema: &Value) -> bool {
    let (mut properties, mut choices, mut characters) = (0, 0, 0);
    visit(schema, "", &mut |schema, _| {
        for container in ["properties", "$defs", "definitions"] {
            for name in schema
                .get(container)
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(Map::keys)
            {
                properties += usize::from(container == "properties");
                characters += name.chars().count();
            }
        }
        let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        for value in values.chain(schema.get("const")) {
            choices += 1;
            characters += value.as_str().map_or(0, |text| text.chars().count());
        }
    });
    properties <= MAX_PROPERTIES
        && choices <= MAX_CHOICES
        && characters <= MAX_CHARACTERS
        && nesting(schema) <= MAX_NESTING
}

/// Returns the depth to which objects stand in each other.
fn nesting(schema: &Value) -> usize {
    let own = usize::from(schema.get("properties").is_some());
    let mut deepest = 0;
    for_each_part(schema, "", &mut |part, _| deepest = deepest.max(nesting(part)));
    own + deepest
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::json;

    use super::*;
    use crate::provider::wire::schema::{Dialect, for_wire};

    #[test]
    fn a_strict_schema_stays_as_it_is() {
        let schema = json!({
            "type": "object",
            "title": "A person",
            "properties": {"name": {"type": "string"}, "pet": {"anyOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]}},
            "required": ["name", "pet"],
            "additionalProperties": false,
            "$defs": {"Pet": {
                "type": "object", "properties": {"kind": {"enum": ["cat"], "type": "string"}}, "required": ["kind"],
                "additionalProperties": false,
            }},
        });
        assert_eq!(strict(&schema), Some(schema));
    }

    #[test]
    fn what_has_no_strict_form_is_sent_as_it_is() {
        for schema in [
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"type": "object", "properties": {"x": true}}),
            json!({"type": "object", "properties": {"x": {"type": "array"}}}),
            json!({"type": "array", "items": {"type": "string"}}),
            json!({"anyOf": [{"type": "object", "properties": {}}, {"type": "string"}]}),
            json!({"type": "object", "properties": {"x": {"enum": (0..1_001).collect::<Vec<_>>()}}}),
            json!(true),
        ] {
            let sent = for_wire(&schema, Dialect::OpenAi).unwrap();
            assert!(matches!(sent, Cow::Borrowed(_)), "{schema}");
        }
    }

    #[test]
    fn rules_without_a_keyword_are_told() {
        let schema = json!({"type": "object", "properties": {
            "code": {"type": "string", "minLength": 2, "description": "A code", "default": "x", "format": "uri"},
            "tag": {"const": "a"},
            "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2, "maxItems": 2},
            "set": {"type": "array", "items": {"type": "integer", "format": "uint8", "minimum": 0}, "uniqueItems": true},
        }, "required": ["code"]});
        assert_eq!(
            strict(&schema).unwrap(),
            json!({"type": "object", "properties": {
                "code": {"type": "string", "description": "A code (minLength: 2, format: uri)"},
                "tag": {"type": ["string", "null"], "enum": ["a", null]},
                "pair": {
                    "type": ["array", "null"], "minItems": 2, "maxItems": 2,
                    "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                    "description": "in this order: string, integer",
                },
                "set": {
                    "type": ["array", "null"], "items": {"type": "integer", "minimum": 0},
                    "description": "uniqueItems: true",
                },
            }, "required": ["code", "tag", "pair", "set"], "additionalProperties": false})
        );
    }

    #[test]
    fn parts_are_joined() {
        // A tag beside the variant that it names, a base beside a choice, and texts beside references.
        let schema = json!({
            "type": "object",
            "properties": {
                "shape": {"oneOf": [
                    {"properties": {"kind": {"const": "circle"}}, "required": ["kind"], "$ref": "#/$defs/Circle"},
                ]},
                "first": {"$ref": "#/$defs/Circle", "description": "The first"},
                "both": {"allOf": [{"$ref": "#/$defs/Circle"}, {"properties": {"y": {"type": "null"}}, "required": ["y"]}]},
                "base": {
                    "type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"],
                    "oneOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"$ref": "#/$defs/Circle"}],
                },
            },
            "required": ["shape", "first", "both", "base"],
            "$defs": {"Circle": {
                "type": "object", "description": "A circle",
                "properties": {"r": {"type": "number"}, "in": {"$ref": "#/$defs/Circle", "description": "Inner"}},
                "required": ["r"],
            }},
        });
        let inner = json!({"anyOf": [{"$ref": "#/$defs/Circle"}, {"type": "null"}]});
        let circle = |description: Option<&str>, more: Value| {
            let mut properties = more.as_object().unwrap().clone();
            properties.insert("r".into(), json!({"type": "number"}));
            properties.insert("in".into(), inner.clone());
            let names: Vec<_> = properties.keys().cloned().collect();
            let mut made = json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false});
            if let Some(text) = description {
                made["description"] = text.into();
            }
            made
        };
        let text = Some("A circle");
        let made = strict(&schema).unwrap();
        let properties = &made["properties"];
        assert_eq!(
            properties["shape"],
            json!({"anyOf": [circle(text, json!({"kind": {"type": "string", "const": "circle"}}))]})
        );
        assert_eq!(properties["first"], circle(Some("The first"), json!({})));
        assert_eq!(
            properties["base"]["anyOf"][1],
            circle(text, json!({"id": {"type": "integer"}}))
        );
        assert_eq!(properties["base"]["anyOf"][0]["required"], json!(["id", "a"]));
        assert!(properties["both"]["properties"].get("y").is_some());
        assert_eq!(made["$defs"], json!({"Circle": circle(text, json!({}))}));
    }
}
