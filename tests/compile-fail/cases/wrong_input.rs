use futures::stream;
use llm_batch::{LlmError, LlmRequest, LlmStreamExt};
use tower::service_fn;

fn main() {
    let strategy = service_fn(async |request: LlmRequest<u32>| Ok::<_, LlmError>(request.into_input()));
    let _ = stream::iter(["a prompt"]).with_strategy(strategy).llm_batch(10);
}
