//! Anthropic's streams: whole, cut, failing and stuck.

use std::time::Duration;

use llm_batch::provider::{Model, Streaming};
use llm_batch::{
    Delivery, Disposition, ErrorKind, FinishReason, LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage,
};
use serde_json::json;
use tower::ServiceExt;

use crate::anthropic::{builder, message};
use crate::server::{After, Reply, Server};

/// A recorded stream, with the spaces that stand behind its JSON.
const RECORDED: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-haiku-4-5-20251001\",\"id\":\"msg_011CeC\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"stop_details\":null,\"usage\":{\"input_tokens\":15,\"cache_creation_input_tokens\":4,\"cache_read_input_tokens\":0,\"cache_creation\":{\"ephemeral_5m_input_tokens\":4,\"ephemeral_1h_input_tokens\":0},\"output_tokens\":1,\"service_tier\":\"standard\"}}     }\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}  }\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"1\\n2\"}    }\n\n",
    "event: weather\ndata: {\"type\":\"weather\",\"sky\":\"blue\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\\n3\"}    }\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0    }\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"stop_details\":null},\"usage\":{\"input_tokens\":15,\"cache_creation_input_tokens\":4,\"cache_read_input_tokens\":0,\"output_tokens\":9}           }\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

const OVERLOADED: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";

/// The beginning of the recorded stream, up to some text and before its end.
fn beginning() -> &'static str {
    &RECORDED[..RECORDED.find("event: weather").unwrap()]
}

fn streaming(server: &Server) -> Model {
    let client = builder(server).keep_raw_body(true).build().unwrap();
    client.model("claude-sonnet-4-5").with_streaming(Streaming::new())
}

/// A stream that says its length: `missing` bytes of it never come.
fn stream(events: &str, missing: usize, after: After) -> Reply {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncontent-length: {}\r\n\r\n",
        events.len() + missing
    );
    Reply::raw(head + events, after)
}

async fn ask(reply: Reply) -> Result<LlmResponse, LlmError> {
    let server = Server::start(move |_| reply.clone()).await;
    streaming(&server).oneshot(LlmRequest::new("x".into())).await
}

#[tokio::test]
async fn a_stream_is_the_answer_that_would_have_come_whole() {
    let server = Server::start(|_| stream(RECORDED, 0, After::Keep)).await;
    let prompt = Prompt::new("Count from 1 to 3").with_max_output_tokens(64);
    let request = LlmRequest::new(prompt);
    let item = std::sync::Arc::clone(request.item());
    let reply = streaming(&server).oneshot(request).await.unwrap();
    assert_eq!(reply.output, "1\n2\n3");
    let mut usage = TokenUsage::new(19, 9);
    usage.cache_write = 4;
    assert_eq!(reply.usage, Some(usage));
    assert_eq!(reply.metadata.finish_reason, Some(FinishReason::Stop));
    assert_eq!(reply.metadata.model.as_deref(), Some("claude-haiku-4-5-20251001"));
    assert_eq!(reply.metadata.response_id.as_deref(), Some("msg_011CeC"));
    let raw: serde_json::Value = serde_json::from_str(reply.metadata.raw_body.unwrap().get()).unwrap();
    assert_eq!(raw["content"], json!([{"type": "text", "text": "1\n2\n3"}]));
    assert!(item.report().time_to_first_token.is_some());
    assert_eq!(item.report().usage, usage);

    let sent = server.received().pop().unwrap();
    assert_eq!(
        sent.json(),
        json!({"model": "claude-sonnet-4-5", "max_tokens": 64, "stream": true,
               "messages": [{"role": "user", "content": "Count from 1 to 3"}]})
    );
    let raw = Prompt::raw(serde_json::from_str(r#"{"max_tokens":1,"messages":[]}"#).unwrap());
    streaming(&server).oneshot(LlmRequest::new(raw)).await.unwrap();
    assert_eq!(
        server.received()[1].body,
        r#"{"max_tokens":1,"messages":[],"model":"claude-sonnet-4-5","stream":true}"#
    );
}

#[tokio::test]
async fn tool_calls_thoughts_and_refusals_come_in_pieces() {
    let events = [
        r#"{"type":"message_start","message":{"content":[],"id":"m","usage":{"input_tokens":700,"output_tokens":5}}}"#,
        r#"{"content_block":{"thinking":"","type":"thinking"},"index":0,"type":"content_block_start"}"#,
        r#"{"delta":{"thinking":"Two tools.","type":"thinking_delta"},"index":0,"type":"content_block_delta"}"#,
        r#"{"content_block":{"id":"toolu_1","input":{},"name":"harbor","type":"tool_use"},"index":1,"type":"content_block_start"}"#,
        r#"{"delta":{"partial_json":"","type":"input_json_delta"},"index":1,"type":"content_block_delta"}"#,
        r#"{"content_block":{"id":"toolu_2","input":{},"name":"orchard","type":"tool_use"},"index":2,"type":"content_block_start"}"#,
        r#"{"delta":{"partial_json":"{\"row\"","type":"input_json_delta"},"index":2,"type":"content_block_delta"}"#,
        r#"{"delta":{"partial_json":": 3}","type":"input_json_delta"},"index":2,"type":"content_block_delta"}"#,
        r#"{"delta":{"stop_reason":"tool_use"},"type":"message_delta","usage":{"output_tokens":70,"output_tokens_details":{"thinking_tokens":6}}}"#,
        r#"{"type":"message_stop"}"#,
    ];
    // The type in the data is enough.
    let text: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    let reply = ask(stream(&text, 0, After::Keep)).await.unwrap();
    assert_eq!(
        reply.metadata.tool_calls,
        [
            json!({"id": "toolu_1", "input": {}, "name": "harbor", "type": "tool_use"}),
            json!({"id": "toolu_2", "input": {"row": 3}, "name": "orchard", "type": "tool_use"}),
        ]
    );
    assert_eq!(reply.output, "");
    let usage = reply.usage.unwrap();
    assert_eq!((usage.input, usage.output, usage.reasoning), (700, 70, 6));

    let refusal = RECORDED.replace("\"end_turn\"", "\"refusal\"");
    let error = ask(stream(&refusal, 0, After::Keep)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::ContentFilter, Delivery::MaybeBilled)
    );
    assert_eq!(error.usage().map(|usage| usage.output), Some(9));
    assert_eq!(error.raw_output(), Some("1\n2\n3"));
}

#[tokio::test]
async fn a_cut_stream_was_sent_and_may_have_been_billed() {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n7f\r\nbroken",
        beginning().len(),
        beginning()
    );
    let cut = [
        // It ends before its end.
        stream(beginning(), 0, After::Keep),
        // The body breaks off, in its two ways.
        stream(beginning(), 100, After::Close),
        Reply::raw(chunked, After::Close),
        stream(beginning(), 100, After::Reset),
        // Nothing came but the head.
        stream("", 0, After::Keep),
    ];
    for reply in cut {
        let text = String::from_utf8_lossy(&reply.bytes).into_owned();
        let error = ask(reply).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::Connection, Delivery::MaybeBilled),
            "{text}"
        );
        assert_eq!(
            (error.disposition(), error.usage()),
            (Disposition::Backoff, None),
            "{text}"
        );
        assert_eq!(error.status(), Some(200));
    }
}

