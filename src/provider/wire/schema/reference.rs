//! `$ref`: what it points at, and whether it comes back to where it began.

use serde_json::{Map, Value};

use super::{Refusal, below, for_each_part, visit};

/// Refuses a schema with a reference that leads nowhere, or outside the schema.
pub(super) fn check(root: &Value) -> Result<(), Refusal> {
    let mut wrong = None;
    visit(root, "", &mut |schema, path| {
        if let Some(reference) = reference_of(schema)
            && target(root, reference).is_none()
        {
            wrong.get_or_insert_with(|| Refusal::new(path, format!("a reference to nothing ({reference})")));
        }
    });
    wrong.map_or(Ok(()), Err)
}

/// The reference of a schema.
pub(super) fn reference_of(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()
}

/// The schema that a reference points at.
pub(super) fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(&percent_decoded(reference.strip_prefix('#')?))
}

/// A schema under `$defs`, or under its older name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) container: &'static str,
    pub(super) name: String,
}

impl Definition {
    pub(super) const CONTAINERS: [&'static str; 2] = ["$defs", "definitions"];

    /// Returns the definition that a reference points at, if it points at one.
    pub(super) fn new(reference: &str) -> Option<Self> {
        let path = percent_decoded(reference.strip_prefix("#/")?);
        let (container, name) = path.split_once('/')?;
        let container = Self::CONTAINERS.into_iter().find(|known| *known == container)?;
        let name = (!name.contains('/')).then(|| name.replace("~1", "/").replace("~0", "~"))?;
        Some(Self { container, name })
    }

    /// Its JSON pointer.
    pub(super) fn path(&self) -> String {
        below(&format!("/{}", self.container), &self.name)
    }
}

/// One spelling of a reference.
pub(super) fn canonical(reference: &str) -> String {
    Definition::new(reference).map_or_else(|| reference.to_owned(), |found| format!("#{}", found.path()))
}

/// Returns `true` if a reference points at the whole schema or at one of its definitions: what every provider takes.
pub(super) fn is_named(reference: &str) -> bool {
    reference == "#" || Definition::new(reference).is_some()
}

/// Finds a chain of references that comes back to a schema that it began in: returns the path of the reference that
/// closes it. Optional properties are followed only if that is wanted.
pub(super) fn recursion(root: &Value, through_optional: bool) -> Option<String> {
    let definitions = Definition::CONTAINERS.into_iter().flat_map(|container| {
        let names = root.get(container).and_then(Value::as_object);
        names
            .into_iter()
            .flat_map(Map::keys)
            .map(move |name| below(&format!("/{container}"), name))
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
                        .any(|entry| below("", entry.as_str().unwrap_or_default()) == format!("/{name}"))
                });
            if optional && !self.through_optional {
                return None;
            }
            self.inside(part, &part_path)
        })
    }
}

/// A text in which `%41` stands for `A`. What is malformed stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_resolved() {
        let root = json!({"$defs": {"A<B>": {"type": "null"}, "a/b": {"type": "string"}}});
        assert_eq!(target(&root, "#").unwrap(), &root);
        assert_eq!(
            target(&root, "#/$defs/A%3CB%3E").unwrap(),
            &json!({"type": "null"})
        );
        assert_eq!(target(&root, "#/$defs/a~1b").unwrap(), &json!({"type": "string"}));
        assert!(target(&root, "https://example.com/a.json").is_none());
        assert!(target(&root, "#/$defs/%").is_none());
        let refusal = check(&json!({"properties": {"a": {"items": {"$ref": "#/$defs/None"}}}})).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a reference to nothing (#/$defs/None) at /properties/a/items"
        );
        // A property may have that name.
        check(&json!({"properties": {"$ref": {"type": "string"}}})).unwrap();
    }

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
