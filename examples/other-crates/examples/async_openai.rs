//! Our layers below another client: `async-openai` sends its HTTP requests through them.
//!
//! `cargo run -p other-crates --example async_openai` (against the simulated provider)

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::middleware::ReqwestService;
use async_openai::types::chat::{ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequestArgs};
use futures::{StreamExt, stream};
use llm_batch::testing::{Preset, SimulatedProvider};
use llm_batch::{
    BoxError, HttpCallLayer, HttpClassifier, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy,
};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A quarter of its replies are 503s, and it throttles above 20 calls a second.
    let provider = SimulatedProvider::builder()
        .preset(Preset::Steady)
        .seed(7)
        .requests_per_minute(1_200)
        .status_rate(503, 0.25)
        .build()?;
    let server = provider.serve("127.0.0.1:0").await?;

    // The requests are the client's own, so the layers are configured for HTTP replies and requests without an item.
    let limiter = RateLimiter::default();
    let http = ServiceBuilder::new()
        .layer(RetryLayer::new(
            RetryPolicy::new(8).classify_with(HttpClassifier).untracked(),
        ))
        // A call lasts until its body, streamed or not, was read.
        .layer(HttpCallLayer::new(
            RateLimiterLayer::new(limiter.clone())
                .classify_with(HttpClassifier)
                .untracked(),
        ))
        .service(ReqwestService::default().map_err(BoxError::from));
    let config = OpenAIConfig::new()
        .with_api_base(server.base_url())
        .with_api_key("none needed");
    let client = Client::with_config(config).with_http_service(http);

    let answers = stream::iter(1..=40).map(|n| {
        let client = client.clone();
        async move {
            let message = ChatCompletionRequestUserMessageArgs::default()
                .content(format!("What is {n} plus {n}?"))
                .build()?;
            let request = CreateChatCompletionRequestArgs::default()
                .model("sim")
                .messages([message.into()])
                .build()?;
            let answer = client.chat().create(request).await?;
            Ok::<_, BoxError>(
                answer
                    .choices
                    .into_iter()
                    .next()
                    .and_then(|choice| choice.message.content),
            )
        }
    });
    let answered = answers
        .buffer_unordered(10)
        .filter(|answer| std::future::ready(matches!(answer, Ok(Some(_)))));
    println!("{} of 40 questions answered", answered.count().await);
    let ledger = server.shutdown().await;
    println!(
        "{} calls: {} rejected with 503",
        ledger.received,
        ledger.rejections()
    );
    println!("the gate let {} calls through", limiter.snapshot().granted);
    Ok(())
}
