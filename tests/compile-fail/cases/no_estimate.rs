use futures::stream;
use llm_batch::{BoxError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter, RateLimiterLayer};
use tower::{Layer, service_fn};

fn main() {
    let strategy = service_fn(async |_: LlmRequest| Ok::<_, BoxError>(LlmResponse::new("42".to_owned())));
    let gate = RateLimiterLayer::new(RateLimiter::default());
    let model = gate.estimate_with("1000 tokens").layer(strategy);
    let _ = stream::iter(["a prompt"]).with_strategy(model).llm_batch(10);
}
