//! Metrics and spans.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    FinishReason, LlmError, LlmRequest, LlmResponse, OpenAi, Prompt, ResponseMetadata, TokenUsage, telemetry,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing_subscriber::layer::SubscriberExt;

use crate::support::{Outcome, Request, Script, Step, answer, invalid, item, request, throttled};

/// Every series as text, with its value.
fn series(recorder: &metrics_util::debugging::Snapshotter) -> BTreeMap<String, String> {
    let snapshot = recorder.snapshot().into_vec();
    snapshot
        .into_iter()
        .map(|(key, _, _, value)| {
            let key = key.key();
            let mut name = key.name().to_owned();
            for label in key.labels() {
                write!(name, " {}={}", label.key(), label.value()).unwrap();
            }
            let value = match value {
                DebugValue::Counter(count) => count.to_string(),
                DebugValue::Gauge(value) => value.to_string(),
                DebugValue::Histogram(values) => format!("{values:?}"),
            };
            (name, value)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn calls_tokens_and_waits_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    telemetry::describe_metrics();
    let layer = |name| TokenAccountingLayer::new(TokenLedger::new()).name(name);
    let model = (
        RetryLayer::new(RetryPolicy::new(3).name("mine")),
        layer("mine"),
        layer("inner"),
    )
        .layer(Script::new([
            Step::Say(throttled(Some(2))),
            Step::Say(invalid()),
            Step::After(Duration::from_secs(3), answer()),
        ]));
    model.oneshot(request(&item())).await.unwrap();
    drop(
        TokenAccountingLayer::new(TokenLedger::new())
            .layer(Script::new([]))
            .call(request(&item())),
    );

    let series = series(&snapshotter);
    let expected = [
        ("llm_batch_call_duration_seconds batch=default", "[0.0]"),
        ("llm_batch_call_duration_seconds batch=mine", "[0.0, 0.0, 3.0]"),
        (
            "llm_batch_calls_total batch=default outcome=cancelled error_type=",
            "1",
        ),
        (
            "llm_batch_calls_total batch=mine outcome=failure error_type=rate_limit",
            "1",
        ),
        (
            "llm_batch_calls_total batch=mine outcome=failure error_type=validation",
            "1",
        ),
        (
            "llm_batch_calls_total batch=mine outcome=success error_type=",
            "1",
        ),
        ("llm_batch_tokens_total batch=mine type=input", "20"),
        ("llm_batch_tokens_total batch=mine type=output", "6"),
        ("llm_batch_unknown_usage_calls_total batch=default", "1"),
        ("llm_batch_wait_seconds batch=mine reason=backoff", "[2.0]"),
    ];
    // Classes without tokens are registered at zero, so that a dashboard has them.
    let counted: Vec<_> = (series.iter())
        .filter(|(_, value)| *value != "0")
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(counted, expected);
}

#[test]
fn bucket_bounds_rise() {
    assert!(telemetry::SECONDS_BUCKETS.is_sorted_by(|a, b| a < b));
}

/// Records the fields of every span by name, and the current span in the strategy.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == telemetry::TARGET
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut fields = BTreeMap::from([("span".to_owned(), attributes.metadata().name().to_owned())]);
        attributes.record(&mut Fields(&mut fields));
        let mut spans = self.0.lock().unwrap();
        spans.push(fields);
        span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        let position = span.into_u64() as usize - 1;
        values.record(&mut Fields(&mut spans[position]));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, span: &span::Id) {
        let position = span.into_u64() as usize - 1;
        let mut spans = self.0.lock().unwrap();
        *spans[position].entry("entered".to_owned()).or_default() += "x";
    }

    fn exit(&self, _: &span::Id) {}
}

/// Installs `subscriber` for this thread and returns once it sees the calls of this thread.
///
/// Other tests may reach the span for the first time at the same moment, and `tracing` may then cache that it is disabled.
fn subscribe<S>(subscriber: S, has_seen: impl Fn() -> bool) -> tracing::subscriber::DefaultGuard
where
    S: tracing::Subscriber + Send + Sync + 'static,
{
    let guard = tracing::subscriber::set_default(subscriber);
    loop {
        let mut probe = TokenAccountingLayer::new(TokenLedger::new()).layer(Script::new([]));
        drop(probe.call(request(&item())));
        if has_seen() {
            return guard;
        }
        std::thread::yield_now();
        tracing::callsite::rebuild_interest_cache();
    }
}

fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    pairs.into_iter().map(own).collect()
}

