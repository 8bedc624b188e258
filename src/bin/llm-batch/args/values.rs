//! The values of options: their types, and how each is read.

use std::time::Duration;

use clap::ValueEnum;
use llm_batch::layer::rate_limiter::{InvalidLimit, Quota};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// By the name and the first line
    Auto,
    /// A JSON object or string a line
    Jsonl,
    /// One JSON array of items, or values one behind the other, over any number of lines
    Json,
    /// OpenAI's batch lines: custom_id, method, url, body
    OpenaiBatch,
    /// A table with a header, separated by commas
    Csv,
    /// A table with a header, separated by tabs
    Tsv,
    /// A prompt a line
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// Where standard error is a terminal
    Auto,
    /// A bar in a terminal, plain lines elsewhere
    Always,
    /// None
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Summary {
    /// For people
    Text,
    /// One line of JSON
    Json,
}

/// The number or share of items that may fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MaxFailures {
    Items(u64),
    Percent(f64),
}

/// The start of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum StartRamp {
    Off,
    /// Calls a second.
    Rate(f64),
}

/// A JSON object; a type of its own, as clap would read a map as several values.
#[derive(Clone, Debug)]
pub(crate) struct JsonObject(pub(crate) serde_json::Map<String, serde_json::Value>);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("a time needs a unit, such as {text}s or {text}m"));
    }
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time as 500ms, 30s, 10m or 1h30m"))?;
    if duration.is_zero() {
        return Err("a time limit must be longer than nothing".to_owned());
    }
    Ok(duration)
}

pub(super) fn max_failures(text: &str) -> Result<MaxFailures, String> {
    let wrong = || "must be a number of items, such as 50, or a share, such as 5%".to_owned();
    match text.strip_suffix('%') {
        Some(share) => match share.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(MaxFailures::Percent(percent)),
            _ => Err(wrong()),
        },
        None => text.parse().map(MaxFailures::Items).map_err(|_| wrong()),
    }
}

pub(super) fn start_ramp(text: &str) -> Result<StartRamp, String> {
    match text.parse::<f64>() {
        _ if text == "off" => Ok(StartRamp::Off),
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(StartRamp::Rate(rate)),
        _ => Err("must be `off`, or a number of calls a second above 0".to_owned()),
    }
}

pub(super) fn quota(text: &str) -> Result<Quota, String> {
    text.parse()
        .map_err(|error: InvalidLimit| format!("a quota {}", error.problem()))
}

pub(super) fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) if number <= 1_000_000 => Ok(number),
        Ok(_) => Err("at most 1000000".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

pub(super) fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(_) => Err("must be a number of at least 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        Ok(_) => Err("must be a number from 0 to 1".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn json_object(text: &str) -> Result<JsonObject, String> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(fields)) => Ok(JsonObject(fields)),
        Ok(_) => Err(r#"must be a JSON object, such as {"seed": 7}"#.to_owned()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}
