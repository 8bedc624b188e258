//! Keywords: their subjects, and their descriptions in words.

use serde_json::{Map, Value, json};

/// Rules about a value. Those that a subset does not have are put in the description.
pub(super) const RULES: [&str; 25] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "unevaluatedItems",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "not",
    "if",
    "then",
    "else",
    "contentEncoding",
];

/// Keywords about the schema as a text, and hints that no provider reads.
pub(super) fn is_about_the_schema(keyword: &str) -> bool {
    matches!(
        keyword,
        "$defs"
            | "definitions"
            | "$schema"
            | "$id"
            | "$comment"
            | "examples"
            | "deprecated"
            | "readOnly"
            | "writeOnly"
    )
}

/// The types that a schema names, or that follow from its other keywords.
pub(super) fn types(schema: &Map<String, Value>) -> Vec<String> {
    match schema.get("type") {
        Some(Value::String(kind)) => return vec![kind.clone()],
        Some(Value::Array(kinds)) => {
            return kinds
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
        }
        _ => {}
    }
    let values = schema.get("enum").and_then(Value::as_array);
    let mut types: Vec<String> = Vec::new();
    for value in values.into_iter().flatten().chain(schema.get("const")) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !types.iter().any(|entry| entry == kind) {
            types.push(kind.to_owned());
        }
    }
    let has = |keyword: &str| schema.contains_key(keyword);
    if types.is_empty() && (has("properties") || has("additionalProperties")) {
        types.push("object".to_owned());
    }
    if types.is_empty() && (has("items") || has("prefixItems")) {
        types.push("array".to_owned());
    }
    types
}

pub(super) fn one_or_many(types: &[String]) -> Value {
    match types {
        [only] => only.as_str().into(),
        many => many.into(),
    }
}

pub(super) fn tell(keyword: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{keyword}: {text}"),
        value => format!("{keyword}: {value}"),
    }
}

/// Adds what the subset has no keyword for to the description.
pub(super) fn describe(made: &mut Map<String, Value>, described: &[String]) {
    if described.is_empty() {
        return;
    }
    let described = described.join(", ");
    let text = match made.get("description").and_then(Value::as_str) {
        Some(text) => format!("{text} ({described})"),
        None => described,
    };
    made.insert("description".to_owned(), text.into());
}

/// Texts of a choice that may be null as well: two schemas, where a choice has only texts and numbers.
pub(super) fn separated(made: Map<String, Value>) -> Value {
    let Some(Value::Array(types)) = made.get("type") else {
        return Value::Object(made);
    };
    if !made.contains_key("enum") || !types.iter().any(|kind| kind == "null") {
        return Value::Object(made);
    }
    let others: Vec<String> = types
        .iter()
        .filter_map(Value::as_str)
        .filter(|kind| *kind != "null")
        .map(str::to_owned)
        .collect();
    let mut choice = made;
    let mut around = Map::new();
    for keyword in ["title", "description"] {
        if let Some(text) = choice.shift_remove(keyword) {
            around.insert(keyword.to_owned(), text);
        }
    }
    choice.insert("type".to_owned(), one_or_many(&others));
    around.insert("anyOf".to_owned(), json!([choice, { "type": "null" }]));
    Value::Object(around)
}
