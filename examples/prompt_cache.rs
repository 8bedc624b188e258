//! 200 questions about one manual: the manual sent with every question, compared with the manual marked for Anthropic's prompt cache.
//!
//! `cargo run --features full --example prompt_cache`
//!
//! Needs neither a key nor a server: the simulated provider serves Anthropic's Messages on a loopback port, and its own ledger
//! reports the billed tokens. For Gemini's caches, which are created and deleted explicitly, see `context_cache`.

use futures::{StreamExt, stream};
use llm_batch::provider::anthropic::CacheTtl;
use llm_batch::testing::{Ledger, SimulatedProvider};
use llm_batch::{Anthropic, BoxError, LlmRequest, LlmStreamExt, Prompt, StandardLayer};
use tower::{Layer, ServiceExt};

const QUESTIONS: usize = 200;

/// US dollars for a million tokens: a write costs 1.25 times the input, a read a tenth of it.
const INPUT: f64 = 3.0;
const OUTPUT: f64 = 15.0;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let without = ask(None).await?;
    let with = ask(Some(CacheTtl::FiveMinutes)).await?;

    let row = |name: &str, without: String, with: String| println!("{name:<22} {without:>12} {with:>12}");
    row("", "without".to_owned(), "with".to_owned());
    let count = |name, of: fn(&Ledger) -> u64| row(name, of(&without).to_string(), of(&with).to_string());
    count("calls", |ledger| ledger.answered);
    count("input tokens", |ledger| ledger.billed().input);
    count("  written to the cache", |ledger| ledger.billed().cache_write);
    count("  read from the cache", |ledger| ledger.billed().cached_input);
    count("output tokens", |ledger| ledger.billed().output);
    row("cost", dollars(&without), dollars(&with));
    Ok(())
}

/// Sends every question, and returns the provider's bill.
async fn ask(cache: Option<CacheTtl>) -> Result<Ledger, BoxError> {
    let server = SimulatedProvider::builder().build()?.serve("127.0.0.1:0").await?;
    let mut client = Anthropic::builder()
        .base_url(server.origin())
        .api_key("none needed");
    if let Some(ttl) = cache {
        client = client.cache_system(ttl);
    }
    let manual = "Before it is opened the valve is closed, and after that the lamp is green. ".repeat(200);
    let model = client
        .build()?
        .model("claude")
        .with_defaults(Prompt::default().with_system(manual));
    let model = StandardLayer::new().layer(model);

    let mut questions =
        (1..=QUESTIONS).map(|number| Prompt::new(format!("What does paragraph {number} say?")));
    // The first question is sent alone: calls that start together would each write the cache.
    if let Some(first) = questions.next() {
        model.clone().oneshot(LlmRequest::new(first)).await?;
    }
    let mut results = stream::iter(questions).with_strategy(model).llm_batch(20);
    while let Some(outcome) = results.next().await {
        outcome.result?;
    }
    Ok(server.shutdown().await)
}

fn dollars(ledger: &Ledger) -> String {
    let billed = ledger.billed();
    let fresh = billed.input - billed.cached_input - billed.cache_write;
    let input = fresh as f64 + 1.25 * billed.cache_write as f64 + 0.1 * billed.cached_input as f64;
    format!("${:.4}", (input * INPUT + billed.output as f64 * OUTPUT) / 1e6)
}
