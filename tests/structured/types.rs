//! Twelve types, to test the schemas sent to the wire formats.
#![allow(dead_code)]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A person with an address.
#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Nested {
    /// The full name.
    pub(crate) name: String,
    /// Where they live.
    pub(crate) address: Address,
    pub(crate) others: Vec<Address>,
}

/// A place.
#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Address {
    pub(crate) street: String,
    pub(crate) number: u32,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Optional {
    pub(crate) always: String,
    pub(crate) sometimes: Option<String>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Perhaps a place.
    pub(crate) place: Option<Address>,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct UnitEnum {
    pub(crate) mood: Mood,
    pub(crate) before: Option<Mood>,
}

#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mood {
    Good,
    Bad,
    /// Neither good nor bad.
    SoSo,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) enum TupleEnum {
    Point(i32, i32),
    Named(String),
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) enum StructEnum {
    Circle { radius: f64 },
    Square { side: f64 },
    Nothing,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct UntaggedEnum {
    pub(crate) id: NumberOrText,
}

#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum NumberOrText {
    Number(u64),
    Text(String),
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct TaggedEnum {
    pub(crate) events: Vec<Event>,
}

#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    Moved(Address),
    Renamed { name: String },
    Left,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Maps {
    pub(crate) scores: BTreeMap<String, u32>,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Recursive {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) children: Vec<Recursive>,
    /// What is above.
    pub(crate) parent: Option<Box<Recursive>>,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Bounds {
    #[schemars(range(min = 1, max = 5))]
    pub(crate) stars: u8,
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) price: f64,
    #[schemars(length(min = 2, max = 3), regex(pattern = "^[A-Z]+$"))]
    pub(crate) code: String,
    #[schemars(length(min = 1))]
    pub(crate) tags: Vec<String>,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Dates {
    #[schemars(extend("format" = "date"))]
    pub(crate) day: String,
    #[schemars(extend("format" = "date-time"))]
    pub(crate) at: Option<String>,
    #[schemars(extend("format" = "uri"))]
    pub(crate) link: String,
}

#[derive(Deserialize, JsonSchema, Serialize)]
pub(crate) struct Tuples {
    pub(crate) point: (f64, f64),
    pub(crate) entry: (String, u32),
    pub(crate) rgb: [u8; 3],
}
