//! The wire of chat completions.

mod json;
mod request;
mod response;
mod stream;
mod usage;

use std::fmt;

use reqwest::Url;

use super::OpenAi;
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::provider::http::Reply;
use crate::provider::model::{Ask, WireFormat};
use crate::provider::settings::Client;
use crate::provider::streaming::Assemble;
use crate::response::LlmResponse;

/// Chat completions of one client.
pub(super) struct ChatFormat {
    client: OpenAi,
    endpoint: Url,
}

impl ChatFormat {
    pub(super) fn new(client: OpenAi) -> Self {
        let endpoint = client.inner.client.endpoint(&["chat", "completions"]);
        Self { client, endpoint }
    }
}

impl fmt::Debug for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChatFormat").field(&self.client).finish()
    }
}

impl WireFormat for ChatFormat {
    fn client(&self) -> &Client {
        &self.client.inner.client
    }

    fn provider(&self) -> &str {
        &self.client.inner.provider
    }

    fn endpoint(&self, _: &Ask<'_>) -> Result<Url, LlmError> {
        Ok(self.endpoint.clone())
    }

    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError> {
        let body = request::Body {
            ask: *ask,
            token_limit: self.client.inner.token_limit,
        };
        serde_json::to_vec(&body).map_err(|error| {
            let message = format!("the prompt cannot be written as JSON: {error}");
            LlmError::new(ErrorKind::InvalidRequest, message).with_delivery(Delivery::NotSent)
        })
    }

    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError> {
        let wanted = response::Wanted {
            provider: self.provider(),
            rules: super::classification::RULES,
            keep_raw_body: self.client().keep_raw_body,
            structured: ask.output_schema().is_some(),
        };
        response::read(reply, wanted)
    }

    fn assembler(&self) -> Box<dyn Assemble> {
        Box::new(stream::Chunks::default())
    }
}
