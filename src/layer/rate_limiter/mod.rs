//! One gate per quota scope.

mod error;

pub use error::Refused;
