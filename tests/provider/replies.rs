//! Odd replies that are answers, and answers that are failures.

use llm_batch::{Delivery, ErrorKind, FinishReason, LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

async fn answer(body: impl Into<String>, prompt: Prompt) -> Result<LlmResponse, LlmError> {
    let body = body.into();
    let server = Server::start(move |_| Reply::new(200, &[], &body)).await;
    server.model().oneshot(LlmRequest::new(prompt)).await
}

async fn choice(choice: Value) -> Result<LlmResponse, LlmError> {
    let body = json!({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}});
    answer(body.to_string(), "x".into()).await
}

#[tokio::test]
async fn content_in_any_form_is_text() {
    for (content, text) in [
        (json!("plain"), "plain"),
        (json!(null), ""),
        (
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            "ab",
        ),
        (
            json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}]),
            "so",
        ),
        (json!(["a", 1, null, {"x": 1}]), "a"),
        (json!(7), ""),
    ] {
        let reply =
            choice(json!({"finish_reason": "stop", "message": {"role": "assistant", "content": content}}))
                .await;
        assert_eq!(reply.unwrap().output, text, "{content}");
    }
    let reply = choice(json!({"finish_reason": "stop", "text": "old"}))
        .await
        .unwrap();
    assert_eq!(reply.output, "old");
    let reply = choice(json!({"finish_reason": "stop", "delta": {"content": "chunk"}})).await;
    assert_eq!(reply.unwrap().output, "chunk");
}

#[tokio::test]
async fn tool_calls_stand_in_for_content() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let reply =
        choice(json!({"finish_reason": "tool_calls", "message": {"content": null, "tool_calls": [call]}}))
            .await
            .unwrap();
    assert_eq!(reply.metadata.tool_calls, [call]);
    assert_eq!(reply.metadata.finish_reason, Some(FinishReason::ToolCalls));
    let old = json!({"name": "f", "arguments": "{}"});
    let reply =
        choice(json!({"finish_reason": "function_call", "message": {"content": null, "function_call": old}}))
            .await
            .unwrap();
    assert_eq!(reply.metadata.tool_calls, [old]);
    assert_eq!(reply.metadata.finish_reason, Some(FinishReason::ToolCalls));
    let reply = choice(json!({"finish_reason": "stop", "message": {"content": "x", "tool_calls": null}}))
        .await
        .unwrap();
    assert!(reply.metadata.tool_calls.is_empty());
}

#[tokio::test]
async fn unknown_finish_reasons_are_kept() {
    let reply = choice(json!({"finish_reason": "eos_token", "message": {"content": "x"}}))
        .await
        .unwrap();
    assert_eq!(
        reply.metadata.finish_reason,
        Some(FinishReason::Other("eos_token".to_owned()))
    );
}

#[tokio::test]
async fn refusals_and_filters_fail_with_their_usage() {
    for reply in [
        json!({"finish_reason": "stop", "message": {"content": null, "refusal": "I cannot help with that."}}),
        json!({"finish_reason": "content_filter", "message": {"content": "half an ans"}}),
    ] {
        let error = choice(reply).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContentFilter);
        assert_eq!(error.usage(), Some(TokenUsage::new(5, 3)));
        assert_eq!(error.delivery(), Delivery::MaybeBilled);
    }
    // An empty refusal is none.
    assert!(
        choice(json!({"message": {"content": "x", "refusal": ""}}))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_cut_answer_is_an_answer_unless_it_is_empty_or_json() {
    let cut = json!({"finish_reason": "length", "message": {"content": "half"}});
    let reply = choice(cut.clone()).await.unwrap();
    assert_eq!(
        (reply.output.as_str(), reply.metadata.finish_reason),
        ("half", Some(FinishReason::Length))
    );

    for content in [json!(""), json!(null), json!("\n ")] {
        let error = choice(json!({"finish_reason": "length", "message": {"content": content}}))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.usage()),
            (ErrorKind::Truncated, Some(TokenUsage::new(5, 3)))
        );
    }

    let body = json!({"choices": [cut], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).to_string();
    let error = answer(
        body,
        Prompt::new("x").with_output_schema(json!({"type": "object"})),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert_eq!(error.raw_output(), Some("half"));
    assert_eq!(error.usage(), Some(TokenUsage::new(5, 3)));
}

#[tokio::test]
async fn an_error_beside_usage_keeps_the_usage() {
    let body = json!({"error": {"code": 502, "message": "died"}, "usage": {"prompt_tokens": 9, "completion_tokens": 1}});
    let error = answer(body.to_string(), "x".into()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.usage()),
        (ErrorKind::ServerError, Some(TokenUsage::new(9, 1)))
    );
    assert_eq!(error.status(), Some(502));

    let error = choice(json!({"finish_reason": "error", "message": {"content": "ha"}}))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.usage()),
        (ErrorKind::ServerError, Some(TokenUsage::new(5, 3)))
    );
}

