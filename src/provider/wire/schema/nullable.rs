//! Values that may be null instead.

use serde_json::{Value, json};

use crate::schema::reference::{reference_of, target};

/// The same schema, or null. References lead into `root`.
pub(super) fn nullable(root: &Value, mut schema: Value) -> Value {
    if allows_null(root, &schema, 0) {
        return schema;
    }
    let Value::Object(keywords) = &mut schema else {
        return schema;
    };
    if let Some(Value::Array(branches)) = keywords.get_mut("anyOf") {
        branches.push(json!({ "type": "null" }));
        return schema;
    }
    if keywords.contains_key("$ref") {
        return json!({ "anyOf": [schema, { "type": "null" }] });
    }
    if let Some(value) = keywords.shift_remove("const") {
        keywords.insert("enum".to_owned(), json!([value]));
    }
    if let Some(Value::Array(values)) = keywords.get_mut("enum") {
        values.push(Value::Null);
    }
    match keywords.get_mut("type") {
        Some(Value::Array(types)) => types.push("null".into()),
        Some(kind) => *kind = json!([kind.take(), "null"]),
        None => {}
    }
    schema
}

/// Returns `true` if null is a value of the schema.
fn allows_null(root: &Value, schema: &Value, depth: usize) -> bool {
    if let Some(reference) = reference_of(schema) {
        // References in choices may lead back here; no schema needs many in a row.
        return depth < 4 && target(root, reference).is_some_and(|found| allows_null(root, found, depth + 1));
    }
    let branches = [schema.get("anyOf"), schema.get("oneOf")];
    let mut branches = branches
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten();
    match schema.get("type") {
        Some(Value::String(kind)) => kind == "null",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "null"),
        _ => branches.any(|branch| allows_null(root, branch, depth)),
    }
}
