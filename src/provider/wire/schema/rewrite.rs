//! From any JSON Schema to a subset.

use serde_json::{Map, Value, json};

use super::Refusal;
use super::keyword::{RULES, describe, is_about_the_schema, one_or_many, separated, tell, types};
use super::merge::merged;
use super::nullable::nullable;
use crate::schema::pointer::member;
use crate::schema::reference::{CONTAINERS, Definition, canonical, reference_of, target};
use crate::schema::walk::visit;

/// The rules of a subset.
pub(super) struct Rules {
    /// The formats of strings.
    pub(super) string_formats: &'static [&'static str],
    /// The formats of numbers.
    pub(super) number_formats: &'static [&'static str],
    /// Returns `true` if the subset has this rule about a value.
    pub(super) has: fn(keyword: &str, value: &Value) -> bool,
    /// `true` if it has `const`, and choices of anything but texts and numbers.
    pub(super) constants: bool,
    /// `true` if it has `prefixItems`.
    pub(super) tuples: bool,
    /// `true` if it has values of any type, and objects whose properties have any name.
    pub(super) open: bool,
    /// `true` if every property is required, and may be null instead of missing.
    pub(super) all_required: bool,
}

/// The schema in the subset of `rules`.
pub(super) fn rewrite(root: &Value, rules: &Rules) -> Result<Value, Refusal> {
    let mut rewriter = Rewriter {
        root,
        rules,
        expanding: vec!["#".to_owned()],
        written: 0,
    };
    let mut made = rewriter.schema(root, "")?;
    // The definitions that are still in use, and those that these use.
    let mut definitions: Vec<(Definition, Value)> = Vec::new();
    loop {
        let mut wanted = Vec::new();
        let mut note =
            |schema: &Value, _: &str| wanted.extend(reference_of(schema).and_then(Definition::new));
        visit(&made, "", &mut note);
        definitions
            .iter()
            .for_each(|(_, schema)| visit(schema, "", &mut note));
        wanted.retain(|wanted| definitions.iter().all(|(known, _)| known != wanted));
        let Some(definition) = wanted.pop() else { break };
        let path = definition.path();
        let schema = root
            .pointer(&path)
            .ok_or_else(|| Refusal::new(&path, "a reference to nothing"))?;
        rewriter.expanding = vec![format!("#{path}")];
        let schema = rewriter.schema(schema, &path)?;
        definitions.push((definition, schema));
    }
    for container in CONTAINERS {
        let names = root
            .get(container)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys);
        let kept: Map<String, Value> = names
            .filter_map(|name| {
                let is_it =
                    |(known, _): &&(Definition, Value)| known.container == container && known.name == *name;
                let (_, schema) = definitions.iter().find(is_it)?;
                Some((name.clone(), schema.clone()))
            })
            .collect();
        if let (false, Value::Object(made)) = (kept.is_empty(), &mut made) {
            made.insert(container.to_owned(), Value::Object(kept));
        }
    }
    Ok(made)
}

/// Returns `true` if a reference points at the whole schema or at one of its definitions: what every provider takes.
fn is_named(reference: &str) -> bool {
    reference == "#" || Definition::new(reference).is_some()
}

struct Rewriter<'a> {
    root: &'a Value,
    rules: &'a Rules,
    /// The references whose schemas are being written out.
    expanding: Vec<String>,
    /// The number of schemas that were written.
    written: usize,
}

/// Up to so many schemas a reference is written out for the sake of a text beside it.
const MAX_FOR_TEXTS: usize = 1_000;
/// If each definition repeats the next one, a schema would have no end.
const MAX_WRITTEN: usize = 100_000;

