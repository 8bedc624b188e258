//! One reading of every error body that providers were seen to send.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::duration::parse_wait;
use super::excerpt::{excerpt, trim};

/// The content of an error body, whatever its shape.
///
/// `{"error":{..}}`, `{"error":"text"}`, `{"code":"..","error":"text"}`, `{"object":"error","message":..}`,
/// `{"detail":"text"}`, `{"detail":[..]}`, `{"message":..}`, a list of one of these, HTML, plain text, nothing.
#[derive(Debug, Default)]
pub(crate) struct ErrorBody {
    /// For people; empty if the body says nothing.
    pub(crate) message: String,
    /// The most specific code, as sent.
    pub(crate) code: Option<String>,
    /// Codes, types and reasons in lower case with `_` between words: the typed facts. Besides, `param_model` where the
    /// field in question is the model, and `not_json` where the body is not JSON.
    pub(crate) facts: Vec<String>,
    /// A numeric code that reads as an HTTP status.
    pub(crate) status: Option<u16>,
    /// The wait, from a typed field.
    pub(crate) wait: Option<Duration>,
    /// The provider's own word on whether a repeat makes sense.
    pub(crate) retryable: Option<bool>,
}

impl ErrorBody {
    /// Reads the body of a reply with an error status. Never fails: what it cannot read becomes the message.
    pub(crate) fn parse(body: &[u8], now: SystemTime) -> Self {
        let mut read = Self::default();
        match serde_json::from_slice::<Value>(trim(body)) {
            Ok(value) => read.read_value(&value, now),
            Err(_) => {
                read.message = excerpt(body);
                read.facts.push("not_json".to_owned());
            }
        }
        read
    }

    /// Reads a parsed body.
    pub(crate) fn from_value(value: &Value, now: SystemTime) -> Self {
        let mut read = Self::default();
        read.read_value(value, now);
        read
    }

