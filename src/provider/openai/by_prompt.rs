//! Both wires of a client, for strategies that did not choose one.

use std::borrow::Cow;
use std::sync::Arc;

use reqwest::Url;
use serde_json::Value;

use super::chat::ChatFormat;
use super::responses::ResponsesFormat;
use super::server::Server;
use crate::error::LlmError;
use crate::provider::http::Reply;
use crate::provider::settings::Client;
use crate::provider::streaming::{Assemble, Piece};
use crate::provider::wire_format::{Ask, WireFormat};
use crate::response::LlmResponse;

/// One wire by default, and for a raw body the one whose form it has: files of ready bodies go on working when the
/// default changes.
#[derive(Debug)]
pub(super) struct ByPrompt {
    chat: ChatFormat,
    responses: ResponsesFormat,
    prefers_responses: bool,
}

impl ByPrompt {
    pub(super) fn new(server: &Arc<Server>, prefers_responses: bool) -> Self {
        Self {
            chat: ChatFormat::new(Arc::clone(server)),
            responses: ResponsesFormat::new(Arc::clone(server)),
            prefers_responses,
        }
    }

    fn wire(&self, ask: &Ask<'_>) -> &dyn WireFormat {
        let has = |name| ask.prompt.raw_body().is_some_and(|body| body.contains_key(name));
        let responses = match (has("messages"), has("input")) {
            (true, false) => false,
            (false, true) => true,
            _ => self.prefers_responses,
        };
        if responses { &self.responses } else { &self.chat }
    }
}

impl WireFormat for ByPrompt {
    fn client(&self) -> &Client {
        self.chat.client()
    }

    fn provider(&self) -> &str {
        self.chat.provider()
    }

    fn endpoint(&self, ask: &Ask<'_>) -> Result<Cow<'_, Url>, LlmError> {
        self.wire(ask).endpoint(ask)
    }

    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError> {
        self.wire(ask).body(ask)
    }

    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError> {
        self.wire(ask).read(reply, ask)
    }

    fn assembler(&self) -> Box<dyn Assemble> {
        Box::new(Either {
            chat: self.chat.assembler(),
            responses: self.responses.assembler(),
            is_response: false,
        })
    }
}

/// A stream of either wire. Those of the Responses name their events from the first on.
struct Either {
    chat: Box<dyn Assemble>,
    responses: Box<dyn Assemble>,
    is_response: bool,
}

impl Assemble for Either {
    fn push(&mut self, name: &str, data: &str) -> Piece {
        self.is_response |= name.starts_with("response.");
        if self.is_response {
            self.responses.push(name, data)
        } else {
            self.chat.push(name, data)
        }
    }

    fn is_complete(&self) -> bool {
        if self.is_response {
            self.responses.is_complete()
        } else {
            self.chat.is_complete()
        }
    }

    fn into_body(self: Box<Self>) -> Value {
        if self.is_response {
            self.responses.into_body()
        } else {
            self.chat.into_body()
        }
    }
}
