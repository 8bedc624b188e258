use futures::stream;
use llm_batch::{LlmRequest, LlmStreamExt, RetryLayer, RetryPolicy};
use tower::{Layer, service_fn};

fn main() {
    let strategy = service_fn(async |_: LlmRequest| Err::<String, _>(std::io::Error::other("offline")));
    let model = RetryLayer::new(RetryPolicy::new(3)).layer(strategy);
    let _ = stream::iter(["a prompt"]).with_strategy(model).llm_batch(10);
}
