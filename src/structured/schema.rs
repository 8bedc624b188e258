//! The schema of a type: what is sent, and what an answer is checked against.

use std::sync::Arc;

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{ValidationError, Validator};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::fault::Fault;
use crate::schema::pointer::{member, unescaped};
use crate::schema::walk::for_each_part_mut;

/// The property that holds an answer that is not an object itself.
const VALUE: &str = "value";

/// The number of characters of a wrong value that a message shows.
const SHOWN: usize = 60;

/// A schema, ready to be sent and to be checked against.
pub(super) struct Schema {
    /// An object at the top.
    pub(super) sent: Arc<Value>,
    is_wrapped: bool,
    validator: Validator,
}

impl Schema {
    /// The schema of a type, as it is read.
    pub(super) fn of<T: JsonSchema>() -> Result<Self, String> {
        let settings = SchemaSettings::draft2020_12()
            .for_deserialize()
            .with(|settings| settings.meta_schema = None);
        Self::new(settings.into_generator().into_root_schema_for::<T>().to_value())
    }

    pub(super) fn new(schema: Value) -> Result<Self, String> {
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .map_err(|error| match error.instance_path().as_str() {
                "" => error.to_string(),
                path => format!("{error} at {path}"),
            })?;
        let is_wrapped = schema.get("type").is_none_or(|kind| kind != "object");
        Ok(Self {
            sent: Arc::new(if is_wrapped { wrapped(schema) } else { schema }),
            is_wrapped,
            validator,
        })
    }

    /// Checks an answer. A null in place of a missing field is taken out.
    pub(super) fn check(&self, whole: Value) -> Checked {
        let mut checked = Checked {
            whole,
            is_wrapped: false,
            faults: Vec::new(),
        };
        self.look(&mut checked);
        if !checked.faults.is_empty() && self.is_wrapped && is_wrapping(&checked.whole) {
            // Unless the answer is valid as it is, the object is the one that was asked for.
            checked.is_wrapped = true;
            self.look(&mut checked);
        }
        checked
    }

    fn look(&self, checked: &mut Checked) {
        let mut faults = self.faults(checked.value());
        let nulls: Vec<String> = faults
            .iter()
            .filter(|fault| checked.value().pointer(&fault.path).is_some_and(Value::is_null))
            .map(|fault| fault.path.clone())
            .collect();
        if !nulls.is_empty() {
            let mut without = checked.value().clone();
            nulls.iter().for_each(|path| take(&mut without, path));
            let others = self.faults(&without);
            // One that is required stays what it is: null, not missing.
            let required: Vec<&String> = nulls
                .iter()
                .filter(|path| others.iter().any(|fault| fault.path == **path))
                .collect();
            if required.len() < nulls.len() {
                for path in nulls.iter().filter(|path| !required.contains(path)) {
                    take(checked.value_mut(), path);
                }
                faults = self.faults(checked.value());
            }
        }
        let base = checked.base();
        checked.faults = faults.into_iter().map(|fault| fault.below(base)).collect();
    }

    /// Everything in which the value differs from the schema.
    fn faults(&self, value: &Value) -> Vec<Fault> {
        if self.validator.is_valid(value) {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for error in self.validator.iter_errors(value) {
            collect(&error, &mut faults);
        }
        faults
    }
}

/// An answer and what is wrong with it.
pub(super) struct Checked {
    /// As the model wrote it.
    pub(super) whole: Value,
    is_wrapped: bool,
    pub(super) faults: Vec<Fault>,
}

impl Checked {
    /// The value that the type is made of.
    pub(super) fn value(&self) -> &Value {
        match self.whole.get(VALUE) {
            Some(value) if self.is_wrapped => value,
            _ => &self.whole,
        }
    }

    fn value_mut(&mut self) -> &mut Value {
        if self.is_wrapped && self.whole.get(VALUE).is_some() {
            &mut self.whole[VALUE]
        } else {
            &mut self.whole
        }
    }

    /// Returns the pointer at which the value stands.
    pub(super) fn base(&self) -> &'static str {
        if self.is_wrapped { "/value" } else { "" }
    }
}

fn is_wrapping(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|fields| fields.len() == 1 && fields.contains_key(VALUE))
}

