//! The scripted fake.

use std::time::Duration;

use futures::future::join_all;
use llm_batch::testing::{FakeStrategy, Latency};
use llm_batch::{
    Delivery, ErrorKind, FinishReason, Item, ItemId, LlmRequest, Message, Part, Prompt, TokenUsage, ToolCall,
};
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

fn request(index: u64) -> LlmRequest {
    LlmRequest::for_item("hi".into(), Item::new(ItemId::Index(index), index))
}

#[tokio::test(start_paused = true)]
async fn the_script_counts_calls_over_all_items_and_clones() {
    let fake = FakeStrategy::new(|request: &LlmRequest| request.index())
        .throttle_on_call(2)
        .retry_after(Duration::from_secs(3))
        .timeout_on_call(3)
        .fail_on_call(4, ErrorKind::ServerError)
        .usage(TokenUsage::new(5, 1));
    let mut outcomes = Vec::new();
    for index in 0..5 {
        outcomes.push(fake.clone().oneshot(request(index)).await);
    }
    assert_eq!(outcomes[0].as_ref().unwrap().output, 0);
    assert_eq!(outcomes[0].as_ref().unwrap().usage, Some(TokenUsage::new(5, 1)));
    let throttled = outcomes[1].as_ref().unwrap_err();
    assert_eq!(
        (throttled.kind(), throttled.status()),
        (ErrorKind::RateLimit, Some(429))
    );
    assert_eq!(throttled.retry_after(), Some(Duration::from_secs(3)));
    assert_eq!(throttled.usage(), Some(TokenUsage::ZERO));
    let timeout = outcomes[2].as_ref().unwrap_err();
    assert_eq!((timeout.kind(), timeout.usage()), (ErrorKind::Timeout, None));
    assert_eq!(timeout.delivery(), Delivery::MaybeBilled);
    assert_eq!(outcomes[3].as_ref().unwrap_err().kind(), ErrorKind::ServerError);
    assert_eq!(outcomes[4].as_ref().unwrap().output, 4);
    assert_eq!(fake.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn per_item_the_script_counts_each_items_calls() {
    let fake = FakeStrategy::new(|_: &LlmRequest| ())
        .throttle_on_call(1)
        .per_item();
    for index in 0..3 {
        let first = request(index);
        let second = first.clone();
        assert!(fake.clone().oneshot(first).await.is_err());
        assert!(fake.clone().oneshot(second).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn latency_hangs_and_drops_are_seen_in_the_counters() {
    let fake = FakeStrategy::new(|_: &LlmRequest| ())
        .latency(Duration::from_secs(2))
        .hang_on_call(3);
    let start = Instant::now();
    let calls = (0..3).map(|index| timeout(Duration::from_secs(60), fake.clone().oneshot(request(index))));
    let outcomes = join_all(calls).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1);
    assert_eq!(start.elapsed(), Duration::from_secs(60));
    assert_eq!((fake.calls(), fake.most_in_flight(), fake.in_flight()), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_seed_gives_the_same_failures_and_the_rate_asked_for() {
    let outcomes = async |seed: u64| {
        let fake = FakeStrategy::new(|_: &LlmRequest| ())
            .latency(Latency::uniform(
                Duration::from_millis(1),
                Duration::from_millis(9),
            ))
            .fail_at_rate(0.2, ErrorKind::ServerError)
            .fail_at_rate(0.1, ErrorKind::Overloaded)
            .seed(seed);
        let mut kinds = Vec::new();
        for index in 0..2_000 {
            kinds.push(
                fake.clone()
                    .oneshot(request(index))
                    .await
                    .err()
                    .map(|error| error.kind()),
            );
        }
        kinds
    };
    let first = outcomes(7).await;
    assert_eq!(first, outcomes(7).await);
    assert_ne!(first, outcomes(8).await);
    let count = |kind| first.iter().filter(|seen| **seen == Some(kind)).count();
    assert!(
        (300..500).contains(&count(ErrorKind::ServerError)),
        "{}",
        count(ErrorKind::ServerError)
    );
    assert!(
        (100..220).contains(&count(ErrorKind::Overloaded)),
        "{}",
        count(ErrorKind::Overloaded)
    );
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "scripted panic of call 1")]
async fn a_scripted_panic_panics() {
    let fake = FakeStrategy::new(|_: &LlmRequest| ()).panic_on_call(1);
    let _ = fake.oneshot(request(0)).await;
}

#[tokio::test]
async fn a_script_calls_tools_for_each_item() {
    let call = |id: &str| ToolCall::new(id, "weather", r#"{"city": "Oslo"}"#);
    let fake = FakeStrategy::new(|_: &LlmRequest| "It rains.".to_owned())
        .usage(TokenUsage::new(5, 1))
        .tool_calls_on_call(1, [call("c1"), call("c2")])
        .per_item();
    for item in 0..2 {
        let first = request(item);
        let state = std::sync::Arc::clone(first.item());
        let asked = fake.clone().oneshot(first).await.unwrap();
        assert_eq!(asked.tool_calls(), [call("c1"), call("c2")]);
        assert_eq!(asked.metadata.finish_reason, Some(FinishReason::ToolCalls));
        assert_eq!(asked.usage, Some(TokenUsage::new(5, 1)));
        // They go back as the calls of any provider.
        let turn = Message::from(&asked);
        assert_eq!(turn.content[0], Part::text("It rains."));
        assert_eq!(turn.content[1..], [call("c1"), call("c2")].map(Part::ToolCall));
        let next = LlmRequest::for_item(Prompt::new("hi").with_message(turn), state);
        let answer = fake.clone().oneshot(next).await.unwrap();
        assert_eq!(
            (answer.output.as_str(), answer.tool_calls().len()),
            ("It rains.", 0)
        );
    }
}
