//! Answers to the schemas of Rust types: they are valid, and can be deserialised to values of the type.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;

use llm_batch::Prompt;
use llm_batch::testing::SimulatedProvider;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn answer(schema: &Value) -> Value {
    let provider = SimulatedProvider::builder().build().unwrap();
    let answer = provider.answer_to(&Prompt::new("hi").with_output_schema(schema.clone()));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap();
    let faults: Vec<_> = validator
        .iter_errors(&answer)
        .map(|error| error.to_string())
        .collect();
    assert!(faults.is_empty(), "{faults:?}\n{answer:#}\n{schema:#}");
    answer
}

fn value<T: JsonSchema + DeserializeOwned + Debug>() -> T {
    let schema = serde_json::to_value(schema_for!(T)).unwrap();
    serde_json::from_value(answer(&schema)).unwrap()
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Person {
    name: String,
    age: u8,
    height: Option<f32>,
    #[serde(default)]
    tags: Vec<String>,
    pet: Option<Pet>,
    scores: BTreeMap<String, i64>,
    by_number: HashMap<u32, bool>,
    set: BTreeSet<i32>,
    pair: (u16, char),
    #[schemars(extend("format" = "date"))]
    born: String,
    #[schemars(extend("format" = "date-time"))]
    seen: String,
    anything: Value,
    four: [u8; 4],
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Pet {
    kind: Kind,
    #[schemars(range(min = 100, max = 120))]
    weight: i32,
    #[schemars(length(min = 30))]
    story: String,
    #[schemars(length(min = 2, max = 3))]
    names: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Documented variants become constants.
    GoldFish,
    Dog,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum External {
    Unit,
    Tuple(i32, String),
    Named { a: bool },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum Internal {
    One { a: i32 },
    Two(Pet),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    One(i32),
    Two { b: String },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Untagged {
    Number(i32),
    Text(String),
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Tree {
    value: i32,
    children: Vec<Tree>,
    next: Option<Box<Tree>>,
    by_name: HashMap<String, Tree>,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum Expression {
    Add(Box<Expression>, Box<Expression>),
    Not { of: Box<Expression> },
    Number(f64),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Closed {
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    share: f64,
    inner: Box<Closed2>,
    kinds: BTreeSet<Kind>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Closed2 {
    #[serde(flatten)]
    flat: Flat,
    #[serde(flatten)]
    kind: Internal,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Flat {
    x: i64,
    y: Option<u64>,
}

#[test]
fn rust_types_are_answered_with_their_values() {
    let person: Person = value();
    assert_eq!((person.age, person.tags.len(), person.scores.len()), (42, 1, 1));
    let pet = person.pet.unwrap();
    assert_eq!((pet.weight, pet.names.len()), (100, 2));
    value::<External>();
    value::<Internal>();
    value::<Adjacent>();
    value::<Untagged>();
    value::<Closed>();
    value::<Vec<Person>>();
    value::<Option<Kind>>();
    value::<BTreeMap<String, Vec<Option<Adjacent>>>>();
}

#[test]
fn recursive_types_come_to_an_end() {
    let tree: Tree = value();
    assert!(is_small(&tree, 2), "{tree:?}");
    let expression: Expression = value();
    assert!(matches!(expression, Expression::Number(_)), "{expression:?}");
}

/// The schema of a recursive type may occur twice: at the root, and as a definition.
fn is_small(tree: &Tree, levels: usize) -> bool {
    let next = tree.next.iter().map(AsRef::as_ref);
    let below = tree.children.iter().chain(next).chain(tree.by_name.values());
    levels > 0 && below.into_iter().all(|tree| is_small(tree, levels - 1))
}

#[test]
fn the_keywords_are_obeyed() {
    let schemas = [
        json!({"type": "object", "required": ["a", "b"], "additionalProperties": {"type": "integer"}}),
        json!({"type": "object", "minProperties": 3, "additionalProperties": {"type": "string"}}),
        json!({"type": "object", "propertyNames": {"enum": ["x", "y"]}, "minProperties": 2}),
        json!({"type": "object", "maxProperties": 0, "additionalProperties": {"type": "string"}}),
        json!({"type": "array", "minItems": 3, "uniqueItems": true, "items": {"type": "string", "format": "date"}}),
        json!({"type": "array", "maxItems": 0, "items": {"type": "string"}}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "null"}], "items": false}),
        json!({"type": "integer", "maximum": 7, "multipleOf": 3}),
        json!({"type": "integer", "minimum": -10, "maximum": -5}),
        json!({"type": "integer", "exclusiveMinimum": 99.5}),
        json!({"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2}),
        json!({"type": "number", "minimum": 1e300}),
        json!({"type": "string", "minLength": 40, "maxLength": 41}),
        json!({"type": "string", "maxLength": 1}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "email"}),
        json!({"type": "string", "format": "uri"}),
        json!({"type": "string", "format": "ipv6"}),
        json!({"type": "string", "format": "time"}),
        json!({"type": "string", "format": "duration"}),
        json!({"type": ["null", "boolean"]}),
        json!({"enum": [null, 3]}),
        json!({"oneOf": [{"type": "null"}, {"const": {"a": 1}}]}),
        json!({"anyOf": [false, {"not": {}}, {"type": "integer"}]}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"minimum": 5}}, "required": ["a"]},
            {"properties": {"a": {"type": "integer", "maximum": 6}}}]}),
        json!(true),
        json!({}),
    ];
    for schema in schemas {
        answer(&schema);
    }
}

#[test]
fn schemas_made_to_explode_do_not() {
    let provider = SimulatedProvider::builder().build().unwrap();
    let mut chain = json!({"type": "string"});
    for _ in 0..500 {
        chain = json!({"type": "array", "items": chain});
    }
    let all: Vec<_> = (0..9).map(|_| json!({"$ref": "#/$defs/A"})).collect();
    let bombs = [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#", "title": "again"}]}),
        json!({"anyOf": [{"allOf": [{"$ref": "#"}]}, {"$ref": "#"}]}),
        json!({"$defs": {"A": {"properties": {"b": {"$ref": "#/$defs/B"}}}, "B": {"oneOf": all}}, "anyOf": all}),
        json!({"type": "array", "minItems": 1_000_000_000_u64, "items": {"type": "array", "minItems": 1_000_000_000_u64}}),
        json!({"type": "string", "minLength": u64::MAX}),
        json!({"type": "object", "minProperties": u64::MAX, "additionalProperties": true}),
        chain,
    ];
    for bomb in bombs {
        provider.answer_to(&Prompt::new("hi").with_output_schema(bomb));
    }
}
