//! The schemas in a schema.

use serde_json::Value;

use super::pointer::member;

/// The keywords that hold schemas by name.
const BY_NAME: [&str; 6] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "dependencies",
    "$defs",
    "definitions",
];

/// The keywords that hold a list of schemas. `items` is the older form of `prefixItems`.
const LISTS: [&str; 5] = ["anyOf", "oneOf", "allOf", "prefixItems", "items"];

/// The keywords that hold one schema.
const SINGLE: [&str; 12] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "contentSchema",
    "propertyNames",
];

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
        let keyword = keyword.as_str();
        match value {
            Value::Object(parts) if BY_NAME.contains(&keyword) => {
                for (name, part) in parts {
                    each(part, &member(&path, name));
                }
            }
            Value::Array(parts) if LISTS.contains(&keyword) => {
                for (position, part) in parts.iter().enumerate() {
                    each(part, &member(&path, position));
                }
            }
            Value::Object(_) if SINGLE.contains(&keyword) => each(value, &path),
            _ => {}
        }
    }
}

/// Calls `each` with the schemas right inside a schema, to be changed.
pub(crate) fn for_each_part_mut(schema: &mut Value, mut each: impl FnMut(&mut Value)) {
    let Value::Object(keywords) = schema else { return };
    for (keyword, value) in keywords {
        let keyword = keyword.as_str();
        match value {
            Value::Object(parts) if BY_NAME.contains(&keyword) => parts.values_mut().for_each(&mut each),
            Value::Array(parts) if LISTS.contains(&keyword) => parts.iter_mut().for_each(&mut each),
            Value::Object(_) if SINGLE.contains(&keyword) => each(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_properties_are_not_keywords() {
        let mut schema = json!({
            "properties": {"items": {"title": "a"}, "const": {"not": {"title": "b"}}},
            "items": [{"title": "c"}],
            "additionalProperties": {"$defs": {"enum": {"title": "d"}}},
            "const": {"title": "e", "not": {"title": "f"}},
            "default": {"title": "g"},
        });
        let mut seen = Vec::new();
        visit(&schema, "", &mut |schema, path| {
            seen.extend(
                schema
                    .get("title")
                    .and_then(Value::as_str)
                    .map(|title| format!("{title} {path}")),
            );
        });
        assert_eq!(
            seen,
            [
                "a /properties/items",
                "b /properties/const/not",
                "c /items/0",
                "d /additionalProperties/$defs/enum"
            ]
        );
        let mut changed = 0;
        for_each_part_mut(&mut schema, |part| {
            part["title"] = json!("x");
            changed += 1;
        });
        assert_eq!(changed, 4);
        assert_eq!(schema["items"][0]["title"], "x");
        assert_eq!(schema["const"]["title"], "e");
    }
}
