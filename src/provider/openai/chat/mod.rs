//! The wire of chat completions.

mod fragments;
mod messages;
mod request;
mod response;
mod stream;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use reqwest::Url;

use super::reply::Reading;
use super::schema::NamedSchema;
use super::server::Server;
use super::tools;
use crate::error::LlmError;
use crate::provider::http::Reply;
use crate::provider::request::write;
use crate::provider::settings::Client;
use crate::provider::streaming::Assemble;
use crate::provider::wire_format::{Ask, WireFormat};
use crate::response::LlmResponse;

/// Chat completions of one client.
pub(super) struct ChatFormat {
    server: Arc<Server>,
    endpoint: Url,
}

impl ChatFormat {
    pub(super) fn new(server: Arc<Server>) -> Self {
        let endpoint = server.client.endpoint(&["chat", "completions"]);
        Self { server, endpoint }
    }
}

impl fmt::Debug for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChatFormat").field(&self.server).finish()
    }
}

impl WireFormat for ChatFormat {
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
        let preset = self.server.preset;
        let format = match ask.output_schema() {
            None => None,
            Some(schema) if preset.json_schema => Some(request::Format::JsonSchema(NamedSchema::new(
                schema,
                preset.any_schema,
                ask.output_format(),
            )?)),
            Some(schema) => Some(request::Format::JsonObject(schema)),
        };
        write(&request::Body {
            ask: *ask,
            preset,
            token_limit: self.server.token_limit,
            format,
            functions: tools::functions(ask, preset.any_schema)?,
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
        Box::new(stream::Chunks::default())
    }
}
