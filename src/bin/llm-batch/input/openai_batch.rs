//! OpenAI's batch lines: `custom_id`, `method`, `url`, `body`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::not_json;

/// The endpoint of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Endpoint {
    Chat,
    Responses,
}

/// The request of one line.
#[derive(Debug)]
pub(crate) struct BatchLine {
    pub(crate) custom_id: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) body: Map<String, Value>,
}

/// Returns `true` if an object looks like a batch line.
pub(crate) fn is_line(fields: &Map<String, Value>) -> bool {
    fields.contains_key("custom_id") && fields.get("body").is_some_and(Value::is_object)
}

/// Reads a line. The error also has the `custom_id`, where that much could be read.
pub(crate) fn parse(text: &str) -> Result<BatchLine, (Option<String>, String)> {
    let mut fields = match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err((None, "not a JSON object".to_owned())),
        Err(error) => return Err((None, not_json(&error))),
    };
    let custom_id = match fields.remove("custom_id") {
        Some(Value::String(id)) if !id.is_empty() => id,
        _ => return Err((None, "`custom_id` must be a text that is not empty".to_owned())),
    };
    match body(fields) {
        Ok((endpoint, body)) => Ok(BatchLine {
            custom_id,
            endpoint,
            body,
        }),
        Err(message) => Err((Some(custom_id), message)),
    }
}

fn body(mut fields: Map<String, Value>) -> Result<(Endpoint, Map<String, Value>), String> {
    if let Some(method) = fields.get("method").filter(|method| *method != "POST") {
        return Err(format!("`method` must be POST, not {method}"));
    }
    let endpoint = match fields.get("url") {
        Some(Value::String(url)) if url == "/v1/chat/completions" => Endpoint::Chat,
        Some(Value::String(url)) if url == "/v1/responses" => Endpoint::Responses,
        Some(url) => {
            return Err(format!(
                "`url` must be /v1/chat/completions or /v1/responses, the ones that this program calls, not {url}"
            ));
        }
        None => return Err("`url` is missing".to_owned()),
    };
    let Some(Value::Object(body)) = fields.remove("body") else {
        return Err("`body` must be a JSON object".to_owned());
    };
    if body
        .get("stream")
        .is_some_and(|stream| *stream != false && !stream.is_null())
    {
        return Err("`body.stream` is set, but results are not streamed; leave it out".to_owned());
    }
    Ok((endpoint, body))
}
