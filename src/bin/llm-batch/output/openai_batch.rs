//! Rows as OpenAI's batch results.

use std::fs::File;
use std::io;

use llm_batch::ErrorKind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::format::{Facts, Format, Settings};
use super::{Row, is_blank};
use crate::resume::{OldRow, Visitor, scan_lines};
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: false,
    keeps_choices: true,
    includes: &[],
    is_resumable: true,
    is_in_order: false,
    needs_raw_body: true,
};

#[derive(Debug)]
pub(super) struct OpenaiBatch(pub(super) Settings);

impl Format for OpenaiBatch {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        line(row)
    }

    fn scan(&mut self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        scan_lines(file, visitor, |line| old_row(line, self.0.require_complete))
    }
}

fn old_row(line: &[u8], require_complete: bool) -> Option<OldRow> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default)]
        id: String,
        custom_id: String,
        response: Option<OldResponse>,
        error: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct OldResponse {
        status_code: u16,
        #[serde(default)]
        body: Value,
    }
    let fields: Fields = serde_json::from_slice(line).ok()?;
    let is_answer = |response: &OldResponse| {
        response.status_code == 200 && !(require_complete && is_incomplete(&response.body))
    };
    let has_body = fields
        .response
        .as_ref()
        .is_some_and(|response| response.status_code == 200);
    Some(OldRow {
        is_answer: has_body && fields.error.is_none(),
        id: fields.custom_id,
        // As `line` writes it; OpenAI's own ids have no position.
        index: fields
            .id
            .strip_prefix("batch_req_")
            .and_then(|index| index.parse().ok()),
        ok: fields.response.is_some_and(|response| is_answer(&response)) && fields.error.is_none(),
    })
}

/// Returns `true` if a body says, in the form of any provider, that the answer was cut, or if it has none.
fn is_incomplete(body: &Value) -> bool {
    let says = |place: &str, name: &str| body.pointer(place).is_some_and(|value| value == name);
    let blank = |place: &str| body.pointer(place).is_some_and(is_blank);
    says("/choices/0/finish_reason", "length")
        || (blank("/choices/0/message/content") && body.pointer("/choices/0/message/tool_calls").is_none())
        || says("/status", "incomplete")
        || says("/stop_reason", "max_tokens")
        || says("/candidates/0/finishReason", "MAX_TOKENS")
}

#[derive(Serialize)]
struct Line<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<Value>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    /// OpenAI makes one up, too; this one names its maker.
    request_id: String,
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    /// As the provider sent it.
    Raw(&'a RawValue),
    Made(Value),
}

/// The row as a line.
fn line(row: &Row<'_>) -> io::Result<Vec<u8>> {
    let request_id = || format!("llm-batch-{}", row.index);
    let (response, error) = match row.result {
        Ok(response) => {
            let metadata = &response.metadata;
            let body = match &metadata.raw_body {
                Some(body) => Body::Raw(body),
                None => Body::Made(json!({
                    "id": metadata.response_id,
                    "object": "chat.completion",
                    "model": metadata.model,
                    "choices": [{
                        "index": 0,
                        "message": { "role": "assistant", "content": text_of(&response.output) },
                        "finish_reason": metadata.finish_reason,
                    }],
                })),
            };
            let response = Response {
                status_code: 200,
                request_id: request_id(),
                body,
            };
            (Some(response), None)
        }
        Err(error) => match error.status() {
            // An answer of the provider, if not the one that was hoped for.
            Some(status) if status != 200 => {
                let made = || {
                    Body::Made(json!({
                        "error": {
                            "message": error.message(),
                            "type": error.kind(),
                            "param": null,
                            "code": error.code(),
                        }
                    }))
                };
                let response = Response {
                    status_code: status,
                    request_id: request_id(),
                    body: error.raw_body().map_or_else(made, Body::Raw),
                };
                (Some(response), None)
            }
            _ => {
                let error = json!({ "code": code(error.kind()), "message": error.to_string() });
                (None, Some(error))
            }
        },
    };
    let line = Line {
        id: format!("batch_req_{}", row.index),
        custom_id: row.id,
        response,
        error,
    };
    let mut bytes = serde_json::to_vec(&line)?;
    // The provider's body may be laid out over several lines. A line break inside a text is escaped in JSON, so
    // these are white space.
    bytes.retain(|byte| !matches!(byte, b'\n' | b'\r'));
    bytes.push(b'\n');
    Ok(bytes)
}

/// The code of a failure that no reply of the provider stands behind: OpenAI's where it has one.
fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Aborted => "batch_cancelled",
        ErrorKind::TimedOut => "request_timeout",
        other => other.as_str(),
    }
}