#[tokio::test(start_paused = true)]
async fn each_call_has_a_span_with_what_it_answered() {
    let spans = Spans::default();
    let _guard = subscribe(spans.clone(), || !spans.0.lock().unwrap().is_empty());
    spans.0.lock().unwrap().clear();
    let mut usage = TokenUsage::new(10, 5);
    (usage.cached_input, usage.reasoning) = (4, 2);
    let mut metadata = ResponseMetadata::default();
    metadata.model = Some("m-1".to_owned());
    metadata.response_id = Some("r-1".to_owned());
    metadata.finish_reason = Some(FinishReason::Stop);
    let said = LlmResponse::new("secret answer".to_owned())
        .with_usage(usage)
        .with_metadata(metadata);
    let script = Script::says([throttled(None), Ok(said)]);
    let one = item();
    let layer = || TokenAccountingLayer::new(TokenLedger::new());
    let model = (RetryLayer::new(RetryPolicy::new(3)), layer(), layer()).layer(script);
    model.oneshot(request(&one)).await.unwrap();
    let hanging = service_fn(|_: Request| std::future::pending::<Outcome>());
    drop(layer().layer(hanging).call(request(&one)));

    let common = [
        ("span", "chat"),
        ("otel.kind", "client"),
        ("gen_ai.operation.name", "chat"),
    ];
    let mut spans = spans.0.lock().unwrap().clone();
    for span in &mut spans {
        assert!(span.remove("entered").is_some());
    }
    assert_eq!(spans.len(), 3, "one a call, however many layers watch");
    let numbers = |call, attempt| [("llm_batch.call", call), ("llm_batch.attempt", attempt)];
    let failed = [("otel.status_code", "ERROR"), ("error.type", "rate_limit")];
    let zero = [
        ("gen_ai.usage.input_tokens", "0"),
        ("gen_ai.usage.output_tokens", "0"),
    ];
    assert_eq!(
        spans[0],
        fields(
            common
                .into_iter()
                .chain(numbers("1", "1"))
                .chain(failed)
                .chain(zero)
        )
    );
    let answered = [
        ("gen_ai.response.model", "m-1"),
        ("gen_ai.response.id", "r-1"),
        ("gen_ai.response.finish_reasons", "stop"),
        ("gen_ai.usage.input_tokens", "10"),
        ("gen_ai.usage.output_tokens", "5"),
        ("gen_ai.usage.cache_read.input_tokens", "4"),
        ("gen_ai.usage.reasoning.output_tokens", "2"),
    ];
    assert_eq!(
        spans[1],
        fields(common.into_iter().chain(numbers("2", "1")).chain(answered))
    );
    let cancelled = [("otel.status_code", "ERROR"), ("error.type", "cancelled")];
    assert_eq!(
        spans[2],
        fields(common.into_iter().chain(numbers("3", "1")).chain(cancelled))
    );
}

#[tokio::test(start_paused = true)]
async fn the_span_is_the_strategys_current_one() {
    let recorded = Recorded::default();
    // With a second one `tracing` asks all of them about a span that another test meets first, and not only that test's thread.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(recorded.clone());
    let _guard = subscribe(subscriber, || !recorded.0.lock().unwrap().is_empty());
    let strategy = service_fn(|_: Request| {
        let at_call = tracing::Span::current().metadata().map(tracing::Metadata::name);
        async move {
            tokio::task::yield_now().await;
            let in_future = tracing::Span::current().metadata().map(tracing::Metadata::name);
            assert_eq!((at_call, in_future), (Some("chat"), Some("chat")));
            Ok::<_, LlmError>(LlmResponse::new(String::new()))
        }
    });
    TokenAccountingLayer::new(TokenLedger::new())
        .layer(strategy)
        .oneshot(request(&item()))
        .await
        .unwrap();
}

/// Records the values that are added to spans after their creation.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Recorded {
    fn on_record(
        &self,
        _: &span::Id,
        values: &span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }
}

#[tokio::test]
async fn a_provider_names_itself_and_its_model() {
    let recorded = Recorded::default();
    // With a second one `tracing` asks all of them about a span that another test meets first, and not only that test's thread.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(recorded.clone());
    let _guard = subscribe(subscriber, || !recorded.0.lock().unwrap().is_empty());
    let server = SimulatedProvider::builder()
        .build()
        .unwrap()
        .serve("127.0.0.1:0")
        .await
        .unwrap();
    let client = OpenAi::builder().base_url(server.base_url()).build().unwrap();
    let model = TokenAccountingLayer::new(TokenLedger::new()).layer(client.model("m-1"));
    model
        .clone()
        .oneshot(LlmRequest::new(Prompt::from("hi")))
        .await
        .unwrap();
    let recorded_of = |name: &str| recorded.0.lock().unwrap().get(name).cloned();
    assert_eq!(recorded_of("gen_ai.request.model").as_deref(), Some("m-1"));
    assert_eq!(recorded_of("otel.name").as_deref(), Some("chat m-1"));
    assert!(recorded_of("gen_ai.provider.name").is_some());
    assert!(recorded_of("gen_ai.usage.input_tokens").is_some());
    model
        .oneshot(LlmRequest::new(Prompt::from("hi").with_model("m-2")))
        .await
        .unwrap();
    assert_eq!(recorded_of("otel.name").as_deref(), Some("chat m-2"));

    // Without the layer the current span is a foreign one, and is not changed.
    let theirs = tracing::info_span!("theirs", otel.name = tracing::field::Empty);
    let call = client.model("m-3").oneshot(LlmRequest::new(Prompt::from("hi")));
    tracing::Instrument::instrument(call, theirs).await.unwrap();
    assert_eq!(recorded_of("otel.name").as_deref(), Some("chat m-2"));
}
