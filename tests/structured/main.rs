//! Typed answers, through the public API.
#![allow(clippy::unwrap_used)]

mod contract;
mod faults;
mod http;
mod properties;
mod reading;
mod retrying;
mod support;
mod types;
mod wires;
