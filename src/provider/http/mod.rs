//! The HTTP client under every provider: one request, one bounded reply, one honest error.

mod body;
mod client;
mod connections;
mod events;
mod key;
mod open_files;
mod reachable;
mod redirect;
mod reply;
mod send_error;
mod tls;

pub(crate) use client::{HttpClient, HttpConfig};
#[cfg(fuzzing)]
pub(crate) use events::assemble;
pub(crate) use key::{Authentication, Key};
pub(crate) use reply::Reply;
