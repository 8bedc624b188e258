//! Good parts are kept, and the rest is requested.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use llm_batch::recipe::{feedback, partial};
use llm_batch::{
    Fault, InvalidOutput, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Prompt, RetryLayer, RetryPolicy,
    StandardLayer, StructuredExt, TokenUsage,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::profile::{Profile, named, profile, right, texts, usage, with_mistakes, wrong_of};
use crate::support::{Script, answer, item, request, throttled, unavailable};

/// The members of `value` that `schema` requests.
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
    // It makes its mistakes at first, and then answers any schema correctly with the fields of that schema.
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
        // One of the two, in a code fence, and with additional members.
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

/// JSON of a few names that are awkward in pointers, some depth, and lists.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z ]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names = prop_oneof![Just("a"), Just("b"), Just("a/b"), Just("~"), Just("0"), Just("")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(names.prop_map(str::to_owned), inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

/// Every pointer into `value`.
fn pointers(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    let mut inside = |name: &str, part: &Value| {
        let name = name.replace('~', "~0").replace('/', "~1");
        pointers(part, &format!("{path}/{name}"), found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, part)| inside(name, part)),
        Value::Array(parts) => (0..)
            .zip(parts)
            .for_each(|(index, part)| inside(&index.to_string(), part)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// For any answer and any faults in it: nothing panics, every fault is reported, and all members without a
    /// fault at, above or inside them are unchanged.
    #[test]
    fn good_members_survive_any_answer(
        first in any_json(),
        second in prop_oneof![any_json().prop_map(|value| value.to_string()), ".{0,20}"],
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        stray in "(/[a-z0]{0,3}){0,3}",
    ) {
        let mut all = Vec::new();
        pointers(&first, "", &mut all);
        let mut wrong: BTreeSet<String> = picks.iter().map(|pick| pick.get(&all).clone()).collect();
        wrong.insert(stray);
        let faults: Vec<Fault> = wrong.iter().map(|path| Fault::new(path.clone(), "is wrong")).collect();

        let script = Script::says([answer(&first.to_string()), answer(&second)]);
        let failed = Arc::new(Mutex::new(false));
        let (value, told) = (first.clone(), faults.clone());
        let model = partial(script.clone(), |script| script.parse_with(move |text| {
            if !std::mem::replace(&mut *failed.lock().unwrap(), true) {
                return Err(InvalidOutput::new(told.clone()).with_value(value.clone()));
            }
            Ok(text.to_owned())
        }));
        let stack = RetryLayer::new(RetryPolicy::new(2)).layer(model);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let text = runtime.block_on(stack.oneshot(request(&item()))).unwrap().output;

        let asked = script.asked();
        let rest = texts(&asked[1]);
        let in_part = rest.len() == 2;
        if in_part {
            for path in &wrong {
                let told = format!("- {path}: is wrong");
                prop_assert!(rest[1].contains(&told), "{path:?}: {}", rest[1]);
            }
        }
        match serde_json::from_str::<Value>(&text) {
            Ok(whole) if in_part && serde_json::from_str::<Map<String, Value>>(&second).is_ok() => {
                for path in &all {
                    let related = |fault: &String| {
                        let (short, long) = if fault.len() < path.len() { (fault, path) } else { (path, fault) };
                        long.strip_prefix(&**short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    };
                    // A list with a fault inside is removed as a whole.
                    let in_bad_list = all.iter().any(|list| {
                        first.pointer(list).is_some_and(Value::is_array)
                            && path.starts_with(&format!("{list}/"))
                            && wrong.iter().any(|fault| fault.starts_with(&format!("{list}/")))
                    });
                    if !wrong.iter().any(related) && !in_bad_list {
                        prop_assert_eq!(whole.pointer(path), first.pointer(path), "{} in {}", path, text);
                    }
                }
            }
            _ => prop_assert_eq!(text, second),
        }

        // The same faults as feedback.
        let error = LlmError::from(InvalidOutput::new(faults).with_value(first));
        let mut next = request(&item());
        feedback(&error, &mut next);
        let told = texts(next.input()).pop().unwrap();
        for path in wrong.iter().filter(|path| !path.is_empty()) {
            let line = format!("- {path}: is wrong\n");
            prop_assert!(told.contains(&line), "{told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_question_of_the_same_item_is_asked_as_a_whole() {
    let mut first = right();
    first["age"] = json!(999);
    let script = Script::says([text(&first), text(&json!({"age": 36})), text(&right())]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(2)))
        .service(partial(script.clone(), |script| script.structured::<Profile>()));
    let one = item();
    for _ in 0..2 {
        let answer = stack.clone().oneshot(request(&one)).await.unwrap();
        assert_eq!(answer.output, profile());
    }
    let asked = script.asked();
    let texts: Vec<usize> = asked.iter().map(|prompt| prompt.messages().len()).collect();
    assert_eq!(texts, [1, 2, 1]);
    assert_eq!(asked[2].output_schema(), asked[0].output_schema());
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_goes_out_with_questions_for_the_whole() {
    let wrong = with_mistakes(&wrong_of(0)).to_string();
    let script = Script::says([throttled(1), answer(&wrong), answer("{}")]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(2)))
        .service(partial(script.clone(), |model| model.structured::<Profile>()));
    let mut request = request(&item());
    *request.input_mut() = Prompt::new("hi")
        .with_header("idempotency-key", "row-7")
        .with_header("x-team", "search");
    let _ = stack.oneshot(request).await;
    let names: Vec<Vec<String>> = (script.asked().iter())
        .map(|prompt| prompt.header_names().map(str::to_owned).collect())
        .collect();
    let (with, without) = (["idempotency-key", "x-team"], ["x-team"]);
    assert_eq!(names, [&with[..], &with, &without]);
}
