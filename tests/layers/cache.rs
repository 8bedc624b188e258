//! The cache of answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use llm_batch::layer::cache::{CacheLayer, Cached, ResponseCache, SharedFailure, prompt_key};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::standard::StandardLayer;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, Delivery, Disposition, ErrorKind, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Prompt,
    StopMode, TokenUsage, WorkItem,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Request, Script, Step, answer, invalid, item, request, throttled};

fn cache() -> ResponseCache {
    ResponseCache::default()
}

/// Keyed by the input, which is a text in these tests.
fn by_input(
    cache: &ResponseCache,
) -> CacheLayer<String, impl Fn(&Request) -> Option<String> + Clone + use<>> {
    CacheLayer::new(cache.clone()).key_with(|request: &Request| Some((*request.input()).to_owned()))
}

/// Runs all tasks until they wait.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hit_costs_nothing_and_says_what_it_cost() {
    let cache = cache();
    let mut told = answer();
    if let Ok(response) = &mut told {
        response.metadata.cost = Some(0.25);
    }
    let script = Script::says([told]);
    let stack = StandardLayer::new();
    let ledger = stack.ledger().clone();
    let model = (by_input(&cache), stack).layer(script.clone());
    let (first, second) = (item(), item());
    let asked = model.clone().oneshot(request(&first)).await.unwrap();
    assert_eq!(asked.usage, Some(TokenUsage::new(10, 1)));
    assert_eq!(asked.metadata.extensions.get::<Cached>(), None);
    let hit = model.oneshot(request(&second)).await.unwrap();
    assert_eq!(
        (hit.usage, hit.metadata.cost),
        (Some(TokenUsage::ZERO), Some(0.0))
    );
    let cached = hit.metadata.extensions.get::<Cached>().unwrap();
    assert_eq!(
        (cached.usage, cached.cost),
        (Some(TokenUsage::new(10, 1)), Some(0.25))
    );
    assert_eq!(hit.output, asked.output);
    // No call anywhere: not in the item's record, not in the ledger, not at the strategy.
    for item in [&first, &second] {
        item.signals().settle_call(true, true);
    }
    assert_eq!((first.report().calls, first.report().usage.total()), (1, 11));
    let report = second.report();
    assert_eq!(
        (report.calls, report.unknown_usage_calls, report.usage.total()),
        (0, 0, 0)
    );
    assert_eq!(
        (ledger.snapshot().calls, ledger.snapshot().usage.total()),
        (1, 11)
    );
    let counted = cache.snapshot();
    assert_eq!((counted.hits, counted.joined, counted.misses), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_alike_prompts_is_asked_once_each_and_balances() {
    let provider = SimulatedProvider::builder()
        .latency(Duration::from_millis(400))
        .build()
        .unwrap();
    let cache = cache();
    let stack = StandardLayer::new();
    let ledger = stack.ledger().clone();
    let model = (CacheLayer::new(cache.clone()), stack).layer(provider.service());
    let results = stream::iter((0..100).map(|n| format!("What is {} plus 1?", n % 7)))
        .with_strategy(model)
        .llm_batch(30);
    let outcomes: Vec<_> = results.collect().await;
    let theirs = provider.ledger();
    assert_eq!((theirs.received, theirs.most_in_flight), (7, 7));
    let counted = cache.snapshot();
    assert_eq!((counted.misses, counted.hits + counted.joined), (7, 93));
    assert!(counted.joined >= 23 && counted.hits > 0, "{counted:?}");
    let calls: u32 = outcomes.iter().map(|outcome| outcome.report.calls).sum();
    let usage: TokenUsage = outcomes.iter().map(|outcome| outcome.report.usage).sum();
    let unknown: u32 = outcomes
        .iter()
        .map(|outcome| outcome.report.unknown_usage_calls)
        .sum();
    assert_eq!((calls, unknown, usage), (7, 0, theirs.billed_answered));
    assert_eq!(ledger.snapshot().usage, usage);
    // The usages in the answers have the same sum: hits have zero usage.
    let said: TokenUsage = (outcomes.iter())
        .map(|outcome| outcome.result.as_ref().unwrap().usage.unwrap())
        .sum();
    assert_eq!(said, usage);
    for outcome in outcomes {
        let prompt = format!("What is {} plus 1?", outcome.index % 7).into();
        assert_eq!(outcome.result.unwrap().output, provider.answer_to(&prompt));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_by_those_who_wait_and_not_stored() {
    let cache = cache();
    let failure = throttled(Some(7));
    let script = Script::new([Step::After(Duration::from_secs(1), failure)]);
    let model = by_input(&cache).layer(script.clone());
    let items = [item(), item(), item()];
    let calls = items.each_ref().map(|item| model.clone().oneshot(request(item)));
    let mut failures = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(Result::unwrap_err);
    let own = failures.next().unwrap();
    assert_eq!((own.status(), own.delivery()), (Some(429), Delivery::Rejected));
    for shared in failures {
        assert_eq!(
            (shared.kind(), shared.status()),
            (ErrorKind::RateLimit, Some(429))
        );
        assert_eq!(shared.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(shared.disposition(), Disposition::Throttled);
        assert_eq!(
            (shared.delivery(), shared.usage()),
            (Delivery::NotSent, Some(TokenUsage::ZERO))
        );
        let source = std::error::Error::source(&shared).unwrap();
        assert_eq!(
            source.downcast_ref::<SharedFailure>().unwrap().kind(),
            ErrorKind::RateLimit
        );
    }
    assert_eq!(script.count(), 1);
    let counted = cache.snapshot();
    assert_eq!((counted.hits, counted.joined, counted.misses), (0, 2, 1));
    // Nothing was stored: the next request calls the strategy.
    model.clone().oneshot(request(&item())).await.unwrap();
    model.oneshot(request(&item())).await.unwrap();
    assert_eq!((script.count(), cache.snapshot().hits), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn those_who_share_a_bad_answer_under_a_retry_ask_once_more_together() {
    let script = Script::new([
        Step::After(Duration::from_secs(1), invalid()),
        Step::After(Duration::from_secs(1), answer()),
    ]);
    let cache = cache();
    let model = (RetryLayer::new(RetryPolicy::new(2)), by_input(&cache)).layer(script.clone());
    let items = [(); 10].map(|()| item());
    let calls = items.each_ref().map(|item| model.clone().oneshot(request(item)));
    assert!(futures::future::try_join_all(calls).await.is_ok());
    assert_eq!(script.count(), 2);
    // Only the leading requests made calls.
    let calls: u32 = items.iter().map(|item| item.report().calls).sum();
    assert_eq!(calls, 2);
}

#[tokio::test(start_paused = true)]
async fn the_first_ones_cancel_lets_another_one_ask() {
    let script = Script::new([Step::Hang, Step::After(Duration::from_secs(1), answer())]);
    let cache = cache();
    let model = (by_input(&cache), StandardLayer::new()).layer(script.clone());
    let items = [(); 4].map(|()| item());
    let mut tasks: Vec<_> = (items.iter())
        .map(|item| tokio::spawn(model.clone().oneshot(request(item))))
        .collect();
    settle().await;
    assert_eq!((script.count(), cache.snapshot().misses), (1, 1));
    // Dropping a waiting request leaves no trace; dropping the leading one leaves a call with unknown usage.
    tasks.remove(1).abort();
    tasks.remove(0).abort();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(script.count(), 2);
    let reports = items.map(|item| item.report());
    assert_eq!(reports.map(|report| report.calls).iter().sum::<u32>(), 2);
    assert_eq!((reports[0].calls, reports[0].unknown_usage_calls), (1, 1));
    assert_eq!((reports[1].calls, reports[1].unknown_usage_calls), (0, 0));
    let counted = cache.snapshot();
    assert_eq!((counted.misses, counted.joined, counted.hits), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_its_items_alone() {
    // Also if several of the waiting requests panic in turn.
    for panics in [1, 300] {
        let script = Script::new((0..panics).map(|_| Step::Panic));
        let model = by_input(&cache()).layer(script.clone());
        let calls = (0..panics + 2).map(|_| {
            let call = model.clone().oneshot(request(&item()));
            std::panic::AssertUnwindSafe(call).catch_unwind()
        });
        let ended: Vec<_> = futures::future::join_all(calls).await;
        let failed = ended.iter().filter(|ended| ended.is_err()).count();
        assert_eq!(failed, panics);
        assert!(ended.iter().flatten().all(Result::is_ok));
        assert_eq!(script.count(), panics + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_item_that_a_stop_ended_goes_on() {
    // The first batch's item is in a backoff when its batch stops; this one is not affected.
    let script = Script::new([Step::Say(throttled(Some(60)))]);
    let cache = cache();
    let model = (by_input(&cache), RetryLayer::new(RetryPolicy::new(3))).layer(script.clone());
    let batch = |id: &'static str| {
        stream::iter([WorkItem::new("hi").with_id(id)])
            .with_strategy(model.clone())
            .llm_batch(1)
            .stop_mode(StopMode::Drain)
    };
    let (first, second) = (batch("first"), batch("second"));
    let handle = first.handle();
    let stop = async {
        settle().await;
        handle.stop();
    };
    let (first, second, ()) =
        futures::future::join3(first.collect::<Vec<_>>(), second.collect::<Vec<_>>(), stop).await;
    assert!(first[0].result.is_err());
    assert!(second[0].result.is_ok(), "{:?}", second[0].result);
    assert_eq!(script.count(), 2);
}

#[tokio::test]
async fn answers_live_as_long_as_they_were_told_to() {
    let script = Script::new([]);
    let short = ResponseCache::builder()
        .time_to_live(Duration::from_millis(1))
        .build();
    let long = ResponseCache::builder().time_to_live(Duration::MAX).build();
    for (cache, calls) in [(&short, 2), (&long, 1)] {
        let before = script.count();
        let model = by_input(cache).layer(script.clone());
        model.clone().oneshot(request(&item())).await.unwrap();
        // The store's clock is the system's.
        std::thread::sleep(Duration::from_millis(20));
        model.oneshot(request(&item())).await.unwrap();
        assert_eq!(script.count() - before, calls);
    }
    assert_eq!((short.snapshot().hits, long.snapshot().hits), (0, 1));
    long.clear();
    by_input(&long)
        .layer(script)
        .oneshot(request(&item()))
        .await
        .unwrap();
    assert_eq!(long.snapshot().misses, 2);
}

/// An answer of the requested number of bytes.
fn sized() -> impl tower::Service<
    LlmRequest<usize>,
    Response = LlmResponse,
    Error = LlmError,
    Future = impl Future<Output = Result<LlmResponse, LlmError>> + Send,
> + Clone
+ Send
+ 'static {
    service_fn(async |request: LlmRequest<usize>| Ok(LlmResponse::new("x".repeat(*request.input()))))
}

#[tokio::test]
async fn the_bytes_of_all_answers_are_bounded() {
    let max = 1_000_000;
    let cache = ResponseCache::builder().max_bytes(max).build();
    let number = Arc::new(AtomicU32::new(0));
    let model = CacheLayer::new(cache.clone())
        .key_with(move |_: &LlmRequest<usize>| Some(number.fetch_add(1, Ordering::Relaxed).to_string()));
    let model = model.layer(sized());
    // Small ones, large ones, and one that is too large by itself.
    for (bytes, count) in [(3, 3_000), (50_000, 100), (2_000_000, 1)] {
        for _ in 0..count {
            let answer = model.clone().oneshot(LlmRequest::new(bytes)).await.unwrap();
            assert_eq!(answer.output.len(), bytes);
            assert!(cache.snapshot().bytes <= max, "{:?}", cache.snapshot());
        }
        let held = cache.snapshot();
        // An answer also counts with its overhead beside the text.
        let least = held.answers * (bytes as u64 + 100).min(50_000);
        assert!(held.answers > 0 && held.bytes >= least.min(max / 2), "{held:?}");
    }
    assert_eq!(cache.snapshot().misses, 3_101);
}

#[tokio::test]
async fn an_answer_counts_with_all_its_texts_and_not_with_its_key() {
    let cache = cache();
    let bytes = async |key: &str, answer: LlmResponse| {
        let before = cache.snapshot().bytes;
        let key = key.to_owned();
        CacheLayer::new(cache.clone())
            .key_with(move |_: &Request| Some(key.clone()))
            .layer(service_fn(move |_: Request| {
                std::future::ready(Ok::<_, LlmError>(answer.clone()))
            }))
            .oneshot(request(&item()))
            .await
            .unwrap();
        cache.snapshot().bytes - before
    };
    let answer = || LlmResponse::new("abc".to_owned());
    let short = bytes("a", answer()).await;
    assert!((300..2_000).contains(&short), "{short}");
    assert_eq!(bytes(&"b".repeat(100_000), answer()).await, short);
    assert_eq!(bytes("c", LlmResponse::new("abcd".to_owned())).await, short + 1);
    let with = |change: fn(&mut LlmResponse)| {
        let mut answer = answer();
        change(&mut answer);
        answer
    };
    let model = with(|answer| answer.metadata.model = Some("m".repeat(1_000)));
    assert_eq!(bytes("d", model).await, short + 1_000);
    let call = with(|answer| {
        let call = serde_json::json!({"arguments": ["x".repeat(1_000)]});
        answer.metadata.tool_calls = vec![call];
    });
    assert!(bytes("e", call).await > short + 1_000);
    let raw = with(|answer| {
        let body = format!("{:1000}", 7);
        answer.metadata.raw_body = Some(serde_json::value::RawValue::from_string(body).unwrap());
    });
    // The spaces around the number do not belong to it.
    assert!(bytes("f", raw).await > short);
    let extension = with(|answer| {
        answer.metadata.extensions.insert(7_u64);
    });
    assert!(bytes("g", extension).await > short);
}

#[tokio::test(start_paused = true)]
async fn without_room_requests_in_flight_are_shared_all_the_same() {
    let none = ResponseCache::builder().max_bytes(0).build_sized_by(|_: &u32| 0);
    let slow = service_fn(async |request: LlmRequest<u32>| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, LlmError>(LlmResponse::new(*request.input()))
    });
    let model = CacheLayer::new(none.clone())
        .key_with(|request: &LlmRequest<u32>| Some(request.input().to_string()))
        .layer(slow);
    let alike = (0..10).map(|_| model.clone().oneshot(LlmRequest::new(7)));
    assert!(futures::future::try_join_all(alike).await.is_ok());
    let counted = none.snapshot();
    assert_eq!((counted.misses, counted.joined), (1, 9));
    assert_eq!((counted.answers, counted.bytes), (0, 0));
    model.oneshot(LlmRequest::new(7)).await.unwrap();
    assert_eq!(none.snapshot().misses, 2);
}

/// An answer whose clone, and whose size, run a callback.
struct Answer(fn());

static CACHE: OnceLock<ResponseCache<Answer>> = OnceLock::new();

impl Clone for Answer {
    fn clone(&self) -> Self {
        (self.0)();
        Self(self.0)
    }
}

fn by_number(
    cache: &ResponseCache<Answer>,
) -> CacheLayer<Answer, impl Fn(&LlmRequest<u32>) -> Option<String> + Clone + use<>> {
    CacheLayer::new(cache.clone()).key_with(|request: &LlmRequest<u32>| Some(request.input().to_string()))
}

#[tokio::test(start_paused = true)]
async fn user_code_may_use_the_cache() {
    fn look() {
        CACHE.get().unwrap().snapshot();
        CACHE.get().unwrap().clear();
    }
    let cache = ResponseCache::builder().build_sized_by(|answer: &Answer| {
        (answer.0)();
        0
    });
    CACHE.set(cache.clone()).ok().unwrap();
    let leaf = service_fn(async |_: LlmRequest<u32>| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, LlmError>(LlmResponse::new(Answer(look)))
    });
    let layer = CacheLayer::new(cache.clone()).key_with(|_: &LlmRequest<u32>| {
        look();
        Some(String::new())
    });
    let model = layer.layer(leaf);
    let alike = (0..10).map(|_| model.clone().oneshot(LlmRequest::new(7)));
    assert!(futures::future::try_join_all(alike).await.is_ok());
    assert_eq!((cache.snapshot().misses, cache.snapshot().joined), (1, 9));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_user_code_is_its_items_alone() {
    // A panic of the key: the items with the number 3.
    let leaf = service_fn(async |request: LlmRequest<u32>| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, LlmError>(LlmResponse::new(request.input().to_string()))
    });
    let cache: ResponseCache = ResponseCache::default();
    let layer = CacheLayer::new(cache.clone()).key_with(|request: &LlmRequest<u32>| {
        assert_ne!(*request.input(), 3, "no key");
        Some(request.input().to_string())
    });
    let numbers = || stream::iter((0..40).map(|n| WorkItem::new(n % 4)));
    let results = numbers().with_strategy(layer.layer(leaf)).llm_batch(40);
    let outcomes: Vec<_> = results.collect().await;
    for outcome in outcomes {
        assert_eq!(outcome.result.is_ok(), outcome.index % 4 != 3);
    }
    assert_eq!((cache.snapshot().misses, cache.snapshot().joined), (3, 27));

    // A panic of the size: every item has its answer, and none is kept.
    let leaf = service_fn(async |_: LlmRequest<u32>| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, LlmError>(LlmResponse::new(Answer(|| {})))
    });
    let unsized_ = ResponseCache::builder().build_sized_by(|_: &Answer| panic!("no size"));
    let model = by_number(&unsized_).layer(leaf);
    for misses in [1, 2] {
        let alike = (0..10).map(|_| model.clone().oneshot(LlmRequest::new(7)));
        assert!(futures::future::try_join_all(alike).await.is_ok());
        assert_eq!(unsized_.snapshot().misses, misses);
    }

    // A panic of the clone: the items that need one fail, and none hangs.
    let leaf = service_fn(async |_: LlmRequest<u32>| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, LlmError>(LlmResponse::new(Answer(|| panic!("no clone"))))
    });
    let cloned = ResponseCache::builder()
        .max_bytes(0)
        .build_sized_by(|_: &Answer| 0);
    let model = by_number(&cloned).layer(leaf);
    let alike = (0..10).map(|_| model.clone().oneshot(LlmRequest::new(7)));
    let alike = alike.map(|call| std::panic::AssertUnwindSafe(call).catch_unwind());
    let ended = futures::future::join_all(alike).await;
    assert!(ended[1..].iter().all(Result::is_err));
    assert_eq!((cloned.snapshot().misses, cloned.snapshot().joined), (1, 9));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_key_passes_by() {
    let cache = cache();
    let script = Script::new([]);
    let model = CacheLayer::new(cache.clone())
        .key_with(|_: &Request| None)
        .layer(script.clone());
    model.clone().oneshot(request(&item())).await.unwrap();
    model.oneshot(request(&item())).await.unwrap();
    assert_eq!((script.count(), cache.snapshot().misses), (2, 0));
}

#[test]
fn a_key_says_all_that_the_prompt_says_and_no_order_of_fields() {
    let key = |prompt: &Prompt| prompt_key(prompt).unwrap();
    let base = Prompt::new("hi").with_output_schema(serde_json::json!({"type": "object", "title": "a"}));
    let same = Prompt::new("hi").with_output_schema(serde_json::json!({"title": "a", "type": "object"}));
    assert_eq!(key(&base), key(&same));
    let mut others = vec![
        Prompt::new("hi"),
        base.clone().with_model("large"),
        base.clone().with_system("be brief"),
        base.clone().with_message(llm_batch::Message::assistant("hi")),
        base.clone().with_temperature(0.0),
        base.clone().with_temperature(0.5),
        base.clone().with_top_p(0.5),
        base.clone().with_max_output_tokens(5),
        base.clone().with_stop("x"),
        base.clone().with_seed(5),
        base.clone().with_extra("x", 5),
        base,
    ];
    let count = others.len();
    let mut keys: Vec<_> = others.drain(..).map(|prompt| key(&prompt)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[tokio::test(start_paused = true)]
async fn boxed_errors_are_shared_with_their_kind() {
    let leaf = service_fn(async |_: Request| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err::<LlmResponse, _>(BoxError::from(LlmError::validation("no number")))
    });
    let model = (RetryLayer::new(RetryPolicy::new(1)), by_input(&cache())).layer(leaf);
    let both = futures::future::join(
        model.clone().oneshot(request(&item())),
        model.oneshot(request(&item())),
    );
    let (Err(own), Err(shared)) = both.await else {
        panic!("both fail")
    };
    assert_eq!(
        own.downcast_ref::<LlmError>().unwrap().kind(),
        ErrorKind::Validation
    );
    let shared = LlmError::from(*shared.downcast::<SharedFailure>().unwrap());
    assert_eq!(shared.kind(), ErrorKind::Validation);
    assert_eq!(shared.message(), "no number");
}
