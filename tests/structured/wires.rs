//! The schema that each wire format sends for a type.

use llm_batch::provider::Model;
use llm_batch::{LlmRequest, Prompt, StructuredExt};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Script, says};
use crate::types::{
    Bounds, Dates, Maps, Nested, Optional, Recursive, StructEnum, TaggedEnum, TupleEnum, Tuples, UnitEnum,
    UntaggedEnum,
};

/// The wire formats: a name, a model, the location of the response format in the body, and that of the schema in it.
const WIRES: [(&str, &str, &str, &str); 4] = [
    ("chat", "openrouter:m", "/response_format", "/json_schema/schema"),
    ("responses", "openai-responses:m", "/text/format", "/schema"),
    ("anthropic", "anthropic:m", "/output_config/format", "/schema"),
    ("gemini", "gemini:m", "/generationConfig/responseJsonSchema", ""),
];

fn model(name: &str) -> Model {
    let builder = Model::builder(name)
        .base_url("http://localhost:1/v1")
        .api_key("none");
    builder.build().unwrap()
}

/// The schema sent in every wire format for a type, or the reason why none is sent.
fn sent<T: JsonSchema + DeserializeOwned + 'static>() -> Value {
    let wires = WIRES.map(|(name, text, place, _)| {
        let model = model(text);
        let schema = model.clone().structured::<T>().schema().clone();
        let sent = match model.request_body(&Prompt::new("?").with_output_schema(schema)) {
            Ok(body) => {
                let body: Value = serde_json::from_slice(&body).unwrap();
                body.pointer(place).unwrap().clone()
            }
            Err(error) => {
                assert_eq!(error.kind(), llm_batch::ErrorKind::InvalidRequest);
                assert_eq!(error.delivery(), llm_batch::Delivery::NotSent);
                error.to_string().into()
            }
        };
        (name.to_owned(), sent)
    });
    Value::Object(wires.into_iter().collect())
}

macro_rules! snapshots {
    ($($name:ident: $type:ty,)*) => {$(
        #[test]
        fn $name() {
            insta::assert_json_snapshot!(sent::<$type>());
        }
    )*};
}

snapshots! {
    nested: Nested,
    optional: Optional,
    unit_enum: UnitEnum,
    tuple_enum: TupleEnum,
    struct_enum: StructEnum,
    untagged_enum: UntaggedEnum,
    tagged_enum: TaggedEnum,
    maps: Maps,
    recursive: Recursive,
    bounds: Bounds,
    dates: Dates,
    tuples: Tuples,
}

/// Every answer that is valid for the sent schema is a value of the type.
async fn fits<T: JsonSchema + DeserializeOwned + 'static>(answer: Value) {
    for (name, text, place, schema) in WIRES {
        let model = model(text);
        let own = model.clone().structured::<T>().schema().clone();
        let Ok(body) = model.request_body(&Prompt::new("?").with_output_schema(own)) else {
            assert_eq!(name, "anthropic", "the others take every one of these types");
            continue;
        };
        let body: Value = serde_json::from_slice(&body).unwrap();
        let sent = body.pointer(&format!("{place}{schema}")).unwrap().clone();
        let script = || Script::new([says(&answer.to_string())]);
        let ask = || LlmRequest::new("?".into());
        let by_wire = script().structured_by(sent).unwrap().oneshot(ask()).await;
        assert!(by_wire.is_ok(), "{answer}: {:?}", by_wire.err());
        let by_type = script().structured::<T>().oneshot(ask()).await;
        assert!(by_type.is_ok(), "{answer}: {:?}", by_type.err());
    }
}

#[tokio::test]
async fn what_is_answered_under_a_sent_schema_is_a_value_of_the_type() {
    let place = json!({"street": "High", "number": 1});
    fits::<Nested>(json!({"name": "A", "address": place, "others": [place, place]})).await;
    fits::<Optional>(json!({"always": "a", "sometimes": null, "tags": null, "place": null})).await;
    fits::<Optional>(json!({"always": "a", "sometimes": "b", "tags": ["c"], "place": place})).await;
    fits::<UnitEnum>(json!({"mood": "so_so", "before": null})).await;
    fits::<TupleEnum>(json!({"value": {"Point": [1, -2]}})).await;
    fits::<StructEnum>(json!({"value": {"Circle": {"radius": 1.5}}})).await;
    fits::<StructEnum>(json!({"value": "Nothing"})).await;
    fits::<UntaggedEnum>(json!({"id": "x"})).await;
    fits::<TaggedEnum>(json!({"events": [
        {"type": "moved", "street": "High", "number": 1}, {"type": "renamed", "name": "B"}, {"type": "left"},
    ]}))
    .await;
    fits::<Maps>(json!({"scores": {"a": 1, "b": 2}})).await;
    let leaf = json!({"name": "leaf", "children": null, "parent": null});
    fits::<Recursive>(json!({"name": "a", "children": [leaf, leaf], "parent": leaf})).await;
    fits::<Bounds>(json!({"stars": 5, "price": 0.5, "code": "AB", "tags": ["x"]})).await;
    fits::<Dates>(json!({"day": "2026-11-22", "at": null, "link": "https://example.com/"})).await;
    fits::<Tuples>(json!({"point": [1.0, 2.5], "entry": ["a", 7], "rgb": [0, 128, 255]})).await;
}

#[test]
fn every_wire_refuses_a_reference_to_nothing() {
    let schema = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/None"}}});
    let prompt = Prompt::new("?").with_output_schema(schema);
    for (_, text, ..) in WIRES {
        let error = model(text).request_body(&prompt).unwrap_err();
        assert!(error.to_string().contains("at /properties/a"), "{text}: {error}");
    }
}
