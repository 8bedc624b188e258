//! A pipeline: the answers of one batch are the input of the next, while the first still runs.
//!
//! `cargo run --features full --example second_stage`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::testing::FakeStrategy;
use llm_batch::{LlmRequest, LlmStreamExt, Part, Prompt, StandardLayer};
use tower::Layer;

#[tokio::main]
async fn main() {
    let text = |request: &LlmRequest| match &request.input().messages()[0].content[..] {
        [Part::Text { text }] => text.clone(),
        _ => String::new(),
    };
    let summarise = FakeStrategy::new(move |request: &LlmRequest| format!("summary of {}", text(request)))
        .latency(Duration::from_millis(20));
    let translate =
        FakeStrategy::new(move |request: &LlmRequest| format!("translation of {}", text(request)))
            .latency(Duration::from_millis(30));

    let documents =
        stream::iter((1..=20).map(|n| (format!("document-{n}"), Prompt::from(format!("document {n}")))));
    let summaries = documents
        .with_strategy(StandardLayer::new().layer(summarise))
        .llm_batch(8);

    // Successes continue under their ids; failures are reported and dropped.
    let second = summaries.filter_map(|outcome| async move {
        match outcome.result {
            Ok(response) => Some((outcome.id.to_string(), Prompt::from(response.output))),
            Err(error) => {
                eprintln!("{}: {error}", outcome.id);
                None
            }
        }
    });
    let translations = second
        .with_strategy(StandardLayer::new().layer(translate))
        .llm_batch(8);
    let mut translations = std::pin::pin!(translations);
    let mut count = 0;
    while let Some(outcome) = translations.next().await {
        count += 1;
        if let Ok(response) = outcome.result {
            println!("{}: {}", outcome.id, response.output);
        }
    }
    println!("{count} documents went through both stages");
}
