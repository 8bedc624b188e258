//! Items, and the rows of an input that they come from.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::identity::Identity;
use super::openai_batch::Endpoint;

/// One entry of the input.
#[derive(Debug)]
pub(super) struct Row {
    /// Its line, from 1; 0 where the id says enough.
    pub(super) line: u64,
    pub(super) identity: Identity,
    /// Its content, or the error in it.
    pub(super) content: Result<Content, String>,
}

/// The content of an entry.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Content {
    /// Fields for a template.
    Fields(Map<String, Value>),
    /// A request body of OpenAI's, for one of its endpoints.
    Body(Endpoint, Map<String, Value>),
}

/// An item of the run.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Item {
    pub(crate) id: Arc<str>,
    /// Its position in the input, from 0.
    pub(crate) index: u64,
    pub(crate) place: Place,
    /// Fields to copy to the output.
    pub(crate) kept: Map<String, Value>,
    /// Its content, or the error in it.
    pub(crate) content: Result<Content, String>,
}

/// Where in the input an item stands.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Place {
    /// The file's name, where there are several.
    pub(super) name: Option<Arc<str>>,
    pub(super) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.line) {
            (Some(name), 0) => f.write_str(name),
            (None, 0) => f.write_str("input"),
            (Some(name), line) => write!(f, "{name}, line {line}"),
            (None, line) => write!(f, "line {line}"),
        }
    }
}
