//! An agent as a strategy: it calls a model, runs the tool that the model calls, and calls the model again with the tool's result.
//!
//! `cargo run --features full --example agent`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Message, Part, Prompt,
    RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy, TokenAccountingLayer, TokenLedger, Tool,
};
use serde_json::{Value, json};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

/// The maximum number of model calls per item.
const STEPS: usize = 4;

/// The tool: returns a price.
fn price_of(arguments: &Value) -> String {
    match arguments["product"].as_str() {
        Some("lamp") => "20".to_owned(),
        Some("chair") => "85".to_owned(),
        _ => "unknown product".to_owned(),
    }
}

/// The loop: runs until the model answers without a tool call.
async fn run<M>(model: M, prompt: Prompt, request: LlmRequest) -> Result<LlmResponse, LlmError>
where
    M: Service<LlmRequest, Response = LlmResponse, Error = LlmError> + Clone,
{
    let mut conversation = prompt;
    for _ in 0..STEPS {
        // A clone of the request is another call of the same item, in the same accounts.
        let next = request.clone().map_input(|_| conversation.clone());
        let answer = model.clone().oneshot(next).await?;
        let calls = answer.tool_calls();
        if calls.is_empty() {
            return Ok(answer);
        }
        conversation = conversation.with_message(Message::from(&answer));
        for call in calls {
            let price = price_of(&call.parse()?);
            conversation = conversation.with_message(Message::tool_result(call.id, price));
        }
    }
    Err(LlmError::fatal("the model went on calling tools"))
}

/// The text of the last message, or the tool's result in it.
fn last(prompt: &Prompt) -> (&str, bool) {
    let parts = prompt.messages().last().map(|message| &message.content[..]);
    match parts {
        Some([Part::Text { text }]) => (text, false),
        Some([Part::ToolResult { content, .. }]) => match &content[..] {
            [Part::Text { text }] => (text, true),
            _ => ("", true),
        },
        _ => ("", false),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The simulated model: it calls the tool once, and then answers. A third of its replies are 503s.
    let provider = SimulatedProvider::builder()
        .seed(4)
        .status_rate(503, 0.34)
        .latency(Duration::from_millis(5))
        .build()?;
    let service = provider.service();
    let model = service_fn(move |request: LlmRequest| {
        let service = service.clone();
        async move {
            let (text, is_price) = last(request.input());
            let text = text.to_owned();
            let mut answer = service.oneshot(request).await?;
            if is_price {
                answer.output = format!("It costs {text} dollars.");
            } else {
                let product = text.trim_end_matches('?').rsplit(' ').next().unwrap_or_default();
                let arguments = json!({ "product": product }).to_string();
                answer.output.clear();
                answer.metadata.tool_calls =
                    vec![json!({"id": "call_1", "function": {"name": "price_of", "arguments": arguments}})];
            }
            Ok::<_, LlmError>(answer)
        }
    });

    // Around the model: each of the agent's calls is retried, passes the gate and is accounted separately.
    let ledger = TokenLedger::new();
    let model = ServiceBuilder::new()
        .layer(RetryLayer::new(
            RetryPolicy::new(5).initial_backoff(Duration::from_millis(10)),
        ))
        .layer(RateLimiterLayer::new(RateLimiter::default()))
        .layer(TokenAccountingLayer::new(ledger.clone()))
        .service(model);
    // Around the agent: limits for the whole item.
    let agent = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(60)))
        .service(service_fn(move |request: LlmRequest| {
            let prompt = request.input().clone().with_tool(Tool::new(
                "price_of",
                json!({"type": "object", "properties": {"product": {"type": "string"}}}),
            ));
            run(model.clone(), prompt, request)
        }));

    let questions = ["What costs a lamp?", "What costs a chair?"].map(|text| (text, text));
    let mut results = stream::iter(questions)
        .with_strategy(agent)
        .llm_batch(2)
        .in_order();
    let mut calls = 0;
    while let Some(outcome) = results.next().await {
        calls += outcome.report.calls;
        println!("{} {}", outcome.id, outcome.result?.output);
    }
    let (theirs, ours) = (provider.ledger(), ledger.snapshot());
    println!(
        "calls: {} at the provider, {calls} in the items, {} in the ledger",
        theirs.received, ours.calls
    );
    println!(
        "tokens: {} billed, {} accounted",
        theirs.billed().total(),
        ours.usage.total()
    );
    Ok(())
}
