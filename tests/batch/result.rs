//! Collecting a complete batch, from any source.

use futures::{StreamExt, stream};
use llm_batch::{BatchResult, ErrorKind, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Termination};
use tower::{ServiceExt, service_fn};

use crate::support::Sleeper;

async fn even(request: LlmRequest) -> Result<LlmResponse, LlmError> {
    // The first one is the slowest.
    tokio::time::sleep(std::time::Duration::from_millis(100 - request.index())).await;
    match request.index() % 2 {
        0 => Ok(LlmResponse::new(format!("answer {}", request.index()))),
        _ => Err(LlmError::fatal("odd")),
    }
}

#[tokio::test(start_paused = true)]
async fn a_collected_batch_is_in_input_order_and_round_trips() {
    let items = (0..10).map(|number| (format!("q{}", number / 5), "?", number));
    let batch = stream::iter(items).with_strategy(service_fn(even)).llm_batch(10);
    let result = batch.into_result().await;
    let indices: Vec<_> = result.outcomes.iter().map(|outcome| outcome.index).collect();
    assert_eq!(indices, (0..10).collect::<Vec<_>>());
    assert!(
        result
            .outcomes
            .iter()
            .all(|outcome| outcome.context == outcome.index)
    );
    let answers: Vec<_> = result
        .successes()
        .map(|(_, response)| response.output.as_str())
        .collect();
    assert_eq!(
        answers,
        ["answer 0", "answer 2", "answer 4", "answer 6", "answer 8"]
    );
    assert_eq!(result.failures().count(), 5);
    assert!(
        result
            .failures()
            .all(|(outcome, error)| outcome.index % 2 == 1 && error.message() == "odd")
    );
    // Of equal ids the first item is kept.
    let by_id = result.by_id();
    assert_eq!(by_id.len(), 2);
    assert_eq!(by_id["q1"].index, 5);
    assert_eq!((result.summary.succeeded, result.summary.failed), (5, 5));
    assert_eq!(result.summary.termination, Some(Termination::Completed));

    let json = serde_json::to_string(&result).unwrap();
    let again: BatchResult<LlmResponse, LlmError, u64> = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
    assert_eq!(again.summary, result.summary);
    // A field that is missing is an error, not a default.
    for field in ["outcomes", "summary"] {
        let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
        value.as_object_mut().unwrap().remove(field);
        serde_json::from_value::<BatchResult<LlmResponse, LlmError, u64>>(value).unwrap_err();
    }
    assert_eq!(again.into_iter().count(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_gives_its_answer_or_its_error() {
    let prompts = stream::iter(["a", "b"]);
    let mut outcomes = prompts
        .with_strategy(service_fn(even))
        .llm_batch(1)
        .into_result()
        .await
        .into_iter();
    let (first, second) = (outcomes.next().unwrap(), outcomes.next().unwrap());
    assert!(first.is_ok() && !first.is_err() && first.error().is_none());
    assert_eq!(first.response().unwrap().output, "answer 0");
    assert_eq!(first.clone().ok().unwrap().output, "answer 0");
    assert!(first.err().is_none());
    assert!(second.is_err() && !second.is_ok() && second.response().is_none());
    assert_eq!(second.error().unwrap().message(), "odd");
    assert_eq!(second.clone().err().unwrap().message(), "odd");
    assert!(second.ok().is_none());
}

/// A source that is not `Unpin` does not have to be pinned.
#[tokio::test(start_paused = true)]
async fn any_source_works_in_the_loop() {
    let prompts = || {
        stream::unfold(0, async |number| {
            tokio::task::yield_now().await;
            (number < 3).then(|| (format!("prompt {number}"), number + 1))
        })
    };
    let mut results = prompts().with_strategy(Sleeper::millis(1)).llm_batch(2);
    let mut count = 0;
    while let Some(outcome) = results.next().await {
        count += usize::from(outcome.is_ok());
    }
    let mut results = prompts().with_strategy(Sleeper::millis(1)).llm_batch_local(2);
    while let Some(outcome) = results.next().await {
        count += usize::from(outcome.is_ok());
    }
    assert_eq!(count, 6);
}

#[tokio::test]
async fn one_call_of_a_prompt_needs_no_conversion() {
    let strategy =
        service_fn(async |request: LlmRequest| Ok::<_, LlmError>(LlmResponse::new(request.into_input())));
    let answer = strategy.oneshot(LlmRequest::prompt("hi")).await.unwrap();
    assert_eq!(answer.output, "hi".into());
    let answer = strategy.oneshot("hi".into()).await.unwrap();
    assert_eq!(answer.output, "hi".into());
}

/// A clone of an error shares its source.
#[test]
fn an_error_can_be_cloned() {
    let cause = std::io::Error::other("disk on fire");
    let error = LlmError::new(ErrorKind::Connection, "no answer")
        .with_status(502)
        .with_source(cause);
    let clone = error.clone();
    assert_eq!(format!("{clone:?}"), format!("{error:?}"));
    let source = |error: &LlmError| std::error::Error::source(error).unwrap().to_string();
    assert_eq!(source(&clone), "disk on fire");
    drop(error);
    assert_eq!(source(&clone), "disk on fire");
}
