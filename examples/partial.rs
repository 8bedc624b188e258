//! Partial retries: the good fields of an answer are kept, and only the rest is requested again.
//!
//! `cargo run --features full --example partial`

use futures::{StreamExt, stream};
use llm_batch::recipe::partial;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, EventKind, Events, Fault, LlmRequest, LlmStreamExt, StandardLayer, StructuredExt, TokenUsage,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tower::{Layer, ServiceExt, service_fn};

#[derive(Deserialize, JsonSchema)]
struct Report {
    title: String,
    summary: String,
    findings: Vec<String>,
    conclusion: String,
    /// From 1 to 5.
    confidence: i64,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // It answers any schema with an instance of it. This adds long texts, and a fault in the first answer.
    let provider = SimulatedProvider::builder().build()?;
    let model = service_fn(move |request: LlmRequest| {
        let provider = provider.service();
        async move {
            let attempt = request.attempt();
            let mut answer = provider.oneshot(request).await?;
            let words = "what was read and what follows from it. ".repeat(20);
            answer.output = answer
                .output
                .replace("\"conclusion\":\"", &format!("\"conclusion\":\"{words}"));
            answer.output = answer
                .output
                .replace("\"summary\":\"", &format!("\"summary\":\"{words}"));
            if attempt > 1 {
                answer.output = answer.output.replace("42", "4");
            }
            let usage = answer.usage.get_or_insert_default();
            usage.output = answer.output.len() as u64 / 4;
            Ok::<_, llm_batch::LlmError>(answer)
        }
    });
    let typed = partial(model, |model| {
        model.structured::<Report>().validate_with(|report| {
            let sure = !(1..=5).contains(&report.confidence);
            sure.then(|| Fault::new("/confidence", "must be from 1 to 5"))
        })
    });

    let events = Events::new();
    let mut receiver = events.subscribe();
    let mut results = stream::iter((1..=100).map(|n| format!("Report on paper {n}.")))
        .with_strategy(StandardLayer::new().with_events(&events).layer(typed))
        .llm_batch(10);
    let mut answered = 0;
    let mut calls = [TokenUsage::ZERO; 2];
    while let Some(outcome) = results.next().await {
        let Report {
            title,
            summary,
            findings,
            conclusion,
            confidence,
        } = outcome.result?.output;
        assert!(!title.is_empty() && !findings.is_empty() && confidence == 4);
        assert!(summary.len() > 800 && conclusion.len() > 800);
        answered += 1;
        while let Some(event) = receiver.try_recv()? {
            if let EventKind::CallCompleted {
                call,
                usage: Some(usage),
                ..
            }
            | EventKind::CallFailed {
                call,
                usage: Some(usage),
                ..
            } = event.kind
            {
                calls[call as usize - 1] += usage;
            }
        }
    }
    println!("{answered} of 100 answered");
    for (attempt, usage) in ["first", "second"].into_iter().zip(calls) {
        println!(
            "{attempt} attempts: {} tokens in, {} out, {} together",
            usage.input,
            usage.output,
            usage.total()
        );
    }
    Ok(())
}