#[tokio::test]
async fn usage_is_normalised() {
    let full = |input, output, cached_input, cache_write, reasoning| {
        let mut usage = TokenUsage::new(input, output);
        (usage.cached_input, usage.cache_write, usage.reasoning) = (cached_input, cache_write, reasoning);
        Some(usage)
    };
    for (body, usage) in [
        (
            json!({"usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 40, "rejected_prediction_tokens": 2}}}),
            full(100, 50, 60, 30, 40),
        ),
        (
            json!({"usage": {"prompt_tokens": 12, "completion_tokens": 1, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 4}}),
            full(12, 1, 8, 0, 0),
        ),
        (
            json!({"usage": {"completion_tokens": 1, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 4, "total_tokens": 13}}),
            full(12, 1, 8, 0, 0),
        ),
        (
            json!({"usage": null, "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}}),
            full(3, 4, 0, 0, 0),
        ),
        (
            json!({"usage": {"prompt_tokens": 3.0, "completion_tokens": 4.0, "prompt_tokens_details": null}}),
            full(3, 4, 0, 0, 0),
        ),
        (
            json!({"usage": {"prompt_tokens": 3, "total_tokens": 9}}),
            full(3, 6, 0, 0, 0),
        ),
        (
            json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
            full(0, 0, 0, 0, 0),
        ),
        (json!({"usage": {"prompt_tokens": 3}}), None),
        (
            json!({"usage": {"prompt_tokens": -3, "completion_tokens": "x"}}),
            None,
        ),
        (json!({"usage": {}}), None),
        (json!({"usage": "none"}), None),
        (json!({}), None),
    ] {
        let mut reply = body.clone();
        reply["choices"] = json!([{"message": {"content": "x"}}]);
        let reply = answer(reply.to_string(), "x".into()).await.unwrap();
        assert_eq!(reply.usage, usage, "{body}");
        assert_eq!(reply.metadata.cost, None);
    }
}

#[tokio::test]
async fn the_providers_cost_is_kept() {
    let body = json!({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0002425}});
    assert_eq!(
        answer(body.to_string(), "x".into()).await.unwrap().metadata.cost,
        Some(0.000_242_5)
    );
}

#[tokio::test]
async fn blank_lines_before_the_json_are_skipped() {
    let body = format!(
        "\n\r\n \n\u{feff}{}",
        json!({"choices": [{"message": {"content": "x"}}]})
    );
    assert_eq!(answer(body, "x".into()).await.unwrap().output, "x");
}

#[tokio::test]
async fn a_reply_beyond_the_bound_is_an_error_of_its_own() {
    let large = crate::server::completion(&"x".repeat(10_000)).to_string();
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    for announced in [true, false] {
        let (large, chunked) = (large.clone(), chunked.clone());
        let server = Server::start(move |_| {
            if announced {
                Reply::new(200, &[], &large)
            } else {
                Reply::raw(chunked.clone(), crate::server::After::Keep)
            }
        })
        .await;
        let model = server
            .builder()
            .max_response_bytes(9_000)
            .build()
            .unwrap()
            .model("m");
        let error = model.oneshot(LlmRequest::new("x".into())).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::ResponseTooLarge, Delivery::MaybeBilled)
        );
        assert_eq!(error.usage(), None);
        assert!(error.to_string().contains("9000 bytes"), "{error}");

        let model = server
            .builder()
            .max_response_bytes(large_enough())
            .build()
            .unwrap()
            .model("m");
        assert_eq!(
            model
                .oneshot(LlmRequest::new("x".into()))
                .await
                .unwrap()
                .output
                .len(),
            10_000
        );
    }
}

const fn large_enough() -> usize {
    20_000
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever comes back, there is an answer or an error, and no panic.
    #[test]
    fn mutated_replies_never_panic(position in 0usize..400, byte: u8, cut in 0usize..400) {
        let mut body = json!({
            "id": "1", "model": "m", "x_groq": {"usage": null},
            "choices": [{"finish_reason": "stop", "message": {"content": [{"type": "text", "text": "x"}], "refusal": null, "tool_calls": [{}]}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "cost": 1e-3, "prompt_tokens_details": {"cached_tokens": 99}}
        })
        .to_string()
        .into_bytes();
        if let Some(slot) = body.get_mut(position) {
            *slot = byte;
        }
        body.truncate(body.len().saturating_sub(cut / 2));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend_from_slice(&body);
            let server = Server::start(move |_| Reply::raw(bytes.clone(), crate::server::After::Keep)).await;
            let _ = server.model().oneshot(LlmRequest::new("x".into())).await;
        });
    }
}

