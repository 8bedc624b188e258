//! Instances of texts and numbers.

use serde_json::{Map, Value, json};

use super::super::super::hash;

/// A hash of the question in sixteen hexadecimal digits, so that a test can identify the answer.
pub(in super::super) fn echo(question: &str) -> String {
    format!("{:016x}", hash(0, question.as_bytes()))
}

pub(super) fn strings(list: Option<&Value>) -> Vec<&str> {
    let list = list.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(super) fn allows_all(schema: &Value) -> bool {
    schema == &Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

/// The type in lower case, as Gemini uses `STRING`. Empty if it is unknown.
pub(super) fn kind(fields: &Map<String, Value>) -> String {
    let named = match fields.get("type") {
        Some(Value::String(kind)) => Some(kind.as_str()),
        Some(kinds @ Value::Array(_)) => {
            let kinds = strings(Some(kinds));
            kinds
                .iter()
                .find(|kind| !kind.eq_ignore_ascii_case("null"))
                .or(kinds.first())
                .copied()
        }
        _ => None,
    };
    let has = |names: &[&str]| names.iter().any(|name| fields.contains_key(*name));
    let kind = match named {
        Some(kind) => kind,
        None if has(&[
            "properties",
            "additionalProperties",
            "patternProperties",
            "required",
        ]) =>
        {
            "object"
        }
        None if has(&["items", "prefixItems", "minItems", "maxItems"]) => "array",
        None if has(&["format", "pattern", "minLength", "maxLength"]) => "string",
        None if has(&[
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ]) =>
        {
            "number"
        }
        None => "",
    };
    kind.to_ascii_lowercase()
}

pub(super) fn text(fields: &Map<String, Value>, question: &str, nth: usize) -> String {
    let echo = if nth == 0 {
        echo(question)
    } else {
        echo(&format!("{question} {nth}"))
    };
    let day = nth % 28 + 1;
    match fields.get("format").and_then(Value::as_str).unwrap_or_default() {
        "date" => format!("2026-01-{day:02}"),
        "date-time" => format!("2026-01-{day:02}T12:00:00Z"),
        "partial-date-time" => format!("2026-01-{day:02}T12:00:00"),
        "time" => "12:00:00Z".to_owned(),
        "duration" => format!("PT{}S", nth + 42),
        "email" | "idn-email" => format!("{echo}@example.com"),
        "hostname" | "idn-hostname" => format!("{echo}.example.com"),
        "ipv4" | "ip" => format!("192.0.2.{}", nth % 254 + 1),
        "ipv6" => format!("2001:db8::{:x}", nth % 65_535 + 1),
        "uri" | "iri" | "url" | "uri-reference" | "iri-reference" => format!("https://example.com/{echo}"),
        "uuid" => {
            let (first, rest) = echo.split_at(8);
            let (second, third) = rest.split_at(4);
            format!("{first}-{second}-4{}-8000-{echo:.12}", &third[..3])
        }
        _ => {
            let length = |name: &str| {
                let length = fields.get(name).and_then(Value::as_u64)?;
                usize::try_from(length).ok()
            };
            let least = length("minLength").unwrap_or(0).min(100_000);
            let most = length("maxLength").unwrap_or(usize::MAX);
            let wanted = echo.len().max(least).min(most);
            echo.chars().cycle().take(wanted).collect()
        }
    }
}

/// 42 and the numbers after it, or the nearest ones within the bounds.
pub(super) fn number(fields: &Map<String, Value>, integer: bool, nth: usize) -> Value {
    let bound = |name: &str| fields.get(name).and_then(Value::as_f64);
    // An exclusive bound: for integers the next one is allowed; for other numbers an offset of 0.5 is near enough.
    let step = if integer { 1.0 } else { 0.5 };
    let above = bound("exclusiveMinimum").map(|least| if integer { least.floor() } else { least } + step);
    let below = bound("exclusiveMaximum").map(|most| if integer { most.ceil() } else { most } - step);
    let pick = |first: Option<f64>, second: Option<f64>, larger: bool| match (first, second) {
        (Some(first), Some(second)) if larger => Some(first.max(second)),
        (Some(first), Some(second)) => Some(first.min(second)),
        (first, second) => first.or(second),
    };
    let mut least = pick(bound("minimum"), above, true).unwrap_or(f64::NEG_INFINITY);
    let mut most = pick(bound("maximum"), below, false).unwrap_or(f64::INFINITY);
    if integer {
        (least, most) = (least.ceil(), most.floor());
    }
    if least > most {
        // The exclusive bounds are close together.
        let low = pick(bound("minimum"), bound("exclusiveMinimum"), true).unwrap_or(least);
        let high = pick(bound("maximum"), bound("exclusiveMaximum"), false).unwrap_or(most);
        (least, most) = ((low + high) / 2.0, (low + high) / 2.0);
    }
    let offset = nth as f64;
    let mut value = 42.0_f64.clamp(least, most);
    value = if value + offset <= most {
        value + offset
    } else {
        (value - offset).max(least)
    };
    if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0) {
        let up = (value / step).ceil() * step;
        value = if up <= most {
            up
        } else {
            (value / step).floor() * step
        };
    }
    if value.fract() == 0.0 && value.abs() < 9e15 {
        json!(value as i64)
    } else if integer && value >= 0.0 {
        json!(value as u64)
    } else {
        json!(value)
    }
}
