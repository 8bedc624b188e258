//! Rows as OpenAI's batch results.

use std::fs::File;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Row;
use super::format::{Facts, Format};
use crate::resume::{OldRow, Visitor, scan_lines};
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: false,
    has_failures: true,
    is_resumable: true,
    needs_raw_body: true,
};

#[derive(Debug)]
pub(super) struct OpenaiBatch;

impl Format for OpenaiBatch {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        line(row)
    }

    fn scan(&self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        scan_lines(file, visitor, old_row)
    }
}

fn old_row(line: &[u8]) -> Option<OldRow> {
    #[derive(Deserialize)]
    struct Fields {
        custom_id: String,
        response: Option<OldResponse>,
        error: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct OldResponse {
        status_code: u16,
    }
    let fields: Fields = serde_json::from_slice(line).ok()?;
    let status = fields.response.map(|response| response.status_code);
    Some(OldRow {
        id: fields.custom_id,
        index: None,
        ok: status == Some(200) && fields.error.is_none(),
    })
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
    /// OpenAI's is of its own making, too; this one says who made it.
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
                let response = Response {
                    status_code: status,
                    request_id: request_id(),
                    body: Body::Made(json!({
                        "error": {
                            "message": error.message(),
                            "type": error.kind(),
                            "param": null,
                            "code": error.code(),
                        }
                    })),
                };
                (Some(response), None)
            }
            _ => {
                let error = json!({ "code": error.kind(), "message": error.to_string() });
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
