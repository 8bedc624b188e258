//! The stream combinator, through its public API and in virtual time.
#![allow(clippy::unwrap_used)]

mod account;
mod concurrency;
mod failure;
mod properties;
mod result;
mod stop;

mod summary;
mod support;
mod traits;