#[tokio::test]
async fn an_error_event_is_an_error_of_its_kind() {
    let message = |kind: &str, text: &str| {
        format!(
            "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"{text}\"}}}}\n\n"
        )
    };
    for (events, kind) in [
        (format!("{}{OVERLOADED}", beginning()), ErrorKind::Overloaded),
        (OVERLOADED.to_owned(), ErrorKind::Overloaded),
        (message("rate_limit_error", "slow"), ErrorKind::RateLimit),
        (message("api_error", "died"), ErrorKind::ServerError),
        (message("timeout_error", "late"), ErrorKind::Timeout),
        (
            message("invalid_request_error", "Your credit balance is too low"),
            ErrorKind::InsufficientBalance,
        ),
        (
            message(
                "invalid_request_error",
                "prompt is too long: 2 tokens > 1 maximum",
            ),
            ErrorKind::ContextLength,
        ),
        (
            "event: error\ndata: upstream died\n\n".to_owned(),
            ErrorKind::ServerError,
        ),
    ] {
        let error = ask(stream(&events, 0, After::Keep)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (kind, Delivery::MaybeBilled),
            "{events}"
        );
        // What came before was billed or not: nobody says.
        assert_eq!(error.usage(), None, "{events}");
    }
}

#[tokio::test]
async fn what_is_complete_stays_an_answer() {
    let without_end = RECORDED.replace("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", "");
    for reply in [
        stream(&without_end, 0, After::Keep),
        stream(RECORDED.trim_end(), 0, After::Keep),
        stream(RECORDED, 100, After::Close),
        stream(&format!("{RECORDED}{OVERLOADED}"), 0, After::Keep),
        stream(&RECORDED.replace('\n', "\r\n"), 0, After::Keep),
        // Some gateways answer whole.
        Reply::json(&message("1\n2\n3")),
    ] {
        assert_eq!(ask(reply).await.unwrap().output, "1\n2\n3");
    }
}

#[tokio::test]
async fn a_status_before_the_stream_is_read_as_ever() {
    let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let error = ask(Reply::new(529, &[("retry-after", "2")], body))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::Overloaded, Delivery::Rejected)
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));

    // Some proxies know no reason phrase.
    let bare = "HTTP/1.1 529 \r\ncontent-length: 0\r\n\r\n";
    let error = ask(Reply::raw(bare, After::Keep)).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Overloaded, Some(529)));
}

#[tokio::test]
async fn a_stuck_stream_is_given_up() {
    let server = Server::start(|_| stream(beginning(), 100, After::Keep)).await;
    let model =
        streaming(&server).with_streaming(Streaming::new().with_idle_timeout(Duration::from_millis(50)));
    let error = model.oneshot(LlmRequest::new("x".into())).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::TimedOut, Delivery::MaybeBilled)
    );
    assert_eq!(error.usage(), None);
}

#[tokio::test]
async fn a_paused_stream_is_continued() {
    let paused = RECORDED.replace("\"end_turn\"", "\"pause_turn\"");
    let server = Server::start(move |request| match request.number {
        0 => stream(&paused, 0, After::Keep),
        _ => stream(RECORDED, 0, After::Keep),
    })
    .await;
    let reply = streaming(&server)
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap();
    assert_eq!(reply.output, "1\n2\n31\n2\n3");
    let usage = reply.usage.unwrap();
    assert_eq!((usage.input, usage.cache_write, usage.output), (38, 8, 18));
    let sent = server.received()[1].json();
    assert_eq!(sent["stream"], true);
    assert_eq!(
        sent["messages"][1],
        json!({"role": "assistant", "content": [{"type": "text", "text": "1\n2\n3"}]})
    );
}
