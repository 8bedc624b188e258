use futures::stream;
use llm_batch::{LlmRequest, LlmStreamExt};
use tower::service_fn;

struct MyError;

fn main() {
    let strategy = service_fn(async |_: LlmRequest| Err::<String, _>(MyError));
    let _ = stream::iter(["a prompt"]).with_strategy(strategy).llm_batch(10);
}
