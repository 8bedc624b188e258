//! The layers in stacks of other crates: their requests, their responses, their errors.
#![allow(clippy::unwrap_used)]

mod apalis_worker;
mod openai_client;
mod openai_streams;
mod reqwest_client;
mod server;
#[path = "../../../../tests/layers/streaming_server.rs"]
mod streaming_server;