impl Rewriter<'_> {
    fn schema(&mut self, schema: &Value, path: &str) -> Result<Value, Refusal> {
        match schema {
            Value::Object(_) if self.written >= MAX_WRITTEN => Err(Refusal::new(path, "too many parts")),
            Value::Object(keywords) => {
                self.written += 1;
                let depth = self.expanding.len();
                let made = self.keywords(keywords.clone(), path);
                self.expanding.truncate(depth);
                made
            }
            Value::Bool(true) => self.anything(Map::new(), path),
            _ => Err(Refusal::new(path, "a schema that allows nothing")),
        }
    }

    fn keywords(&mut self, mut schema: Map<String, Value>, path: &str) -> Result<Value, Refusal> {
        schema.retain(|keyword, _| !is_about_the_schema(keyword));
        if let Some(Value::String(reference)) = schema.get("$ref") {
            let reference = canonical(reference);
            let is_alone = schema.len() == 1;
            // A text beside a reference needs the target written out, which has no end where that contains itself.
            let is_told = schema
                .keys()
                .all(|keyword| matches!(keyword.as_str(), "$ref" | "title" | "description" | "default"));
            let is_open = self.expanding.contains(&reference) || self.written > MAX_FOR_TEXTS;
            if is_named(&reference) && !path.is_empty() && (is_alone || is_told && is_open) {
                return Ok(json!({ "$ref": reference }));
            }
        }
        let open = self.expanding.len();
        let mut schema = self.flattened(schema, open, path)?;
        match (schema.shift_remove("anyOf"), schema.shift_remove("oneOf")) {
            (None, None) => self.value(schema, path),
            (Some(Value::Array(branches)), None) => self.choice(branches, schema, &member(path, "anyOf")),
            (None, Some(Value::Array(branches))) => self.choice(branches, schema, &member(path, "oneOf")),
            _ => Err(Refusal::new(path, "two choices at once")),
        }
    }

    /// The schema with its reference and the parts of its `allOf` written out. The first `open` references are those of the
    /// schemas around it.
    fn flattened(
        &mut self,
        mut schema: Map<String, Value>,
        open: usize,
        path: &str,
    ) -> Result<Map<String, Value>, Refusal> {
        let apart = || Refusal::new(path, "rules that contradict each other");
        let mut followed = Vec::new();
        loop {
            if let Some(Value::String(reference)) = schema.shift_remove("$ref") {
                let reference = canonical(&reference);
                if self.expanding.iter().take(open).any(|known| *known == reference)
                    || followed.contains(&reference)
                {
                    return Err(Refusal::new(path, "a reference to itself with further rules"));
                }
                let Some(Value::Object(mut found)) = target(self.root, &reference).cloned() else {
                    return Err(Refusal::new(path, "a reference to no object"));
                };
                found.retain(|keyword, _| !is_about_the_schema(keyword));
                followed.push(reference.clone());
                self.expanding.push(reference);
                schema = merged(schema, found).ok_or_else(apart)?;
            } else if let Some(Value::Array(parts)) = schema.shift_remove("allOf") {
                // A part that leads back here would be followed for ever: for parts, this schema is one around them.
                let open = if followed.is_empty() {
                    open
                } else {
                    self.expanding.len()
                };
                for part in parts {
                    let Value::Object(mut part) = part else {
                        return Err(apart());
                    };
                    part.retain(|keyword, _| !is_about_the_schema(keyword));
                    let part = self.flattened(part, open, path)?;
                    schema = merged(schema, part).ok_or_else(apart)?;
                }
            } else {
                return Ok(schema);
            }
        }
    }

    /// One of several schemas. What stands beside them is true of each.
    fn choice(
        &mut self,
        branches: Vec<Value>,
        mut common: Map<String, Value>,
        path: &str,
    ) -> Result<Value, Refusal> {
        let mut made = Map::new();
        for keyword in ["title", "description"] {
            if let Some(text) = common.shift_remove(keyword) {
                made.insert(keyword.to_owned(), text);
            }
        }
        common.shift_remove("default");
        if common.keys().all(|keyword| keyword == "type") {
            common.clear();
        }
        let mut written = Vec::with_capacity(branches.len());
        for (position, branch) in branches.into_iter().enumerate() {
            let path = member(path, position);
            let branch = match branch {
                Value::Object(branch) if !common.is_empty() => merged(common.clone(), branch)
                    .map(Value::Object)
                    .ok_or_else(|| Refusal::new(&path, "rules that contradict each other"))?,
                branch => branch,
            };
            written.push(self.schema(&branch, &path)?);
        }
        made.insert("anyOf".to_owned(), Value::Array(written));
        Ok(Value::Object(made))
    }

    /// A value of any type.
    fn anything(&self, mut schema: Map<String, Value>, path: &str) -> Result<Value, Refusal> {
        if !self.rules.open {
            return Err(Refusal::new(path, "a value of any type"));
        }
        schema.retain(|keyword, _| matches!(keyword.as_str(), "title" | "description"));
        Ok(Value::Object(schema))
    }

    /// A value of a type, or of one of several.
    fn value(&mut self, mut schema: Map<String, Value>, path: &str) -> Result<Value, Refusal> {
        let types = types(&schema);
        if types.is_empty() {
            return self.anything(schema, path);
        }
        if !schema.contains_key("type") {
            schema.shift_insert(0, "type".to_owned(), one_or_many(&types));
        }
        let is = |kind: &str| types.iter().any(|entry| entry == kind);
        let mut made = Map::new();
        let mut described = Vec::new();
        for (keyword, value) in &schema {
            match keyword.as_str() {
                "type" | "title" | "description" => {
                    made.insert(keyword.clone(), value.clone());
                }
                "const" | "enum" if self.rules.constants => {
                    made.insert(keyword.clone(), value.clone());
                }
                "const" => self.allow(std::slice::from_ref(value), &mut made, &mut described),
                "enum" => self.allow(
                    value.as_array().map_or(&[], Vec::as_slice),
                    &mut made,
                    &mut described,
                ),
                "format" if is("string") => {
                    if value
                        .as_str()
                        .is_some_and(|name| self.rules.string_formats.contains(&name))
                    {
                        made.insert(keyword.clone(), value.clone());
                    } else {
                        described.push(tell(keyword, value));
                    }
                }
                // What remains are the widths of machine numbers, which the model need not know.
                "format" => {
                    let known = |name| self.rules.number_formats.contains(&name);
                    made.extend(
                        value
                            .as_str()
                            .filter(|name| known(name))
                            .map(|_| (keyword.clone(), value.clone())),
                    );
                }
                name if RULES.contains(&name) => {
                    if (self.rules.has)(name, value) {
                        made.insert(keyword.clone(), value.clone());
                    } else {
                        described.push(tell(keyword, value));
                    }
                }
                _ => {}
            }
        }
        if is("object") {
            self.object(&schema, &mut made, path)?;
        }
        if is("array") {
            self.array(&schema, &mut made, &mut described, path)?;
        }
        describe(&mut made, &described);
        Ok(if self.rules.constants {
            Value::Object(made)
        } else {
            separated(made)
        })
    }

    /// Writes the values that are allowed, where there are only those that are texts or numbers.
    fn allow(&self, values: &[Value], made: &mut Map<String, Value>, described: &mut Vec<String>) {
        let plain = |value: &&Value| value.is_string() || value.is_number();
        let others = values
            .iter()
            .filter(|value| !plain(value) && !value.is_null())
            .count();
        let kept: Vec<Value> = values.iter().filter(plain).cloned().collect();
        if others > 0 {
            described.push(tell("enum", &values.into()));
        } else if !kept.is_empty() {
            made.insert("enum".to_owned(), Value::Array(kept));
        }
    }

    fn object(
        &mut self,
        schema: &Map<String, Value>,
        made: &mut Map<String, Value>,
        path: &str,
    ) -> Result<(), Refusal> {
        let others = schema
            .get("additionalProperties")
            .or_else(|| schema.get("unevaluatedProperties"));
        let properties = schema.get("properties").and_then(Value::as_object);
        let is_closed = match others {
            Some(Value::Bool(false)) => true,
            None => properties.is_some(),
            Some(_) => false,
        };
        let is_map = !is_closed || schema.contains_key("patternProperties");
        if is_map && !self.rules.open {
            return Err(Refusal::new(path, "properties of any name (a map)"));
        }
        let required = schema.get("required").and_then(Value::as_array);
        let is_required = |name: &str| required.is_some_and(|list| list.iter().any(|entry| entry == name));
        let mut written = Map::new();
        for (name, property) in properties.into_iter().flatten() {
            let mut property = self.schema(property, &member(&member(path, "properties"), name))?;
            if self.rules.all_required && !is_required(name) {
                property = nullable(self.root, property);
            }
            written.insert(name.clone(), property);
        }
        let names = written
            .keys()
            .filter(|name| self.rules.all_required || is_required(name));
        let names: Vec<Value> = names.map(|name| name.as_str().into()).collect();
        if properties.is_some() || !self.rules.open {
            made.insert("properties".to_owned(), Value::Object(written));
        }
        if required.is_some() || self.rules.all_required {
            made.insert("required".to_owned(), Value::Array(names));
        }
        match others {
            _ if !self.rules.open => {
                made.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            Some(others @ Value::Object(_)) => {
                let others = self.schema(others, &member(path, "additionalProperties"))?;
                made.insert("additionalProperties".to_owned(), others);
            }
            Some(others @ Value::Bool(_)) => {
                made.insert("additionalProperties".to_owned(), others.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn array(
        &mut self,
        schema: &Map<String, Value>,
        made: &mut Map<String, Value>,
        described: &mut Vec<String>,
        path: &str,
    ) -> Result<(), Refusal> {
        if let Some(Value::Array(first)) = schema.get("prefixItems") {
            let path = member(path, "prefixItems");
            let mut written = Vec::with_capacity(first.len());
            for (position, item) in first.iter().enumerate() {
                written.push(self.schema(item, &member(&path, position))?);
            }
            if self.rules.tuples {
                made.insert("prefixItems".to_owned(), Value::Array(written));
                return Ok(());
            }
            let mut sorts: Vec<Value> = Vec::new();
            for item in &written {
                if !sorts.contains(item) {
                    sorts.push(item.clone());
                }
            }
            if sorts.len() > 1 {
                let names: Vec<String> = written.iter().map(|item| self.name(item)).collect();
                described.push(format!("in this order: {}", names.join(", ")));
            }
            let items = match sorts.pop() {
                Some(only) if sorts.is_empty() => only,
                last => {
                    sorts.extend(last);
                    json!({ "anyOf": sorts })
                }
            };
            made.insert("items".to_owned(), items);
            return Ok(());
        }
        match schema.get("items") {
            Some(items) if *items != Value::Bool(true) || !self.rules.open => {
                let items = self.schema(items, &member(path, "items"))?;
                made.insert("items".to_owned(), items);
            }
            None if !self.rules.open => return Err(Refusal::new(path, "an array of anything")),
            _ => {}
        }
        Ok(())
    }

    /// Returns the name of a schema in a text.
    fn name(&self, schema: &Value) -> String {
        let found = reference_of(schema).and_then(|reference| target(self.root, reference));
        let schema = found.unwrap_or(schema);
        let text = |keyword| schema.get(keyword).and_then(Value::as_str);
        text("title")
            .or_else(|| text("type"))
            .unwrap_or("value")
            .to_owned()
    }
}
