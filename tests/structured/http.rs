//! Over real HTTP.

use futures::{StreamExt, stream};
use llm_batch::provider::Model;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    Delivery, ErrorKind, LlmRequest, LlmStreamExt, Prompt, RetryLayer, RetryPolicy, StructuredExt,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tower::{Layer, ServiceExt};

#[derive(Debug, Deserialize, JsonSchema)]
struct Answer {
    text: String,
    #[schemars(range(min = 1))]
    count: u8,
    note: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

#[tokio::test]
async fn answers_are_typed_on_every_wire() {
    for (name, path) in [
        ("openai-compatible:sim", "/v1"),
        ("openai-responses:sim", "/v1"),
        ("anthropic:sim", ""),
        ("gemini:sim", ""),
    ] {
        let provider = SimulatedProvider::builder()
            .invalid_json_rate(0.3)
            .seed(2)
            .build()
            .unwrap();
        let server = provider.serve("127.0.0.1:0").await.unwrap();
        let url = server.base_url().replace("/v1", path);
        let model = Model::builder(name).base_url(url).api_key("any").build().unwrap();
        let model = RetryLayer::new(RetryPolicy::new(12)).layer(model.structured::<Answer>());
        let prompts = stream::iter((0..50).map(|n| format!("question {n}")));
        let mut results = prompts.with_strategy(model).llm_batch(10);
        let (mut calls, mut tokens) = (0, 0);
        while let Some(outcome) = results.next().await {
            let answer = outcome.result.unwrap().output;
            assert!(!answer.text.is_empty() && answer.count >= 1, "{name}: {answer:?}");
            assert!(answer.note.is_none_or(|note| !note.is_empty()) && answer.tags.len() < 9);
            calls += u64::from(outcome.report.calls);
            tokens += outcome.report.usage.total();
        }
        let ledger = server.shutdown().await;
        assert!(calls > 55, "{name}: {calls}");
        assert_eq!(
            (ledger.received, ledger.billed_answered.total()),
            (calls, tokens),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_cut_answer_is_truncated() {
    let provider = SimulatedProvider::builder().build().unwrap();
    let server = provider.serve("127.0.0.1:0").await.unwrap();
    let model = Model::builder("openai-compatible:sim")
        .base_url(server.base_url())
        .build()
        .unwrap();
    let model = RetryLayer::new(RetryPolicy::new(3)).layer(model.structured::<Answer>());
    let prompt = Prompt::new("question").with_max_output_tokens(3);
    let error = model.oneshot(LlmRequest::new(prompt)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.usage().unwrap().output, 3);
    assert_eq!(server.shutdown().await.received, 1);
}

#[tokio::test]
async fn a_schema_that_cannot_be_sent_fails_before_the_call() {
    let provider = SimulatedProvider::builder().build().unwrap();
    let server = provider.serve("127.0.0.1:0").await.unwrap();
    let model = Model::builder("openai-compatible:sim")
        .base_url(server.base_url())
        .build()
        .unwrap();
    let schema = json!({"type": "object", "properties": {"a": {"items": {"$ref": "#/$defs/None"}}}});
    let prompt = Prompt::new("question").with_output_schema(schema);
    let model = RetryLayer::new(RetryPolicy::new(3)).layer(model);
    let error = model.oneshot(LlmRequest::new(prompt)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::InvalidRequest, Delivery::NotSent)
    );
    assert!(error.message().contains("at /properties/a/items"), "{error}");
    assert_eq!(server.shutdown().await.received, 0);
}
