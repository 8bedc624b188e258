//! The meaning of HTTP replies of providers, in any wire format: waits, quotas, error bodies, and the classification.
//!
//! Pure functions over status, headers and bytes; no client, so they work without the HTTP feature.
// Without a provider only status and headers are judged, and the reading of bodies lies idle.
#![cfg_attr(
    not(all(feature = "openai", feature = "anthropic", feature = "gemini")),
    allow(dead_code, unused_imports)
)]

mod classification;
#[cfg(feature = "reqwest")]
pub(crate) mod digits;
mod duration;
mod error_body;
mod excerpt;
mod headers;
mod message;
#[cfg(feature = "reqwest")]
pub(crate) mod repair;
#[cfg(feature = "reqwest")]
pub(crate) mod schema;

pub(crate) use classification::verdict_of;
#[cfg(feature = "reqwest")]
pub(crate) use classification::{ANY, Facts, Row, error_in_success, error_of_reply};
#[cfg(fuzzing)]
pub(crate) use duration::parse_wait;
#[cfg(feature = "reqwest")]
pub(crate) use excerpt::{excerpt, trim};
#[cfg(feature = "reqwest")]
pub(crate) use headers::reported_quota;
#[cfg(feature = "gemini")]
pub(crate) use headers::server_time;
