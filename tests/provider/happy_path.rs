//! What a call sends and what it gives back.

use llm_batch::{FinishReason, LlmRequest, Message, Part, Prompt, TokenUsage};
use serde_json::json;
use tower::ServiceExt;

use crate::server::{Reply, Server};

#[tokio::test]
async fn a_prompt_becomes_a_chat_completion() {
    let server = Server::start(|_| Reply::text("4")).await;
    let client = server
        .builder()
        .organization("org-1")
        .project("proj-1")
        .header("x-team", "search")
        .build()
        .unwrap();
    let request = LlmRequest::new("2 + 2?".into());
    let item = std::sync::Arc::clone(request.item());
    let answer = client.model("gpt-4o-mini").oneshot(request).await.unwrap();

    assert_eq!(answer.output, "4");
    assert_eq!(answer.usage, Some(TokenUsage::new(10, 2)));
    assert_eq!(answer.metadata.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.metadata.model.as_deref(), Some("test-model-1"));
    assert_eq!(answer.metadata.response_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(answer.metadata.provider.as_deref(), Some("openai"));
    assert!(answer.metadata.raw_body.is_none());

    let report = item.report();
    assert_eq!(
        (report.calls, report.unknown_usage_calls, report.usage),
        (1, 0, TokenUsage::new(10, 2))
    );

    let sent = &server.received()[0];
    assert_eq!(sent.path, "/v1/chat/completions");
    assert_eq!(sent.header("authorization"), Some("Bearer sk-test-0123456789"));
    assert_eq!(sent.header("content-type"), Some("application/json"));
    assert_eq!(sent.header("openai-organization"), Some("org-1"));
    assert_eq!(sent.header("openai-project"), Some("proj-1"));
    assert_eq!(sent.header("x-team"), Some("search"));
    assert!(sent.header("user-agent").unwrap().starts_with("llm-batch/"));
    assert_eq!(
        sent.json(),
        json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "2 + 2?"}]})
    );
}

#[tokio::test]
async fn every_parameter_reaches_the_wire() {
    let server = Server::start(|_| Reply::text("{}")).await;
    let schema = json!({
        "title": "A person", "type": "object", "properties": {"name": {"type": "string"}},
        "required": ["name"], "additionalProperties": false
    });
    let prompt = Prompt::default()
        .with_system("Be brief.")
        .with_message(Message::new(
            llm_batch::Role::User,
            vec![
                Part::text("What is this?"),
                Part::image("data:image/png;base64,AA=="),
                Part::json(json!({"type": "input_audio"})),
            ],
        ))
        .with_message(Message::assistant("A cat."))
        .with_message(Message::user("Sure?"))
        .with_model("override")
        .with_temperature(0.5)
        .with_top_p(0.25)
        .with_max_output_tokens(64)
        .with_stop("END")
        .with_seed(7)
        .with_output_schema(schema.clone())
        .with_extra("service_tier", "flex")
        .with_extra("top_p", 0.75);
    server.model().oneshot(LlmRequest::new(prompt)).await.unwrap();
    assert_eq!(
        server.received()[0].json(),
        json!({
            "model": "override",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    {"type": "input_audio"},
                ]},
                {"role": "assistant", "content": "A cat."},
                {"role": "user", "content": "Sure?"},
            ],
            "temperature": 0.5,
            "max_completion_tokens": 64,
            "stop": ["END"],
            "seed": 7,
            "response_format": {"type": "json_schema", "json_schema": {
                "name": "A_person", "schema": schema, "strict": true,
            }},
            "service_tier": "flex",
            "top_p": 0.75,
        })
    );
}

#[tokio::test]
async fn defaults_give_way_to_the_prompt() {
    let server = Server::start(|_| Reply::text("ok")).await;
    let defaults = Prompt::default()
        .with_system("Be brief.")
        .with_temperature(0.0)
        .with_max_output_tokens(8)
        .with_extra("user", "u1")
        .with_extra("seed", 1);
    let model = server
        .builder()
        .token_limit_field(llm_batch::provider::openai::TokenLimitField::MaxTokens)
        .build()
        .unwrap()
        .model("m")
        .with_defaults(defaults);
    model.clone().oneshot(LlmRequest::new("a".into())).await.unwrap();
    let own = Prompt::new("b")
        .with_system("Be long.")
        .with_max_output_tokens(9)
        .with_extra("user", "u2");
    model.oneshot(LlmRequest::new(own)).await.unwrap();
    let sent = server.received();
    assert_eq!(
        sent[0].json(),
        json!({"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
               "temperature": 0.0, "max_tokens": 8, "user": "u1", "seed": 1})
    );
    assert_eq!(
        sent[1].json(),
        json!({"model": "m", "messages": [{"role": "system", "content": "Be long."}, {"role": "user", "content": "b"}],
               "temperature": 0.0, "max_tokens": 9, "seed": 1, "user": "u2"})
    );
}

#[tokio::test]
async fn a_raw_body_passes_unchanged() {
    let server = Server::start(|_| Reply::text("ok")).await;
    let text =
        r#"{"zeta":1,"model":"own","messages":[{"role":"tool","x":null}],"unknown":{"b":2,"a":[1.50,1e5]}}"#;
    let body = || Prompt::raw(serde_json::from_str(text).unwrap());
    let model = server
        .model()
        .with_defaults(Prompt::default().with_system("not for raw").with_temperature(1.0));
    model.clone().oneshot(LlmRequest::new(body())).await.unwrap();
    model
        .clone()
        .oneshot(LlmRequest::new(body().with_model("other").with_extra("zeta", 2)))
        .await
        .unwrap();
    let nameless = Prompt::raw(serde_json::from_str(r#"{"messages":[]}"#).unwrap());
    model.oneshot(LlmRequest::new(nameless)).await.unwrap();

    let sent = server.received();
    let normal = |text: &str| text.replace("1.50", "1.5").replace("1e5", "100000.0");
    assert_eq!(sent[0].body, normal(text));
    assert_eq!(
        sent[1].body,
        normal(text)
            .replace("\"own\"", "\"other\"")
            .replace("\"zeta\":1", "\"zeta\":2")
    );
    assert_eq!(sent[2].body, r#"{"messages":[],"model":"test-model"}"#);
}

#[tokio::test]
async fn a_streamed_body_is_refused_unsent() {
    let server = Server::start(|_| Reply::text("ok")).await;
    let prompt = Prompt::new("x").with_extra("stream", true);
    let error = server.model().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
    assert_eq!(error.kind(), llm_batch::ErrorKind::InvalidRequest);
    assert_eq!(error.delivery(), llm_batch::Delivery::NotSent);
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn the_raw_reply_is_kept_on_request() {
    let body = "{\"choices\":[{\"message\":{\"content\":\"x\"}}],  \"odd\": 1.0}";
    let server = Server::start(move |_| Reply::new(200, &[], format!("\n\n{body}\n"))).await;
    let model = server.builder().keep_raw_body(true).build().unwrap().model("m");
    let answer = model.oneshot(LlmRequest::new("x".into())).await.unwrap();
    assert_eq!(answer.metadata.raw_body.unwrap().get(), body);
    assert_eq!((answer.output.as_str(), answer.usage), ("x", None));
}
