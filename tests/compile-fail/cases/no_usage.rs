use futures::stream;
use llm_batch::{BoxError, LlmRequest, LlmStreamExt, TokenAccountingLayer, TokenLedger};
use tower::{Layer, service_fn};

fn main() {
    let strategy = service_fn(async |_: LlmRequest| Ok::<_, BoxError>("42".to_owned()));
    let model = TokenAccountingLayer::new(TokenLedger::new()).layer(strategy);
    let _ = stream::iter(["a prompt"]).with_strategy(model).llm_batch(10);
}
