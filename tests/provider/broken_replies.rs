//! Replies that are incomplete, empty or broken off are errors on every wire; invalid JSON is repaired where that is possible.

use llm_batch::provider::{Model, Streaming};
use llm_batch::{Delivery, ErrorKind, LlmError, LlmRequest, LlmResponse};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{After, Reply, Server};

async fn ask(prefix: &str, streamed: bool, reply: Reply) -> Result<LlmResponse, LlmError> {
    let server = Server::start(move |_| reply.clone()).await;
    let version = if prefix.starts_with("openai") { "/v1" } else { "" };
    let mut model = Model::builder(format!("{prefix}:m"))
        .base_url(format!("http://{}{version}", server.address))
        .api_key("key")
        .build()
        .unwrap();
    if streamed {
        model = model.with_streaming(Streaming::new());
    }
    model.oneshot(LlmRequest::prompt("question")).await
}

async fn whole(prefix: &str, body: impl ToString) -> Result<LlmResponse, LlmError> {
    let headers = [("content-type", "application/json")];
    ask(prefix, false, Reply::new(200, &headers, body.to_string())).await
}

async fn events(prefix: &str, data: &[&str]) -> Result<LlmResponse, LlmError> {
    let pieces: Vec<_> = data.iter().map(|data| format!("data: {data}\n\n")).collect();
    ask(prefix, true, Reply::events(&pieces).ended()).await
}

fn chat_piece(text: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#)
}

const CHAT_END: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;

/// "The answer is NOT 42" in three pieces, for each wire that does not repeat the whole at the end.
fn streams() -> [(&'static str, Vec<String>); 3] {
    let chat = ["The answer is ", "NOT ", "42"].map(chat_piece);
    let anthropic = |text: &str| {
        format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}"#
        )
    };
    let gemini =
        |text: &str| format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}]}}"#);
    let with = |before: &[&str], pieces: Vec<String>, after: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        [owned(before), pieces, owned(after)].concat()
    };
    [
        (
            "openai-compatible",
            with(&[], chat.to_vec(), &[CHAT_END, USAGE, "[DONE]"]),
        ),
        (
            "anthropic",
            with(
                &[
                    r#"{"type":"message_start","message":{"id":"m","type":"message","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}"#,
                    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
                ],
                ["The answer is ", "NOT ", "42"].map(anthropic).to_vec(),
                &[
                    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#,
                    r#"{"type":"message_stop"}"#,
                ],
            ),
        ),
        (
            "gemini",
            with(
                &[],
                ["The answer is ", "NOT ", "42"].map(gemini).to_vec(),
                &[r#"{"candidates":[{"content":{"parts":[]},"finishReason":"STOP"}]}"#],
            ),
        ),
    ]
}

