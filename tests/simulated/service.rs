//! The simulated provider's tower service, in virtual time.

use std::time::Duration;

use futures::future::join_all;
use llm_batch::testing::{
    Hint, Latency, Preset, Quota, SimulatedProvider, SimulatedProviderBuilder, TokenCharge,
};
use llm_batch::{
    Disposition, ErrorKind, Item, ItemId, LlmError, LlmRequest, LlmResponse, Prompt, QuotaDimension,
    TokenUsage,
};
use proptest::prelude::*;
use tokio::time::{Instant, advance, timeout};
use tower::ServiceExt;

fn provider(set: impl FnOnce(SimulatedProviderBuilder) -> SimulatedProviderBuilder) -> SimulatedProvider {
    set(SimulatedProvider::builder()).build().unwrap()
}

async fn ask(provider: &SimulatedProvider, prompt: impl Into<Prompt>) -> Result<LlmResponse, LlmError> {
    provider.service().oneshot(LlmRequest::new(prompt.into())).await
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[tokio::test(start_paused = true)]
async fn a_bucket_lets_its_burst_through_and_then_its_rate_to_the_millisecond() {
    let provider = provider(|sim| {
        sim.request_quota(Quota::per_minute(60).with_burst(5))
            .hint(Hint::RetryInfo)
    });
    for _ in 0..5 {
        assert!(ask(&provider, "hi").await.is_ok());
    }
    let throttled = ask(&provider, "hi").await.unwrap_err();
    assert_eq!(throttled.disposition(), Disposition::Throttled);
    assert_eq!(throttled.retry_after(), Some(ms(1_000)));
    assert_eq!(
        throttled.quota().unwrap().dimension,
        Some(QuotaDimension::Requests)
    );
    advance(ms(999)).await;
    assert_eq!(ask(&provider, "hi").await.unwrap_err().retry_after(), Some(ms(1)));
    advance(ms(1)).await;
    assert!(ask(&provider, "hi").await.is_ok());
    assert!(ask(&provider, "hi").await.is_err());
    // Ten minutes later the burst is available again, and no more.
    advance(Duration::from_secs(600)).await;
    let outcomes = join_all((0..10).map(|_| ask(&provider, "hi"))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_window_forgets_at_its_end() {
    let quota = Quota::new(3, Duration::from_secs(10)).fixed_window();
    let provider = provider(|sim| sim.request_quota(quota).hint(Hint::RetryAfterMs));
    assert!(ask(&provider, "hi").await.is_ok());
    advance(ms(9_000)).await;
    assert!(ask(&provider, "hi").await.is_ok());
    assert!(ask(&provider, "hi").await.is_ok());
    assert_eq!(
        ask(&provider, "hi").await.unwrap_err().retry_after(),
        Some(ms(1_000))
    );
    advance(ms(1_000)).await;
    for _ in 0..3 {
        assert!(ask(&provider, "hi").await.is_ok());
    }
    assert_eq!(
        ask(&provider, "hi").await.unwrap_err().retry_after(),
        Some(ms(10_000))
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_quota_charges_the_reservation_or_what_was_used() {
    let limited = |charge| {
        provider(|sim| {
            sim.token_quota(Quota::per_minute(600))
                .token_charge(charge)
                .hint(Hint::RetryInfo)
        })
    };
    let prompt = Prompt::from("x".repeat(400)).with_max_output_tokens(500);

    let reserving = limited(TokenCharge::Reservation);
    assert!(ask(&reserving, prompt.clone()).await.is_ok());
    // 500 of 600 are gone: the larger of 100 prompt tokens and the limit of 500.
    let throttled = ask(&reserving, prompt.clone()).await.unwrap_err();
    assert_eq!(throttled.retry_after(), Some(Duration::from_secs(40)));
    assert_eq!(throttled.quota().unwrap().dimension, Some(QuotaDimension::Tokens));
    let hopeless = ask(&reserving, prompt.clone().with_max_output_tokens(601))
        .await
        .unwrap_err();
    assert_eq!(
        (hopeless.kind(), hopeless.status()),
        (ErrorKind::InvalidRequest, Some(429))
    );

    let actual = limited(TokenCharge::Actual);
    let used = ask(&actual, prompt.clone()).await.unwrap().usage.unwrap().total();
    for _ in 1..600 / used {
        assert!(ask(&actual, prompt.clone()).await.is_ok());
    }
    assert!(ask(&actual, prompt).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_quota_counts_accepted_calls_only_while_they_run() {
    let provider = provider(|sim| sim.concurrency(2).latency(ms(100)).rejection_latency(ms(10)));
    let outcomes = join_all((0..5).map(|_| ask(&provider, "hi"))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    let throttled = outcomes.into_iter().find_map(Result::err).unwrap();
    assert_eq!(
        (throttled.kind(), throttled.retry_after()),
        (ErrorKind::RateLimit, None)
    );
    assert_eq!(
        throttled.quota().unwrap().dimension,
        Some(QuotaDimension::Concurrency)
    );
    // A dropped call releases its slot.
    let _ = timeout(ms(50), join_all((0..2).map(|_| ask(&provider, "hi")))).await;
    assert!(ask(&provider, "hi").await.is_ok());
    assert_eq!(provider.ledger().disconnected, 2);
}

#[tokio::test(start_paused = true)]
async fn rejected_calls_count_only_when_asked_to() {
    for (count, accepted) in [(false, true), (true, false)] {
        let provider = provider(|sim| {
            sim.request_quota(Quota::per_second(1))
                .count_rejected(count)
                .hint(Hint::None)
        });
        assert!(ask(&provider, "hi").await.is_ok());
        advance(ms(900)).await;
        assert_eq!(ask(&provider, "hi").await.unwrap_err().retry_after(), None);
        advance(ms(100)).await;
        assert_eq!(ask(&provider, "hi").await.is_ok(), accepted);
        // The bucket was emptied, but has no debt.
        advance(ms(1_000)).await;
        assert!(ask(&provider, "hi").await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn each_form_of_hint_has_its_precision() {
    let expected = [
        (Hint::None, None),
        (Hint::RetryAfterMs, Some(Duration::from_millis(1_429))),
        (Hint::RetryAfterSeconds, Some(Duration::from_secs(2))),
        (Hint::HttpDate, Some(Duration::from_secs(2))),
        (Hint::Message, Some(Duration::from_millis(1_429))),
        // Five of seven a second each until the bucket is full.
        (Hint::ResetHeaders, Some(Duration::from_millis(2_858))),
        (Hint::RetryInfo, Some(Duration::from_nanos(1_428_571_429))),
    ];
    for (hint, wait) in expected {
        // One more token takes 10 / 7 s, a full bucket of two 20 / 7 s.
        let quota = Quota::new(7, Duration::from_secs(10)).with_burst(2);
        let provider = provider(|sim| sim.request_quota(quota).hint(hint));
        assert!(ask(&provider, "hi").await.is_ok());
        assert!(ask(&provider, "hi").await.is_ok());
        let throttled = ask(&provider, "hi").await.unwrap_err();
        assert_eq!(throttled.retry_after(), wait, "{hint}");
        let windows = throttled.quota().unwrap().requests;
        assert_eq!(windows.limit, (hint == Hint::ResetHeaders).then_some(7));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_rejects_everything_while_it_lasts() {
    let provider = provider(|sim| {
        sim.outage(ms(1_000), ms(2_000), 503)
            .overload_hint(ms(1_500))
            .rejection_latency(ms(5))
    });
    assert!(ask(&provider, "hi").await.is_ok());
    advance(ms(1_000)).await;
    let start = Instant::now();
    let error = ask(&provider, "hi").await.unwrap_err();
    assert_eq!(start.elapsed(), ms(5));
    assert_eq!((error.kind(), error.status()), (ErrorKind::Overloaded, Some(503)));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert_eq!(error.usage(), Some(TokenUsage::ZERO));
    advance(ms(2_000)).await;
    assert!(ask(&provider, "hi").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_key_expires_and_a_balance_runs_out() {
    let expiring = provider(|sim| sim.key_expires_after(1));
    assert!(ask(&expiring, "hi").await.is_ok());
    assert_eq!(
        ask(&expiring, "hi").await.unwrap_err().disposition(),
        Disposition::ScopeFatal
    );
    let paid = provider(|sim| sim.balance_lasts_for(1));
    assert!(ask(&paid, "hi").await.is_ok());
    let broke = ask(&paid, "hi").await.unwrap_err();
    assert_eq!(
        (broke.kind(), broke.status()),
        (ErrorKind::InsufficientBalance, Some(429))
    );
    assert_eq!(paid.ledger().rejected[&429], 1);
}

#[tokio::test(start_paused = true)]
async fn the_record_of_an_item_without_layers_is_kept_and_headers_reach_it() {
    let provider = provider(|sim| sim.requests_per_minute(60));
    let item = Item::new(ItemId::Index(0), 0);
    let mut request = LlmRequest::for_item("hi".into(), item.clone());
    let outer = request.begin_call().unwrap();
    let response = provider.service().oneshot(request).await.unwrap();
    let quota = outer.quota().unwrap();
    assert_eq!(
        (quota.requests.limit, quota.requests.remaining),
        (Some(60), Some(0))
    );
    outer.observe(response.usage);
    drop(outer);
    assert_eq!(
        (item.report().calls, item.report().usage),
        (1, provider.ledger().billed_answered)
    );

    let bare = Item::new(ItemId::Index(1), 1);
    let _ = provider
        .service()
        .oneshot(LlmRequest::for_item("hi".into(), bare.clone()))
        .await;
    assert_eq!((bare.report().calls, bare.report().unknown_usage_calls), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn refusals_and_broken_json_are_answers_that_cost() {
    let refusing = provider(|sim| sim.refusal_rate(1.0));
    let error = ask(&refusing, "hi").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.usage()),
        (ErrorKind::ContentFilter, Some(refusing.ledger().billed_answered))
    );
    let schema = serde_json::json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let prompt = Prompt::from("hi").with_output_schema(schema);
    let broken = provider(|sim| sim.invalid_json_rate(1.0));
    let text = ask(&broken, prompt.clone()).await.unwrap().output;
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_err());
    let proper = provider(|sim| sim);
    assert_eq!(ask(&proper, prompt).await.unwrap().output, r#"{"n":42}"#);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |sim: SimulatedProviderBuilder| sim.build().unwrap_err().to_string();
    let sim = SimulatedProvider::builder;
    assert!(refused(sim().reset_before_rate(f64::NAN)).contains("reset_before_rate is NaN"));
    assert!(refused(sim().status_rate(503, 0.6).status_rate(500, 0.6)).contains("sum to 1.2"));
    assert!(refused(sim().status_rate(200, 0.1)).contains("200 is no error status"));
    assert!(refused(sim().requests_per_minute(0)).contains("request quota"));
    assert!(refused(sim().concurrency(0)).contains("concurrency"));
    assert!(sim().reset_rate(1.0).build().is_ok());
}

/// One scenario: 60 calls with every fault, some cancelled by their clients; returns each client's result.
async fn storm(seed: u64) -> (Vec<String>, SimulatedProvider) {
    let provider = provider(|sim| {
        sim.seed(seed)
            .request_quota(Quota::per_second(20))
            .concurrency(15)
            .latency(Latency::log_normal(ms(50), ms(900)))
            .rejection_latency(ms(3))
            .reset_before_rate(0.05)
            .reset_rate(0.2)
            .truncated_rate(0.05)
            .garbage_rate(0.05)
            .refusal_rate(0.05)
            .status_rate(500, 0.05)
            .status_rate(503, 0.05)
            .slow_body(0.1, ms(400))
            .stall(0.1, ms(700))
            .cached_share(0.5)
    });
    let calls = (0..60_u64).map(|index| {
        let provider = provider.clone();
        async move {
            tokio::time::sleep(ms(index * 20)).await;
            let prompt = format!("question {index}");
            match timeout(ms(600), ask(&provider, prompt.as_str())).await {
                Ok(Ok(response)) => {
                    assert_eq!(response.output, provider.answer_to(&prompt.into()));
                    format!("{index}: answered {:?}", response.usage)
                }
                Ok(Err(error)) => format!("{index}: {error:?}"),
                Err(_) => format!("{index}: left"),
            }
        }
    });
    (join_all(calls).await, provider)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_seed_repeats_itself_and_the_books_balance(seed in any::<u64>()) {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(storm(seed))
        };
        let (seen, provider) = run();
        let (again, other) = run();
        prop_assert_eq!(&seen, &again);
        let ledger = provider.ledger();
        prop_assert_eq!(&ledger, &other.ledger());
        prop_assert!(ledger.is_balanced() && ledger.in_flight == 0, "{:?}", ledger);
        prop_assert_eq!(ledger.received, 60);
        let count = |text: &str| seen.iter().filter(|seen| seen.contains(text)).count() as u64;
        prop_assert_eq!(count("left"), ledger.disconnected);
        prop_assert_eq!(count("RateLimit"), ledger.throttled);
        prop_assert_eq!(count("ServerError, message: \"the response is no JSON"), ledger.garbled);
        prop_assert_eq!(count("connection reset"), ledger.reset_unread + ledger.cut - ledger.disconnected);
        prop_assert_eq!(count("answered") + count("ContentFilter"), ledger.answered);
    }
}

#[tokio::test(start_paused = true)]
async fn presets_are_what_they_are_called() {
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().parse(), Ok(preset));
        let provider = provider(|sim| sim.seed(3).preset(preset));
        let outcomes = join_all((0..300).map(|_| ask(&provider, "hi"))).await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(failed == 0, preset == Preset::Steady, "{preset}: {failed}");
        assert_eq!(provider.ledger().throttled > 0, preset != Preset::Steady);
        assert!(provider.ledger().is_balanced());
    }
    assert!(
        "wild"
            .parse::<Preset>()
            .unwrap_err()
            .to_string()
            .contains("steady, throttled, chaos")
    );
}
