//! Tests with the schemas of types, and with any schema.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Dialect, check, for_wire};

/// A name of a definition, one that is not there included.
fn reference() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        "#",
        "#/$defs/A",
        "#/$defs/B",
        "#/definitions/C",
        "#/properties/a",
        "#/$defs/None",
    ])
    .prop_map(|reference| json!({ "$ref": reference }))
}

fn schema() -> impl Strategy<Value = Value> {
    let names = || prop::sample::select(vec!["a", "b", "c/d"]).prop_map(str::to_owned);
    let leaf = prop_oneof![
        3 => prop::sample::select(vec![
            json!({"type": "string"}),
            json!({"type": ["integer", "null"], "minimum": 1, "format": "uint8"}),
            json!({"type": "string", "enum": ["x", "y"], "default": "x"}),
            json!({"const": null}),
            json!({"enum": [1, "a", true]}),
            json!({"type": "string", "format": "uri", "maxLength": 3, "description": "A text"}),
            json!(true),
            json!(false),
            json!({}),
            json!(7),
        ]),
        2 => reference(),
    ];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        let list = || prop::collection::vec(inner.clone(), 0..3);
        let object = (prop::collection::btree_map(names(), inner.clone(), 0..3), prop::collection::vec(names(), 0..2));
        let object = object.prop_map(|(properties, required)| {
            json!({"type": "object", "properties": properties, "required": required})
        });
        prop_oneof![
            4 => object.clone(),
            1 => inner.clone().prop_map(|values| json!({"type": "object", "additionalProperties": values})),
            2 => inner.clone().prop_map(|items| json!({"type": "array", "items": items, "uniqueItems": true})),
            1 => list().prop_map(|items| json!({"type": "array", "prefixItems": items})),
            2 => list().prop_map(|branches| json!({"anyOf": branches, "title": "Choice"})),
            1 => list().prop_map(|parts| json!({"allOf": parts})),
            1 => (object.clone(), list()).prop_map(|(mut object, branches)| {
                object["oneOf"] = branches.into();
                object
            }),
            1 => (object, reference()).prop_map(|(mut object, reference)| {
                object["$ref"] = reference["$ref"].clone();
                object
            }),
            1 => reference().prop_map(|mut reference| {
                reference["description"] = "Beside".into();
                reference
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_schema_is_sent_refused_or_sent_as_it_is(mut whole in schema(), a in schema(), b in schema(), c in schema()) {
        if let Value::Object(keywords) = &mut whole {
            keywords.insert("$defs".to_owned(), json!({"A": a, "B": b}));
            keywords.insert("definitions".to_owned(), json!({"C": c}));
        }
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini] {
            match for_wire(&whole, dialect) {
                // What is in the subset stays as it is.
                Ok(made) => prop_assert_eq!(&*for_wire(&made, dialect).unwrap(), &*made, "{:?}", dialect),
                Err(error) => prop_assert!(error.message().starts_with("the output schema has "), "{}", error),
            }
        }
        if let Ok(Cow::Owned(strict)) = for_wire(&whole, Dialect::OpenAi) {
            prop_assert_eq!(&strict["type"], "object");
            let text = strict.to_string();
            let has = |name: &&str| text.contains(&format!("\"{name}\":"));
            let foreign = ["oneOf", "allOf", "default", "prefixItems"].iter().find(|name| has(name));
            prop_assert_eq!(foreign, None);
        }
    }
}

#[test]
fn a_schema_that_grows_without_end_is_not_written_out() {
    // Each definition has the next one twice, with a text of its own beside each.
    let definitions: serde_json::Map<_, _> = (0..40)
        .map(|n| {
            let next = |text: &str| json!({"$ref": format!("#/$defs/D{}", n + 1), "description": text});
            let schema = match n {
                39 => json!({"type": "string"}),
                _ => json!({"type": "object", "properties": {"a": next("one"), "b": next("two")}, "required": ["a", "b"]}),
            };
            (format!("D{n}"), schema)
        })
        .collect();
    let schema = json!({"type": "object", "properties": {"d": {"$ref": "#/$defs/D0"}}, "required": ["d"], "$defs": definitions});
    for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini] {
        let text = for_wire(&schema, dialect).unwrap().to_string();
        assert!(text.len() < 2_000_000, "{}", text.len());
    }
}

#[test]
fn references_that_lead_nowhere_are_refused() {
    let refusal = check(&json!({"properties": {"a": {"items": {"$ref": "#/$defs/None"}}}})).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "a reference to nothing (#/$defs/None) at /properties/a/items"
    );
    // A property may have that name.
    check(&json!({"properties": {"$ref": {"type": "string"}}})).unwrap();
}
