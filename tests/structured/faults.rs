//! Every fault is reported.

use garde::Validate;
use llm_batch::{Fault, InvalidOutput, LlmRequest, StructuredExt};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Review, Script, faults_of, says};
use crate::types::{Bounds, Dates, StructEnum, TaggedEnum, Tuples, UnitEnum, UntaggedEnum};

#[tokio::test]
async fn all_wrong_fields_are_named_at_once() {
    let text = r#"{"stars": 9, "tags": ["a", 2, null], "author": {"name": true}}"#;
    assert_eq!(
        faults_of::<Review>(text).await,
        [
            "/product: is missing",
            "/stars: 9 is greater than the maximum of 5",
            r#"/tags/1: 2 is not of type "string""#,
            r#"/tags/2: null is not of type "string""#,
            "/author/age: is missing",
            r#"/author/name: true is not of type "string""#,
        ]
        .map(str::to_owned)
    );
}

#[tokio::test]
async fn bounds_and_formats_are_checked() {
    assert_eq!(
        faults_of::<Bounds>(r#"{"stars": 0, "price": 0, "code": "abcd", "tags": []}"#)
            .await
            .len(),
        5
    );
    assert_eq!(
        faults_of::<Dates>(r#"{"day": "tomorrow", "at": null, "link": "http://a.b/c"}"#).await,
        [r#"/day: "tomorrow" is not a "date""#]
    );
    assert_eq!(
        faults_of::<Tuples>(r#"{"point": [1], "entry": ["a", 1], "rgb": [1, 2, 300]}"#)
            .await
            .len(),
        2
    );
}

#[tokio::test]
async fn the_meant_form_of_a_choice_is_judged() {
    let event = |event: &str| format!(r#"{{"events": [{event}]}}"#);
    for (text, faults) in [
        (
            event(r#"{"type": "renamed", "name": 7}"#),
            vec![r#"/events/0/name: 7 is not of type "string""#],
        ),
        (
            event(r#"{"type": "moved", "street": "x"}"#),
            vec!["/events/0/number: is missing"],
        ),
        (
            event(r#"{"type": "gone"}"#),
            vec![r#"/events/0/type: is not one of "moved", "renamed", "left""#],
        ),
        (event("7"), vec!["/events/0: has none of the allowed forms"]),
    ] {
        assert_eq!(faults_of::<TaggedEnum>(&text).await, faults, "{text}");
    }
    assert_eq!(
        faults_of::<StructEnum>(r#"{"value": {"Circle": {"radius": "wide"}}}"#).await,
        [r#"/value/Circle/radius: "wide" is not of type "number""#]
    );
    assert_eq!(
        faults_of::<UntaggedEnum>(r#"{"id": [1]}"#).await,
        ["/id: has none of the allowed forms"]
    );
    assert_eq!(
        faults_of::<UnitEnum>(r#"{"mood": "fine", "before": "bad"}"#).await,
        [r#"/mood: is not one of "good", "bad", "so_so""#]
    );
}

#[tokio::test]
async fn what_serde_alone_knows_is_named_by_path() {
    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct Trip {
        stops: Vec<Stop>,
    }
    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct Stop {
        #[schemars(with = "String")]
        address: std::net::Ipv4Addr,
        #[schemars(with = "Option<u64>")]
        delay: u64,
    }
    assert_eq!(
        faults_of::<Trip>(
            r#"{"stops": [{"address": "1.2.3.4", "delay": 1}, {"address": "a/b", "delay": 1}]}"#
        )
        .await,
        ["/stops/1/address: invalid IPv4 address syntax"]
    );
    assert_eq!(
        faults_of::<Trip>(r#"{"stops": [{"address": "1.2.3.4"}]}"#).await,
        ["/stops/0/delay: is missing"]
    );
    // A float is an integer to JSON Schema if it is whole, but not to serde.
    assert_eq!(
        faults_of::<Review>(r#"{"product": "a", "stars": 4.0}"#).await,
        ["/stars: invalid type: floating point `4.0`, expected u8"]
    );
}

#[tokio::test]
async fn long_values_are_not_repeated_in_full() {
    let text = json!({"product": "a", "stars": "x".repeat(10_000)}).to_string();
    let faults = faults_of::<Review>(&text).await;
    assert!(
        faults[0].len() < 150 && faults[0].contains("xxx..."),
        "{faults:?}"
    );
}

#[tokio::test]
async fn own_rules_join_the_others() {
    let model = Script::new([says(r#"{"product": "lamp", "stars": 1, "tags": ["fine"]}"#)]);
    let model = model
        .structured::<Review>()
        .validate_with(|review: &Review| {
            (review.stars < 2 && review.tags.iter().any(|tag| tag == "fine"))
                .then(|| Fault::new("/tags", "contradicts the stars"))
        })
        .validate_with(|review| {
            vec![Fault::new(
                "/product",
                format!("{} is not for sale", review.product),
            )]
        });
    let error = model.oneshot(LlmRequest::new("?".into())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "validation: /tags: contradicts the stars; /product: lamp is not for sale"
    );
    let invalid = InvalidOutput::of(&error).unwrap();
    assert_eq!(invalid.value.as_ref().unwrap()["product"], "lamp");
    let stored = serde_json::to_string(invalid).unwrap();
    assert_eq!(&serde_json::from_str::<InvalidOutput>(&stored).unwrap(), invalid);
}

#[tokio::test]
async fn garde_rules_are_asked_with_json_paths() {
    #[derive(Debug, Deserialize, JsonSchema, Validate)]
    #[serde(rename_all = "camelCase")]
    struct Order {
        #[garde(range(min = 1))]
        item_count: u32,
        #[garde(dive)]
        to_address: Vec<Address>,
        #[garde(skip)]
        #[allow(dead_code)]
        note: String,
    }
    #[derive(Debug, Deserialize, JsonSchema, Validate)]
    struct Address {
        #[garde(length(min = 2))]
        #[serde(rename = "post-code")]
        post_code: String,
    }
    let ask = |text: &str| {
        let model = Script::new([says(text)])
            .structured::<Order>()
            .validate_with_garde();
        model.oneshot(LlmRequest::new("?".into()))
    };
    let good = r#"{"itemCount": 2, "toAddress": [{"post-code": "AB"}], "note": ""}"#;
    assert_eq!(ask(good).await.unwrap().output.item_count, 2);
    let error = ask(r#"{"itemCount": 0, "toAddress": [{"post-code": "AB"}, {"post-code": ""}], "note": ""}"#)
        .await
        .unwrap_err();
    let paths: Vec<_> = InvalidOutput::of(&error)
        .unwrap()
        .faults
        .iter()
        .map(|fault| fault.path.as_str())
        .collect();
    assert_eq!(paths, ["/itemCount", "/toAddress/1/post-code"], "{error}");
}
