//! Requests beside those that OpenAI's own client sends for the same call.

use llm_batch::provider::Streaming;
use llm_batch::{LlmRequest, Model, Prompt};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

const TEXT: &str = "Hello, é日本 🙂 \"q\" \\ </b>";

/// Sends the prompt, and compares what arrived.
async fn compare(server: &Server, model: Model, prompt: Prompt, path: &str, body: Value) {
    model.oneshot(LlmRequest::new(prompt)).await.unwrap();
    let sent = server.received().pop().unwrap();
    assert_eq!(sent.path, path);
    assert_eq!(sent.json(), body);
    assert_eq!(sent.header("authorization"), Some("Bearer sk-test-0123456789"));
    assert_eq!(sent.header("accept"), Some("application/json"));
    assert_eq!(sent.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn chat_completions_are_asked_for_in_the_same_words() {
    let server = Server::start(|_| Reply::text("ok")).await;
    let model = || server.builder().build().unwrap().chat("gpt-4o-mini");
    let path = "/v1/chat/completions";
    let user = json!({"role": "user", "content": TEXT});

    let body = json!({"model": "gpt-4o-mini", "messages": [user]});
    compare(&server, model(), TEXT.into(), path, body).await;

    let body =
        json!({"model": "gpt-4o-mini", "messages": [{"role": "system", "content": "Be brief."}, user]});
    compare(
        &server,
        model(),
        Prompt::new(TEXT).with_system("Be brief."),
        path,
        body,
    )
    .await;

    let prompt = Prompt::new(TEXT)
        .with_max_output_tokens(64)
        .with_seed(7)
        .with_stop("END")
        .with_temperature(0.2)
        .with_top_p(0.9)
        .with_extra("service_tier", "flex")
        .with_extra("frequency_penalty", -0.1)
        .with_extra("logit_bias", json!({"5": -100}))
        .with_extra("logprobs", true)
        .with_extra("metadata", json!({"k": "v"}))
        .with_extra("n", 2)
        .with_extra("presence_penalty", 0.1)
        .with_extra("top_logprobs", 2)
        .with_extra("user", "u1");
    let body = json!({
        "model": "gpt-4o-mini", "service_tier": "flex", "messages": [user], "frequency_penalty": -0.1,
        "logit_bias": {"5": -100}, "logprobs": true, "max_completion_tokens": 64, "metadata": {"k": "v"}, "n": 2,
        "presence_penalty": 0.1, "seed": 7, "stop": ["END"], "temperature": 0.2, "top_logprobs": 2, "top_p": 0.9,
        "user": "u1"
    });
    compare(&server, model(), prompt, path, body).await;

    let schema = json!({
        "title": "person", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
        "additionalProperties": false
    });
    let body = json!({
        "model": "gpt-4o-mini", "messages": [user],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema}}
    });
    compare(
        &server,
        model(),
        Prompt::new(TEXT).with_output_schema(schema),
        path,
        body,
    )
    .await;

    let body = json!({
        "model": "gpt-4o-mini", "stream": true, "messages": [user], "stream_options": {"include_usage": true}
    });
    compare(
        &server,
        model().with_streaming(Streaming::new()),
        TEXT.into(),
        path,
        body,
    )
    .await;
}

#[tokio::test]
async fn responses_are_asked_for_in_the_same_words() {
    let server = Server::start(|_| Reply::json(&json!({"status": "completed", "output": []}))).await;
    let model = || server.builder().build().unwrap().responses("gpt-4o-mini");
    let path = "/v1/responses";

    let body = json!({
        "model": "gpt-4o-mini", "input": "hi", "instructions": "Be brief.", "max_output_tokens": 64, "store": false
    });
    let prompt = Prompt::new("hi")
        .with_system("Be brief.")
        .with_max_output_tokens(64);
    compare(&server, model(), prompt, path, body).await;

    let pet = json!({
        "properties": {"kind": {"enum": ["cat", "dog"], "type": "string"}}, "required": ["kind"], "type": "object",
        "additionalProperties": false
    });
    let schema = json!({
        "$defs": {"Pet": pet}, "title": "Person", "type": "object", "additionalProperties": false,
        "description": "A person.",
        "properties": {
            "name": {"description": "full name", "type": "string"},
            "age": {"type": "integer"},
            "tags": {"items": {"type": "string"}, "type": "array"},
            "pet": {"anyOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]}
        },
        "required": ["name", "age", "tags", "pet"]
    });
    // The one difference: a response is not kept unless that is asked for.
    let body = json!({
        "model": "gpt-4o-mini", "input": "hi", "store": false,
        "text": {"format": {"type": "json_schema", "strict": true, "name": "Person", "schema": schema}}
    });
    compare(
        &server,
        model(),
        Prompt::new("hi").with_output_schema(schema),
        path,
        body,
    )
    .await;
}
