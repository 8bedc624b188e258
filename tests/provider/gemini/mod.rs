//! Gemini over real sockets on this machine.

mod classification;
mod context_cache;
mod continuation;
mod replies;
mod requests;
mod setup;
mod streaming;

use llm_batch::provider::Model;
use llm_batch::provider::gemini::{Gemini, GeminiBuilder};
use llm_batch::{LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

const KEY: &str = "AIza-test-0123456789";

fn builder(server: &Server) -> GeminiBuilder {
    Gemini::builder()
        .base_url(format!("http://{}", server.address))
        .api_key(KEY)
}

fn model(server: &Server) -> Model {
    builder(server).build().unwrap().model("gemini-2.5-flash")
}

async fn ask(model: &Model, prompt: impl Into<Prompt>) -> Result<LlmResponse, LlmError> {
    model.clone().oneshot(LlmRequest::new(prompt.into())).await
}

/// A whole answer of 10 + 2 tokens.
fn answer(text: &str) -> Value {
    json!({
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 2, "totalTokenCount": 12},
        "modelVersion": "gemini-2.5-flash", "responseId": "r1"
    })
}

fn reply(text: &str) -> Reply {
    Reply::json(&answer(text))
}

/// Input, output, cached and reasoning tokens.
fn tokens(usage: Option<TokenUsage>) -> Option<(u64, u64, u64, u64)> {
    let usage = usage?;
    Some((usage.input, usage.output, usage.cached_input, usage.reasoning))
}
