use futures::stream;
use llm_batch::LlmStreamExt;

fn main() {
    let _ = stream::iter(["a prompt"]).llm_batch(10);
}
