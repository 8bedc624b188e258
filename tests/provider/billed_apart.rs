//! What is billed beside text tokens is in the answer, and makes a cost by token prices unknown.

use llm_batch::price::PriceTable;
use llm_batch::provider::Model;
use llm_batch::response::BilledApart;
use llm_batch::{LlmRequest, Prompt, TokenAccountingLayer, TokenLedger};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};

use crate::server::{Reply, Server};

fn chat(usage: &Value) -> Value {
    json!({"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}}],
           "usage": usage})
}

fn response(items: &[Value]) -> Value {
    let message =
        json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]});
    let output: Vec<_> = items.iter().chain([&message]).collect();
    json!({"status": "completed", "output": output, "usage": {"input_tokens": 10, "output_tokens": 1}})
}

fn message(tools: &Value) -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "stop_reason": "end_turn",
           "content": [{"type": "text", "text": "4"}],
           "usage": {"input_tokens": 10, "output_tokens": 1, "server_tool_use": tools}})
}

fn candidate(grounding: &Value, details: &Value) -> Value {
    json!({"candidates": [{"content": {"parts": [{"text": "4"}]}, "finishReason": "STOP", "index": 0,
                           "groundingMetadata": grounding}],
           "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 1, "promptTokensDetails": details}})
}

#[tokio::test]
async fn searches_and_audio_make_the_cost_unknown() {
    let prompt_and = |more: Value| {
        let mut usage = json!({"prompt_tokens": 10, "completion_tokens": 1});
        usage
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        usage
    };
    let none: &[(&str, u64)] = &[];
    let cases = [
        ("openai-chat", chat(&prompt_and(json!({}))), none),
        (
            "openai-chat",
            chat(&prompt_and(
                json!({"prompt_tokens_details": {"audio_tokens": 7}, "completion_tokens_details": {"audio_tokens": 2}}),
            )),
            &[("audio_tokens", 9)],
        ),
        (
            "openai-chat",
            chat(&prompt_and(json!({"num_search_queries": 3}))),
            &[("num_search_queries", 3)],
        ),
        (
            "openai-chat",
            chat(&prompt_and(json!({"prompt_tokens_details": {"audio_tokens": 0}}))),
            none,
        ),
        (
            "openai-responses",
            response(&[
                json!({"type": "web_search_call", "id": "ws_1"}),
                json!({"type": "web_search_call", "id": "ws_2"}),
            ]),
            &[("web_search_call", 2)],
        ),
        (
            "openai-responses",
            response(&[json!({"type": "reasoning", "summary": []})]),
            none,
        ),
        (
            "anthropic",
            message(&json!({"web_search_requests": 2, "web_fetch_requests": 5})),
            &[("web_search_requests", 2)],
        ),
        ("anthropic", message(&json!({"web_search_requests": 0})), none),
        ("anthropic", message(&Value::Null), none),
        (
            "gemini",
            candidate(
                &json!({"webSearchQueries": ["a", "b"]}),
                &json!([{"modality": "TEXT", "tokenCount": 10}]),
            ),
            &[("webSearchQueries", 2)],
        ),
        (
            "gemini",
            candidate(
                &Value::Null,
                &json!([{"modality": "AUDIO", "tokenCount": 8}, {"modality": "TEXT", "tokenCount": 2}]),
            ),
            &[("audio_prompt_tokens", 8)],
        ),
        (
            "gemini",
            candidate(&Value::Null, &json!([{"modality": "TEXT", "tokenCount": 10}])),
            none,
        ),
    ];
    for (prefix, reply, expected) in cases {
        let shown = reply.to_string();
        let server = Server::start(move |_| Reply::json(&reply)).await;
        let version = if prefix.starts_with("openai") { "/v1" } else { "" };
        let model = Model::builder(format!("{prefix}:m"))
            .base_url(format!("http://{}{version}", server.address))
            .api_key("key")
            .build()
            .unwrap();
        let ledger = TokenLedger::new();
        let prices = PriceTable::parse("models.m = { input = 1, output = 10 }").unwrap();
        let stack = TokenAccountingLayer::new(ledger.clone())
            .prices(prices)
            .layer(model);
        let answer = stack
            .oneshot(LlmRequest::new(Prompt::new("2 + 2?")))
            .await
            .unwrap();
        let apart = answer.metadata.extensions.get::<BilledApart>();
        let counts: Vec<_> = apart.map_or(&[][..], BilledApart::counts).to_vec();
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        assert_eq!(counts, expected, "{prefix}: {shown}");
        let snapshot = ledger.snapshot();
        assert_eq!(
            snapshot.unknown_cost_calls,
            u64::from(!expected.is_empty()),
            "{prefix}: {shown}"
        );
        assert_eq!(
            snapshot.cost.to_string() == "$0.00",
            !expected.is_empty(),
            "{prefix}: {shown}"
        );
    }
}
