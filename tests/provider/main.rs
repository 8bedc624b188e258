//! The provider over real sockets on this machine.
#![allow(clippy::unwrap_used)]

mod anthropic;
mod anthropic_errors;
mod anthropic_replies;
mod anthropic_streams;
mod billed_apart;
mod broken_replies;
mod classification;
mod classifier;
mod configuration;
mod connections;
mod content;
mod every_wire;
mod from_chat;
mod gemini;
mod happy_path;
mod in_process;
mod precedence;
mod presets;
mod prompts;
mod replies;
mod requests;
mod responses;
mod secrets;
mod server;
mod streaming;
