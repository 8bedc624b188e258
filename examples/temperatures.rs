//! Bad answers are retried at a higher temperature; failures of the provider are retried at the same one.
//!
//! `cargo run --features full --example temperatures`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::recipe::temperatures;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{BoxError, LlmError, LlmRequest, LlmStreamExt, RateLimiterLayer, RetryLayer, RetryPolicy};
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// The temperatures of an item's calls, in order.
#[derive(Clone, Default)]
struct Asked(Vec<f64>);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A third of its replies are 503s.
    let provider = SimulatedProvider::builder()
        .seed(4)
        .status_rate(503, 0.34)
        .build()?;
    let model = service_fn(move |request: LlmRequest| {
        let provider = provider.service();
        async move {
            let temperature = request.input().temperature().unwrap_or_default();
            request
                .state()
                .update(|Asked(asked): &mut Asked| asked.push(temperature));
            // Item 0 is answered well at any temperature, item 1 from 0.5 on, item 2 at 1.0.
            let wanted = request.index() as f64 / 2.0;
            let item = request.item().clone();
            let answer = provider.oneshot(request).await?;
            if temperature < wanted {
                let error = LlmError::validation("the same mistake again");
                return Err(error.with_usage(answer.usage.unwrap_or_default()));
            }
            let Asked(asked) = item.state().get().unwrap_or_default();
            Ok(answer.map(|_| asked))
        }
    });
    let policy = RetryPolicy::new(10).initial_backoff(Duration::from_millis(1));
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(policy))
        .layer(temperatures([0.0, 0.5, 1.0]))
        .layer(RateLimiterLayer::new(Default::default()))
        .service(model);

    let questions = stream::iter(["easy", "harder", "hardest"]).map(|question| (question, question));
    let mut results = questions.with_strategy(strategy).llm_batch(1);
    while let Some(outcome) = results.next().await {
        println!("{}: asked at {:?}", outcome.id, outcome.result?.output);
    }
    Ok(())
}
