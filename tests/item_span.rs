//! The consumer's span goes along into the items' tasks.
//!
//! Alone in its process: `tracing` decides once for each span of the program whether it is seen, and other tests meet the same spans
//! without a subscriber.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
use tower::service_fn;
use tracing::Instrument;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

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
    let strategy = service_fn(async |_: LlmRequest| {
        let _span = tracing::info_span!("inside").entered();
        Ok::<_, LlmError>(LlmResponse::new(String::new()))
    });
    let results = stream::iter(["a"]).with_strategy(strategy).llm_batch(1);
    let outcomes = results
        .collect::<Vec<_>>()
        .instrument(tracing::info_span!("job"))
        .await;
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