#[tokio::test]
async fn further_choices_are_kept_and_not_streamed() {
    let said = |index: u64, text: &str| json!({"index": index, "message": {"content": text}, "finish_reason": "stop"});
    // By their index, in whichever order they come.
    let body = json!({"choices": [said(1, "b"), said(0, "a"), said(2, "c")]});
    let several = Prompt::from("x").with_extra("n", 3);
    let reply = answer(body.to_string(), several.clone()).await.unwrap();
    assert_eq!(reply.output, "a");
    let further = reply.metadata.further_choices.unwrap();
    assert_eq!(further.choices, [said(1, "b"), said(2, "c")]);
    assert!(
        answer(json!({"choices": [said(0, "a")]}).to_string(), "x".into())
            .await
            .unwrap()
            .metadata
            .further_choices
            .is_none()
    );

    let server = Server::start(|_| Reply::new(500, &[], "")).await;
    let streamed = server
        .model()
        .with_streaming(llm_batch::provider::Streaming::new());
    let candidates = Prompt::from("x").with_extra("generationConfig", json!({"candidateCount": 2}));
    let raw = |n: u64| Prompt::raw(json!({"messages": [], "n": n}).as_object().unwrap().clone());
    for prompt in [several, candidates, raw(2)] {
        let error = streamed
            .clone()
            .oneshot(LlmRequest::new(prompt))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent)
        );
        assert!(error.message().contains("several answers"), "{error}");
    }
    // What the prompt sets has the last word.
    assert!(streamed.request_body(&raw(2).with_extra("n", 1)).is_ok());
}

#[tokio::test]
async fn a_failure_keeps_its_body_where_that_is_asked_for() {
    let body =
        r#"{"error": {"message": "no", "type": "t", "param": "p", "code": "c"}, "key": "the long secret"}"#;
    let server = Server::start(move |_| Reply::new(400, &[], body)).await;
    let ask = |keep: bool| {
        let client = server.builder().api_key("the long secret").keep_raw_body(keep);
        client
            .build()
            .unwrap()
            .model("m")
            .oneshot(LlmRequest::new("x".into()))
    };
    assert!(ask(false).await.unwrap_err().raw_body().is_none());
    let error = ask(true).await.unwrap_err();
    let kept = error.raw_body().unwrap().get();
    assert_eq!(kept, body.replace("the long secret", "[redacted]"));
    let json = serde_json::to_string(&error).unwrap();
    let back: LlmError = serde_json::from_str(&json).unwrap();
    assert_eq!(back.raw_body().unwrap().get(), kept);

    let server = Server::start(|_| Reply::new(502, &[], "<html>")).await;
    let client = server.builder().keep_raw_body(true).build().unwrap();
    let error = client
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert!(error.raw_body().is_none());
}
