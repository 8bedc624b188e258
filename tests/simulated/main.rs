//! The scripted fake and the simulated provider.
#![allow(clippy::unwrap_used)]

mod both_faces;
mod chat;
mod clients;
mod fake;
mod gemini;
mod http;
mod messages;
mod responses;
mod schema;
mod service;
mod support;
mod tools;
mod wires;
