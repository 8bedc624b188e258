//! Streamed answers: whole, cut, stuck, and with errors inside.

use std::time::Duration;

use llm_batch::provider::{Model, Streaming};
use llm_batch::{Delivery, Disposition, ErrorKind, FinishReason, LlmRequest, Prompt};
use tower::ServiceExt;

use super::{answer, ask, model, tokens};
use crate::server::{After, Reply, Server};

/// A recorded stream.
const RECORDED: [&str; 3] = [
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Standing\"}],\"role\":\"model\"},\"index\":0}],\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"id_1\",\"usageMetadata\":{\"candidatesTokenCount\":1,\"promptTokenCount\":12,\"totalTokenCount\":13}}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" sentinel against the sea,\"}],\"role\":\"model\"},\"index\":0}],\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"id_1\",\"usageMetadata\":{\"candidatesTokenCount\":19,\"promptTokenCount\":12,\"totalTokenCount\":31}}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" silent\"}],\"role\":\"model\"},\"finishReason\":\"MAX_TOKENS\",\"index\":0}],\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"id_1\",\"usageMetadata\":{\"candidatesTokenCount\":33,\"promptTokenCount\":12,\"totalTokenCount\":45}}\r\n\r\n",
];
/// Two reasons to stop, and text after the first.
const TWO_STOPS: &str = concat!(
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hello\"}]},\"finishReason\":\"STOP\",\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":1}}\n\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" there\"}]},\"finishReason\":\"STOP\",\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":2,\"thoughtsTokenCount\":3}}\n\n",
);

fn events(text: &str) -> Reply {
    Reply::new(200, &[("content-type", "text/event-stream")], text)
}

/// A chunked body: whole, or without its end.
fn chunked(text: &str, whole: bool, after: After) -> Reply {
    let end = if whole { "0\r\n\r\n" } else { "" };
    Reply::raw(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n{end}",
            text.len()
        ),
        after,
    )
}

async fn start(reply: Reply) -> (Server, Model) {
    let server = Server::start(move |_| reply.clone()).await;
    let model = model(&server).with_streaming(Streaming::new());
    (server, model)
}

#[tokio::test]
async fn the_pieces_make_the_whole_answer() {
    let (_server, model) = start(chunked(&RECORDED.concat(), true, After::Keep)).await;
    let request = LlmRequest::new(Prompt::new("x"));
    let item = std::sync::Arc::clone(request.item());
    let answer = model.oneshot(request).await.unwrap();
    assert_eq!(answer.output, "Standing sentinel against the sea, silent");
    assert_eq!(answer.metadata.finish_reason, Some(FinishReason::Length));
    assert_eq!(answer.metadata.response_id.as_deref(), Some("id_1"));
    // The last usage counts; they are no steps.
    assert_eq!(tokens(answer.usage), Some((12, 33, 0, 0)));
    assert!(item.report().time_to_first_token.is_some());
}

#[tokio::test]
async fn text_after_a_first_reason_to_stop_belongs_to_the_answer() {
    let (_server, model) = start(events(TWO_STOPS)).await;
    let answer = ask(&model, "x").await.unwrap();
    assert_eq!(answer.output, "Hello there");
    assert_eq!(tokens(answer.usage), Some((4, 5, 0, 3)));
}

#[tokio::test]
async fn thoughts_and_calls_keep_their_parts() {
    let text = concat!(
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hm\",\"thought\":true}]}}]}\n\n",
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"m.\",\"thought\":true}]}}]}\n\n",
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"4\"}]}}]}\n\n",
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"2\",\"thoughtSignature\":\"c2ln\"}]}}]}\n\n",
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"f\"}}]},\"finishReason\":\"STOP\"}]}\n\n",
    );
    let (_server, model) = start(events(text)).await;
    let answer = ask(&model, "x").await.unwrap();
    assert_eq!(answer.output, "42");
    assert_eq!(
        answer.metadata.tool_calls,
        [serde_json::json!({"functionCall": {"name": "f"}})]
    );
}

#[tokio::test]
async fn a_blocked_prompt_is_complete_without_a_candidate() {
    let (_server, model) = start(events(
        "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n",
    ))
    .await;
    assert_eq!(
        ask(&model, "x").await.unwrap_err().kind(),
        ErrorKind::ContentFilter
    );
}

#[tokio::test]
async fn a_stream_cut_in_any_form_may_have_been_billed() {
    let begun = RECORDED[..2].concat();
    let with_length = |text: &str| {
        Reply::raw(
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n{text}"
            ),
            After::Close,
        )
    };
    for (form, reply) in [
        ("a clean end", chunked(&begun, true, After::Keep)),
        ("an open chunk", chunked(&begun, false, After::Close)),
        ("a reset", chunked(&begun, false, After::Reset)),
        ("a short body", with_length(&begun)),
        // A reason to stop is not the end: text may follow it.
        (
            "an open chunk after a reason to stop",
            chunked(TWO_STOPS, false, After::Close),
        ),
        ("a short body after a reason to stop", with_length(TWO_STOPS)),
        ("nothing at all", chunked("\n", true, After::Keep)),
    ] {
        let (_server, model) = start(reply).await;
        let error = ask(&model, "x").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition(), error.delivery(), error.usage()),
            (
                ErrorKind::Connection,
                Disposition::Backoff,
                Delivery::MaybeBilled,
                None
            ),
            "{form}: {error}"
        );
    }
}

#[tokio::test]
async fn an_error_on_the_way_is_an_error() {
    let error = "{\n  \"error\": {\n    \"code\": 503,\n    \"message\": \"The model is overloaded.\",\n    \"status\": \"UNAVAILABLE\"\n  }\n}\n";
    let begun = RECORDED[0];
    for (form, text) in [
        ("bare, after a piece", format!("{begun}{error}")),
        ("bare, at once", error.to_owned()),
        ("bare, in a list", format!("{begun}[{error}]\n")),
        ("bare, after a reason to stop", format!("{TWO_STOPS}{error}")),
        (
            "as an event",
            format!("{begun}data: {}\n\n", error.replace('\n', "")),
        ),
        (
            "as an event with a list",
            format!("data: [{}]\n\n", error.replace('\n', "")),
        ),
    ] {
        let (_server, model) = start(events(&text)).await;
        let error = ask(&model, "x").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery(), error.code()),
            (ErrorKind::Overloaded, Delivery::MaybeBilled, Some("UNAVAILABLE")),
            "{form}: {error}"
        );
    }
}

#[tokio::test]
async fn a_refusal_before_the_stream_is_read_whole() {
    let body = r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3s"}]}}]"#;
    let (_server, model) = start(Reply::new(429, &[("content-type", "application/json")], body)).await;
    let error = ask(&model, "x").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::RateLimit, Delivery::Rejected)
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    // A server that does not stream answers all the same.
    let (_server, model) = start(Reply::json(&answer("whole"))).await;
    assert_eq!(ask(&model, "x").await.unwrap().output, "whole");
}

#[tokio::test]
async fn a_stream_that_is_stuck_runs_out_of_time() {
    // Half a chunked body, and then nothing.
    let (_server, model) = start(chunked(RECORDED[0], false, After::Keep)).await;
    let model = model.with_streaming(Streaming::new().with_idle_timeout(Duration::from_millis(50)));
    let error = ask(&model, "x").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::TimedOut, Delivery::MaybeBilled)
    );
}
