use std::rc::Rc;

use futures::stream;
use llm_batch::{LlmError, LlmRequest, LlmStreamExt};
use tower::service_fn;

fn main() {
    let strategy = service_fn(async |_: LlmRequest| {
        let shared = Rc::new(1);
        tokio::task::yield_now().await;
        Ok::<_, LlmError>(shared.to_string())
    });
    let _ = stream::iter(["a prompt"]).with_strategy(strategy).llm_batch(10);
}
