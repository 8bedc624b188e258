//! An `async-openai` client as a strategy: its typed calls, our retries, gate and accounts.
//!
//! `cargo run -p other-crates --example async_openai_strategy` (against the simulated provider)
//!
//! `async_openai.rs` is the reverse, with our layers below the client. There the gate reads HTTP headers; here it sees only
//! the content of the client's error: the status and the provider's code, but not `Retry-After`.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::ReqwestService;
use async_openai::types::chat::{CreateChatCompletionRequest, CreateChatCompletionResponse};
use futures::{StreamExt, stream};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, Classify, ErrorKind, HttpClassifier, LlmError, LlmRequest, LlmResponse, LlmStreamExt,
    StandardLayer, TokenUsage, WorkItem,
};
use serde_json::json;
use tower::{Layer, service_fn};

/// Classifies a failure by its status if there is one, else by how far the call got.
fn meaning(error: OpenAIError) -> LlmError {
    let failed = match &error {
        OpenAIError::ApiError(reply) => {
            let status = reply.status_code.as_u16();
            // No balance left: waiting does not help.
            let kind = match reply.api_error.code.as_deref() {
                Some("insufficient_quota") => Some(ErrorKind::InsufficientBalance),
                _ => http::Response::builder()
                    .status(status)
                    .body(())
                    .ok()
                    .and_then(|head| HttpClassifier.classify(Ok::<_, &LlmError>(&head)).kind),
            };
            let kind = kind.unwrap_or(ErrorKind::Other);
            LlmError::new(kind, reply.api_error.message.clone()).with_status(status)
        }
        OpenAIError::Reqwest(_) => LlmError::new(ErrorKind::Connection, error.to_string()),
        OpenAIError::InvalidArgument(_) => LlmError::new(ErrorKind::InvalidRequest, error.to_string()),
        _ => LlmError::new(ErrorKind::ServerError, error.to_string()),
    };
    failed.with_source(error)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A quarter of its replies are 503s, and it throttles above 20 calls a second.
    let provider = SimulatedProvider::builder()
        .seed(7)
        .requests_per_minute(1_200)
        .status_rate(503, 0.25)
        .build()?;
    let server = provider.serve("127.0.0.1:0").await?;
    let config = OpenAIConfig::new()
        .with_api_base(server.base_url())
        .with_api_key("none needed");
    // Without a custom service the client retries 429s and 5xx itself; here only our layer retries.
    let client = Client::with_config(config).with_http_service(ReqwestService::default());

    let strategy = service_fn(move |request: LlmRequest<CreateChatCompletionRequest>| {
        let client = client.clone();
        async move {
            let answer = client
                .chat()
                .create(request.into_input())
                .await
                .map_err(meaning)?;
            let CreateChatCompletionResponse { choices, usage, .. } = answer;
            let text = choices.into_iter().find_map(|choice| choice.message.content);
            let text = text.ok_or_else(|| LlmError::validation("the answer has no text"))?;
            let mut response = LlmResponse::new(text);
            response.usage = usage
                .map(|usage| TokenUsage::new(usage.prompt_tokens.into(), usage.completion_tokens.into()));
            Ok::<_, LlmError>(response)
        }
    });

    let standard = StandardLayer::new().with_max_attempts(8);
    let requests = (1..=40).map(|n| {
        let body = json!({"model": "sim", "messages": [{"role": "user", "content": format!("What is {n} plus {n}?")}]});
        serde_json::from_value(body).map(WorkItem::new)
    });
    let items: Vec<_> = requests.collect::<Result<_, _>>()?;
    let mut results = stream::iter(items)
        .with_strategy(standard.layer(strategy))
        .llm_batch(10);
    while let Some(outcome) = results.next().await {
        outcome.result?;
    }
    let summary = results.summary();
    let theirs = server.shutdown().await;
    let ours = standard.ledger().snapshot();
    println!("{} of 40 answered", summary.succeeded);
    println!(
        "calls: {} at the provider, {} accounted",
        theirs.received, ours.calls
    );
    println!(
        "tokens: {} billed, {} accounted",
        theirs.billed_answered.total(),
        ours.usage.total()
    );
    println!(
        "rejected: {} at the provider, {} failed here",
        theirs.rejections(),
        ours.failed_calls
    );
    Ok(())
}
