//! What the replies of Anthropic's Messages mean.

use llm_batch::provider::anthropic::CacheWrites;
use llm_batch::{Delivery, ErrorKind, FinishReason, LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::anthropic::{builder, message, model};
use crate::server::{Reply, Server};

async fn answer(body: &Value, prompt: Prompt) -> Result<LlmResponse, LlmError> {
    let body = body.to_string();
    let server = Server::start(move |_| Reply::new(200, &[], &body)).await;
    model(&server).oneshot(LlmRequest::new(prompt)).await
}

#[tokio::test]
async fn recorded_replies_are_read() {
    // A reply with all its headers, a `retry-after` that means nothing on a success among them.
    let headers = [
        ("date", "Wed, 19 Aug 2026 14:34:12 GMT"),
        ("retry-after", "30"),
        ("anthropic-ratelimit-requests-limit", "10000"),
        ("anthropic-ratelimit-requests-remaining", "9997"),
        ("anthropic-ratelimit-requests-reset", "2026-08-19T14:34:11Z"),
        ("anthropic-ratelimit-tokens-limit", "12000000"),
        ("anthropic-ratelimit-tokens-remaining", "12000000"),
        ("anthropic-ratelimit-tokens-reset", "2026-08-19T14:34:42Z"),
        ("request-id", "req_1"),
    ];
    let body = json!({
        "model": "claude-haiku-4-5-20251001", "id": "msg_011CeCGmD8uwD58unxgBN8Qx", "type": "message", "role": "assistant",
        "content": [{"type": "text", "text": "2 + 2 = 4"}], "stop_reason": "end_turn", "stop_sequence": null,
        "stop_details": null,
        "usage": {"input_tokens": 16, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                  "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                  "output_tokens": 13, "service_tier": "standard", "inference_geo": "not_available"}
    });
    let text = format!("\n\n{body}\n");
    let server = Server::start(move |_| Reply::new(200, &headers, &text)).await;
    let mut request = LlmRequest::new(Prompt::new("What is 2 + 2?"));
    let call = request.begin_call().unwrap();
    let model = builder(&server).keep_raw_body(true).build().unwrap().model("m");
    let reply = model.oneshot(request).await.unwrap();
    assert_eq!(reply.output, "2 + 2 = 4");
    assert_eq!(reply.usage, Some(TokenUsage::new(16, 13)));
    assert_eq!(reply.metadata.finish_reason, Some(FinishReason::Stop));
    assert_eq!(reply.metadata.provider.as_deref(), Some("anthropic"));
    assert_eq!(reply.metadata.model.as_deref(), Some("claude-haiku-4-5-20251001"));
    assert_eq!(
        reply.metadata.response_id.as_deref(),
        Some("msg_011CeCGmD8uwD58unxgBN8Qx")
    );
    assert_eq!(reply.metadata.raw_body.unwrap().get(), body.to_string());
    assert!(reply.metadata.extensions.get::<CacheWrites>().is_none());
    let quota = call.quota().unwrap();
    assert_eq!(quota.requests.remaining, Some(9_997));
    assert_eq!(quota.tokens.reset, Some(std::time::Duration::from_secs(30)));

    // Thoughts are no part of the answer, and a part of the output.
    let thinking = json!({
        "content": [{"signature": "CAIS", "thinking": "Straightforward.", "type": "thinking"},
                    {"type": "redacted_thinking", "data": "xx"}, {"text": "2 + 2 = 4", "type": "text"}],
        "id": "msg_2", "model": "claude-opus-5", "stop_reason": "end_turn", "type": "message",
        "usage": {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "input_tokens": 13, "output_tokens": 44,
                  "output_tokens_details": {"thinking_tokens": 33}}
    });
    let reply = answer(&thinking, "x".into()).await.unwrap();
    assert_eq!(reply.output, "2 + 2 = 4");
    let usage = reply.usage.unwrap();
    assert_eq!((usage.input, usage.output, usage.reasoning), (13, 44, 33));

    // A tool call stands in for text.
    let block =
        json!({"id": "toolu_01", "input": {"city": "Paris"}, "name": "get_weather", "type": "tool_use"});
    let tool = json!({"content": [block], "stop_reason": "tool_use", "type": "message",
                      "usage": {"input_tokens": 655, "output_tokens": 38}});
    let reply = answer(&tool, "x".into()).await.unwrap();
    assert_eq!(reply.metadata.tool_calls, [block]);
    assert_eq!(reply.metadata.finish_reason, Some(FinishReason::ToolCalls));
    assert_eq!(reply.output, "");
}

#[tokio::test]
async fn cached_input_is_a_part_of_the_input() {
    let with = |usage: Value| {
        let mut reply = message("cache probe ready");
        reply["usage"] = usage;
        reply
    };
    let write = with(
        json!({"cache_creation": {"ephemeral_1h_input_tokens": 63, "ephemeral_5m_input_tokens": 4_500},
        "cache_creation_input_tokens": 4_563, "cache_read_input_tokens": 0, "input_tokens": 3, "output_tokens": 6}),
    );
    let reply = answer(&write, "x".into()).await.unwrap();
    let usage = reply.usage.unwrap();
    assert_eq!(
        (usage.input, usage.cached_input, usage.cache_write, usage.output),
        (4_566, 0, 4_563, 6)
    );
    let writes = reply.metadata.extensions.get::<CacheWrites>().unwrap();
    assert_eq!((writes.five_minutes, writes.one_hour), (4_500, 63));

    let read = with(
        json!({"cache_creation_input_tokens": 85, "cache_read_input_tokens": 1_069, "input_tokens": 6, "output_tokens": 110.0}),
    );
    let usage = answer(&read, "x".into()).await.unwrap().usage.unwrap();
    assert_eq!(
        (usage.input, usage.cached_input, usage.cache_write, usage.output),
        (1_160, 1_069, 85, 110)
    );

    // The sum may be left out; nothing known is not zero.
    let split = with(
        json!({"cache_creation": {"ephemeral_1h_input_tokens": 4}, "input_tokens": 6, "output_tokens": 1}),
    );
    let usage = answer(&split, "x".into()).await.unwrap().usage.unwrap();
    assert_eq!((usage.input, usage.cache_write), (10, 4));
    for unknown in [
        json!(null),
        json!({}),
        json!({"input_tokens": 5}),
        json!({"output_tokens": 5}),
        json!(7),
    ] {
        let reply = answer(&with(unknown), "x".into()).await.unwrap();
        assert_eq!((reply.output.as_str(), reply.usage), ("cache probe ready", None));
    }
}

#[tokio::test]
async fn odd_replies_are_still_answers() {
    for (content, stop, text, reason) in [
        (json!([]), json!("end_turn"), "", Some("stop")),
        (
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            json!("stop_sequence"),
            "ab",
            Some("stop"),
        ),
        (
            json!([{"type": "hologram", "text": "x"}, {"type": "text", "text": "a"}, 7, null, "x"]),
            json!("got_bored"),
            "a",
            Some("got_bored"),
        ),
        (
            json!([{"type": "text"}, {"type": "text", "text": null}]),
            json!("end_turn"),
            "",
            Some("stop"),
        ),
        (json!("plain"), json!(null), "plain", None),
        (json!(null), json!("end_turn"), "", Some("stop")),
        (
            json!([{"type": "text", "text": "half"}]),
            json!("max_tokens"),
            "half",
            Some("length"),
        ),
        (
            json!([{"type": "text", "text": "half"}]),
            json!("model_context_window_exceeded"),
            "half",
            Some("length"),
        ),
    ] {
        let mut reply = message("");
        reply["content"] = content.clone();
        reply["stop_reason"] = stop;
        let reply = answer(&reply, "x".into()).await.unwrap();
        assert_eq!(reply.output, text, "{content}");
        let found = reply.metadata.finish_reason;
        assert_eq!(found.as_ref().map(FinishReason::as_str), reason, "{content}");
    }
}

#[tokio::test]
async fn refusals_fail_with_their_usage() {
    for (content, details, text, code) in [
        (
            json!([]),
            json!({"type": "refusal", "category": "cyber", "explanation": "No exploits."}),
            "the model refused (cyber): No exploits.",
            "cyber",
        ),
        (
            json!([{"type": "text", "text": "Step one"}]),
            json!({"type": "refusal", "category": null, "explanation": null}),
            "the model refused",
            "refusal",
        ),
        (json!(null), json!(null), "the model refused", "refusal"),
    ] {
        let mut reply = message("");
        reply["content"] = content.clone();
        reply["stop_reason"] = json!("refusal");
        reply["stop_details"] = details;
        let error = answer(&reply, "x".into()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::ContentFilter, Delivery::MaybeBilled)
        );
        assert_eq!(error.usage(), Some(TokenUsage::new(10, 2)));
        assert_eq!((error.message(), error.code()), (text, Some(code)));
        let partial = content[0]["text"].as_str().unwrap_or_default();
        assert_eq!(error.raw_output(), Some(partial));
    }
}

#[tokio::test]
async fn a_cut_answer_is_an_answer_unless_it_is_empty_or_json() {
    let structured = || {
        Prompt::new("x").with_output_schema(
            json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false}),
        )
    };
    for (stop, kind) in [
        ("max_tokens", ErrorKind::Truncated),
        ("model_context_window_exceeded", ErrorKind::ContextLength),
    ] {
        for (text, prompt) in [("", "x".into()), (" \n", "x".into()), ("{\"a\":", structured())] {
            let mut reply = message(text);
            reply["stop_reason"] = json!(stop);
            let error = answer(&reply, prompt).await.unwrap_err();
            assert_eq!((error.kind(), error.delivery()), (kind, Delivery::MaybeBilled));
            assert_eq!(error.usage(), Some(TokenUsage::new(10, 2)));
            assert_eq!(error.raw_output(), Some(text));
        }
        // Without counts the cost is unknown, and not zero.
        let mut reply = message("");
        reply["stop_reason"] = json!(stop);
        reply["usage"] = json!(null);
        assert_eq!(answer(&reply, "x".into()).await.unwrap_err().usage(), None);
    }
    // Who asks for nothing gets nothing: such a call fills the cache.
    let mut reply = message("");
    reply["stop_reason"] = json!("max_tokens");
    let raw = json!({"max_tokens": 0, "messages": []});
    for prompt in [
        Prompt::new("x").with_max_output_tokens(0),
        Prompt::new("x")
            .with_max_output_tokens(5)
            .with_extra("max_tokens", 0),
        Prompt::raw(raw.as_object().unwrap().clone()),
    ] {
        let reply = answer(&reply, prompt).await.unwrap();
        assert_eq!(reply.metadata.finish_reason, Some(FinishReason::Length));
    }
}

