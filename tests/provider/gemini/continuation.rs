//! Answers that come in parts.

use llm_batch::provider::Streaming;
use llm_batch::{Delivery, ErrorKind, LlmRequest, Prompt};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{answer, ask, model, tokens};
use crate::server::{After, Received, Reply, Server};

/// A part of 10 + 2 tokens, which asks to be continued.
fn part(text: &str, token: &str) -> Value {
    let mut part = answer(text);
    part["candidates"][0]["finishReason"] = "CONTINUATION".into();
    part["candidates"][0]["continuationToken"] = token.into();
    part
}

fn token(request: &Received) -> Value {
    request.json()["continuationToken"].clone()
}

#[tokio::test]
async fn the_same_question_is_sent_with_the_token_until_the_answer_is_whole() {
    let server = Server::start(|request| match request.number {
        0 => Reply::json(&part("One, ", "t1")),
        1 => Reply::json(&part("two, ", "t2")),
        _ => Reply::json(&answer("three.")),
    })
    .await;
    let request = LlmRequest::new(Prompt::new("count").with_temperature(0.5));
    let item = std::sync::Arc::clone(request.item());
    let answer = model(&server).oneshot(request).await.unwrap();
    assert_eq!(answer.output, "One, two, three.");
    // Each part is billed.
    assert_eq!(tokens(answer.usage), Some((30, 6, 0, 0)));
    assert_eq!((item.report().calls, item.report().usage.total()), (1, 36));
    let sent = server.received();
    assert_eq!(
        [&sent[0], &sent[1], &sent[2]].map(token),
        [Value::Null, json!("t1"), json!("t2")]
    );
    for later in &sent[1..] {
        let mut body = later.json();
        body.as_object_mut().unwrap().remove("continuationToken");
        assert_eq!(body, sent[0].json());
        assert_eq!(later.path, sent[0].path);
    }
}

#[tokio::test]
async fn streamed_parts_are_joined_too() {
    let server = Server::start(|request| {
        let body = match request.number {
            0 => part("One, ", "t1"),
            _ => answer("two."),
        };
        Reply::new(
            200,
            &[("content-type", "text/event-stream")],
            format!("data: {body}\n\n"),
        )
    })
    .await;
    let model = model(&server).with_streaming(Streaming::new());
    let answer = ask(&model, "count").await.unwrap();
    assert_eq!(
        (answer.output.as_str(), tokens(answer.usage)),
        ("One, two.", Some((20, 4, 0, 0)))
    );
    assert_eq!(token(&server.received()[1]), "t1");
}

#[tokio::test]
async fn there_are_eight_continuations_and_no_more() {
    let server = Server::start(|request| Reply::json(&part("x", &request.number.to_string()))).await;
    let error = ask(&model(&server), "count").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.raw_output(), Some("xxxxxxxxx"));
    assert_eq!(tokens(error.usage()), Some((90, 18, 0, 0)));
    assert_eq!(server.received().len(), 9);
}

#[tokio::test]
async fn what_the_first_parts_cost_is_known_when_a_later_one_fails() {
    type Later = fn() -> Reply;
    let cases: [(Later, ErrorKind, (u64, u64)); 6] = [
        (|| Reply::new(503, &[], ""), ErrorKind::Overloaded, (10, 2)),
        (|| Reply::new(429, &[], ""), ErrorKind::RateLimit, (10, 2)),
        (|| Reply::raw("", After::Close), ErrorKind::Connection, (10, 2)),
        (|| Reply::new(200, &[], "<html>"), ErrorKind::ServerError, (10, 2)),
        (
            || {
                Reply::json(
                    &json!({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 7}}),
                )
            },
            ErrorKind::ContentFilter,
            (17, 2),
        ),
        (
            || {
                let mut blocked = answer("");
                blocked["candidates"][0] = json!({"finishReason": "SAFETY"});
                Reply::json(&blocked)
            },
            ErrorKind::ContentFilter,
            (20, 4),
        ),
    ];
    for (later, kind, (input, output)) in cases {
        let server = Server::start(move |request| match request.number {
            0 => Reply::json(&part("begun", "t")),
            _ => later(),
        })
        .await;
        let request = LlmRequest::new(Prompt::new("x"));
        let item = std::sync::Arc::clone(request.item());
        let error = model(&server).oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.delivery(), Delivery::MaybeBilled, "{error}");
        assert_eq!(tokens(error.usage()), Some((input, output, 0, 0)), "{error}");
        assert_eq!(item.report().usage.total(), input + output, "{error}");
    }
}
