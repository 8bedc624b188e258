//! The interface of a wire format, for a [`Model`](super::Model) to be everything else.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Url;
use serde_json::Value;

use super::http::Reply;
use super::settings::Client;
use super::streaming::Assemble;
use crate::error::LlmError;
#[cfg(feature = "openai")]
use crate::prompt::OutputFormat;
use crate::prompt::{Prompt, ReasoningEffort, Tool, ToolChoice};
use crate::response::LlmResponse;

/// A question: the prompt, and the defaults that fill its gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// The strategy's model, or the prompt's own.
    pub(crate) model: &'a str,
    pub(crate) prompt: &'a Prompt,
    pub(crate) defaults: &'a Prompt,
    pub(crate) streamed: bool,
    /// The provider's name of the context cache that the question refers to.
    #[cfg_attr(not(feature = "gemini"), allow(dead_code))]
    pub(crate) context_cache: Option<&'a str>,
    /// `true` if a call of the same item was throttled before.
    #[cfg_attr(not(feature = "gemini"), allow(dead_code))]
    pub(crate) throttled_before: bool,
}

impl<'a> Ask<'a> {
    /// The schema that the answer has to follow; none for a raw body, whose meaning is the user's.
    pub(crate) fn output_schema(&self) -> Option<&'a Value> {
        match self.prompt.raw_body() {
            Some(_) => None,
            None => self
                .prompt
                .output_schema()
                .or_else(|| self.default_for("response_format")?.output_schema()),
        }
    }

    /// The defaults, unless the prompt has a field of a chat completion in the place of their word.
    fn default_for(&self, name: &str) -> Option<&'a Prompt> {
        (!self.prompt.chat_fields().contains_key(name)).then_some(self.defaults)
    }

    /// The name, description and strictness of that schema, as the user set them, for OpenAI's wires.
    #[cfg(feature = "openai")]
    pub(crate) fn output_format(&self) -> Option<&'a OutputFormat> {
        match self.prompt.output_schema() {
            Some(_) => self.prompt.output_format(),
            None => self.defaults.output_format(),
        }
    }

    /// The tools; the prompt's own in place of all of the defaults'.
    pub(crate) fn tools(&self) -> &'a [Tool] {
        match self.prompt.tools() {
            [] => self.defaults.tools(),
            own => own,
        }
    }

    pub(crate) fn tool_choice(&self) -> Option<&'a ToolChoice> {
        self.prompt
            .tool_choice()
            .or_else(|| self.default_for("tool_choice")?.tool_choice())
    }

    pub(crate) fn parallel_tool_calls(&self) -> Option<bool> {
        let own = self.prompt.parallel_tool_calls();
        own.or(self.defaults.parallel_tool_calls())
    }

    pub(crate) fn reasoning_effort(&self) -> Option<ReasoningEffort> {
        self.prompt
            .reasoning_effort()
            .or(self.defaults.reasoning_effort())
    }

    /// The fields that only chat completions have: those of the prompt, and those of the defaults in whose place the prompt
    /// has nothing.
    pub(crate) fn chat_fields(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        let own = self.prompt.chat_fields();
        let (has_schema, has_choice) = (self.output_schema().is_some(), self.tool_choice().is_some());
        let is_replaced = move |name: &str| match name {
            "response_format" => has_schema,
            "tool_choice" => has_choice,
            _ => false,
        };
        let defaults = self.defaults.chat_fields().iter();
        let defaults = defaults.filter(|(name, _)| !own.contains_key(*name));
        defaults.chain(own).filter(move |(name, _)| !is_replaced(name))
    }
}

/// The interface of a wire format. Everything around it (connections, redirects, accounts, streams) is the same for all.
pub(crate) trait WireFormat: fmt::Debug + Send + Sync {
    fn client(&self) -> &Client;

    /// The provider's OpenTelemetry name.
    fn provider(&self) -> &str;

    /// Returns the address to which the question goes.
    fn endpoint(&self, ask: &Ask<'_>) -> Result<Cow<'_, Url>, LlmError>;

    /// The question as the wire wants it.
    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError>;

    /// Returns the answer or the error in a reply of any status. It may quote the reply freely: what echoes a secret was
    /// taken out.
    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError>;

    /// Puts a streamed reply together.
    fn assembler(&self) -> Box<dyn Assemble>;

    /// The next question where a reply is only the first part of the answer.
    fn continuation(&self, _body: &[u8], _reply: &Reply) -> Option<Vec<u8>> {
        None
    }

    /// Puts the first part of an answer before the next one, which then has the usage of both. `false` if the later reply
    /// is not part of an answer.
    fn join(&self, _first: &Reply, _next: &mut Reply) -> bool {
        false
    }

    /// The name of the context cache that questions refer to, once the provider has it; none if they refer to none.
    /// `gone` is a name that the provider did not know any more.
    fn context_cache(&self, _gone: Option<Arc<str>>) -> Option<BoxFuture<'_, Result<Arc<str>, LlmError>>> {
        None
    }
}
