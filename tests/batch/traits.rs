//! Auto traits of the public types, and what travels with an item.

use std::sync::{Arc, Mutex};

use futures::stream;
use llm_batch::batch::{InPlace, WithStrategy};
use llm_batch::{
    BatchError, BatchHandle, BatchSummary, BoxStrategy, LlmBatch, LlmError, LlmRequest, LlmResponse,
    LlmStreamExt, Outcome, Progress, Prompt, StrategyExt, Termination, WorkItem,
};
use tower::service_fn;
use tracing::Instrument;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

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

/// Writes down the name of every new span and its parent's.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Named>>>);

type Named = (String, Option<String>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context
            .span(id)
            .and_then(|span| span.parent().map(|parent| parent.name().to_owned()));
        let name = attributes.metadata().name().to_owned();
        self.0.lock().unwrap().push((name, parent));
    }
}

#[tokio::test(start_paused = true)]
async fn the_current_span_goes_along_into_the_items_task() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    // Other tests of this process meet the same spans for the first time, without a subscriber, at the same moment.
    tracing::callsite::rebuild_interest_cache();
    let strategy = service_fn(async |_: LlmRequest| {
        let _span = tracing::info_span!("inside").entered();
        Ok::<_, LlmError>(LlmResponse::new(String::new()))
    });
    let results = stream::iter(["a"]).with_strategy(strategy).llm_batch(1);
    let outcomes = all(results).instrument(tracing::info_span!("job")).await;
    assert_eq!(outcomes.len(), 1);
    let spans = spans.0.lock().unwrap();
    let expected = [
        ("job", None),
        ("llm.item", Some("job")),
        ("inside", Some("llm.item")),
    ]
    .map(|(name, parent): (&str, Option<&str>)| (name.to_owned(), parent.map(str::to_owned)));
    assert_eq!(*spans, expected);
}
