//! Your own async client as a strategy: a closure is a service, and a service is a strategy.
//!
//! `cargo run --example own_client`

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt, StandardLayer, TokenUsage, WorkItem};
use tower::{Layer, service_fn};

/// In place of your existing client. The first call of every third item fails.
struct Client;

impl Client {
    async fn complete(&self, prompt: &str, call: u32) -> Result<(String, u64), std::io::Error> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if prompt.ends_with('0') && call == 1 {
            return Err(std::io::Error::other("connection reset"));
        }
        Ok((prompt.to_uppercase(), prompt.len() as u64))
    }
}

#[tokio::main]
async fn main() {
    let client = std::sync::Arc::new(Client);
    let strategy = service_fn(move |request: LlmRequest<String>| {
        let client = client.clone();
        async move {
            let call = request.call_number();
            match client.complete(request.input(), call).await {
                Ok((text, tokens)) => Ok(LlmResponse::new(text).with_usage(TokenUsage::new(tokens, tokens))),
                // Map failures to an `ErrorKind`; the layers do the rest.
                Err(error) => Err(LlmError::transient(error.to_string()).with_source(error)),
            }
        }
    });

    let prompts = stream::iter((0..30).map(|n| WorkItem::new(format!("prompt {n}"))));
    let mut results = prompts
        .with_strategy(StandardLayer::new().layer(strategy))
        .llm_batch(10);
    while let Some(outcome) = results.next().await {
        match outcome.result {
            Ok(response) => println!(
                "{}: {} ({} calls)",
                outcome.id, response.output, outcome.report.calls
            ),
            Err(error) => eprintln!("{}: {error}", outcome.id),
        }
    }
    println!("{}", results.summary());
}
