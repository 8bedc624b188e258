//! Reading a value from a text.

use llm_batch::testing::{FakeStrategy, SimulatedProvider};
use llm_batch::{
    BoxError, Delivery, ErrorKind, Fault, FinishReason, InvalidOutput, LlmError, LlmRequest, LlmResponse,
    Prompt, ResponseMetadata, StructuredExt, TokenUsage,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};
use tower::{ServiceExt, service_fn};

use crate::support::{GOOD, Review, Script, ends_with, good, read, says};
use crate::types::Recursive;

#[tokio::test]
async fn json_is_read_bare_and_in_an_outer_fence() {
    for text in [
        GOOD.to_owned(),
        format!("\n  {GOOD}\n"),
        format!("```json\n{GOOD}\n```"),
        format!("\n```\r\n{GOOD}\r\n```\n\n"),
    ] {
        assert_eq!(read::<Review>(says(&text)).await.unwrap(), good(), "{text}");
    }
    for text in [
        format!("Here: {GOOD}"),
        format!("{GOOD}\n```"),
        format!("```\n{GOOD}\n```\n```\n{GOOD}\n```"),
        format!("{GOOD}{GOOD}"),
    ] {
        let error = read::<Review>(says(&text)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Validation, "{text}");
        assert_eq!(error.raw_output(), Some(text.as_str()));
        assert_eq!(error.usage(), Some(TokenUsage::new(10, 5)));
        let invalid = InvalidOutput::of(&error).unwrap();
        assert!(
            invalid.faults[0].message.starts_with("the answer is not JSON: "),
            "{invalid}"
        );
        assert_eq!((invalid.faults.len(), &invalid.value), (1, &None));
    }
}

