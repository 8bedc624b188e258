//! Typed answers: a JSON Schema from a Rust type is sent with every prompt, and the answers are validated. The simulated
//! provider breaks off in the middle of its JSON at every fourth call; such an answer is retried.
//!
//! `cargo run --features full --example structured`

use futures::{StreamExt, stream};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{BoxError, Fault, LlmRequest, LlmStreamExt, StandardLayer, StructuredExt};
use schemars::JsonSchema;
use serde::Deserialize;
use tower::{Layer, ServiceExt, service_fn};

/// A review, as a shop wants to store it.
#[derive(Debug, Deserialize, JsonSchema)]
struct Review {
    /// What it is about, in a word.
    product: String,
    #[schemars(range(min = 1, max = 5))]
    stars: u8,
    would_buy_again: bool,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = SimulatedProvider::builder()
        .invalid_json_rate(0.25)
        .seed(1)
        .build()?;
    // For a real one: llm_batch::strategy("openai:gpt-4o-mini")?
    let model = provider.service().structured::<Review>();
    let standard = StandardLayer::new().with_max_attempts(8);

    let texts = (1..=100).map(|n| format!("Turn this into a review: customer {n} was rather pleased."));
    let mut results = stream::iter(texts)
        .with_strategy(standard.layer(model))
        .llm_batch(10);
    let (mut reviews, mut again) = (Vec::new(), 0);
    while let Some(outcome) = results.next().await {
        again += outcome.report.attempts - 1;
        reviews.push(outcome.result?.output);
    }
    let good = reviews
        .iter()
        .filter(|review| (1..=5).contains(&review.stars))
        .count();
    let buyers = reviews.iter().filter(|review| review.would_buy_again).count();
    let named = reviews.iter().filter(|review| !review.product.is_empty()).count();
    println!(
        "{} reviews, {named} named, {good} with 1 to 5 stars, {buyers} would buy again",
        reviews.len()
    );
    println!("{again} answers were asked for again");
    let (ours, theirs) = (
        standard.ledger().snapshot().usage,
        provider.ledger().billed_answered,
    );
    println!(
        "tokens: {} by our account, {} by the provider's",
        ours.total(),
        theirs.total()
    );

    // Every fault is listed by path: those of the schema, and those of your own rules.
    let careless = service_fn(async |_: LlmRequest| {
        let text = r#"{"product": "lamp", "stars": 7, "would_buy_again": true}"#;
        Ok::<_, BoxError>(llm_batch::LlmResponse::new(text.to_owned()))
    });
    let careless = careless
        .structured::<Review>()
        .validate_with(|review| (review.product == "lamp").then(|| Fault::new("/product", "is too vague")));
    if let Err(error) = careless.oneshot(LlmRequest::new("?".into())).await {
        println!("{error}");
    }
    Ok(())
}
