//! The wire of OpenAI's Responses.

mod input;
mod request;
mod response;
mod stream;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use reqwest::Url;
use serde_json::Value;

use super::reply::Reading;
use super::schema::NamedSchema;
use super::server::Server;
use super::tools;
use crate::error::LlmError;
use crate::provider::http::Reply;
use crate::provider::request::{check_chat_fields, refuse, write};
use crate::provider::settings::Client;
use crate::provider::streaming::Assemble;
use crate::provider::wire_format::{Ask, WireFormat};
use crate::response::LlmResponse;

/// Responses of one client.
pub(super) struct ResponsesFormat {
    server: Arc<Server>,
    endpoint: Url,
}

impl ResponsesFormat {
    pub(super) fn new(server: Arc<Server>) -> Self {
        let endpoint = server.client.endpoint(&["responses"]);
        Self { server, endpoint }
    }
}

impl fmt::Debug for ResponsesFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResponsesFormat").field(&self.server).finish()
    }
}

/// Refuses what this wire cannot do before the call: to leave it out would give other answers than those asked for.
fn check(ask: &Ask<'_>) -> Result<(), LlmError> {
    let Ask { prompt, defaults, .. } = ask;
    let is_background = |fields: &serde_json::Map<_, _>| fields.get("background") == Some(&Value::Bool(true));
    let below = prompt.raw_body().unwrap_or(defaults.extra());
    if is_background(prompt.extra()) || is_background(below) {
        let message = "`background` is set, but the answer is awaited in the same call; remove it";
        return Err(refuse(message));
    }
    if prompt.raw_body().is_some() {
        return Ok(());
    }
    check_chat_fields(ask, &request::SHARED, "OpenAI's Responses API")?;
    let unknown = [
        ("seed", prompt.seed().or(defaults.seed()).is_some()),
        ("stop", !prompt.stop().is_empty() || !defaults.stop().is_empty()),
    ];
    match unknown.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((name, _)) => Err(refuse(format!(
            "`{name}` is set, but OpenAI's Responses know no such field; remove it, or use chat completions (`openai-chat:`)"
        ))),
    }
}

impl WireFormat for ResponsesFormat {
    fn client(&self) -> &Client {
        &self.server.client
    }

    fn provider(&self) -> &str {
        &self.server.provider
    }

    fn endpoint(&self, _: &Ask<'_>) -> Result<Cow<'_, Url>, LlmError> {
        Ok(Cow::Borrowed(&self.endpoint))
    }

    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError> {
        check(ask)?;
        let any = self.server.preset.any_schema;
        let named = |schema| NamedSchema::new(schema, any, ask.output_format());
        let schema = ask.output_schema().map(named).transpose()?;
        write(&request::Body {
            ask: *ask,
            schema,
            functions: tools::functions(ask, any)?,
            effort: tools::effort(ask)?,
        })
    }

    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError> {
        response::read(Reading {
            reply,
            server: &self.server,
            structured: ask.output_schema().is_some(),
        })
    }

    fn assembler(&self) -> Box<dyn Assemble> {
        Box::new(stream::Events::default())
    }
}
