//! 200 questions about one manual: the manual sent with every question, compared with the manual in a context cache.
//!
//! `cargo run --features full --example context_cache`
//!
//! Needs neither a key nor a server: the simulated provider serves Gemini's API on a loopback port, and its own ledger reports the
//! billed tokens.

use futures::{StreamExt, stream};
use llm_batch::provider::Model;
use llm_batch::testing::{Ledger, SimulatedProvider};
use llm_batch::{BoxError, Gemini, LlmStreamExt, Message, Prompt, StandardLayer};
use tower::Layer;

const QUESTIONS: usize = 200;

/// US dollars for a million tokens. Storage (about a dollar for a million tokens and an hour) comes on top.
const INPUT: f64 = 0.30;
const CACHED: f64 = 0.03;
const OUTPUT: f64 = 2.50;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let manual = "Before it is opened the valve is closed, and after that the lamp is green. ".repeat(200);
    let content = Prompt::default()
        .with_system("Answer from the manual only.")
        .with_message(Message::user(manual));
    let questions = || (1..=QUESTIONS).map(|number| format!("What does paragraph {number} say?"));

    // With every question.
    let (client, server) = provider().await?;
    let prompts = questions().map(|question| content.clone().with_message(Message::user(question)));
    let sent = answers(client.model("gemini-2.5-flash"), prompts).await;
    let without = server.shutdown().await;

    // Cached by the provider.
    let (client, server) = provider().await?;
    let cache = client.context_cache("gemini-2.5-flash", content.clone())?;
    let kept = answers(cache.model(), questions().map(Prompt::new)).await;
    let tokens = cache.tokens().unwrap_or_default();
    cache.delete().await?;
    let with = server.shutdown().await;

    println!("{} answers, {} of them the same", kept.len(), same(&sent, &kept));
    println!("{} cache of {tokens} tokens was made\n", with.caches_created);
    let row = |name: &str, without: String, with: String| println!("{name:<22} {without:>12} {with:>12}");
    row("", "without".to_owned(), "with".to_owned());
    let count = |name, of: fn(&Ledger) -> u64| row(name, of(&without).to_string(), of(&with).to_string());
    count("calls", |ledger| ledger.answered);
    count("input tokens", |ledger| ledger.billed().input);
    count("  of them cached", |ledger| ledger.billed().cached_input);
    count("to make the cache", |ledger| ledger.cache_creation_tokens);
    count("output tokens", |ledger| ledger.billed().output);
    row("cost", dollars(&without), dollars(&with));
    Ok(())
}

/// A separate provider for each variant, so that their ledgers are separate.
async fn provider() -> Result<(Gemini, llm_batch::testing::SimulatedServer), BoxError> {
    let server = SimulatedProvider::builder().build()?.serve("127.0.0.1:0").await?;
    let client = Gemini::builder()
        .base_url(server.origin())
        .api_key("none needed")
        .build()?;
    Ok((client, server))
}

/// All answers, in the order of the questions.
async fn answers(model: Model, prompts: impl Iterator<Item = Prompt> + Send + Unpin) -> Vec<String> {
    let results = stream::iter(prompts)
        .with_strategy(StandardLayer::new().layer(model))
        .llm_batch(20)
        .in_order();
    results
        .filter_map(|outcome| async move {
            match outcome.result {
                Ok(response) => Some(response.output),
                Err(error) => {
                    eprintln!("{} failed: {error}", outcome.id);
                    None
                }
            }
        })
        .collect()
        .await
}

fn same(left: &[String], right: &[String]) -> usize {
    left.iter()
        .zip(right)
        .filter(|(left, right)| left == right)
        .count()
}

/// The provider's bill.
fn dollars(ledger: &Ledger) -> String {
    let billed = ledger.billed();
    let fresh = billed.input - billed.cached_input + ledger.cache_creation_tokens;
    let cost = fresh as f64 * INPUT + billed.cached_input as f64 * CACHED + billed.output as f64 * OUTPUT;
    format!("${:.4}", cost / 1e6)
}
