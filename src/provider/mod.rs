//! Strategies over HTTP: one folder per wire format, over one shared client.
//!
//! [`strategy`] makes one from a line of text; [`openai`] is the client for OpenAI and every server that speaks its chat
//! completions. [`HttpClassifier`] judges the replies of any other HTTP client by the same rules.

mod classifier;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
mod http;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
pub mod openai;
#[cfg(feature = "openai")]
mod strategy;
mod wire;

pub use classifier::HttpClassifier;
#[cfg(feature = "openai")]
#[cfg_attr(docsrs, doc(cfg(feature = "openai")))]
pub use strategy::{strategy, strategy_with_base_url};
