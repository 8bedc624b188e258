//! Costs in the accounts of calls, items and batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::token_accounting::LedgerSnapshot;
use llm_batch::price::{PriceTable, Rate};
use llm_batch::{
    BatchSummary, CallTimeoutLayer, Delivery, ErrorKind, Item, ItemId, ItemReport, LlmError, LlmRequest,
    LlmResponse, LlmStreamExt, Model, ResponseMetadata, RetryLayer, RetryPolicy, StandardLayer,
    TokenAccountingLayer, TokenLedger, TokenUsage, Usd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::{public, usd};

fn own() -> PriceTable {
    PriceTable::parse("models.m = { input = 1, output = 10 }").unwrap()
}

fn metadata(provider: &str, model: &str) -> ResponseMetadata {
    let mut metadata = ResponseMetadata::default();
    metadata.provider = Some(provider.to_owned());
    metadata.model = Some(model.to_owned());
    metadata
}

fn item() -> Arc<Item> {
    Item::new(ItemId::from("one"), 0)
}

/// A server that gives one reply after the other, each on a connection of its own.
async fn server(replies: Vec<(u16, &'static str)>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for (status, body) in replies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).await.unwrap();
                request.extend_from_slice(&part[..length]);
            }
            let reply = format!(
                "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    url
}

const ANSWER: &str = r#"{"id":"1","model":"m-2026-05-05","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}"#;
const ANSWER_WITH_COST: &str = r#"{"id":"1","model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"cost":0.0625}}"#;
const THROTTLED: &str = r#"{"error":{"message":"slow down","type":"rate_limit_error"}}"#;

#[tokio::test]
async fn a_provider_is_priced_over_http_and_what_it_reports_is_preferred() {
    let url = server(vec![(429, THROTTLED), (200, ANSWER), (200, ANSWER_WITH_COST)]).await;
    let model = Model::builder("openai-compatible:m")
        .base_url(url)
        .build()
        .unwrap();
    let ledger = TokenLedger::new();
    let model = TokenAccountingLayer::new(ledger.clone())
        .prices(own())
        .layer(model);
    let one = item();
    let ask = || {
        let request = LlmRequest::for_item("hi".into(), Arc::clone(&one));
        model.clone().oneshot(request)
    };

    assert_eq!(ask().await.unwrap_err().kind(), ErrorKind::RateLimit);
    let throttled = one.report();
    assert_eq!(
        (throttled.calls, throttled.cost, throttled.unknown_cost_calls),
        (1, Usd::ZERO, 0)
    );
    ask().await.unwrap();
    assert_eq!(one.report().cost, usd(0.002)); // 1,000 * 1 + 100 * 10
    ask().await.unwrap();
    let report = one.report();
    assert_eq!(
        (report.calls, report.cost, report.unknown_cost_calls),
        (3, usd(0.0645), 0)
    );
    let totals = ledger.snapshot();
    assert_eq!(
        (totals.calls, totals.cost, totals.unknown_cost_calls),
        (3, usd(0.0645), 0)
    );
}

#[tokio::test]
async fn a_reported_cost_needs_no_prices_and_no_accounting_layer() {
    let url = server(vec![(200, ANSWER_WITH_COST), (200, ANSWER)]).await;
    let model = Model::builder("openai-compatible:m")
        .base_url(url)
        .build()
        .unwrap();
    let one = item();
    for _ in 0..2 {
        let request = LlmRequest::for_item("hi".into(), Arc::clone(&one));
        model.clone().oneshot(request).await.unwrap();
    }
    let report = one.report();
    assert_eq!(
        (report.calls, report.cost, report.unknown_cost_calls),
        (2, usd(0.0625), 1)
    );
}

/// What one call over HTTP cost by the public list.
async fn cost_over_http(name: &str, reply: &'static str) -> (Usd, u32) {
    let url = server(vec![(200, reply)]).await;
    let model = Model::builder(name).base_url(url).api_key("key").build().unwrap();
    let model = TokenAccountingLayer::new(TokenLedger::new())
        .prices(public())
        .layer(model);
    let one = item();
    model
        .oneshot(LlmRequest::for_item("hi".into(), Arc::clone(&one)))
        .await
        .unwrap();
    (one.report().cost, one.report().unknown_cost_calls)
}

#[tokio::test]
async fn every_wire_tells_the_classes_that_have_prices() {
    // The sums of arithmetic.rs: writes for five minutes and an hour, thoughts apart from the answer, cached input.
    let anthropic = r#"{"id":"1","type":"message","role":"assistant","model":"heron-4","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":1000,"cache_read_input_tokens":4000,"cache_creation_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":3000,"ephemeral_1h_input_tokens":2000},"output_tokens":100}}"#;
    assert_eq!(
        cost_over_http("anthropic:heron-4", anthropic).await,
        (usd(0.028_95), 0)
    );

    let gemini = r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"hi"}]},"finishReason":"STOP"}],"modelVersion":"finch-flash","usageMetadata":{"promptTokenCount":1000,"candidatesTokenCount":100,"thoughtsTokenCount":300,"totalTokenCount":1400}}"#;
    assert_eq!(
        cost_over_http("gemini:finch-flash", gemini).await,
        (usd(0.0016), 0)
    );

    let responses = r#"{"id":"1","object":"response","status":"completed","model":"owl-mini-2026-03-01","output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"hi"}]}],"usage":{"input_tokens":1000,"input_tokens_details":{"cached_tokens":400},"output_tokens":200,"total_tokens":1200}}"#;
    assert_eq!(
        cost_over_http("openai-responses:owl-mini", responses).await,
        (usd(0.000_24), 0)
    );
    // Written for twelve hours, which the list has no price for.
    let long = r#"{"id":"1","object":"response","status":"completed","model":"owl-mini","output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"hi"}]}],"usage":{"input_tokens":1000,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":900,"cache_write_tokens_details":{"ttl_12h_tokens":900}},"output_tokens":200,"total_tokens":1200}}"#;
    assert_eq!(
        cost_over_http("openai-responses:owl-mini", long).await,
        (Usd::ZERO, 1)
    );

    // A deployment with a name of its own, behind which a known model answers: 1,000 * 0.33 + 100 * 0.66
    let azure = r#"{"id":"1","model":"owl-mini-2026-03-01","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}"#;
    assert_eq!(cost_over_http("azure:ours", azure).await, (usd(0.000_396), 0));
    assert_eq!(
        cost_over_http("openrouter:someone/heron-4", ANSWER_WITH_COST).await,
        (usd(0.0625), 0)
    );
}

