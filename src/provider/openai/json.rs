//! JSON for reading alone: it borrows its texts, where a [`Value`] would allocate and hash every name.
//!
//! It is a second model beside `Value` because it takes about half the time: 3.5 us in place of 6.4 us for a reply of 200
//! words, and 1.2 us in place of 2.8 us for a piece of a stream, of which an answer has hundreds
//! (`cargo bench -p criterion-benches --bench json`). OpenAI's wires are read with it, since most servers speak them, those
//! of one's own among them. What outlives the reading is a `Value`, as it is on the other wires.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Any JSON.
pub(super) enum Json<'a> {
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(Name<'a>, Json<'a>)>),
    /// Null, a boolean or a number.
    Other(Value),
}

#[derive(serde::Deserialize)]
pub(super) struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Name<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'a> Json<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        // Of a repeated name the last counts, as everywhere else.
        let field = fields.iter().rfind(|(Name(field), _)| field == name);
        field.map(|(_, value)| value)
    }

    /// Takes a field's value, and leaves null.
    pub(super) fn take(&mut self, name: &str) -> Option<Self> {
        let Self::Object(fields) = self else { return None };
        let field = fields.iter_mut().rfind(|(Name(field), _)| field == name);
        field.map(|(_, value)| std::mem::take(value))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Other(Value::Null))
    }

    pub(super) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Other(value) => value.as_u64(),
            _ => None,
        }
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Other(value) => value.as_f64(),
            _ => None,
        }
    }
}

impl Default for Json<'_> {
    fn default() -> Self {
        Self::Other(Value::Null)
    }
}

impl From<Json<'_>> for Value {
    fn from(json: Json<'_>) -> Self {
        match json {
            Json::Text(text) => text.into(),
            Json::List(list) => list.into_iter().map(Self::from).collect(),
            Json::Object(fields) => fields
                .into_iter()
                .map(|(Name(name), value)| (name.into_owned(), Self::from(value)))
                .collect(),
            Json::Other(value) => value,
        }
    }
}

impl From<&Json<'_>> for Value {
    fn from(json: &Json<'_>) -> Self {
        match json {
            Json::Text(text) => text.as_ref().into(),
            Json::List(list) => list.iter().map(Self::from).collect(),
            Json::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), Self::from(value)))
                .collect(),
            Json::Other(value) => value.clone(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Other(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Other(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Other(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Other(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Other(value.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::Json;

    #[test]
    fn it_reads_what_a_value_reads() {
        let text = r#"{"a": [1, -2, 0.1, 1e300, true, null, "x\n\"ü", {}, []], "a\t": {"b": {"a": "y"}}, "r": 1, "r": [2]}"#;
        let json: Json<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(json.get("r").and_then(Json::as_u64), None);
        assert_eq!(Value::from(json), serde_json::from_str::<Value>(text).unwrap());
        for text in [
            "",
            "{",
            r#"{"a" 1}"#,
            "[1,]",
            "1 2",
            r#"{1: 2}"#,
            &"[".repeat(1_000),
        ] {
            assert!(serde_json::from_str::<Json<'_>>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_field_is_taken_once() {
        let mut json: Json<'_> = serde_json::from_str(r#"{"a": "x"}"#).unwrap();
        assert_eq!(json.take("a").as_ref().and_then(Json::as_str), Some("x"));
        assert!(json.take("a").is_some_and(|left| Value::from(left).is_null()));
        assert!(json.take("b").is_none());
    }
}
