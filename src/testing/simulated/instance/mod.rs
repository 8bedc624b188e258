//! An instance of a JSON Schema.

mod leaf;
mod merge;

use serde_json::{Map, Value, json};

use self::leaf::{allows_all, kind, number, strings, text};
use self::merge::{merge, without};
use crate::schema::reference::{reference_of, target};

pub(super) use self::leaf::echo;

/// The maximum number of schemas visited for one answer: enough for any real schema, and a bound for malicious ones.
const MOST_STEPS: usize = 20_000;
/// The maximum depth of nested schemas, references and variants included.
const DEEPEST: usize = 100;

/// A small value that a JSON Schema allows; supports the keywords that Rust's `schemars`, Python's
/// `pydantic` and the providers' own dialects use. Texts echo the question.
///
/// Optional properties are present, nullable values are not null, lists have one element, numbers are 42, each if
/// the schema allows it. So equivalent schemas in the dialects of two wire formats get the same instance. A recursive
/// schema ends at the first repetition, by an empty list, a null or another variant.
pub(super) fn instance(schema: &Value, question: &str) -> Value {
    let mut maker = Maker {
        root: schema,
        question,
        open: vec!["#".to_owned()],
        steps: 0,
        depth: 0,
    };
    maker.make(schema, 0).unwrap_or_default()
}

struct Maker<'a> {
    root: &'a Value,
    question: &'a str,
    /// The references being followed.
    open: Vec<String>,
    steps: usize,
    depth: usize,
}

