//! The common part of the replies of both wires.

use serde_json::Value;

use super::classification::RULES;
use super::json::Json;
use super::server::Server;
use super::usage::{billed_apart, cost};
use crate::error::{ErrorKind, LlmError, QuotaDimension};
use crate::provider::ending::useless_cut;
use crate::provider::http::Reply;
use crate::provider::reply::{raw_body, unreadable};
use crate::provider::wire;
use crate::response::ResponseMetadata;

/// A reply, and what its reader has to know.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) reply: &'a Reply,
    pub(super) server: &'a Server,
    /// `true` if an answer in JSON of a schema was asked for, which is of no use when it is cut.
    pub(super) structured: bool,
}

impl<'a> Reading<'a> {
    /// The body of a reply with a success status.
    pub(super) fn body(&self, what: &str) -> Result<Json<'a>, LlmError> {
        let Reply {
            status,
            headers,
            body,
            ..
        } = self.reply;
        if !(200..300).contains(status) {
            return Err(self.limited(wire::error_of_reply(RULES, *status, headers, body)));
        }
        serde_json::from_slice(wire::trim(body)).map_err(|error| self.unreadable(what, &error.to_string()))
    }

    /// The error that stands in the body of a reply with a success status.
    pub(super) fn error_inside(&self, body: Json<'_>) -> LlmError {
        let body = Value::from(body);
        self.limited(wire::error_in_success(RULES, &self.reply.headers, &body))
    }

    /// A success status with a body that is not an answer: the call may have been billed.
    pub(super) fn unreadable(&self, what: &str, why: &str) -> LlmError {
        unreadable(self.reply, what, why)
    }

    /// Says what a rate limit was about where the provider has only one kind.
    fn limited(&self, error: LlmError) -> LlmError {
        if error.kind() != ErrorKind::RateLimit || !self.server.preset.limits_concurrency {
            return error;
        }
        let mut quota = error.quota().copied().unwrap_or_default();
        quota.dimension = quota.dimension.or(Some(QuotaDimension::Concurrency));
        error.with_quota(quota)
    }

    /// Returns the metadata in the body beside the answer.
    pub(super) fn metadata(&self, body: &Json<'_>) -> ResponseMetadata {
        let text = |name| body.get(name).and_then(Json::as_str).map(str::to_owned);
        let mut metadata = ResponseMetadata {
            provider: Some(self.server.provider.clone()),
            model: text("model"),
            response_id: text("id"),
            cost: cost(body),
            raw_body: raw_body(self.reply, self.server.client.keep_raw_body),
            ..ResponseMetadata::default()
        };
        billed_apart(body).note_in(&mut metadata);
        metadata
    }

    /// Returns the error of an answer that reached its output token limit: none if it is of use as it is.
    pub(super) fn truncated(&self, output: &str, has_other_content: bool) -> Option<LlmError> {
        let is_empty = output.trim().is_empty() && !has_other_content;
        let place = useless_cut(output, is_empty, self.structured)?;
        let message = format!("the output token limit was reached {place}");
        Some(LlmError::new(ErrorKind::Truncated, message).with_raw_output(output))
    }
}

/// The model's own refusal.
pub(super) fn refused(refusal: &str) -> LlmError {
    let message = format!("the model refused: {refusal}");
    LlmError::new(ErrorKind::ContentFilter, message)
        .with_code("refusal")
        .with_raw_output(refusal)
}

/// Returns `true` if a reply with a success status, or a piece of a stream, is an error all the same.
pub(super) fn says_error(body: &Json<'_>) -> bool {
    let has_error = match body.get("error") {
        None | Some(Json::Other(Value::Null | Value::Bool(false))) => false,
        Some(Json::Text(text)) => !text.is_empty(),
        Some(_) => true,
    };
    // Mistral's shape, and the older one of vLLM.
    let is_error = body.get("object").and_then(Json::as_str) == Some("error");
    has_error || is_error
}

/// Takes out the first choice by its index, which is the answer.
pub(super) fn take_first<'a>(choices: &mut Vec<Json<'a>>) -> Option<Json<'a>> {
    let index = |choice: &Json<'_>| choice.get("index").and_then(Json::as_u64);
    let is_first = |choice: &Json<'_>| index(choice).unwrap_or_default() == 0;
    let first = choices.iter().position(is_first)?;
    Some(choices.remove(first))
}
