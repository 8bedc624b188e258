//! Typed answers, through the public API.
#![allow(clippy::unwrap_used)]

mod faults;
mod properties;
mod reading;
mod retrying;
mod support;
mod types;
mod wires;