#[tokio::test]
async fn a_stream_with_a_hole_is_an_error_that_may_have_been_billed() {
    for (prefix, pieces) in streams() {
        let all: Vec<_> = pieces.iter().map(String::as_str).collect();
        assert_eq!(
            events(prefix, &all).await.unwrap().output,
            "The answer is NOT 42",
            "{prefix}"
        );
        for cut in 0..all.len() {
            let mut broken = all.clone();
            broken[cut] = &all[cut][..all[cut].len() / 2];
            if broken[cut] == "[DO" {
                continue;
            }
            match events(prefix, &broken).await {
                Ok(answer) => {
                    // What comes after the answer is complete makes no hole in it.
                    assert_eq!(answer.output, "The answer is NOT 42", "{prefix}, {cut}");
                    assert!(cut > 3, "{prefix}, {cut}");
                }
                Err(error) => assert_eq!(
                    error.delivery(),
                    Delivery::MaybeBilled,
                    "{prefix}, {cut}: {error}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn a_character_in_two_halves_is_put_together() {
    let (first, second) = (chat_piece("a \\ud83d"), chat_piece("\\ude00 b"));
    let alone = chat_piece(" \\ud83d.");
    let answer = events(
        "openai-compatible",
        &[&first, &second, &alone, CHAT_END, "[DONE]"],
    )
    .await;
    assert_eq!(answer.unwrap().output, "a \u{1f600} b \u{fffd}.");
}

#[tokio::test]
async fn invalid_json_is_repaired() {
    for (part, text) in [
        (
            r#""content":"hi"},"logprobs":{"content":[{"token":"h","logprob":NaN}]}"#,
            "hi",
        ),
        (r#""content":"hi"},"created":1e999"#, "hi"),
        (r#""content":"hi"},"rate":-Infinity"#, "hi"),
        (r#""content":"caf\ud83d"}"#, "caf\u{fffd}"),
        ("\"content\":\"a\nb\"}", "a\nb"),
    ] {
        let body = format!(
            r#"{{"choices":[{{"index":0,"message":{{{part},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2}}}}"#
        );
        let answer = whole("openai-compatible", &body)
            .await
            .unwrap_or_else(|error| panic!("{part}: {error}"));
        assert_eq!(answer.output, text, "{part}");
        assert_eq!(answer.usage.map(|usage| usage.total()), Some(5), "{part}");
    }
}

#[tokio::test]
async fn an_answer_with_nothing_in_it_is_no_success() {
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2});
    for body in [
        json!({"choices": [{}]}),
        json!({"choices": [{"index": 0, "message": {"content": null}, "finish_reason": null}], "usage": usage}),
        json!({"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": ""}], "usage": usage}),
        json!({"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "bored"}], "usage": usage}),
    ] {
        let error = whole("openai-compatible", &body).await.unwrap_err();
        assert_eq!(error.delivery(), Delivery::MaybeBilled, "{body}");
        assert_eq!(error.usage().is_some(), body.get("usage").is_some(), "{body}");
    }
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    events("openai-compatible", &[role, "[DONE]"]).await.unwrap_err();
    let start = r#"{"type":"message_start","message":{"id":"m","type":"message","content":[],"stop_reason":null,"usage":{"input_tokens":3,"output_tokens":1}}}"#;
    let error = events("anthropic", &[start, r#"{"type":"message_stop"}"#])
        .await
        .unwrap_err();
    assert_eq!(error.usage().map(|usage| usage.total()), Some(4));
    let body = json!({"type": "message", "content": [{"type": "text", "text": null}], "stop_reason": null});
    whole("anthropic", &body).await.unwrap_err();
    whole("gemini", json!({"candidates": [{"index": 0}]}))
        .await
        .unwrap_err();
    whole("openai-responses", json!({"id": "r", "output": []}))
        .await
        .unwrap_err();

    // The model may have nothing to say.
    for (prefix, body) in [
        (
            "openai-compatible",
            json!({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
        ),
        (
            "anthropic",
            json!({"type": "message", "content": [], "stop_reason": "end_turn"}),
        ),
        ("gemini", json!({"candidates": [{"finishReason": "STOP"}]})),
        (
            "openai-responses",
            json!({"id": "r", "status": "completed", "output": []}),
        ),
    ] {
        assert_eq!(whole(prefix, &body).await.unwrap().output, "", "{prefix}");
    }
}

/// The finish reasons of other servers, on the wires that gateways speak.
#[tokio::test]
async fn an_answer_that_was_broken_off_is_no_success() {
    let chat = |reason: &str| {
        json!({"choices": [{"message": {"content": "partial"}, "finish_reason": reason}],
               "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    };
    let anthropic = |reason: &str| {
        json!({"type": "message", "content": [{"type": "text", "text": "partial"}], "stop_reason": reason,
               "usage": {"input_tokens": 3, "output_tokens": 2}})
    };
    for (reason, kind) in [
        ("insufficient_system_resource", ErrorKind::Overloaded),
        ("abort", ErrorKind::ServerError),
        ("network_error", ErrorKind::ServerError),
        ("cancelled", ErrorKind::ServerError),
        ("guardrail_intervened", ErrorKind::ContentFilter),
        ("content_filtered", ErrorKind::ContentFilter),
        ("sensitive", ErrorKind::ContentFilter),
    ] {
        for (prefix, body) in [
            ("openai-compatible", chat(reason)),
            ("anthropic", anthropic(reason)),
        ] {
            let error = whole(prefix, &body).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{prefix}, {reason}");
            assert_eq!(
                error.usage().map(|usage| usage.total()),
                Some(5),
                "{prefix}, {reason}"
            );
            assert_eq!(error.raw_output(), Some("partial"), "{prefix}, {reason}");
        }
    }
    for reason in ["length", "model_length", "max_tokens", "MAX_TOKENS"] {
        for (prefix, body) in [
            ("openai-compatible", chat(reason)),
            ("anthropic", anthropic(reason)),
        ] {
            let answer = whole(prefix, &body).await.unwrap();
            let reason = answer.metadata.finish_reason.map(|reason| reason.to_string());
            assert_eq!(reason.as_deref(), Some("length"), "{prefix}");
        }
    }
    let answer = whole("openai-compatible", chat("Got_Bored")).await.unwrap();
    assert_eq!(
        answer
            .metadata
            .finish_reason
            .map(|reason| reason.to_string())
            .as_deref(),
        Some("Got_Bored")
    );
}

#[tokio::test]
async fn the_first_choice_is_the_one_with_the_first_index() {
    let choice = |index: u32, text: &str| json!({"index": index, "message": {"content": text}, "finish_reason": "stop"});
    let body = json!({"choices": [choice(1, "second"), choice(0, "first")]});
    assert_eq!(whole("openai-compatible", body).await.unwrap().output, "first");
}

#[tokio::test]
async fn each_run_of_a_model_is_billed_and_the_one_that_answered_is_named() {
    let usage = json!({
        "input_tokens": 400, "output_tokens": 1_000,
        "iterations": [
            {"type": "compaction", "input_tokens": 60_000, "output_tokens": 500, "cache_read_input_tokens": 7},
            {"type": "fallback_message", "input_tokens": 400, "output_tokens": 1_000},
        ],
    });
    let body: Value = json!({
        "type": "message", "model": "asked", "stop_reason": "end_turn", "usage": usage,
        "content": [
            {"type": "fallback", "from": {"model": "asked"}, "to": {"model": "answered"}},
            {"type": "text", "text": "hi"},
        ],
    });
    let answer = whole("anthropic", body).await.unwrap();
    let usage = answer.usage.unwrap();
    assert_eq!(
        (usage.input, usage.output, usage.cached_input),
        (60_407, 1_500, 7)
    );
    assert_eq!(answer.metadata.model.as_deref(), Some("answered"));
}

/// llama.cpp's server closes after each streamed reply on every wire, though it announces to keep the connection. Its name is known
/// from the first reply on.
#[tokio::test]
async fn a_server_that_closes_after_each_stream_loses_no_call() {
    let chat = [
        format!("data: {}\n\n", chat_piece("hi")),
        format!("data: {CHAT_END}\n\n"),
    ];
    let response = json!({"type": "response.completed", "response": {"status": "completed", "output": [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
    ]}});
    let message = [
        json!({"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "content": []}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "hi"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        json!({"type": "message_stop"}),
    ];
    for (prefix, version, pieces) in [
        ("llamacpp", "/v1", chat.to_vec()),
        ("openai-compatible", "/v1", chat.to_vec()),
        ("openai-responses", "/v1", vec![format!("data: {response}\n\n")]),
        (
            "anthropic",
            "",
            message.map(|event| format!("data: {event}\n\n")).to_vec(),
        ),
    ] {
        let server = Server::start(move |_| {
            let stream = Reply::events(&pieces).ended();
            stream.with_header("server", "llama.cpp").after(After::Close)
        })
        .await;
        let model = Model::builder(format!("{prefix}:m"))
            .base_url(format!("http://{}{version}", server.address))
            .api_key("key")
            .build()
            .unwrap()
            .with_streaming(Streaming::new());
        for round in 0..10 {
            let calls = (0..8).map(|_| model.clone().oneshot(LlmRequest::prompt("question")));
            for answer in futures::future::join_all(calls).await {
                let answer = answer.unwrap_or_else(|error| panic!("{prefix}, round {round}: {error}"));
                assert_eq!(answer.output, "hi", "{prefix}");
            }
        }
        let received = server.received();
        assert_eq!(received.len(), 80, "{prefix}");
        for call in received {
            assert_eq!(call.header("connection"), Some("close"), "{prefix}");
            assert_eq!(call.header("accept-encoding"), Some("identity"), "{prefix}");
        }
    }
}

/// A server of another name that closes all the same is found out.
#[tokio::test]
async fn a_server_that_closes_streams_unknown_of_it_loses_no_call() {
    let server = Server::start(|_| {
        Reply::events(&[
            format!("data: {}\n\n", chat_piece("hi")),
            format!("data: {CHAT_END}\n\n"),
        ])
        .ended()
        .after(After::Close)
    })
    .await;
    let model = Model::builder("openai-compatible:m")
        .base_url(format!("http://{}/v1", server.address))
        .build()
        .unwrap()
        .with_streaming(Streaming::new());
    for call in 0..40 {
        let answer = model.clone().oneshot(LlmRequest::prompt("question")).await;
        assert_eq!(answer.unwrap().output, "hi", "call {call}");
    }
}

#[tokio::test]
async fn a_compressed_reply_is_named_as_such() {
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let error = ask("openai-compatible", false, Reply::new(200, &headers, "\u{1f}b"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("compressed (gzip)"), "{error}");
}

/// Servers with grammars take any schema; OpenAI's strict subset would turn its bounds to prose.
#[tokio::test]
async fn a_grammar_server_gets_the_schema_as_it_is() {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}});
    for (prefix, unchanged) in [
        ("llamacpp", true),
        ("vllm", true),
        ("ollama", true),
        ("openai", false),
    ] {
        let model = Model::builder(format!("{prefix}:m"))
            .api_key("key")
            .build()
            .unwrap();
        let prompt = llm_batch::Prompt::new("q").with_output_schema(schema.clone());
        let body: Value = serde_json::from_slice(&model.request_body(&prompt).unwrap()).unwrap();
        let sent = &body["response_format"]["json_schema"]["schema"];
        assert_eq!(*sent == schema, unchanged, "{prefix}: {sent}");
    }
}

#[tokio::test]
async fn an_own_output_config_keeps_the_schema() {
    let model = Model::builder("anthropic:m").api_key("key").build().unwrap();
    let prompt = llm_batch::Prompt::new("q")
        .with_output_schema(json!({"type": "object", "properties": {}}))
        .with_extra("output_config", json!({"effort": "low"}));
    let body: Value = serde_json::from_slice(&model.request_body(&prompt).unwrap()).unwrap();
    assert_eq!(body["output_config"]["effort"], "low");
    assert_eq!(body["output_config"]["format"]["type"], "json_schema");
}
