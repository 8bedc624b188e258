//! `$ref`: its target in the same schema.

use serde_json::Value;

use super::pointer::{member, unescaped};

/// The keywords whose members are definitions: the name, and the older one.
pub(crate) const CONTAINERS: [&str; 2] = ["$defs", "definitions"];

/// The reference of a schema.
pub(crate) fn reference_of(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()
}

/// The schema that a reference points at.
pub(crate) fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(&percent_decoded(reference.strip_prefix('#')?))
}

/// A schema under `$defs`, or under its older name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) container: &'static str,
    pub(crate) name: String,
}

impl Definition {
    /// Returns the definition that a reference points at, if it points at one.
    pub(crate) fn new(reference: &str) -> Option<Self> {
        let path = percent_decoded(reference.strip_prefix("#/")?);
        let (container, name) = path.split_once('/')?;
        let container = CONTAINERS.into_iter().find(|known| *known == container)?;
        let name = (!name.contains('/')).then(|| unescaped(name))?;
        Some(Self { container, name })
    }

    /// Its JSON pointer.
    pub(crate) fn path(&self) -> String {
        member(&format!("/{}", self.container), &self.name)
    }
}

/// One spelling of a reference.
pub(crate) fn canonical(reference: &str) -> String {
    Definition::new(reference).map_or_else(|| reference.to_owned(), |found| format!("#{}", found.path()))
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
    }
}
