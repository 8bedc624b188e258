//! The provider over real sockets on this machine.
#![allow(clippy::unwrap_used)]

mod connections;
mod happy_path;
mod server;