/// The schema of an object whose one property has this schema.
fn wrapped(mut schema: Value) -> Value {
    let mut whole = Map::new();
    whole.insert("type".to_owned(), "object".into());
    whole.insert("properties".to_owned(), Value::Null);
    whole.insert("required".to_owned(), json!([VALUE]));
    whole.insert("additionalProperties".to_owned(), false.into());
    if let Value::Object(keywords) = &mut schema {
        for keyword in ["$schema", "title", "$defs", "definitions"] {
            if let Some(value) = keywords.shift_remove(keyword) {
                whole.insert(keyword.to_owned(), value);
            }
        }
    }
    // A reference to the whole has to lead to what was the whole.
    let title = whole.get("title").and_then(Value::as_str).unwrap_or_default();
    let mut name: String = title.chars().filter(char::is_ascii_alphanumeric).collect();
    while name.is_empty()
        || whole
            .get("$defs")
            .is_some_and(|definitions| definitions.get(&name).is_some())
    {
        name.push('_');
    }
    let reference = format!("#/$defs/{name}");
    whole.insert("properties".to_owned(), json!({ VALUE: schema }));
    let mut whole = Value::Object(whole);
    if redirect(&mut whole, &reference) > 0 {
        let inner = whole["properties"][VALUE].take();
        whole["properties"][VALUE] = json!({ "$ref": reference });
        whole["$defs"][&name] = inner;
    }
    whole
}

/// Points references to the whole to `reference`. Returns how many there are.
fn redirect(schema: &mut Value, reference: &str) -> usize {
    let mut redirected = 0;
    if let Some(own) = schema.get_mut("$ref").filter(|own| **own == "#") {
        *own = reference.into();
        redirected += 1;
    }
    for_each_part_mut(schema, |part| redirected += redirect(part, reference));
    redirected
}

/// Removes the field at a path.
fn take(value: &mut Value, path: &str) {
    let Some((parent, name)) = path.rsplit_once('/') else {
        return;
    };
    if let Some(Value::Object(fields)) = value.pointer_mut(parent) {
        fields.shift_remove(&unescaped(name));
    }
}

/// Adds what an error says, by the paths of the fields that it is about.
fn collect(error: &ValidationError<'_>, faults: &mut Vec<Fault>) {
    let path = error.instance_path().as_str();
    match error.kind() {
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => collect_choice(error, context, faults),
        Kind::Required { property } => {
            faults.push(Fault::new(
                member(path, property.as_str().unwrap_or_default()),
                "is missing",
            ));
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let unknown = |name: &String| Fault::new(member(path, name), "is not a field of the schema");
            faults.extend(unexpected.iter().map(unknown));
        }
        Kind::OneOfMultipleValid { .. } => {
            faults.push(Fault::new(
                path,
                "has several of the forms at once of which it should have one",
            ));
        }
        _ => {
            let instance = error.instance().to_string();
            let shown = match instance.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}...", instance.get(..end).unwrap_or_default()),
                None => instance,
            };
            faults.push(Fault::new(path, error.masked_with(shown).to_string()));
        }
    }
}

/// Of a choice, what is wrong by the branch that was probably meant.
fn collect_choice(
    error: &ValidationError<'_>,
    branches: &[Vec<ValidationError<'static>>],
    faults: &mut Vec<Fault>,
) {
    let path = error.instance_path().as_str();
    let is_here = |error: &ValidationError<'_>| error.instance_path().as_str() == path;
    let is_fixed =
        |error: &ValidationError<'_>| matches!(error.kind(), Kind::Constant { .. } | Kind::Enum { .. });
    // A value of another type, then one with another tag, then the number of faults.
    let distance = |branch: &Vec<ValidationError<'static>>| {
        let is_other = branch
            .iter()
            .any(|error| is_here(error) && (is_fixed(error) || matches!(error.kind(), Kind::Type { .. })));
        let tags = branch.iter().filter(|error| is_fixed(error)).count();
        (is_other, tags, branch.len())
    };
    let Some(nearest) = branches
        .iter()
        .filter(|branch| !branch.is_empty())
        .min_by_key(|branch| distance(branch))
    else {
        faults.push(Fault::new(path, "has none of the allowed forms"));
        return;
    };
    let tag = nearest.iter().find(|error| is_fixed(error));
    if let Some(tag) = tag {
        // Every branch wants another value there: they are reported together.
        let place = tag.instance_path().as_str();
        let mut wanted: Vec<String> = Vec::new();
        for error in branches
            .iter()
            .flatten()
            .filter(|error| error.instance_path().as_str() == place)
        {
            match error.kind() {
                Kind::Constant { expected_value } => wanted.push(expected_value.to_string()),
                Kind::Enum { options } => {
                    wanted.extend(options.as_array().into_iter().flatten().map(Value::to_string));
                }
                _ => {}
            }
        }
        wanted.dedup();
        faults.push(Fault::new(place, format!("is not one of {}", wanted.join(", "))));
    } else if distance(nearest).0 {
        faults.push(Fault::new(path, "has none of the allowed forms"));
    } else {
        nearest.iter().for_each(|error| collect(error, faults));
    }
}
