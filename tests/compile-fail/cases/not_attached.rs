use futures::stream;
use llm_batch::{LlmStreamExt, WorkItem};

fn main() {
    let _ = stream::iter([WorkItem::prompt("a prompt")]).llm_batch(10);
}
