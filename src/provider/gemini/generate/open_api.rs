//! A JSON Schema in the subset of OpenAPI 3 that `responseSchema` takes.

use serde_json::{Map, Value};

use crate::error::{Delivery, ErrorKind, LlmError};
use crate::schema::reference::{reference_of, target};

/// Deeper than any schema a person writes; a reference to itself is found by then.
const MAX_DEPTH: usize = 32;

/// The keywords that are sent as they are.
const KEPT: [&str; 14] = [
    "title",
    "description",
    "format",
    "enum",
    "required",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
];

/// The schema with its references resolved, types in capitals, `null` as `nullable`, and without what the form does not know.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`], not sent, with the path, for a reference that leads nowhere or into itself.
pub(in super::super) fn schema(schema: &Value) -> Result<Value, LlmError> {
    let converter = Converter { root: schema };
    converter.schema(schema, "$", 0).map(Value::Object)
}

struct Converter<'a> {
    root: &'a Value,
}

impl Converter<'_> {
    fn schema(&self, schema: &Value, path: &str, depth: usize) -> Result<Map<String, Value>, LlmError> {
        if depth > MAX_DEPTH {
            return Err(refused(
                path,
                "it refers to itself, or is too deep; the form `responseSchema` knows no recursion",
            ));
        }
        let Value::Object(fields) = schema else {
            // `true`: anything.
            return Ok(Map::new());
        };
        if let Some(reference) = reference_of(schema) {
            let target = target(self.root, reference)
                .ok_or_else(|| refused(path, &format!("{reference} leads nowhere")))?;
            let mut resolved = self.schema(target, path, depth + 1)?;
            for name in ["title", "description"] {
                if let Some(own) = fields.get(name) {
                    resolved.insert(name.to_owned(), own.clone());
                }
            }
            return Ok(resolved);
        }
        let mut out = Map::new();
        for name in KEPT {
            if let Some(value) = fields.get(name) {
                out.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(value) = fields.get("const") {
            out.insert("enum".to_owned(), Value::Array(vec![value.clone()]));
        }
        self.types(fields, &mut out);
        self.enumeration(&mut out);
        if let Some(items) = fields.get("items") {
            let items = self.schema(items, &format!("{path}.items"), depth + 1)?;
            out.insert("items".to_owned(), items.into());
        }
        if let Some(Value::Object(properties)) = fields.get("properties") {
            let mut converted = Map::new();
            for (name, property) in properties {
                let property = self.schema(property, &format!("{path}.{name}"), depth + 1)?;
                converted.insert(name.clone(), property.into());
            }
            // Without it the model writes the fields in the order of the alphabet.
            let order = properties.keys().cloned().map(Value::String).collect();
            out.insert("properties".to_owned(), converted.into());
            out.insert("propertyOrdering".to_owned(), Value::Array(order));
        }
        let order = fields.get("propertyOrdering");
        out.extend(order.map(|order| ("propertyOrdering".to_owned(), order.clone())));
        for name in ["anyOf", "oneOf"] {
            if let Some(Value::Array(choices)) = fields.get(name) {
                self.choices(choices, &mut out, path, depth)?;
            }
        }
        if let Some(Value::Array(all)) = fields.get("allOf")
            && let [only] = all.as_slice()
        {
            // What generators write around a reference that has a description.
            for (name, value) in self.schema(only, path, depth + 1)? {
                out.entry(name).or_insert(value);
            }
        }
        if fields.get("nullable") == Some(&Value::Bool(true)) {
            out.insert("nullable".to_owned(), true.into());
        }
        Ok(out)
    }

    /// `type`, which is one here, and `null` a property of its own.
    #[allow(clippy::unused_self)]
    fn types(&self, fields: &Map<String, Value>, out: &mut Map<String, Value>) {
        let names: Vec<&str> = match fields.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let is_null = |name: &str| name.eq_ignore_ascii_case("null");
        let capitals = |name: &str| Value::String(name.to_ascii_uppercase());
        let real: Vec<&str> = names.iter().copied().filter(|name| !is_null(name)).collect();
        match real.as_slice() {
            [] if names.is_empty() => {}
            [] => {
                out.insert("type".to_owned(), "NULL".into());
                return;
            }
            [one] => {
                out.insert("type".to_owned(), capitals(one));
            }
            several => {
                let choices = several.iter().map(|name| {
                    let mut choice = Map::new();
                    choice.insert("type".to_owned(), capitals(name));
                    Value::Object(choice)
                });
                out.insert("anyOf".to_owned(), choices.collect());
            }
        }
        if names.iter().any(|name| is_null(name)) {
            out.insert("nullable".to_owned(), true.into());
        }
    }

    /// Only texts can be listed here: `null` among them is `nullable`, and numbers keep their type alone.
    #[allow(clippy::unused_self)]
    fn enumeration(&self, out: &mut Map<String, Value>) {
        let Some(Value::Array(values)) = out.remove("enum") else {
            return;
        };
        if values.iter().any(Value::is_null) {
            out.insert("nullable".to_owned(), true.into());
        }
        let texts: Vec<Value> = values.iter().filter(|value| value.is_string()).cloned().collect();
        let others = values.iter().any(|value| !value.is_string() && !value.is_null());
        if !others && !texts.is_empty() {
            out.entry("type").or_insert_with(|| "STRING".into());
            out.insert("enum".to_owned(), texts.into());
        }
    }

    fn choices(
        &self,
        choices: &[Value],
        out: &mut Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<(), LlmError> {
        let is_null = |choice: &Value| choice.get("type").is_some_and(|kind| kind == "null");
        if choices.iter().any(is_null) {
            out.insert("nullable".to_owned(), true.into());
        }
        let mut converted = Vec::new();
        for (number, choice) in choices.iter().filter(|choice| !is_null(choice)).enumerate() {
            converted.push(self.schema(choice, &format!("{path}.anyOf[{number}]"), depth + 1)?);
        }
        if converted.len() == 1 {
            for (name, value) in converted.into_iter().flatten() {
                out.entry(name).or_insert(value);
            }
        } else if !converted.is_empty() {
            let converted = converted.into_iter().map(Value::Object).collect();
            out.insert("anyOf".to_owned(), Value::Array(converted));
        }
        Ok(())
    }
}

fn refused(path: &str, why: &str) -> LlmError {
    let message = format!("the output schema cannot be sent: at {path}: {why}");
    LlmError::new(ErrorKind::InvalidRequest, message).with_delivery(Delivery::NotSent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::schema;

    #[test]
    fn a_schema_becomes_the_older_form() {
        let person = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Person", "type": "object", "additionalProperties": false,
            "required": ["name", "age"],
            "properties": {
                "name": {"type": "string", "description": "full name", "minLength": 1},
                "age": {"type": ["integer", "null"], "format": "int32", "minimum": 0},
                "tags": {"type": "array", "items": {"type": "string"}, "default": []},
                "pet": {"anyOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}], "description": "if any"},
                "level": {"enum": [1, 2], "type": "integer"},
                "kind": {"const": "person"},
                "either": {"oneOf": [{"type": "string"}, {"type": "number"}]},
                "several": {"type": ["string", "integer"]},
                "wrapped": {"allOf": [{"$ref": "#/$defs/Pet"}], "description": "wrapped"},
            },
            "$defs": {"Pet": {"type": "object", "properties": {"kind": {"enum": ["cat", "dog", null]}}, "required": ["kind"]}},
        });
        let pet = |extra: serde_json::Value| {
            let mut pet = json!({
                "type": "OBJECT", "required": ["kind"], "propertyOrdering": ["kind"],
                "properties": {"kind": {"type": "STRING", "enum": ["cat", "dog"], "nullable": true}},
            });
            pet.as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            pet
        };
        assert_eq!(
            schema(&person).unwrap(),
            json!({
                "title": "Person", "type": "OBJECT", "required": ["name", "age"],
                "propertyOrdering": ["name", "age", "tags", "pet", "level", "kind", "either", "several", "wrapped"],
                "properties": {
                    "name": {"type": "STRING", "description": "full name", "minLength": 1},
                    "age": {"type": "INTEGER", "nullable": true, "format": "int32", "minimum": 0},
                    "tags": {"type": "ARRAY", "items": {"type": "STRING"}},
                    "pet": pet(json!({"nullable": true, "description": "if any"})),
                    "level": {"type": "INTEGER"},
                    "kind": {"type": "STRING", "enum": ["person"]},
                    "either": {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}]},
                    "several": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]},
                    "wrapped": pet(json!({"description": "wrapped"})),
                },
            })
        );
        // What is in that form already stays in it.
        let own = json!({"type": "OBJECT", "properties": {"result": {"type": "NUMBER", "nullable": true}}, "propertyOrdering": ["result"]});
        assert_eq!(schema(&own).unwrap(), own);
    }

    #[test]
    fn recursion_and_lost_references_are_refused_with_their_path() {
        let tree = json!({
            "$ref": "#/$defs/Node",
            "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
        });
        let error = schema(&tree).unwrap_err();
        assert_eq!(error.delivery(), crate::Delivery::NotSent);
        assert!(error.to_string().contains("$.next"), "{error}");
        let lost = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/Nothing"}}});
        assert!(schema(&lost).unwrap_err().to_string().contains("$.a"));
    }
}
