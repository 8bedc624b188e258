//! For any text of a model: no panic, and only values that serde would return for it.

use llm_batch::{ErrorKind, LlmRequest, StructuredExt};
use proptest::prelude::*;
use serde_json::Value;
use tower::ServiceExt;

use crate::support::{GOOD, Review, Script, says};

/// A change of one place in a text.
#[derive(Clone, Debug)]
enum Change {
    Cut(usize),
    Drop(usize),
    Put(usize, String),
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let place = || 0..GOOD.len();
    let piece = prop_oneof![
        "[\\{\\}\\[\\]\",:0-9 \\-.eE]",
        prop::sample::select(vec![
            "null", "true", "```", "\n", "\"x\"", "é", "\\u0000", "1e400", "-0", "[[", "\u{feff}"
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        1 => place().prop_map(Change::Cut),
        4 => place().prop_map(Change::Drop),
        6 => (place(), piece).prop_map(|(at, piece)| Change::Put(at, piece)),
        2 => (place(), place()).prop_map(|(one, other)| Change::Swap(one, other)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let length = characters.len();
    if length == 0 {
        return String::new();
    }
    match change {
        Change::Cut(at) => characters.truncate(at % length),
        Change::Drop(at) => drop(characters.remove(at % length)),
        Change::Put(at, piece) => drop(
            characters
                .splice(at % length..at % length, piece.chars())
                .collect::<Vec<_>>(),
        ),
        Change::Swap(one, other) => characters.swap(one % length, other % length),
    }
    characters.into_iter().collect()
}

/// The value without nulls in optional fields, which count as missing.
fn without_nulls(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, value| !(name == "tags" && value.is_null()));
    }
    value
}

/// The text without surrounding white space and byte order marks, which are not part of an answer.
fn without_marks(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn nothing_is_made_up(changes in prop::collection::vec(change(), 0..4), recover in any::<bool>(), fence in any::<bool>()) {
        let mut text = changes.iter().fold(GOOD.to_owned(), |text, change| apply(&text, change));
        if fence {
            text = format!("```json\n{text}\n```");
        }
        let model = Script::new([says(&text)]).structured::<Review>().recover_json(recover);
        let result = tokio_test::block_on(model.oneshot(LlmRequest::new("?".into())));
        let bare = without_marks(&text);
        let inside = bare.strip_prefix("```json\n").and_then(|text| text.strip_suffix("\n```"));
        let json = serde_json::from_str::<Value>(inside.unwrap_or(bare)).ok();
        let by_serde = json.clone().and_then(|value| serde_json::from_value::<Review>(without_nulls(value)).ok());
        match result {
            Ok(response) => {
                prop_assert!((1..=5).contains(&response.output.stars));
                match by_serde {
                    Some(by_serde) => prop_assert_eq!(response.output, by_serde),
                    // Only recovery reads a text that is not JSON as a whole.
                    None => prop_assert!(recover && json.is_none(), "{}", text),
                }
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Validation);
                prop_assert_eq!(error.raw_output(), Some(text.as_str()));
                // Serde would have accepted it: then the schema's bounds or the type of a field reject it.
                if by_serde.is_some_and(|review| (1..=5).contains(&review.stars)) {
                    prop_assert!(false, "{text} was refused: {error}");
                }
            }
        }
    }
}
