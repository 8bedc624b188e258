//! The server, as its client, the wire and the context caches know it.

use std::fmt;

use reqwest::Url;

use super::options::{ApiVersion, Options};
use crate::error::LlmError;
use crate::provider::request::refuse;
use crate::provider::settings::Client;

/// A server as its client knows it; the wire and the context caches share it.
pub(super) struct Server {
    pub(super) client: Client,
    /// None if the base URL has one, or if the model decides.
    pub(super) version: Version,
    pub(super) options: Options,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Version {
    /// It is part of the base URL.
    InBaseUrl,
    /// As the user said.
    Fixed(ApiVersion),
    /// As the model wants it.
    OfModel,
}

/// Shown as the client that has it.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gemini")
            .field("client", &self.client)
            .field("version", &self.version)
            .field("options", &self.options)
            .finish()
    }
}

impl Server {
    /// The address of `resource` of the model's version of the API.
    pub(super) fn address(&self, model: &str, resource: &[&str]) -> Url {
        let version = match self.version {
            Version::InBaseUrl => return self.client.endpoint(resource),
            Version::Fixed(version) => version,
            // The aliases exist in this version alone.
            Version::OfModel if model.ends_with("-latest") => ApiVersion::V1Beta,
            Version::OfModel => ApiVersion::V1,
        };
        let path: Vec<_> = std::iter::once(version.as_str())
            .chain(resource.iter().copied())
            .collect();
        self.client.endpoint(&path)
    }

    /// The address that answers questions to `model`.
    pub(super) fn generate_address(&self, model: &str, streamed: bool) -> Result<Url, LlmError> {
        let name = resource_name(model)?;
        let method = if streamed {
            "streamGenerateContent"
        } else {
            "generateContent"
        };
        let asked = format!("{name}:{method}");
        let mut url = self.address(&name, &asked.split('/').collect::<Vec<_>>());
        if streamed {
            url.query_pairs_mut().append_pair("alt", "sse");
        }
        Ok(url)
    }
}

/// The name of a model as a resource: `models/NAME`, or as given if it says what it is.
pub(super) fn resource_name(model: &str) -> Result<String, LlmError> {
    let model = model.trim().trim_start_matches('/');
    let wrong = |part: &str| part.is_empty() || part == "." || part == "..";
    if model.split('/').any(wrong) {
        let message = format!("{model:?} is not the name of a model");
        return Err(refuse(message));
    }
    Ok(if model.contains('/') {
        model.to_owned()
    } else {
        format!("models/{model}")
    })
}
