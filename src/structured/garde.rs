//! Rules that a type carries itself, by `garde`.

use garde::Validate;
use serde_json::Value;

use super::Structured;
use super::fault::Fault;
use crate::schema::pointer::member;

impl<S, T> Structured<S, T>
where
    T: Validate<Context: Default>,
{
    /// Adds the rules of the type's `garde::Validate`.
    ///
    /// Paths are those of the JSON, even where serde renames fields. The trait is that of garde 0.23: another version of
    /// garde in a type is another trait.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use garde::Validate;
    /// use llm_batch::testing::FakeStrategy;
    /// use llm_batch::{InvalidOutput, LlmRequest, StructuredExt};
    /// use schemars::JsonSchema;
    /// use serde::Deserialize;
    /// use tower::ServiceExt;
    ///
    /// #[derive(Deserialize, JsonSchema, Validate)]
    /// #[serde(rename_all = "camelCase")]
    /// struct Trip {
    ///     #[garde(custom(|city: &str, _: &()| match city {
    ///         "Atlantis" => Err(garde::Error::new("is under water")),
    ///         _ => Ok(()),
    ///     }))]
    ///     home_town: String,
    /// }
    ///
    /// let model = FakeStrategy::new(|_: &LlmRequest| r#"{"homeTown": "Atlantis"}"#.to_owned());
    /// let model = model.structured::<Trip>().validate_with_garde();
    /// let error = model.oneshot(LlmRequest::new("Where from?".into())).await.err().unwrap();
    /// assert_eq!(InvalidOutput::of(&error).unwrap().to_string(), "/homeTown: is under water");
    /// # }
    /// ```
    #[must_use]
    pub fn validate_with_garde(self) -> Self {
        self.with_rule(|output, value| {
            let report = output.validate().err().map(garde::Report::into_inner);
            let faults = report.into_iter().flatten();
            faults
                .map(|(path, error)| Fault::new(pointer(&path.to_string(), value), error.message()))
                .collect()
        })
    }
}

/// A path such as `tags[0].first_name` as a JSON pointer into `value`.
fn pointer(path: &str, value: &Value) -> String {
    let mut pointer = String::new();
    let (mut rest, mut at) = (path, Some(value));
    while !rest.is_empty() {
        let name;
        (name, rest) = step(rest, at);
        let found = at.and_then(|at| field(at, name));
        // A flattened struct has a step of its own, which the JSON does not have.
        if found.is_none()
            && at.is_some_and(|at| !rest.is_empty() && field(at, step(rest, Some(at)).0).is_some())
        {
            continue;
        }
        let name = found.unwrap_or(name);
        pointer = member(&pointer, name);
        at = value.pointer(&pointer);
    }
    pointer
}

/// The first step of a path, and the rest.
fn step<'a>(path: &'a str, at: Option<&Value>) -> (&'a str, &'a str) {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some((index, rest)) = path.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (index, rest);
    }
    // A key of a map may hold what else parts steps.
    let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    let keys = at
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(serde_json::Map::keys);
    let known = keys
        .filter(|key| path.strip_prefix(key.as_str()).is_some_and(ends))
        .map(String::len)
        .max();
    let end = known
        .filter(|end| *end > 0)
        .or_else(|| {
            path.char_indices()
                .skip(1)
                .find(|(_, c)| matches!(c, '.' | '['))
                .map(|(end, _)| end)
        })
        .unwrap_or(path.len());
    (
        path.get(..end).unwrap_or(path),
        path.get(end..).unwrap_or_default(),
    )
}

/// The name of a field in the JSON: the same, or the one that differs in case and separators alone.
fn field<'a>(at: &'a Value, name: &'a str) -> Option<&'a str> {
    let Value::Object(fields) = at else {
        return at.get(name.parse::<usize>().ok()?).map(|_| name);
    };
    if fields.contains_key(name) {
        return Some(name);
    }
    let letters = |name: &str| -> String {
        let letters = name.chars().filter(|c| !matches!(c, '_' | '-'));
        letters.flat_map(char::to_lowercase).collect()
    };
    let wanted = letters(name);
    fields
        .keys()
        .map(String::as_str)
        .find(|key| letters(key) == wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_those_of_the_json() {
        let value = json!({
            "tags": ["x"], "firstName": "A", "a.b": {"c": 1}, "list": [{"Kind-Of": 1}], "own": 1, "é": {"ü": 1},
        });
        for (path, expected) in [
            ("tags[0]", "/tags/0"),
            ("first_name", "/firstName"),
            ("a.b.c", "/a.b/c"),
            ("list[0].kind_of", "/list/0/Kind-Of"),
            ("list[7].x", "/list/7/x"),
            ("flattened.own", "/own"),
            ("é.ü", "/é/ü"),
            ("unknown.more", "/unknown/more"),
            ("", ""),
        ] {
            assert_eq!(pointer(path, &value), expected, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_ends(path in "([a-cé.\\[\\]0-9]|\\PC){0,20}") {
            let _ = pointer(&path, &json!({"a": {"b": [1]}, "é": 1, "": 2}));
        }
    }
}
