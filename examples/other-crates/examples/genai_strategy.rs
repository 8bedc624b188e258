//! A `genai` client as a strategy: its providers and dialects, our retries, gate and accounts.
//!
//! `cargo run -p other-crates --example genai_strategy` (against the simulated provider)

use futures::{StreamExt, stream};
use genai::adapter::AdapterKind;
use genai::chat::{ChatMessage, ChatRequest};
use genai::resolver::{AuthData, Endpoint, ServiceTargetResolver};
use genai::{Client, ModelIden, ServiceTarget};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, Classify, ErrorKind, HttpClassifier, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Message,
    Part, Prompt, Role, StandardLayer, TokenUsage,
};
use tower::{Layer, service_fn};

/// Converts a prompt to this client's types.
fn chat(prompt: &Prompt) -> ChatRequest {
    let mut chat = ChatRequest::default();
    if let Some(system) = prompt.system() {
        chat = chat.with_system(system);
    }
    for Message { role, content, .. } in prompt.messages() {
        let texts = content.iter().filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            _ => None,
        });
        let text = texts.collect::<Vec<_>>().join("\n");
        chat = chat.append_message(match role {
            Role::System => ChatMessage::system(text),
            Role::Assistant => ChatMessage::assistant(text),
            _ => ChatMessage::user(text),
        });
    }
    chat
}

/// Classifies a failure: this client keeps the status and the headers, so the gate gets the provider's hint.
fn meaning(error: genai::Error) -> LlmError {
    let reply = match &error {
        genai::Error::WebModelCall { webc_error, .. } | genai::Error::WebAdapterCall { webc_error, .. } => {
            match webc_error {
                genai::webc::Error::ResponseFailedStatus { status, headers, .. } => Some((status, headers)),
                _ => None,
            }
        }
        genai::Error::HttpError { status, headers, .. } => Some((status, headers)),
        _ => None,
    };
    let Some((status, headers)) = reply else {
        return LlmError::new(ErrorKind::Connection, error.to_string()).with_source(error);
    };
    let mut head = http::Response::new(());
    *head.status_mut() = *status;
    head.headers_mut().clone_from(headers);
    let verdict = HttpClassifier.classify(Ok::<_, &LlmError>(&head));
    let kind = verdict.kind.unwrap_or(ErrorKind::Other);
    let mut failed = LlmError::new(kind, "the provider rejected the call").with_status(status.as_u16());
    if let Some(wait) = verdict.retry_after {
        failed = failed.with_retry_after(wait);
    }
    failed.with_source(error)
}

fn count(tokens: Option<i32>) -> u64 {
    tokens
        .and_then(|tokens| u64::try_from(tokens).ok())
        .unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = SimulatedProvider::builder()
        .seed(7)
        .requests_per_minute(1_200)
        .status_rate(503, 0.25)
        .build()?;
    let server = provider.serve("127.0.0.1:0").await?;
    // This server answers for every model. Without a resolver the client selects the server by the model's name.
    let base_url = format!("{}/", server.base_url());
    let resolver = ServiceTargetResolver::from_resolver_fn(
        move |target: ServiceTarget| -> Result<ServiceTarget, genai::resolver::Error> {
            Ok(ServiceTarget {
                endpoint: Endpoint::from_owned(base_url.clone()),
                auth: AuthData::from_single("none needed"),
                model: ModelIden::new(AdapterKind::OpenAI, target.model.model_name),
            })
        },
    );
    let client = Client::builder().with_service_target_resolver(resolver).build()?;

    let strategy = service_fn(move |request: LlmRequest| {
        let client = client.clone();
        async move {
            let prompt = request.input();
            let model = prompt.model().unwrap_or("sim");
            let answer = client
                .exec_chat(model, chat(prompt), None)
                .await
                .map_err(meaning)?;
            let usage = TokenUsage::new(
                count(answer.usage.prompt_tokens),
                count(answer.usage.completion_tokens),
            );
            let text = answer
                .into_first_text()
                .ok_or_else(|| LlmError::validation("the answer has no text").with_usage(usage))?;
            Ok::<_, LlmError>(LlmResponse::new(text).with_usage(usage))
        }
    });

    let standard = StandardLayer::new().with_max_attempts(8);
    let mut results = stream::iter((1..=40).map(|n| format!("What is {n} plus {n}?")))
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
