//! Strategies over HTTP: one folder per wire format, over one shared client.
//!
//! [`strategy`] makes a [`Model`] from a line of text; [`openai`] is the client for OpenAI and every server that speaks its
//! wires; [`anthropic`] is the one for Anthropic's, [`gemini`] for Google's Gemini. [`HttpClassifier`] judges the replies of any
//! other HTTP client by the same rules.
// With the HTTP client and no provider there is the classifier of its replies, and the rest lies idle.
#![cfg_attr(
    not(any(feature = "openai", feature = "anthropic", feature = "gemini")),
    allow(dead_code, unused_variables)
)]

#[cfg(feature = "anthropic")]
#[cfg_attr(docsrs, doc(cfg(feature = "anthropic")))]
pub mod anthropic;
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
mod body;
mod classifier;
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
mod content;
#[cfg(any(feature = "openai", feature = "anthropic", feature = "gemini"))]
mod ending;
#[cfg(feature = "gemini")]
#[cfg_attr(docsrs, doc(cfg(feature = "gemini")))]
pub mod gemini;
#[cfg(feature = "reqwest")]
mod http;
#[cfg(feature = "reqwest")]
mod idempotency;
#[cfg(feature = "reqwest")]
mod misconfigured;
#[cfg(feature = "reqwest")]
mod model;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
pub mod openai;
#[cfg(feature = "reqwest")]
mod reply;
#[cfg(feature = "reqwest")]
mod request;
#[cfg(feature = "reqwest")]
mod settings;
#[cfg(feature = "reqwest")]
mod strategy;
#[cfg(feature = "reqwest")]
mod streaming;
#[cfg(not(fuzzing))]
mod wire;
#[cfg(fuzzing)]
pub(crate) mod wire;
#[cfg(feature = "reqwest")]
mod wire_format;

pub use classifier::HttpClassifier;
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use model::{Model, ResponseFuture};
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use strategy::{ModelBuilder, strategy};
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use streaming::Streaming;
