//! What each wire sends for the schema of a type.

use llm_batch::provider::Model;
use llm_batch::{Prompt, StructuredExt};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::types::{
    Bounds, Dates, Maps, Nested, Optional, Recursive, StructEnum, TaggedEnum, TupleEnum, Tuples, UnitEnum,
    UntaggedEnum,
};

/// The wires: a name, a model, and where the body has the format.
const WIRES: [(&str, &str, &str); 1] = [("chat", "vllm:m", "/response_format")];

/// What every wire is sent for a type, or why it is not.
fn sent<T: JsonSchema + DeserializeOwned + 'static>() -> Value {
    let wires = WIRES.map(|(name, model, place)| {
        let model = Model::builder(model)
            .base_url("http://localhost:1/v1")
            .api_key("none")
            .build()
            .unwrap();
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

#[test]
fn an_extra_field_takes_the_place_of_the_format() {
    let model = Model::builder("vllm:m")
        .base_url("http://localhost:1/v1")
        .build()
        .unwrap();
    let schema = serde_json::json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/None"}}});
    let prompt = Prompt::new("?").with_output_schema(schema);
    let error = model.request_body(&prompt).unwrap_err();
    assert!(error.to_string().contains("/properties/a"), "{error}");
    let body = model
        .request_body(&prompt.with_extra("response_format", "mine"))
        .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["response_format"], "mine");
}