    fn read_value(&mut self, value: &Value, now: SystemTime) {
        match value {
            Value::Object(fields) => self.read_object(fields, now),
            Value::Array(values) => {
                if let Some(first) = values.iter().find(|value| value.is_object()) {
                    self.read_value(first, now);
                }
            }
            Value::String(text) => self.message.clone_from(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn read_object(&mut self, body: &Map<String, Value>, now: SystemTime) {
        match body.get("error") {
            Some(Value::Object(error)) => self.read_error(error, now),
            Some(Value::String(text)) => {
                self.message.clone_from(text);
                self.read_codes(body);
            }
            _ => self.read_error(body, now),
        }
        if self.message.is_empty() {
            // `{"error":{"code":..},"message":".."}`, or a gateway's `{"errors":[{"message":..}]}`.
            self.message = message_of(body).unwrap_or_default();
        }
        if self.message.is_empty()
            && let Some(Value::Array(errors)) = body.get("errors")
            && let Some(Value::Object(error)) = errors.first()
        {
            self.read_error(error, now);
        }
    }

    fn read_error(&mut self, error: &Map<String, Value>, now: SystemTime) {
        if let Some(message) = message_of(error) {
            self.message = message;
        }
        // Anthropic: a code that says more than the type.
        if let Some(Value::Object(details)) = error.get("details") {
            self.read_codes(details);
        }
        self.read_codes(error);
        if error.get("param").is_some_and(|param| param == "model") {
            self.facts.push("param_model".to_owned());
        }
        if let Some(Value::Object(inner)) = error.get("innererror") {
            self.read_codes(inner);
        }
        if let Some(Value::Object(metadata)) = error.get("metadata") {
            self.read_metadata(metadata);
        }
        if let Some(Value::Object(availability)) = error.get("availability") {
            self.read_codes(availability);
            self.retryable = availability.get("retryable").and_then(Value::as_bool);
            self.wait = availability
                .get("retry_after")
                .and_then(|wait| wait_of(wait, now));
        }
        for detail in error
            .get("details")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.read_detail(detail, now);
        }
    }

    fn read_codes(&mut self, fields: &Map<String, Value>) {
        for name in ["code", "type", "status", "error_type", "error_code", "reason"] {
            match fields.get(name) {
                Some(Value::String(code)) if code.parse::<u64>().is_err() => {
                    let fact = code.to_lowercase().replace(['-', ' '], "_");
                    if self.code.is_none() && !fact.is_empty() {
                        self.code = Some(code.clone());
                    }
                    self.facts.push(fact);
                }
                // A code in digits: an HTTP status of its own, or a private number.
                Some(value) => {
                    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                    if let Some(number) = number {
                        match u16::try_from(number) {
                            Ok(status @ 400..600) => self.status = Some(status),
                            _ => self.code = self.code.take().or_else(|| Some(number.to_string())),
                        }
                    }
                }
                None => {}
            }
        }
    }

    /// OpenRouter: what the upstream provider said.
    fn read_metadata(&mut self, metadata: &Map<String, Value>) {
        self.read_codes(metadata);
        if metadata.contains_key("flagged_input") || metadata.contains_key("reasons") {
            self.facts.push("moderation".to_owned());
        }
        let text = |name| {
            metadata
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if let Some(raw) = text("raw") {
            let provider = text("provider_name").unwrap_or("upstream");
            self.message = format!("{} ({provider}: {raw})", self.message);
        }
    }

    /// Google: `details` with a type each.
    fn read_detail(&mut self, detail: &Value, now: SystemTime) {
        let Some(fields) = detail.as_object() else { return };
        let kind = fields.get("@type").and_then(Value::as_str).unwrap_or_default();
        if kind.ends_with("RetryInfo") {
            self.wait = fields.get("retryDelay").and_then(|wait| wait_of(wait, now));
        } else if kind.ends_with("ErrorInfo") {
            self.read_codes(fields);
        } else if kind.ends_with("QuotaFailure") {
            let violations = fields.get("violations").and_then(Value::as_array);
            for violation in violations.into_iter().flatten() {
                let id = violation
                    .get("quotaId")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let zero = violation
                    .get("quotaValue")
                    .is_some_and(|value| value == "0" || value == 0);
                if id.contains("PerDay") || zero {
                    self.facts.push("quota_per_day".to_owned());
                } else if id.contains("PerMinute") {
                    self.facts.push("quota_per_minute".to_owned());
                }
            }
        }
    }
}

/// The text of an error object: `message`, `detail` in words or as a list, `error_description`.
fn message_of(fields: &Map<String, Value>) -> Option<String> {
    ["message", "Message", "detail", "error_description", "title"]
        .into_iter()
        .find_map(|name| match fields.get(name)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            Value::Object(inner) => message_of(inner),
            Value::Array(details) => Some(details.iter().map(detail_of).collect::<Vec<_>>().join("; "))
                .filter(|text| !text.is_empty()),
            _ => None,
        })
}

/// One entry of a validation error: where and what.
fn detail_of(detail: &Value) -> String {
    let message = detail
        .get("msg")
        .or_else(|| detail.get("message"))
        .and_then(Value::as_str);
    let place: Vec<_> = detail
        .get("loc")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    match (message, place.as_slice()) {
        (Some(message), []) => message.to_owned(),
        (Some(message), place) => {
            let place: Vec<_> = place
                .iter()
                .map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned))
                .collect();
            format!("{}: {message}", place.join("."))
        }
        (None, _) => detail.as_str().map_or_else(|| detail.to_string(), str::to_owned),
    }
}

