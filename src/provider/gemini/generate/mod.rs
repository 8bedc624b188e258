//! The wire of `generateContent`.

mod content;
mod continuation;
pub(super) mod open_api;
mod request;
mod response;
mod stream;
mod usage;

use std::borrow::Cow;
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Url;

use super::context_cache::ContextCache;
use super::server::Server;
use super::tools;
use crate::error::LlmError;
use crate::provider::http::Reply;
use crate::provider::request::{check_chat_fields, write};
use crate::provider::settings::Client;
use crate::provider::streaming::Assemble;
use crate::provider::wire_format::{Ask, WireFormat};
use crate::response::LlmResponse;

/// The provider's OpenTelemetry name.
const PROVIDER: &str = "gcp.gemini";

/// `generateContent` of one client, over a context cache or without one.
#[derive(Debug)]
pub(super) struct GenerateFormat {
    server: Arc<Server>,
    cache: Option<ContextCache>,
}

impl GenerateFormat {
    pub(super) fn new(server: Arc<Server>, cache: Option<ContextCache>) -> Self {
        Self { server, cache }
    }
}

impl WireFormat for GenerateFormat {
    fn client(&self) -> &Client {
        &self.server.client
    }

    fn provider(&self) -> &str {
        PROVIDER
    }

    fn endpoint(&self, ask: &Ask<'_>) -> Result<Cow<'_, Url>, LlmError> {
        self.server
            .generate_address(ask.model, ask.streamed)
            .map(Cow::Owned)
    }

    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError> {
        if let Some(cache) = &self.cache {
            cache.check(ask)?;
        }
        check_chat_fields(ask, &[], "Gemini")?;
        let options = &self.server.options;
        let schema = request::schema_field(ask, options.schema_form)?;
        let body = request::Body {
            ask: *ask,
            options,
            schema,
            tools: tools::tools(ask.tools(), options.schema_form)?,
            tool_config: tools::config(ask)?,
            thinking: request::thinking(ask, options.thinking)?,
            // What the cache holds is not sent again.
            without_shared: self.cache.is_some(),
        };
        write(&body)
    }

    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError> {
        response::read(reply, ask, self.client().keep_raw_body)
    }

    fn assembler(&self) -> Box<dyn Assemble> {
        Box::new(stream::Chunks::default())
    }

    fn continuation(&self, body: &[u8], reply: &Reply) -> Option<Vec<u8>> {
        continuation::next(body, reply)
    }

    fn join(&self, first: &Reply, next: &mut Reply) -> bool {
        continuation::join(first, next)
    }

    fn context_cache(&self, gone: Option<Arc<str>>) -> Option<BoxFuture<'_, Result<Arc<str>, LlmError>>> {
        let cache = self.cache.as_ref()?;
        Some(Box::pin(cache.current(gone)))
    }
}
