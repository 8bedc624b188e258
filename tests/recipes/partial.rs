//! What was good is kept, and the rest is asked for.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use llm_batch::recipe::partial;
use llm_batch::{
    Fault, InvalidOutput, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Prompt, RetryLayer, RetryPolicy,
    StandardLayer, StructuredExt, TokenUsage,
};
use serde_json::{Map, Value, json};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::profile::{Profile, named, profile, right, texts, usage, with_mistakes, wrong_of};
use crate::support::{Script, answer, item, request, throttled, unavailable};

/// The members of `value` that `schema` asks for.
fn asked_for(value: &Value, schema: &Value) -> Value {
    let (Some(properties), Some(members)) = (schema.get("properties"), value.as_object()) else {
        return value.clone();
    };
    let properties = properties.as_object().unwrap();
    let picked: Map<String, Value> = members
        .iter()
        .filter_map(|(name, member)| Some((name.clone(), asked_for(member, properties.get(name)?))))
        .collect();
    picked.into()
}

#[tokio::test(start_paused = true)]
async fn the_second_attempt_is_asked_for_the_wrong_fields_alone_and_takes_less() {
    type Calls = Arc<Mutex<Vec<(u64, u32, Prompt, TokenUsage)>>>;
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    // It makes its mistakes at first, and answers well to any schema with the fields of that schema.
    let model = service_fn(move |request: LlmRequest| {
        let schema = request.input().output_schema().unwrap();
        let text = match request.attempt() {
            1 => with_mistakes(&wrong_of(request.index())).to_string(),
            _ => asked_for(&right(), schema).to_string(),
        };
        let usage = usage(request.input(), &text);
        let call = (request.index(), request.attempt(), request.input().clone(), usage);
        seen.lock().unwrap().push(call);
        std::future::ready(Ok::<_, LlmError>(LlmResponse::new(text).with_usage(usage)))
    });
    let stack = StandardLayer::new().with_retry(RetryPolicy::new(2));
    let results = stream::iter((0..100).map(|n| format!("Describe person {n}.")))
        .with_strategy(stack.layer(partial(model, |model| model.structured::<Profile>())))
        .llm_batch(10);
    let outcomes: Vec<_> = results.collect().await;
    assert_eq!(outcomes.len(), 100);
    for outcome in &outcomes {
        assert_eq!(outcome.result.as_ref().unwrap().output, profile());
        assert_eq!((outcome.report.attempts, outcome.report.calls), (2, 2));
    }
    let calls = calls.lock().unwrap();
    let (first, second): (Vec<_>, Vec<_>) = calls.iter().partition(|(_, attempt, ..)| *attempt == 1);
    let sum = |calls: &[&(u64, u32, Prompt, TokenUsage)]| -> TokenUsage {
        calls.iter().map(|(.., usage)| *usage).sum()
    };
    let (whole, rest) = (sum(&first), sum(&second));
    // A biography of a hundred words is not written again: a tenth of the first attempt's tokens is enough.
    assert!(rest.output * 10 < whole.output, "{whole:?} {rest:?}");
    assert!(rest.total() < whole.total(), "{whole:?} {rest:?}");
    let accounted: TokenUsage = outcomes.iter().map(|outcome| outcome.report.usage).sum();
    assert_eq!(accounted, whole + rest);
    for (index, _, prompt, _) in second {
        let wrong = wrong_of(*index);
        let texts = texts(prompt);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert_eq!(named(&texts[1]), wrong);
        let properties = &prompt.output_schema().unwrap()["properties"];
        let names: Vec<&String> = properties.as_object().unwrap().keys().collect();
        let mut expected: Vec<&str> = wrong
            .iter()
            .map(|path| path[1..].split('/').next().unwrap())
            .collect();
        expected.sort_by_key(|name| names.iter().position(|asked| asked == name));
        assert_eq!(names, expected);
        if wrong.contains("/address/city") {
            let inside = properties["address"]["properties"].as_object().unwrap();
            assert_eq!(inside.keys().collect::<Vec<_>>(), ["city"]);
        }
    }
}

