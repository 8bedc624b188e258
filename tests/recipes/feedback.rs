//! Feedback about the faults of the last answer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use llm_batch::recipe::feedback;
use llm_batch::{
    ErrorKind, Fault, InvalidOutput, LlmError, LlmRequest, LlmStreamExt, Message, Prompt, RetryLayer,
    RetryPolicy, Role, StandardLayer, StructuredExt,
};
use tower::{Layer, ServiceBuilder, ServiceExt};

use crate::profile::{Mender, Profile, named, profile, texts, with_mistakes, wrong_of};
use crate::support::{Script, answer, item, request, throttled, unavailable};

#[tokio::test(start_paused = true)]
async fn a_hundred_of_a_hundred_succeed_on_the_second_attempt() {
    let prompts: Arc<Mutex<Vec<(u64, u32, Prompt)>>> = Arc::default();
    let seen = Arc::clone(&prompts);
    let model = Mender.map_request(move |request: LlmRequest| {
        let call = (request.index(), request.attempt(), request.input().clone());
        seen.lock().unwrap().push(call);
        request
    });
    let stack = StandardLayer::new().with_retry(RetryPolicy::new(2).on_error(feedback));
    let results = stream::iter((0..100).map(|n| format!("Describe person {n}.")))
        .with_strategy(stack.layer(model.structured::<Profile>()))
        .llm_batch(10);
    let outcomes: Vec<_> = results.collect().await;
    assert_eq!(outcomes.len(), 100);
    for outcome in outcomes {
        assert_eq!(outcome.result.unwrap().output, profile());
        assert_eq!((outcome.report.attempts, outcome.report.calls), (2, 2));
        assert_eq!(outcome.report.unknown_usage_calls, 0);
    }
    let prompts = prompts.lock().unwrap();
    assert_eq!(prompts.len(), 200);
    for (index, attempt, prompt) in &*prompts {
        let texts = texts(prompt);
        if *attempt == 1 {
            assert_eq!(texts, [format!("Describe person {index}.")]);
            continue;
        }
        let [asked, answered, told] = &texts[..] else {
            panic!("{texts:?}")
        };
        assert_eq!(*asked, format!("Describe person {index}."));
        let wrong = wrong_of(*index);
        assert_eq!(*answered, with_mistakes(&wrong).to_string());
        // Exactly the wrong paths are listed as wrong, and the parts listed as right do not contain them.
        let (bad, good) = told.split_once("What is right").unwrap();
        assert_eq!(named(bad), wrong, "{told}");
        let mut expected: BTreeSet<&str> =
            ["/name", "/age", "/biography", "/address", "/tags", "/nickname"].into();
        for path in &wrong {
            expected.retain(|part| !path.starts_with(part));
            match *path {
                "/address/city" => drop(expected.insert("/address/street")),
                "/tags/1" => drop(expected.insert("/tags/0")),
                _ => {}
            }
        }
        assert_eq!(named(good), expected, "{told}");
        assert_eq!(prompt.messages()[1].role, Role::Assistant);
    }
}

fn invalid(path: &str) -> Result<llm_batch::LlmResponse, LlmError> {
    let error = LlmError::from(InvalidOutput::new([Fault::new(path, "is wrong")]));
    Err(error.with_raw_output(format!("answer with {path}")))
}

#[tokio::test(start_paused = true)]
async fn only_the_last_answer_is_told_and_only_bad_answers_change_it() {
    let script = Script::says([
        throttled(1),
        unavailable(),
        invalid("/a"),
        throttled(1),
        invalid("/b"),
        unavailable(),
        Err(LlmError::validation("not a number").with_raw_output("many")),
        Err(LlmError::validation("not a number")),
        answer("5"),
    ]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(9).on_error(feedback)))
        .service(script.clone());
    stack.oneshot(request(&item())).await.unwrap();
    let told: Vec<(usize, String)> = (script.asked().iter())
        .map(|prompt| {
            let texts = texts(prompt);
            let answered = texts.get(1).filter(|_| texts.len() == 3).cloned();
            let wrong: Vec<&str> = named(texts.last().unwrap()).into_iter().collect();
            (texts.len(), format!("{} {wrong:?}", answered.unwrap_or_default()))
        })
        .collect();
    let a = (3, r#"answer with /a ["/a"]"#.to_owned());
    let b = (3, r#"answer with /b ["/b"]"#.to_owned());
    let expected = [
        (1, " []".to_owned()),
        (1, " []".to_owned()),
        (1, " []".to_owned()),
        a.clone(),
        a,
        b.clone(),
        b,
        (3, r#"many ["not a number"]"#.to_owned()),
        (2, r#" ["not a number"]"#.to_owned()),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn without_feedback_the_same_mistakes_come_again() {
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .service(Mender.structured::<Profile>());
    let one = item();
    let error = stack.oneshot(request(&one)).await.unwrap_err();
    assert_eq!((error.kind(), one.report().calls), (ErrorKind::Validation, 3));
}

#[tokio::test(start_paused = true)]
async fn another_prompt_of_the_same_item_loses_nothing() {
    let script = Script::says([
        invalid("/a"),
        answer("first"),
        invalid("/b"),
        invalid("/c"),
        answer("second"),
    ]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3).on_error(feedback)))
        .service(script.clone());
    let one = item();
    stack.clone().oneshot(request(&one)).await.unwrap();
    // An agent's next request.
    let conversation = Prompt::new("hi")
        .with_message(Message::assistant("first"))
        .with_message(Message::user("and now?"));
    let next = LlmRequest::for_item(conversation.clone(), one);
    stack.oneshot(next).await.unwrap();
    let asked = script.asked();
    for (prompt, path) in [(&asked[3], "/b"), (&asked[4], "/c")] {
        assert_eq!(prompt.messages()[..3], *conversation.messages());
        assert_eq!(prompt.messages().len(), 5);
        assert_eq!(named(texts(prompt).last().unwrap()), [path].into());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_goes_out_with_one_body() {
    let script = Script::says([throttled(1), invalid("/a"), unavailable(), answer("5")]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(9).on_error(feedback)))
        .service(script.clone());
    let mut request = request(&item());
    *request.input_mut() = Prompt::new("hi")
        .with_header("Idempotency-Key", "row-7")
        .with_header("x-team", "search");
    stack.oneshot(request).await.unwrap();
    let names: Vec<Vec<String>> = (script.asked().iter())
        .map(|prompt| prompt.header_names().map(str::to_owned).collect())
        .collect();
    let (with, without) = (["Idempotency-Key", "x-team"], ["x-team"]);
    assert_eq!(names, [&with[..], &with, &without, &without]);
}

#[tokio::test(start_paused = true)]
async fn a_raw_prompt_is_asked_again_as_it_is() {
    let script = Script::says([invalid("/a"), answer("5")]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(2).on_error(feedback)))
        .service(script.clone());
    let raw = Prompt::raw(serde_json::Map::new()).with_header("Idempotency-Key", "row-7");
    let mut request = request(&item());
    *request.input_mut() = raw.clone();
    stack.oneshot(request).await.unwrap();
    assert_eq!(script.asked(), [raw.clone(), raw]);
}
