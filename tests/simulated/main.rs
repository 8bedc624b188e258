//! The scripted fake and the simulated provider.
#![allow(clippy::unwrap_used)]

mod both_faces;
mod fake;
mod http;
mod service;