/// Answers by the attempt: invalid, out of order, then right. Each call says which model it asks.
async fn third_time_lucky(mut request: LlmRequest) -> Result<LlmResponse, LlmError> {
    let call = request.begin_call().unwrap();
    call.set_model("openai", "owl-mini");
    match call.number() {
        1 => Err(LlmError::validation("no number").with_usage(TokenUsage::new(1_000, 100))),
        2 => Err(LlmError::rate_limit("slow down", Some(Duration::from_secs(1)))),
        3 => Err(LlmError::new(ErrorKind::ServerError, "cut").with_delivery(Delivery::MaybeBilled)),
        _ => Ok(LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(2_000, 200))),
    }
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_an_item_add_up() {
    let ledger = TokenLedger::new();
    let model = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(5)))
        .layer(TokenAccountingLayer::new(ledger.clone()).prices(public()))
        .service(service_fn(third_time_lucky));
    let mut results = stream::iter(["a"]).with_strategy(model).llm_batch(1);
    let outcome = results.next().await.unwrap();
    assert!(outcome.is_ok());
    // 1,000 * 0.15 + 100 * 0.6 = 210, and twice that; the throttled call is known to cost nothing, the cut one is not known.
    let report = outcome.report;
    assert_eq!((report.calls, report.unknown_usage_calls), (4, 1));
    assert_eq!((report.cost, report.unknown_cost_calls), (usd(0.000_63), 1));
    assert!(results.next().await.is_none());
    let summary = results.summary();
    assert_eq!((summary.cost, summary.unknown_cost_calls), (usd(0.000_63), 1));
    assert!(
        summary
            .to_string()
            .contains("\n  cost       $0.00063; unknown for 1 call\n"),
        "{summary}"
    );
    let totals = ledger.snapshot();
    assert_eq!((totals.cost, totals.unknown_cost_calls), (usd(0.000_63), 1));
}

