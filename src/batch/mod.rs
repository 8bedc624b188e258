//! The stream combinator and what rides on it.

mod error;

pub use error::BatchError;
