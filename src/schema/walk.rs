//! The schemas in a schema.

use serde_json::Value;

use super::pointer::member;

/// Calls `each` with every schema in a schema, itself included, and its path. References are not followed.
pub(crate) fn visit(schema: &Value, path: &str, each: &mut impl FnMut(&Value, &str)) {
    each(schema, path);
    for_each_part(schema, path, &mut |part, path| visit(part, path, each));
}

/// Calls `each` with the schemas right inside a schema.
pub(crate) fn for_each_part<'a>(schema: &'a Value, path: &str, each: &mut impl FnMut(&'a Value, &str)) {
    let Value::Object(keywords) = schema else { return };
    for (keyword, value) in keywords {
        let path = member(path, keyword);
        match (keyword.as_str(), value) {
            (
                "properties" | "patternProperties" | "dependentSchemas" | "$defs" | "definitions",
                Value::Object(parts),
            ) => {
                for (name, part) in parts {
                    each(part, &member(&path, name));
                }
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(parts)) => {
                for (position, part) in parts.iter().enumerate() {
                    each(part, &member(&path, position));
                }
            }
            (
                "items"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "unevaluatedItems"
                | "not"
                | "if"
                | "then"
                | "else"
                | "contains"
                | "propertyNames",
                part @ Value::Object(_),
            ) => each(part, &path),
            _ => {}
        }
    }
}
