//! The wire of Messages.

use std::borrow::Cow;
use std::fmt;

use reqwest::Url;

use super::options::Options;
use super::{classification, pause, request, response, stream};
use crate::error::LlmError;
use crate::provider::http::Reply;
use crate::provider::settings::Client;
use crate::provider::streaming::Assemble;
use crate::provider::wire_format::{Ask, WireFormat};
use crate::response::LlmResponse;

/// The Messages of one client.
pub(super) struct Messages {
    pub(super) client: Client,
    pub(super) options: Options,
    endpoint: Url,
}

impl Messages {
    pub(super) fn new(client: Client, options: Options) -> Self {
        // The address as people know it from other clients ends in the version, too.
        let path = client.base_url.path().trim_end_matches('/');
        let endpoint = if path.ends_with("/v1") {
            client.endpoint(&["messages"])
        } else {
            client.endpoint(&["v1", "messages"])
        };
        Self {
            client,
            options,
            endpoint,
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client shows of the address what may be shown.
        f.debug_struct("Messages")
            .field("client", &self.client)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl WireFormat for Messages {
    fn client(&self) -> &Client {
        &self.client
    }

    fn provider(&self) -> &'static str {
        "anthropic"
    }

    fn endpoint(&self, _: &Ask<'_>) -> Result<Cow<'_, Url>, LlmError> {
        Ok(Cow::Borrowed(&self.endpoint))
    }

    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError> {
        request::body(ask, &self.options)
    }

    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError> {
        let wanted = response::Wanted {
            rules: match self.endpoint.host_str() {
                Some("api.anthropic.com") => classification::OWN,
                _ => classification::RULES,
            },
            keep_raw_body: self.client.keep_raw_body,
            structured: ask.output_schema().is_some(),
            nothing: request::wants_nothing(ask),
        };
        response::read(reply, wanted)
    }

    fn assembler(&self) -> Box<dyn Assemble> {
        Box::new(stream::Events::default())
    }

    fn continuation(&self, body: &[u8], reply: &Reply) -> Option<Vec<u8>> {
        (reply.status == 200)
            .then(|| pause::continuation(body, &reply.body))
            .flatten()
    }

    fn join(&self, first: &Reply, next: &mut Reply) -> bool {
        let whole = (next.status == 200).then(|| pause::join(&first.body, &next.body));
        let Some(body) = whole.flatten() else {
            return false;
        };
        next.body = body.into();
        true
    }
}
