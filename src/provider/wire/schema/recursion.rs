//! References that come back to where they began.

use serde_json::{Map, Value};

use crate::schema::pointer::member;
use crate::schema::reference::{CONTAINERS, canonical, reference_of, target};
use crate::schema::walk::for_each_part;

/// Finds a chain of references that comes back to a schema that it began in: returns the path of the reference that
/// closes it. Optional properties are followed only if that is wanted.
pub(super) fn recursion(root: &Value, through_optional: bool) -> Option<String> {
    let definitions = CONTAINERS.into_iter().flat_map(|container| {
        let names = root.get(container).and_then(Value::as_object);
        names
            .into_iter()
            .flat_map(Map::keys)
            .map(move |name| member(&format!("/{container}"), name))
    });
    let mut search = Search {
        root,
        through_optional,
        stack: Vec::new(),
        clean: Vec::new(),
    };
    std::iter::once(String::new())
        .chain(definitions)
        .find_map(|start| search.follow(&format!("#{start}"), ""))
}

struct Search<'a> {
    root: &'a Value,
    through_optional: bool,
    /// The references that are being followed.
    stack: Vec<String>,
    /// Those that were followed to their end.
    clean: Vec<String>,
}

impl Search<'_> {
    fn follow(&mut self, reference: &str, path: &str) -> Option<String> {
        // Two spellings of one reference are one.
        let reference = &canonical(reference);
        if self.stack.contains(reference) {
            return Some(path.to_owned());
        }
        if self.clean.contains(reference) {
            return None;
        }
        let schema = target(self.root, reference)?;
        self.stack.push(reference.clone());
        let found = self.inside(schema, reference.trim_start_matches('#'));
        self.stack.pop();
        self.clean.push(reference.clone());
        found
    }

    fn inside(&mut self, schema: &Value, path: &str) -> Option<String> {
        if let Some(reference) = reference_of(schema)
            && let Some(found) = self.follow(reference, path)
        {
            return Some(found);
        }
        let required = schema.get("required").and_then(Value::as_array);
        let mut parts = Vec::new();
        for_each_part(schema, path, &mut |part, path| {
            parts.push((part, path.to_owned()))
        });
        parts.into_iter().find_map(|(part, part_path)| {
            let (parent, name) = part_path.rsplit_once('/')?;
            let keyword = parent.strip_prefix(path).unwrap_or_default();
            if matches!(keyword, "/$defs" | "/definitions") {
                return None;
            }
            let optional = keyword == "/properties"
                && !required.is_some_and(|list| {
                    list.iter()
                        .any(|entry| member("", entry.as_str().unwrap_or_default()) == format!("/{name}"))
                });
            if optional && !self.through_optional {
                return None;
            }
            self.inside(part, &part_path)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn recursion_is_found() {
        let node = |required: Value| {
            json!({
                "type": "object",
                "properties": {"next": {"$ref": "#"}, "other": {"$ref": "#/$defs/Leaf"}, "again": {"$ref": "#/$defs/Leaf"}},
                "required": required,
                "$defs": {"Leaf": {"type": "string"}},
            })
        };
        assert_eq!(
            recursion(&node(json!(["next"])), false).unwrap(),
            "/properties/next"
        );
        assert_eq!(recursion(&node(json!([])), false), None);
        assert_eq!(recursion(&node(json!([])), true).unwrap(), "/properties/next");
        // Behind an optional property, but required inside.
        let inner = json!({
            "properties": {"tree": {"$ref": "#/$defs/Tree"}},
            "$defs": {"Tree": {
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
                "required": ["children"],
            }},
        });
        assert_eq!(
            recursion(&inner, false).unwrap(),
            "/$defs/Tree/properties/children/items"
        );
    }
}
