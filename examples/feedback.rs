//! Feedback for the next attempt: which fields were wrong, and which were right.
//!
//! `cargo run --features full --example feedback`

use futures::{StreamExt, stream};
use llm_batch::recipe::feedback;
use llm_batch::testing::FakeStrategy;
use llm_batch::{BoxError, LlmRequest, LlmStreamExt, Part, RetryPolicy, StandardLayer, StructuredExt};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tower::Layer;

#[derive(Debug, Deserialize, JsonSchema)]
struct Review {
    product: String,
    #[schemars(range(min = 1, max = 5))]
    stars: u8,
    author: Author,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Author {
    name: String,
    country: String,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The simulated model: it forgets the country and counts stars out of ten, until it is corrected.
    let model = FakeStrategy::new(|request: &LlmRequest| {
        let feedback_text = match request.input().messages() {
            [_, _, feedback] => match &feedback.content[..] {
                [Part::Text { text }] => text.as_str(),
                _ => "",
            },
            _ => "",
        };
        if request.index() == 0 && !feedback_text.is_empty() {
            println!("the feedback for the second attempt of item 0:\n\n{feedback_text}\n");
        }
        let mut answer = json!({"product": "lamp", "stars": 8, "author": {"name": "Ada"}});
        if feedback_text.contains("- /stars: ") {
            answer["stars"] = json!(4);
        }
        if feedback_text.contains("- /author/country: ") {
            answer["author"]["country"] = json!("England");
        }
        answer.to_string()
    });

    let standard = StandardLayer::new().with_retry(RetryPolicy::new(3).on_error(feedback));
    let mut results = stream::iter((1..=100).map(|n| format!("What does review {n} say?")))
        .with_strategy(standard.layer(model.structured::<Review>()))
        .llm_batch(10);
    let mut by_attempts = [0; 4];
    while let Some(outcome) = results.next().await {
        let Review {
            product,
            stars,
            author,
        } = outcome.result?.output;
        assert_eq!((&*product, stars), ("lamp", 4));
        assert_eq!((&*author.name, &*author.country), ("Ada", "England"));
        by_attempts[outcome.report.attempts as usize] += 1;
    }
    println!("{} of 100 succeeded on the second attempt", by_attempts[2]);
    Ok(())
}