fn text(value: &Value) -> Result<LlmResponse, LlmError> {
    answer(&value.to_string())
}

#[tokio::test(start_paused = true)]
async fn failures_in_between_lose_nothing_and_a_field_made_worse_is_asked_for_in_turn() {
    let mut first = right();
    first["age"] = json!(999);
    first["tags"] = json!("none");
    let script = Script::says([
        text(&first),
        throttled(1),
        unavailable(),
        answer("I am sorry, here it is:"),
        // One of the two, in a code fence, and with more than was asked for.
        answer("```json\n{\"age\": 36, \"name\": \"Eve\", \"tags\": 5}\n```"),
        answer("[1, 2]"),
        text(&json!({"tags": ["mathematics", "engines"]})),
    ]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(9)))
        .service(partial(script.clone(), |script| script.structured::<Profile>()));
    let one = item();
    let answer = stack.oneshot(request(&one)).await.unwrap();
    assert_eq!(answer.output, profile());
    let asked: Vec<Vec<String>> = (script.asked().iter())
        .map(|prompt| {
            let texts = texts(prompt);
            let told = texts.get(1).map(|text| named(text)).unwrap_or_default();
            told.into_iter().map(str::to_owned).collect()
        })
        .collect();
    let none: Vec<String> = Vec::new();
    let both = vec!["/age".to_owned(), "/tags".to_owned()];
    let tags = vec!["/tags".to_owned()];
    let expected = [&none, &both, &both, &both, &both, &tags, &tags].map(Clone::clone);
    assert_eq!(asked, expected);
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_whole_is_asked_for_as_a_whole() {
    let script = Script::says([text(&right()), text(&right())]);
    let tries = Arc::new(Mutex::new(0));
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(2)))
        .service(partial(script.clone(), |script| {
            script.structured::<Profile>().validate_with(move |_| {
                let mut tries = tries.lock().unwrap();
                *tries += 1;
                (*tries == 1).then(|| Fault::new("", "contradicts itself"))
            })
        }));
    stack.oneshot(request(&item())).await.unwrap();
    let asked = script.asked();
    assert_eq!(asked[0].messages(), asked[1].messages());
    assert_eq!(asked[0].output_schema(), asked[1].output_schema());
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_schema_are_merged_too() {
    let script = Script::says([answer(r#"{"a": 1, "b": "x"}"#), answer(r#"{"b": 2}"#)]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(2)))
        .service(partial(script.clone(), |script| {
            script.parse_with(|text| {
                let value: Value = serde_json::from_str(text)
                    .map_err(|error| InvalidOutput::new([Fault::new("", error.to_string())]))?;
                if value["b"].is_number() {
                    Ok(value)
                } else {
                    Err(InvalidOutput::new([Fault::new("/b", "is no number")]).with_value(value))
                }
            })
        }));
    let answer = stack.oneshot(request(&item())).await.unwrap();
    assert_eq!(answer.output, json!({"a": 1, "b": 2}));
}

#[tokio::test(start_paused = true)]
async fn items_that_share_the_strategy_keep_what_is_theirs() {
    let model = service_fn(async |request: LlmRequest| {
        tokio::time::sleep(std::time::Duration::from_millis(request.index() % 7)).await;
        let text = match request.attempt() {
            1 => json!({"name": format!("person {}", request.index()), "age": "old"}),
            _ => json!({"age": request.index()}),
        };
        Ok::<_, LlmError>(LlmResponse::new(text.to_string()))
    });
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    });
    let model = partial(model, |model| model.structured_by(schema).unwrap());
    let results = stream::iter((0..100).map(|n| n.to_string()))
        .with_strategy(RetryLayer::new(RetryPolicy::new(2)).layer(model))
        .llm_batch(100);
    let outcomes: Vec<_> = results.collect().await;
    for outcome in outcomes {
        let expected = json!({"name": format!("person {}", outcome.index), "age": outcome.index});
        assert_eq!(outcome.result.unwrap().output, expected);
    }
}