impl Maker<'_> {
    /// Returns an instance; `nth` distinguishes the elements of a set. `None` if every instance is infinitely recursive.
    fn make(&mut self, schema: &Value, nth: usize) -> Option<Value> {
        self.steps += 1;
        if self.steps > MOST_STEPS || self.depth >= DEEPEST {
            return None;
        }
        self.depth += 1;
        let made = self.make_inside(schema, nth);
        self.depth -= 1;
        made
    }

    fn make_inside(&mut self, schema: &Value, nth: usize) -> Option<Value> {
        let fields = match schema {
            Value::Bool(false) => return None,
            Value::Object(fields) => fields,
            _ => return Some(self.anything()),
        };
        if let Some(reference) = reference_of(schema) {
            return self.follow(reference, fields, nth);
        }
        if let Some(Value::Array(parts)) = fields.get("allOf") {
            let mut merged = without(fields, "allOf");
            for part in parts {
                merge(&mut merged, self.resolved(part)?);
            }
            return self.make(&Value::Object(merged), nth);
        }
        for name in ["anyOf", "oneOf"] {
            if let Some(Value::Array(variants)) = fields.get(name) {
                return self.choose(&without(fields, name), variants, nth);
            }
        }
        if let Some(value) = fields.get("const") {
            return Some(value.clone());
        }
        if let Some(Value::Array(values)) = fields.get("enum") {
            let some: Vec<_> = values.iter().filter(|value| !value.is_null()).collect();
            return match some.as_slice() {
                [] => values.first().cloned(),
                some => some.get(nth % some.len()).map(|value| (*value).clone()),
            };
        }
        match kind(fields).as_str() {
            "object" => self.object(fields),
            "array" => self.array(fields),
            "string" => Some(text(fields, self.question, nth).into()),
            "integer" => Some(number(fields, true, nth)),
            "number" => Some(number(fields, false, nth)),
            "boolean" => Some(nth.is_multiple_of(2).into()),
            "null" => Some(Value::Null),
            // A schema that does not allow any value.
            _ if fields.get("not").is_some_and(allows_all) => None,
            _ => Some(self.anything()),
        }
    }

    fn anything(&self) -> Value {
        json!({ "answer": echo(self.question) })
    }

    fn follow(&mut self, reference: &str, fields: &Map<String, Value>, nth: usize) -> Option<Value> {
        if self.open.iter().any(|open| open == reference) {
            return None;
        }
        let mut merged = without(fields, "$ref");
        self.open.push(reference.to_owned());
        let made = match self.target(reference) {
            Value::Object(fields) => {
                merge(&mut merged, fields);
                self.make(&Value::Object(merged), nth)
            }
            other => self.make(&other, nth),
        };
        self.open.pop();
        made
    }

    fn target(&self, reference: &str) -> Value {
        let found = target(self.root, reference);
        found.cloned().unwrap_or(Value::Bool(true))
    }

    /// The fields of a part of `allOf`, with references resolved. The variants of a part remain to be chosen.
    fn resolved(&mut self, part: &Value) -> Option<Map<String, Value>> {
        self.steps += 1;
        if self.steps > MOST_STEPS || self.depth >= DEEPEST {
            return None;
        }
        let Value::Object(fields) = part else {
            return (part != &Value::Bool(false)).then(Map::new);
        };
        let Some(reference) = reference_of(part) else {
            return Some(fields.clone());
        };
        let mut merged = without(fields, "$ref");
        let target = self.target(reference);
        // The depth bounds cyclic references before the stack overflows.
        self.depth += 1;
        let target = self.resolved(&target);
        self.depth -= 1;
        merge(&mut merged, target?);
        Some(merged)
    }

    fn choose(&mut self, common: &Map<String, Value>, variants: &[Value], nth: usize) -> Option<Value> {
        let mut null = None;
        for index in 0..variants.len() {
            let variant = &variants[(index + nth) % variants.len()];
            let made = match variant {
                Value::Object(fields) => {
                    let mut merged = common.clone();
                    merge(&mut merged, fields.clone());
                    self.make(&Value::Object(merged), nth)
                }
                other => self.make(other, nth),
            };
            match made {
                Some(Value::Null) => null = Some(Value::Null),
                Some(value) => return Some(value),
                None => {}
            }
        }
        null
    }

    fn object(&mut self, fields: &Map<String, Value>) -> Option<Value> {
        let mut made = Map::new();
        let required: Vec<&str> = strings(fields.get("required"));
        for (name, schema) in fields
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            match self.make(schema, 0) {
                Some(value) => drop(made.insert(name.clone(), value)),
                None if required.contains(&name.as_str()) => return None,
                None => {}
            }
        }
        let patterns = fields.get("patternProperties").and_then(Value::as_object);
        let pattern = patterns.and_then(|patterns| patterns.iter().next());
        let more = match (fields.get("additionalProperties"), pattern) {
            (_, Some((pattern, schema))) => {
                Some((schema, pattern.contains("\\d") || pattern.contains("0-9")))
            }
            (Some(schema @ (Value::Object(_) | Value::Bool(true))), None) => Some((schema, false)),
            _ => None,
        };
        let anything = Value::Bool(true);
        for name in required {
            if !made.contains_key(name) {
                let value = self.make(more.map_or(&anything, |(schema, _)| schema), 0)?;
                made.insert(name.to_owned(), value);
            }
        }
        // A map has one entry, unless more are required.
        let least = fields.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        let most = fields
            .get("maxProperties")
            .and_then(Value::as_u64)
            .unwrap_or(u64::MAX);
        let is_map = made.is_empty() && more.is_some_and(|(schema, _)| schema != &Value::Bool(true));
        let wanted = least.max(u64::from(is_map)).min(most).min(1_000);
        let names = fields.get("propertyNames");
        for nth in 0.. {
            if made.len() as u64 >= wanted {
                break;
            }
            let (schema, digits) = more.unwrap_or((&anything, false));
            let name = match names.map(|names| self.make(names, nth)) {
                Some(Some(Value::String(name))) => name,
                _ if digits => (42 + nth).to_string(),
                _ => format!("key{}", nth + 1),
            };
            match self.make(schema, nth) {
                // Repeated names would never reach the number.
                Some(value) if nth < 2_000 => drop(made.insert(name, value)),
                _ if (made.len() as u64) < least => return None,
                _ => break,
            }
        }
        Some(Value::Object(made))
    }

    fn array(&mut self, fields: &Map<String, Value>) -> Option<Value> {
        let count = |name: &str| fields.get(name).and_then(Value::as_u64);
        let (least, most) = (
            count("minItems").unwrap_or(0),
            count("maxItems").unwrap_or(u64::MAX),
        );
        let mut made = Vec::new();
        let first = match (fields.get("prefixItems"), fields.get("items")) {
            // The older syntax for a tuple.
            (Some(Value::Array(first)), _) | (None, Some(Value::Array(first))) => first.as_slice(),
            _ => &[],
        };
        for schema in first.iter().take(usize::try_from(most).unwrap_or(usize::MAX)) {
            match self.make(schema, 0) {
                Some(value) => made.push(value),
                None if (made.len() as u64) < least => return None,
                None => return Some(made.into()),
            }
        }
        let anything = Value::Bool(true);
        let items = match fields.get("items") {
            Some(Value::Array(_)) | None => fields.get("additionalItems").unwrap_or(&anything),
            Some(items) => items,
        };
        let wanted = least.max(u64::from(first.is_empty())).min(most).min(1_000);
        while (made.len() as u64) < wanted {
            match self.make(items, made.len()) {
                Some(value) => made.push(value),
                None if (made.len() as u64) < least => return None,
                None => break,
            }
        }
        Some(made.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::needless_pass_by_value)] // the calls read better
    fn of(schema: Value) -> Value {
        instance(&schema, "q")
    }

    #[test]
    fn the_usual_keywords() {
        let schema = json!({"type": "object", "properties": {
            "name": {"type": "string"}, "age": {"type": "integer", "minimum": 50}, "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"type": "boolean"}}, "share": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "maybe": {"type": ["null", "string"]}, "day": {"type": "string", "format": "date"},
            "scores": {"type": "object", "additionalProperties": {"type": "integer", "maximum": 5}},
        }});
        let expected = json!({
            "name": echo("q"), "age": 50, "kind": "a", "tags": [true], "share": 0.5, "maybe": echo("q"),
            "day": "2026-01-01", "scores": {"key1": 5},
        });
        assert_eq!(of(schema), expected);
    }

    #[test]
    fn the_dialects_of_the_wires_get_the_same() {
        let plain = json!({"type": "object", "properties": {"a": {"type": "string", "nullable": true}}});
        let gemini = json!({"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": true}}});
        let strict = json!({"type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string"}]}}});
        assert_eq!(of(plain.clone()), of(gemini));
        assert_eq!(of(plain), of(strict));
    }

    #[test]
    fn recursion_ends() {
        let tree = json!({"$ref": "#/$defs/Tree", "$defs": {"Tree": {"type": "object", "required": ["children", "next", "value"],
        "properties": {
            "value": {"type": "integer"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
            "next": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
            "by_name": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Tree"}},
        }}}});
        assert_eq!(
            of(tree),
            json!({"value": 42, "children": [], "next": null, "by_name": {}})
        );
        let endless = json!({"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}});
        // Any type ends here.
        of(endless);
        let parts = json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]});
        of(parts);
        let circle = json!({"$ref": "#/$defs/A"});
        of(json!({"allOf": [circle], "$defs": {"A": circle}}));
    }

    #[test]
    fn a_reference_may_be_percent_encoded() {
        let schema = json!({"$ref": "#/$defs/List%3CA%3E", "$defs": {"List<A>": {"type": "integer"}}});
        assert_eq!(of(schema), json!(42));
    }

    #[test]
    fn parts_are_put_together() {
        let schema = json!({
            "$defs": {"Named": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}, "required": ["name"]}},
            "allOf": [{"$ref": "#/$defs/Named"}, {"properties": {"n": {"type": "integer", "minimum": 100}}, "required": ["n"]}],
            "oneOf": [{"properties": {"kind": {"const": "a"}}, "required": ["kind"]}],
        });
        let made = of(schema);
        assert_eq!(made["n"], 100);
        assert_eq!(made["name"].as_str().unwrap().len(), 3);
        assert_eq!(made["kind"], "a");
    }

    #[test]
    fn the_elements_of_a_set_differ() {
        let set =
            |items: Value| of(json!({"type": "array", "uniqueItems": true, "minItems": 3, "items": items}));
        for items in [
            json!({"type": "string"}),
            json!({"type": "integer"}),
            json!({"enum": ["a", "b", "c"]}),
        ] {
            let made = set(items);
            let made = made.as_array().unwrap();
            assert!(
                made.len() == 3 && made[0] != made[1] && made[1] != made[2] && made[0] != made[2],
                "{made:?}"
            );
        }
    }
}
