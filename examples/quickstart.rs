//! 200 grade-school maths questions through a provider that throttles, fails and stalls.
//!
//! `cargo run -p quickstart`
//!
//! Needs neither a key nor a server: the simulated provider serves real HTTP on a loopback port. A real provider is called only if a
//! model is given, which costs money: `cargo run --features progress,testing --example quickstart -- openai:gpt-4o-mini` (with TLS).

use std::env;

use futures::{StreamExt, stream};
use llm_batch::testing::{Preset, SimulatedProvider};
use llm_batch::{
    BoxError, Events, LlmStreamExt, OpenAi, Progress, Prompt, RateLimiter, StandardLayer, strategy,
};
use serde_json::Value;
use tower::Layer;

const QUESTIONS: &str = include_str!("../tests/data/gsm8k-200.jsonl");

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (model, server) = match env::args().nth(1) {
        Some(model) => {
            println!("asking {model} {} real questions\n", QUESTIONS.lines().count());
            (strategy(&model)?, None)
        }
        None => {
            let server = SimulatedProvider::builder()
                .preset(Preset::Throttled)
                .seed(3)
                .build()?
                .serve("127.0.0.1:0")
                .await?;
            println!("asking the simulated provider at {}\n", server.base_url());
            let client = OpenAi::builder()
                .base_url(server.base_url())
                .api_key("none needed")
                .build()?;
            (client.model("gpt-4o-mini"), Some(server))
        }
    };

    let events = Events::new();
    let stack = StandardLayer::new()
        .with_limiter(RateLimiter::builder().events(&events).build()?)
        .with_max_attempts(8)
        .with_events(&events);
    let ledger = stack.ledger().clone();

    let prompts = QUESTIONS.lines().enumerate().map(|(number, line)| {
        let line: Value = serde_json::from_str(line)?;
        let question = line["question"].as_str().unwrap_or_default();
        let prompt = Prompt::new(question)
            .with_system("Answer with a number only.")
            .with_max_output_tokens(512);
        Ok::<_, serde_json::Error>((format!("question-{}", number + 1), prompt))
    });

    let mut results = stream::iter(prompts)
        .with_strategy(stack.layer(model))
        .llm_batch(50)
        .events(&events);
    let progress = Progress::new(&results.handle()).events(&events).start();
    let mut answers = Vec::new();
    while let Some(outcome) = results.next().await {
        match outcome.result {
            Ok(response) => answers.push((outcome.index, outcome.id, response.output)),
            Err(error) => eprintln!("{} failed: {error}", outcome.id),
        }
    }
    drop(progress);

    answers.sort_by_key(|(index, ..)| *index);
    println!("\n{} answers, for example:", answers.len());
    for (_, id, answer) in answers.iter().take(3) {
        println!("  {id}: {}", answer.lines().last().unwrap_or_default());
    }
    println!("\n{:#}", results.summary());

    if let Some(server) = server {
        let theirs = server.shutdown().await;
        let ours = ledger.snapshot();
        println!(
            "\n{:<26} {:>22} {:>12}",
            "calls", "the provider's ledger", "our account"
        );
        let row = |name: &str, theirs: u64, ours: u64| println!("{name:<26} {theirs:>22} {ours:>12}");
        row(
            "answered in full",
            theirs.answered,
            ours.calls - ours.failed_calls,
        );
        row(
            "tokens billed for them",
            theirs.billed_answered.total(),
            ours.usage.total(),
        );
        row(
            "throttled or rejected",
            theirs.rejections(),
            ours.failed_calls - ours.unknown_usage_calls,
        );
        row("cut, so usage is unknown", theirs.cut, ours.unknown_usage_calls);
    }
    Ok(())
}
