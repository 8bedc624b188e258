//! The layers in stacks of other crates: their requests, their responses, their errors.
#![allow(clippy::unwrap_used)]

mod apalis_worker;
mod openai_client;
mod reqwest_client;
mod server;