/// A wait in a body: a duration text or a number of seconds.
fn wait_of(value: &Value, now: SystemTime) -> Option<Duration> {
    match value {
        Value::String(text) => parse_wait(text, now),
        Value::Number(number) => Duration::try_from_secs_f64(number.as_f64()?).ok(),
        _ => None,
    }
    .filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> ErrorBody {
        ErrorBody::parse(body.as_bytes(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn every_shape_gives_its_message_and_code() {
        for (body, message, code) in [
            (
                r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#,
                "m",
                Some("c"),
            ),
            (
                r#"{"error":{"message":"m","type":"server_error","code":null}}"#,
                "m",
                Some("server_error"),
            ),
            (r#"{"error":"just text"}"#, "just text", None),
            (
                r#"{"code":"invalid-argument","error":"Incorrect API key"}"#,
                "Incorrect API key",
                Some("invalid-argument"),
            ),
            (
                r#"{"object":"error","message":"Invalid model","type":"invalid_model","code":"1500","raw_status_code":400}"#,
                "Invalid model",
                Some("1500"),
            ),
            (r#"{"detail":"Unauthorized"}"#, "Unauthorized", None),
            (
                r#"{"detail":[{"loc":["body","messages",0],"msg":"field required"},{"msg":"more"}]}"#,
                "body.messages.0: field required; more",
                None,
            ),
            (
                r#"{"code":400,"message":"Bad","type":"Bad Request"}"#,
                "Bad",
                Some("Bad Request"),
            ),
            (r#"{"id":"1","message":"not found"}"#, "not found", None),
            (r#"{"message":"only"}"#, "only", None),
            (
                r#"[{"error":{"code":429,"message":"list","status":"RESOURCE_EXHAUSTED"}}]"#,
                "list",
                Some("RESOURCE_EXHAUSTED"),
            ),
            (
                r#"{"errors":[{"message":"gateway","code":1010}]}"#,
                "gateway",
                Some("1010"),
            ),
            (
                "\n\n {\"error\":{\"message\":\"blank lines\"}}",
                "blank lines",
                None,
            ),
            ("upstream connect error", "upstream connect error", None),
            (
                "<html><head><title>502 Bad Gateway</title>",
                "a web page titled \"502 Bad Gateway\"",
                None,
            ),
            ("<!doctype html>", "a web page", None),
            ("", "", None),
            ("null", "", None),
        ] {
            let read = parse(body);
            assert_eq!(read.message, message, "{body}");
            assert_eq!(read.code.as_deref(), code, "{body}");
        }
    }

    #[test]
    fn typed_waits_and_reasons_are_read() {
        let read = parse(
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[
                {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"RequestsPerDayPerModel"}]},
                {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}, 7]}}"#,
        );
        assert_eq!(read.wait, Some(Duration::from_millis(34_500)));
        assert_eq!(read.status, Some(429));
        assert!(read.facts.iter().any(|fact| fact == "quota_per_day"));

        let read = parse(
            r#"{"error":{"code":429,"message":"m","availability":{"retryable":false,"retry_after":3}}}"#,
        );
        assert_eq!(
            (read.retryable, read.wait),
            (Some(false), Some(Duration::from_secs(3)))
        );

        let read = parse(
            r#"{"error":{"message":"Provider returned error","metadata":{"provider_name":"P","raw":"busy"}}}"#,
        );
        assert_eq!(read.message, "Provider returned error (P: busy)");
    }

    proptest::proptest! {
        #[test]
        fn mutated_bodies_never_panic(
            position in 0usize..200,
            byte: u8,
            cut in 0usize..200,
        ) {
            let mut body = br#"{"error":{"message":"m","code":429,"metadata":{"raw":"x"},"details":[{"@type":"RetryInfo","retryDelay":"3s"}],"availability":{"retry_after":"1e99"}}}"#.to_vec();
            if let Some(slot) = body.get_mut(position) {
                *slot = byte;
            }
            body.truncate(body.len().saturating_sub(cut));
            let _ = ErrorBody::parse(&body, SystemTime::UNIX_EPOCH);
        }

        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>) {
            let _ = ErrorBody::parse(&body, SystemTime::UNIX_EPOCH);
        }
    }
}
