//! The part of a JSON Schema for some of its fields.

use serde_json::{Map, Value, json};

use crate::schema::reference::{CONTAINERS, reference_of, target};

/// The maximum number of consecutive references to follow.
const REFERENCES: usize = 32;

/// The schema of an object with only the members at `paths`, each at its place in the whole; `None` if the schema has none
/// of them.
pub(super) fn subset(schema: &Value, paths: &[&[String]]) -> Option<Value> {
    let mut picked = pick(schema, schema, paths)?;
    // Definitions stay at the target of the references.
    for name in CONTAINERS {
        if let (Some(definitions), Some(picked)) = (schema.get(name), picked.as_object_mut()) {
            picked.insert(name.to_owned(), definitions.clone());
        }
    }
    Some(picked)
}

fn pick(root: &Value, node: &Value, paths: &[&[String]]) -> Option<Value> {
    let properties = object(root, node)?.get("properties")?.as_object()?;
    let mut picked = Map::new();
    for (name, property) in properties {
        let inside: Vec<&[String]> = paths
            .iter()
            .filter_map(|path| path.split_first().filter(|(first, _)| *first == name))
            .map(|(_, rest)| rest)
            .collect();
        if inside.is_empty() {
            continue;
        }
        // The whole member if it is missing itself, or if its parts are unknown.
        let part = (!inside.iter().any(|rest| rest.is_empty()))
            .then(|| pick(root, property, &inside))
            .flatten();
        picked.insert(name.clone(), part.unwrap_or_else(|| property.clone()));
    }
    let names: Vec<&String> = picked.keys().collect();
    (!picked.is_empty()).then(
        || json!({"type": "object", "required": names, "properties": picked, "additionalProperties": false}),
    )
}

/// The object schema, with references and optionality resolved.
fn object<'a>(root: &'a Value, mut node: &'a Value) -> Option<&'a Value> {
    for _ in 0..REFERENCES {
        if node.get("properties").is_some() {
            return Some(node);
        }
        if let Some(reference) = reference_of(node) {
            node = target(root, reference)?;
            continue;
        }
        let variants = ["anyOf", "oneOf", "allOf"].iter().find_map(|name| node.get(name));
        let mut variants = variants?
            .as_array()?
            .iter()
            .filter(|variant| variant.get("type").and_then(Value::as_str) != Some("null"));
        match (variants.next(), variants.next()) {
            (Some(only), None) => node = only,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> Vec<Vec<String>> {
        paths
            .iter()
            .map(|path| path.split('/').map(str::to_owned).collect())
            .collect()
    }

    fn subset_of(schema: &Value, names: &[&str]) -> Option<Value> {
        let paths = paths(names);
        subset(schema, &paths.iter().map(|path| &**path).collect::<Vec<_>>())
    }

    #[test]
    fn the_asked_members_stay_where_they_are() {
        let place =
            json!({"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "string"}}});
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer"},
                "home": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
                "work": {"$ref": "#/$defs/Place"},
            },
            "$defs": {"Place": place},
        });
        let object = |properties: Value| {
            let names: Vec<String> = properties.as_object().unwrap().keys().cloned().collect();
            json!({"type": "object", "required": names, "properties": properties, "additionalProperties": false})
        };
        let mut expected = object(json!({
            "age": {"type": "integer"},
            "home": object(json!({"city": {"type": "string"}})),
            "work": {"$ref": "#/$defs/Place"},
        }));
        expected["$defs"] = json!({"Place": place});
        let picked = subset_of(&schema, &["work", "age", "home/city", "work/zip"]);
        assert_eq!(picked, Some(expected));
        assert_eq!(subset_of(&schema, &["nothing"]), None);
    }

    #[test]
    fn a_reference_may_be_percent_encoded() {
        let place = json!({"properties": {"city": {"type": "string"}, "zip": {"type": "string"}}});
        let schema =
            json!({"properties": {"at": {"$ref": "#/$defs/Place%3CA%3E"}}, "$defs": {"Place<A>": place}});
        let picked = subset_of(&schema, &["at/city"]).unwrap();
        assert_eq!(
            picked["properties"]["at"]["properties"],
            json!({"city": {"type": "string"}})
        );
    }

    #[test]
    fn a_circle_of_references_ends() {
        let schema = json!({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}});
        assert_eq!(subset_of(&schema, &["a"]), None);
    }
}