#[tokio::test]
async fn a_paused_answer_is_continued_and_both_parts_are_counted() {
    let paused = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "stop_reason": "pause_turn",
        "content": [{"type": "text", "text": "I look it up. "},
                    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}],
        "usage": {"input_tokens": 100, "cache_read_input_tokens": 10, "output_tokens": 20},
    });
    let first = paused.clone();
    let server = Server::start(move |request| match request.number {
        0 => Reply::json(&first),
        _ => Reply::json(&message("It is so.")),
    })
    .await;
    let request = LlmRequest::new(Prompt::new("x"));
    let item = std::sync::Arc::clone(request.item());
    let reply = model(&server).oneshot(request).await.unwrap();
    assert_eq!(reply.output, "I look it up. It is so.");
    assert_eq!(reply.metadata.finish_reason, Some(FinishReason::Stop));
    let usage = reply.usage.unwrap();
    assert_eq!((usage.input, usage.cached_input, usage.output), (120, 10, 22));
    assert_eq!(item.report().usage, usage);
    let sent = server.received();
    assert_eq!(sent.len(), 2);
    let mut expected = sent[0].json();
    let turn = json!({"role": "assistant", "content": paused["content"]});
    expected["messages"].as_array_mut().unwrap().push(turn);
    assert_eq!(sent[1].json(), expected);

    // What the first part used is not lost when the second one fails.
    let server = Server::start(move |request| match request.number {
        0 => Reply::json(&paused),
        _ => Reply::new(
            429,
            &[("retry-after", "3")],
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#,
        ),
    })
    .await;
    let error = model(&server)
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimit);
    assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(3)));
    let usage = error.usage().unwrap();
    assert_eq!((usage.input, usage.output), (110, 20));
}

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    let paused = |text: &str, content: bool| {
        let mut paused = message(text);
        paused["stop_reason"] = json!("pause_turn");
        if !content {
            paused["content"] = json!([]);
        }
        paused
    };
    let endless = Server::start(move |_| Reply::json(&paused("on and on ", true))).await;
    let error = model(&endless)
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(endless.received().len(), 9);

    // There is nothing to send back.
    let error = answer(&paused("", false), "x".into()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.usage()),
        (ErrorKind::Truncated, Some(TokenUsage::new(10, 2)))
    );
}