#[tokio::test]
async fn one_value_is_recovered_when_asked_for() {
    let recovering = |text: &str| {
        let model = Script::new([says(text)])
            .structured::<Review>()
            .recover_json(true);
        model.oneshot(LlmRequest::new("?".into()))
    };
    for text in [
        format!("{GOOD}\n```"),
        format!("Sure!\n```json\n{GOOD}\n```\nAnything else?"),
    ] {
        assert_eq!(recovering(&text).await.unwrap().output, good());
    }
    for text in [format!("{GOOD} or {GOOD}"), GOOD[..GOOD.len() - 1].to_owned()] {
        assert_eq!(
            recovering(&text).await.unwrap_err().kind(),
            ErrorKind::Validation,
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_cut_answer_is_no_validation_failure() {
    let error = read::<Review>(ends_with(&GOOD[..40], FinishReason::Length))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.disposition(), llm_batch::Disposition::Fatal);
    assert_eq!(
        (error.usage(), error.raw_output()),
        (Some(TokenUsage::new(10, 5)), Some(&GOOD[..40]))
    );
    // It may still be complete, and then it is checked like any other.
    assert_eq!(
        read::<Review>(ends_with(GOOD, FinishReason::Length))
            .await
            .unwrap(),
        good()
    );
    let error = read::<Review>(ends_with("{}", FinishReason::Length))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Validation);
    let error = read::<Review>(ends_with("", FinishReason::Length))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    // Also a text that a closure cannot read.
    let model = Script::new([ends_with("4x", FinishReason::Length)]).parse_with(|text| text.parse::<u8>());
    let error = model.oneshot(LlmRequest::new("?".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
}

#[tokio::test]
async fn a_refusal_is_no_validation_failure() {
    let error = read::<Review>(ends_with("I can't", FinishReason::ContentFilter))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.usage()),
        (ErrorKind::ContentFilter, Some(TokenUsage::new(10, 5)))
    );
    let provider = SimulatedProvider::builder().refusal_rate(1.0).build().unwrap();
    let model = provider.service().structured::<Review>();
    let error = model.oneshot(LlmRequest::new("?".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentFilter);
    assert!(InvalidOutput::of(&error).is_none());
}

#[tokio::test]
async fn nothing_but_a_tool_call_is_said_so() {
    for call in [
        json!({"function": {"name": "look_up"}}),
        json!({"type": "tool_use", "name": "look_up"}),
    ] {
        let mut metadata = ResponseMetadata::default();
        metadata.tool_calls = vec![call];
        let error = read::<Review>(says("").with_metadata(metadata))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "validation: the model called a tool (look_up) in place of an answer"
        );
    }
    let error = read::<Review>(says(" \n")).await.unwrap_err();
    assert_eq!(error.to_string(), "validation: the answer is empty");
}

#[tokio::test]
async fn null_stands_for_a_missing_field() {
    let text = r#"{"product": "lamp", "stars": 4, "tags": null, "author": null}"#;
    let review = read::<Review>(says(text)).await.unwrap();
    assert_eq!((review.tags, review.author), (vec![], None));
    // But not for a required field.
    let error = read::<Review>(says(r#"{"product": null, "stars": 4, "tags": null}"#))
        .await
        .unwrap_err();
    let invalid = InvalidOutput::of(&error).unwrap();
    assert_eq!(
        invalid.faults,
        [Fault::new("/product", r#"null is not of type "string""#)]
    );
    assert_eq!(invalid.value, Some(json!({"product": null, "stars": 4})));
    // At any depth.
    let text =
        r#"{"name": "a", "children": [{"name": "b", "children": null, "parent": null}], "parent": null}"#;
    assert!(
        read::<Recursive>(says(text)).await.unwrap().children[0]
            .children
            .is_empty()
    );
}

#[tokio::test]
async fn a_type_that_is_no_object_is_asked_for_inside_one() {
    let model = Script::new([
        says(r#"{"value": [1, 2]}"#),
        says("[3]"),
        says(r#"{"value": [1, "x"]}"#),
    ]);
    let typed = model.clone().structured::<Vec<u8>>();
    assert_eq!(typed.schema()["type"], "object");
    let ask = || typed.clone().oneshot(LlmRequest::new("?".into()));
    assert_eq!(ask().await.unwrap().output, [1, 2]);
    assert_eq!(ask().await.unwrap().output, [3]);
    let error = ask().await.unwrap_err();
    let invalid = InvalidOutput::of(&error).unwrap();
    assert_eq!(invalid.faults[0].path, "/value/1");
    assert_eq!(invalid.value, Some(json!({"value": [1, "x"]})));

    // A type that is recursive as a whole.
    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    enum Sum {
        Number(i64),
        Of(Vec<Sum>),
    }
    let model = Script::new([says(r#"{"value": {"Of": [{"Number": 1}, {"Of": []}]}}"#)]).structured::<Sum>();
    let text = model.schema().to_string();
    assert!(
        text.contains(r##""$ref":"#/$defs/Sum""##) && !text.contains(r##""$ref":"#""##),
        "{text}"
    );
    let answer = model.oneshot(LlmRequest::new("?".into())).await.unwrap();
    assert_eq!(answer.output, Sum::Of(vec![Sum::Number(1), Sum::Of(vec![])]));

    // Also by a field with the name of a keyword.
    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Node {
        Leaf,
        Branch { default: Option<Box<Node>> },
    }
    let text = r#"{"kind": "branch", "default": {"kind": "leaf"}}"#;
    let model = Script::new([says(text)]).structured::<Node>();
    assert!(!model.schema().to_string().contains(r##""$ref":"#""##));
    let answer = model.oneshot(LlmRequest::new("?".into())).await.unwrap();
    let leaf = Some(Box::new(Node::Leaf));
    assert_eq!(answer.output, Node::Branch { default: leaf });

    // A variant with the same name is read as that variant.
    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Named {
        Value(u8),
    }
    assert_eq!(
        read::<Named>(says(r#"{"value": 1}"#)).await.unwrap(),
        Named::Value(1)
    );
    assert_eq!(
        read::<Named>(says(r#"{"value": {"value": 1}}"#)).await.unwrap(),
        Named::Value(1)
    );
}

#[tokio::test]
async fn the_schema_goes_with_the_prompt_unless_it_has_one() {
    let model = Script::new([says(GOOD), says(GOOD), says(GOOD)]);
    let typed = model.clone().structured::<Review>();
    let own = json!({"type": "object", "title": "Mine"});
    let mut raw = Map::new();
    raw.insert("messages".to_owned(), json!([]));
    for prompt in [
        Prompt::new("?"),
        Prompt::new("?").with_output_schema(own.clone()),
        Prompt::raw(raw),
    ] {
        typed.clone().oneshot(LlmRequest::new(prompt)).await.unwrap();
    }
    let requests = model.requests.lock().unwrap();
    assert_eq!(requests[0].input().output_schema(), Some(typed.schema()));
    assert_eq!(requests[1].input().output_schema(), Some(&own));
    assert_eq!(requests[2].input().output_schema(), None);
}

#[tokio::test]
async fn any_strategy_can_be_typed() {
    let ask = || LlmRequest::new("2 and 3?".into());
    // The simulated provider makes an instance of the schema.
    #[derive(Debug, Deserialize, JsonSchema)]
    struct Numbers {
        #[schemars(range(min = 3))]
        count: u8,
        list: Vec<bool>,
    }
    let provider = SimulatedProvider::builder().build().unwrap();
    let answer = provider
        .service()
        .structured::<Numbers>()
        .oneshot(ask())
        .await
        .unwrap();
    assert!(
        answer.output.count >= 3 && answer.output.list.len() <= 1,
        "{answer:?}"
    );
    assert_eq!(answer.metadata.provider.as_deref(), Some("sim"));
    assert_eq!(provider.ledger().billed_answered, answer.usage.unwrap());

    let fake = FakeStrategy::new(|_: &LlmRequest| GOOD.to_owned()).structured::<Review>();
    assert_eq!(fake.oneshot(ask()).await.unwrap().output, good());

    // An error of another type that an error of ours can become.
    let boxed = service_fn(async |_: LlmRequest| Ok::<_, BoxError>(LlmResponse::new("{}".to_owned())));
    let error = boxed.structured::<Review>().oneshot(ask()).await.unwrap_err();
    assert_eq!(InvalidOutput::of(&*error).unwrap().faults.len(), 2);
}

#[tokio::test]
async fn a_schema_of_run_time() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let model = Script::new([says(r#"{"n": 1}"#)]).structured_by(schema).unwrap();
    assert_eq!(
        model.oneshot(LlmRequest::new("?".into())).await.unwrap().output,
        json!({"n": 1})
    );
    for (schema, text) in [
        (json!({"type": "nonsense"}), "nonsense"),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "(",
        ),
        (
            json!({"$ref": "https://example.com/elsewhere.json"}),
            "example.com",
        ),
        (
            json!({"$schema": "https://example.com/own", "type": "object"}),
            "example.com",
        ),
        (json!("text"), ""),
    ] {
        let error = Script::new([]).structured_by(schema.clone()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{schema}");
        assert!(error.message().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_closure_reads_what_is_not_json() {
    let ask = |text: &str, parse: fn(&str) -> Result<u8, BoxError>| {
        let model = Script::new([says(text)]).parse_with(parse);
        model.oneshot(LlmRequest::new("?".into()))
    };
    let number = |text: &str| text.trim().parse().map_err(BoxError::from);
    assert_eq!(ask(" 42\n", number).await.unwrap().output, 42);
    let error = ask("forty-two", number).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.raw_output(), error.usage()),
        (
            ErrorKind::Validation,
            Some("forty-two"),
            Some(TokenUsage::new(10, 5))
        )
    );
    assert_eq!(error.message(), "invalid digit found in string");
    // A closure's own decision takes precedence.
    let error = ask("stop", |_| Err(LlmError::fatal("hopeless").into()))
        .await
        .unwrap_err();
    assert_eq!(error.disposition(), llm_batch::Disposition::Fatal);
    assert_eq!(
        (error.usage(), error.delivery()),
        (Some(TokenUsage::new(10, 5)), Delivery::MaybeBilled)
    );
    let error = ask("a;b", |_| {
        Err(InvalidOutput::new([Fault::new("/0", "a"), Fault::new("/1", "b")]).into())
    })
    .await
    .unwrap_err();
    assert_eq!(error.to_string(), "validation: /0: a; /1: b");
    // No schema is sent.
    let model = Script::new([says("1")]);
    model
        .clone()
        .parse_with(|text| text.parse::<u8>())
        .oneshot(LlmRequest::new("?".into()))
        .await
        .unwrap();
    assert_eq!(model.requests.lock().unwrap()[0].input().output_schema(), None);
}
