//! Your own tower layer between ours: this one asks the model to answer briefly on every retry.
//!
//! `cargo run --example own_layer`

use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream;
use llm_batch::{
    LlmError, LlmRequest, LlmResponse, LlmStreamExt, Message, RetryLayer, RetryPolicy, TokenAccountingLayer,
    TokenLedger,
};
use tower::{Layer, Service, ServiceBuilder, service_fn};

/// Adds a reminder to the prompt from the second attempt on.
#[derive(Clone, Copy, Debug)]
struct RemindLayer;

impl<S> Layer<S> for RemindLayer {
    type Service = Remind<S>;

    fn layer(&self, inner: S) -> Remind<S> {
        Remind { inner }
    }
}

#[derive(Clone, Debug)]
struct Remind<S> {
    inner: S,
}

impl<S: Service<LlmRequest>> Service<LlmRequest> for Remind<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: LlmRequest) -> S::Future {
        if request.attempt() > 1 {
            let reminder = Message::user("Answer with the number only.");
            *request.input_mut() = request.input().clone().with_message(reminder);
        }
        self.inner.call(request)
    }
}

#[tokio::main]
async fn main() {
    // A model that is too verbose until it is asked twice to be brief.
    let model = service_fn(
        async |request: LlmRequest| match request.input().messages().len() {
            1 => Err(LlmError::validation("expected a number")),
            _ => Ok(LlmResponse::new("42".to_owned())),
        },
    );
    let ledger = TokenLedger::new();
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(RemindLayer)
        .layer(TokenAccountingLayer::new(ledger.clone()))
        .service(model);

    let prompts = stream::iter(["What is 6 times 7?", "And 7 times 6?"]);
    let mut results = prompts.with_strategy(stack).llm_batch(2).in_order();
    while let Some(outcome) = results.next().await {
        let output = outcome
            .result
            .map_or_else(|error| error.to_string(), |response| response.output);
        println!(
            "{}: {output} after {} attempts",
            outcome.id, outcome.report.attempts
        );
    }
}
