//! The HTTP client under every provider: one request, one bounded reply, one honest error.

mod client;
mod key;

pub(crate) use client::{HttpClient, HttpConfig, Reply};
pub(crate) use key::Key;
