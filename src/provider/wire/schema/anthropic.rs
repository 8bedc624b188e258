//! Anthropic's subset.
//!
//! Every object is closed; there are no rules about numbers and lengths, no maps, no values of any type, no recursion.
//! The service also counts, over the whole schema.

use serde_json::Value;

use super::rewrite::{Rules, rewrite};
use super::{Refusal, recursion::recursion};
use crate::schema::pointer::member;
use crate::schema::walk::visit;

const RULES: Rules = Rules {
    // Those that Anthropic's own client lets through.
    string_formats: &[
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    ],
    number_formats: &[],
    has: |keyword, value| keyword == "minItems" && matches!(value.as_u64(), Some(0 | 1)),
    constants: true,
    tuples: false,
    open: false,
    all_required: false,
};

/// Of properties with several types or a choice.
const MAX_UNIONS: usize = 16;
const MAX_OPTIONAL: usize = 24;

/// The schema as Anthropic takes it.
pub(super) fn subset(schema: &Value) -> Result<Value, Refusal> {
    let made = rewrite(schema, &RULES)?;
    if let Some(path) = recursion(&made, true) {
        return Err(Refusal::new(&path, "a reference that comes back to itself"));
    }
    let (mut unions, mut optional) = (0, 0);
    let mut refusal = None;
    visit(&made, "", &mut |schema, path| {
        let required = schema.get("required").and_then(Value::as_array);
        for (name, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let is_union =
                property.get("anyOf").is_some() || property.get("type").is_some_and(Value::is_array);
            unions += usize::from(is_union);
            optional +=
                usize::from(!required.is_some_and(|list| list.iter().any(|entry| entry == name.as_str())));
            let what = if unions > MAX_UNIONS {
                format!("more than {MAX_UNIONS} properties of several types, from the one")
            } else if optional > MAX_OPTIONAL {
                format!("more than {MAX_OPTIONAL} optional properties, from the one")
            } else {
                continue;
            };
            refusal.get_or_insert_with(|| Refusal::new(&member(&member(path, "properties"), name), what));
        }
    });
    refusal.map_or(Ok(made), Err)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::provider::wire::schema::{Dialect, for_wire};
    use crate::{Delivery, ErrorKind};

    fn refused(schema: &Value) -> String {
        let error = for_wire(schema, Dialect::Anthropic).unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent)
        );
        error.message().to_owned()
    }

    fn object(count: usize, property: &Value, is_required: bool) -> Value {
        let properties: Map<_, _> = (0..count).map(|n| (format!("p{n}"), property.clone())).collect();
        let required: Vec<_> = properties.keys().filter(|_| is_required).collect();
        json!({"type": "object", "required": required, "properties": properties})
    }

    #[test]
    fn rules_are_told_and_objects_closed() {
        let schema = json!({"type": "object", "$schema": "x", "properties": {
            "stars": {"type": "integer", "format": "uint8", "minimum": 1, "maximum": 5, "description": "How many"},
            "tags": {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 2},
            "one": {"type": "array", "items": {"oneOf": [{"const": "a"}, {"type": "null"}]}, "minItems": 1},
        }, "required": ["stars"]});
        assert_eq!(
            subset(&schema).unwrap(),
            json!({"type": "object", "properties": {
                "stars": {"type": "integer", "description": "How many (minimum: 1, maximum: 5)"},
                "tags": {"type": "array", "items": {"type": "string", "format": "uri"}, "description": "minItems: 2"},
                "one": {"type": "array", "items": {"anyOf": [{"type": "string", "const": "a"}, {"type": "null"}]}, "minItems": 1},
            }, "required": ["stars"], "additionalProperties": false})
        );
    }

    #[test]
    fn what_is_refused_is_named() {
        let map = json!({"type": "object", "properties": {"by/name": {"type": "object", "additionalProperties": {"type": "integer"}}}});
        assert_eq!(
            refused(&map),
            "the output schema has properties of any name (a map) at /properties/by~1name, which Anthropic does not take"
        );
        assert!(
            refused(&json!({"type": "object", "properties": {"x": {}}}))
                .contains("any type at /properties/x")
        );
        let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}}});
        assert!(refused(&tree).contains("comes back to itself at /properties/left"));
    }

    #[test]
    fn counts_are_kept() {
        let union = json!({"type": ["string", "null"]});
        let text = json!({"type": "string"});
        for (count, property, is_required, refusal) in [
            (16, &union, true, None),
            (
                17,
                &union,
                true,
                Some("more than 16 properties of several types, from the one at /properties/p16"),
            ),
            (24, &text, false, None),
            (
                25,
                &text,
                false,
                Some("more than 24 optional properties, from the one at /properties/p24"),
            ),
            (200, &text, true, None),
        ] {
            let schema = object(count, property, is_required);
            match refusal {
                None => assert!(for_wire(&schema, Dialect::Anthropic).is_ok(), "{count}"),
                Some(text) => assert!(refused(&schema).contains(text), "{}", refused(&schema)),
            }
        }
    }
}
