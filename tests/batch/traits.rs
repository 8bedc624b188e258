//! Auto traits of the public types, and the data that travels with an item.

use futures::stream;
use llm_batch::batch::{InPlace, WithStrategy};
use llm_batch::{
    BatchError, BatchHandle, BatchSummary, BoxStrategy, LlmBatch, LlmError, LlmRequest, LlmResponse,
    LlmStreamExt, Outcome, Progress, Prompt, StrategyExt, Termination, WorkItem,
};
use tower::service_fn;

use crate::support::{Sleeper, all};

#[test]
fn public_types_cross_threads() {
    fn send_sync<T: Send + Sync + 'static>() {}
    fn send<T: Send + 'static>() {}
    fn unpin<T: Unpin>() {}
    type Source = WithStrategy<stream::Iter<std::vec::IntoIter<Prompt>>, BoxStrategy>;
    send_sync::<WorkItem>();
    send_sync::<Outcome>();
    send_sync::<BatchHandle>();
    send_sync::<BatchSummary>();
    send_sync::<BatchError>();
    send_sync::<Termination>();
    send_sync::<BoxStrategy>();
    send_sync::<Source>();
    send::<Progress>();
    send::<LlmBatch<Source>>();
    send::<LlmBatch<Source, InPlace>>();
    unpin::<LlmBatch<Source>>();
    unpin::<LlmBatch<Source, InPlace>>();
}

#[tokio::test(start_paused = true)]
async fn strategies_of_different_types_share_a_batch() {
    let upper = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("upper".to_owned())));
    let strategies: [BoxStrategy; 2] = [upper.boxed_strategy(), Sleeper::millis(1).boxed_strategy()];
    let items = (0..4).map(|i| WorkItem::prompt("hi").with_strategy(strategies[i % 2].clone()));
    let outcomes = all(stream::iter(items).llm_batch(2).in_order()).await;
    let outputs: Vec<_> = outcomes.into_iter().map(|o| o.result.unwrap().output).collect();
    assert_eq!(outputs, ["upper", "1", "upper", "3"]);
}
