//! The scripted fake and the simulated provider.
#![allow(clippy::unwrap_used)]

mod fake;
mod http;
mod service;