/// A batch of two answers whose metadata name this model.
async fn batch_of(prices: Option<PriceTable>, model: &'static str) -> (BatchSummary, ItemReport) {
    let mut accounting = TokenAccountingLayer::new(TokenLedger::new());
    if let Some(prices) = prices {
        accounting = accounting.prices(prices);
    }
    let strategy = accounting.layer(service_fn(move |_: LlmRequest| async move {
        let answer = LlmResponse::new("hi".to_owned()).with_usage(TokenUsage::new(1_000_000, 0));
        Ok::<_, LlmError>(answer.with_metadata(metadata("openai", model)))
    }));
    let mut results = stream::iter(["a", "b"]).with_strategy(strategy).llm_batch(2);
    let report = results.next().await.unwrap().report;
    while results.next().await.is_some() {}
    (results.summary(), report)
}

#[tokio::test]
async fn an_unknown_price_is_unknown_from_the_call_to_the_summary() {
    let (summary, report) = batch_of(Some(public()), "unheard-of").await;
    assert_eq!((report.cost, report.unknown_cost_calls), (Usd::ZERO, 1));
    assert_eq!((summary.cost, summary.unknown_cost_calls), (Usd::ZERO, 2));
    assert!(!summary.to_string().contains('$'), "{summary}");

    let (summary, report) = batch_of(None, "owl-mini").await;
    assert_eq!((report.cost, report.unknown_cost_calls), (Usd::ZERO, 1));
    assert!(!summary.to_string().contains('$'), "{summary}");

    let (summary, report) = batch_of(Some(public()), "owl-mini").await;
    assert_eq!((report.cost, report.unknown_cost_calls), (usd(0.15), 0));
    assert!(
        summary.to_string().contains("\n  cost       $0.30\n"),
        "{summary}"
    );

    // Free is known, and is not unknown.
    let free = PriceTable::parse("models.owl-mini = { input = 0 }").unwrap();
    let (summary, _) = batch_of(Some(public().merge(free)), "owl-mini").await;
    assert_eq!((summary.cost, summary.unknown_cost_calls), (Usd::ZERO, 0));
    assert!(
        summary.to_string().contains("\n  cost       $0.00\n"),
        "{summary}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_runs_out_of_time_has_unknown_cost_unless_it_is_known() {
    let model = |known: bool| {
        ServiceBuilder::new()
            .layer(TokenAccountingLayer::new(TokenLedger::new()).prices(public()))
            .layer(CallTimeoutLayer::new(Duration::from_secs(1)))
            .service(service_fn(move |mut request: LlmRequest| async move {
                let call = request.begin_call().unwrap();
                call.set_model("openai", "owl-mini");
                if known {
                    call.observe(Some(TokenUsage::new(1_000_000, 0)));
                }
                std::future::pending::<Result<LlmResponse, LlmError>>().await
            }))
    };
    let one = item();
    model(false)
        .oneshot(LlmRequest::for_item("hi".into(), Arc::clone(&one)))
        .await
        .unwrap_err();
    assert_eq!(
        (one.report().cost, one.report().unknown_cost_calls),
        (Usd::ZERO, 1)
    );
    model(true)
        .oneshot(LlmRequest::for_item("hi".into(), Arc::clone(&one)))
        .await
        .unwrap_err();
    assert_eq!(
        (one.report().cost, one.report().unknown_cost_calls),
        (usd(0.15), 1)
    );
}

#[tokio::test]
async fn the_name_that_is_asked_counts_before_the_one_that_answers() {
    let own = PriceTable::parse("models.\"openai:owl-mini\" = { input = 0.10 }").unwrap();
    for (asked, table, price) in [
        // The user's own price, though the public list has the dated name that answers.
        ("owl-mini", public().merge(own), 0.10),
        // A deployment's name says nothing; the model that answers does.
        ("our-deployment", public(), 0.15),
    ] {
        let model = TokenAccountingLayer::new(TokenLedger::new())
            .prices(table)
            .layer(service_fn(move |mut request: LlmRequest| async move {
                let call = request.begin_call().unwrap();
                call.set_model("openai", asked);
                let answer = LlmResponse::new("hi".to_owned()).with_usage(TokenUsage::new(1_000_000, 0));
                Ok::<_, LlmError>(answer.with_metadata(metadata("openai", "owl-mini-2026-03-01")))
            }));
        let one = item();
        model
            .oneshot(LlmRequest::for_item("hi".into(), Arc::clone(&one)))
            .await
            .unwrap();
        assert_eq!(one.report().cost, usd(price));
    }
}

#[tokio::test]
async fn several_layers_price_a_call_once() {
    let (inner, outer) = (TokenLedger::new(), TokenLedger::new());
    let model = ServiceBuilder::new()
        .layer(TokenAccountingLayer::new(outer.clone()).prices(public()))
        .layer(TokenAccountingLayer::new(inner.clone()))
        .service(service_fn(async |_: LlmRequest| {
            let answer = LlmResponse::new("hi".to_owned()).with_usage(TokenUsage::new(1_000_000, 0));
            Ok::<_, LlmError>(answer.with_metadata(metadata("openai", "owl-mini")))
        }));
    let one = item();
    model
        .oneshot(LlmRequest::for_item("hi".into(), Arc::clone(&one)))
        .await
        .unwrap();
    assert_eq!(
        (one.report().cost, one.report().unknown_cost_calls),
        (usd(0.15), 0)
    );
    assert_eq!(
        (outer.snapshot().cost, outer.snapshot().unknown_cost_calls),
        (usd(0.15), 0)
    );
    // This one was given no prices, and says so.
    assert_eq!(
        (inner.snapshot().cost, inner.snapshot().unknown_cost_calls),
        (Usd::ZERO, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_add_up_to_the_billionth() {
    const ITEMS: u64 = 2_000;
    let next = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&next);
    let strategy = service_fn(move |_: LlmRequest| {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::task::yield_now().await;
            let usage = TokenUsage::new(number * 7 + 1, number % 13);
            let answer = LlmResponse::new(String::new()).with_usage(usage);
            Ok::<_, LlmError>(answer.with_metadata(metadata("gemini", "finch-flash")))
        }
    });
    let standard = StandardLayer::new().with_prices(public());
    let items = (0..ITEMS).map(|number| number.to_string());
    let mut results = stream::iter(items)
        .with_strategy(standard.layer(strategy))
        .llm_batch(64);
    let mut items = Usd::ZERO;
    while let Some(outcome) = results.next().await {
        items += outcome.report.cost;
    }
    let table = public();
    let expected: Usd = (0..ITEMS)
        .map(|number| TokenUsage::new(number * 7 + 1, number % 13))
        .map(|usage| table.cost("gemini", "finch-flash", &usage, Rate::Online).unwrap())
        .sum();
    assert_eq!(next.load(Ordering::Relaxed), ITEMS);
    assert_eq!(items, expected);
    assert_eq!(results.summary().cost, expected);
    assert_eq!(standard.ledger().snapshot().cost, expected);
    assert_eq!(standard.ledger().snapshot().unknown_cost_calls, 0);
}

#[test]
fn accounts_of_before_there_were_costs_are_read() {
    let report: ItemReport =
        serde_json::from_str(r#"{"attempts":2,"calls":3,"usage":{"input":5,"output":1}}"#).unwrap();
    assert_eq!(
        (report.calls, report.cost, report.unknown_cost_calls),
        (3, Usd::ZERO, 0)
    );
    let summary: BatchSummary = serde_json::from_str(r#"{"accepted":1,"calls":3}"#).unwrap();
    assert_eq!((summary.calls, summary.cost), (3, Usd::ZERO));
    let totals: LedgerSnapshot = serde_json::from_str(r#"{"calls":3}"#).unwrap();
    assert_eq!((totals.calls, totals.cost), (3, Usd::ZERO));
    let usage: TokenUsage = serde_json::from_str(r#"{"input":5,"output":1,"cache_write":2}"#).unwrap();
    assert_eq!(usage.cache_write_long, 0);
}
