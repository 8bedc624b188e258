//! Prompts on every wire: what is sent of them, and what comes back to be answered.

mod calls;
mod effort;
mod headers;
mod messages;
mod tools;
mod turns;

use llm_batch::provider::Model;
use llm_batch::provider::anthropic::Anthropic;
use llm_batch::provider::gemini::Gemini;
use llm_batch::{Delivery, ErrorKind, LlmRequest, LlmResponse, Message, OpenAi, Prompt, Tool};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

const BIG: &str = r#"{"order": 340282366920938463463374607431768211455}"#;

fn chat(base: &str) -> Model {
    let client = OpenAi::builder()
        .base_url(format!("{base}/v1"))
        .api_key("k")
        .build();
    client.unwrap().chat("m")
}

fn responses(base: &str) -> Model {
    let client = OpenAi::builder()
        .base_url(format!("{base}/v1"))
        .api_key("k")
        .build();
    client.unwrap().responses("m")
}

fn anthropic(base: &str) -> Model {
    let client = Anthropic::builder()
        .base_url(base)
        .api_key("k")
        .version("2023-06-01")
        .build();
    client.unwrap().model("m")
}

fn gemini(base: &str) -> Model {
    Gemini::builder()
        .base_url(base)
        .api_key("k")
        .build()
        .unwrap()
        .model("m")
}

/// A model of a wire at a base URL.
type MakeModel = fn(&str) -> Model;

const WIRES: [(&str, MakeModel); 4] = [
    ("chat", chat),
    ("responses", responses),
    ("anthropic", anthropic),
    ("gemini", gemini),
];

const NOWHERE: &str = "http://127.0.0.1:9";

/// The body that a prompt is sent as; without what every body has.
fn body(model: &Model, prompt: &Prompt) -> Value {
    let mut body: Value = serde_json::from_slice(&model.request_body(prompt).unwrap()).unwrap();
    for name in ["model", "store"] {
        body.as_object_mut().unwrap().remove(name);
    }
    body
}

fn refused(model: &Model, prompt: &Prompt) -> String {
    let error = model.request_body(prompt).unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::InvalidRequest, Delivery::NotSent)
    );
    error.to_string()
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false})
}

fn weather() -> Tool {
    Tool::new("weather", parameters()).with_description("The weather")
}

/// A reply with two calls, on each wire, and what the second request of the conversation holds of them.
fn calls(wire: &str) -> (String, Value) {
    let text = BIG.replace('"', "\\\"");
    match wire {
        "chat" => (
            format!(
                r#"{{"choices": [{{"finish_reason": "tool_calls", "message": {{"content": null, "tool_calls": [
                {{"id": "c1", "type": "function", "function": {{"name": "cancel", "arguments": "{text}"}}}},
                {{"id": "c2", "type": "function", "function": {{"name": "now", "arguments": ""}}}}]}}}}]}}"#
            ),
            json!([
                {"role": "user", "content": "Cancel it."},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "cancel", "arguments": BIG}},
                    {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                ]},
                {"role": "tool", "tool_call_id": "c1", "content": "done"},
                {"role": "tool", "tool_call_id": "c2", "content": "{\"hour\": 7}"},
            ]),
        ),
        "responses" => (
            format!(
                r#"{{"status": "completed", "output": [
                {{"type": "reasoning", "id": "rs_1", "summary": [{{"type": "summary_text", "text": "hm"}}]}},
                {{"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"}},
                {{"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "cancel", "arguments": "{text}"}},
                {{"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "now", "arguments": "{{}}"}}]}}"#
            ),
            json!([
                {"type": "message", "role": "user", "content": "Cancel it."},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"},
                {"type": "function_call", "call_id": "c1", "name": "cancel", "arguments": BIG},
                {"type": "function_call", "call_id": "c2", "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "done"},
                {"type": "function_call_output", "call_id": "c2", "output": "{\"hour\": 7}"},
            ]),
        ),
        "anthropic" => (
            format!(
                r#"{{"content": [{{"type": "thinking", "thinking": "hm", "signature": "c2ln"}}, {{"type": "text", "text": "One moment."}},
                {{"type": "tool_use", "id": "c1", "name": "cancel", "input": {BIG}}},
                {{"type": "tool_use", "id": "c2", "name": "now", "input": {{}}}}], "stop_reason": "tool_use"}}"#
            ),
            json!([
                {"role": "user", "content": "Cancel it."},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                    {"type": "text", "text": "One moment."},
                    {"type": "tool_use", "id": "c1", "name": "cancel", "input": "BIG"},
                    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "done"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "{\"hour\": 7}"},
                ]},
            ]),
        ),
        _ => (
            format!(
                r#"{{"candidates": [{{"content": {{"role": "model", "parts": [{{"thought": true, "text": "hm"}},
                {{"functionCall": {{"name": "cancel", "args": {BIG}}}, "thoughtSignature": "c2ln"}},
                {{"functionCall": {{"id": "c2", "name": "now"}}}}]}}, "finishReason": "STOP"}}]}}"#
            ),
            json!([
                {"role": "user", "parts": [{"text": "Cancel it."}]},
                {"role": "model", "parts": [
                    {"thought": true, "text": "hm"},
                    {"functionCall": {"name": "cancel", "args": "BIG"}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"id": "c2", "name": "now", "args": {}}},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "cancel", "response": {"output": "done"}}},
                    {"functionResponse": {"id": "c2", "name": "now", "response": {"hour": 7}}},
                ]},
            ]),
        ),
    }
}

/// The prompt after several turns, and its last request as it is sent.
fn conversation(model: &Model, turns: &[(&str, &str)], replies: &[LlmResponse]) -> Value {
    let mut prompt = Prompt::default();
    for ((question, result), reply) in turns.iter().zip(replies) {
        prompt = prompt
            .with_message(Message::user(*question))
            .with_message(Message::from(reply));
        for call in reply.tool_calls() {
            prompt = prompt.with_message(Message::tool_result(call.id, *result));
        }
    }
    body(model, &prompt)
}

/// The answer that a model gives on a reply.
async fn answer(model: MakeModel, reply: String) -> LlmResponse {
    let reply = Reply::new(200, &[("content-type", "application/json")], reply);
    let server = Server::start(move |_| reply.clone()).await;
    let model = model(&format!("http://{}", server.address));
    let response = model.oneshot(LlmRequest::new("x".into())).await.unwrap();
    // As a program that keeps its responses as JSON has them.
    serde_json::from_str(&serde_json::to_string(&response).unwrap()).unwrap()
}
