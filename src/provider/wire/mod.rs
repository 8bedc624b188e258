//! What HTTP replies of providers mean, in any wire format: waits, quotas, error bodies, and the classification.
//!
//! Pure functions over status, headers and bytes; no client, so they work without the HTTP feature.
// Without a provider only status and headers are judged, and the reading of bodies lies idle.
#![cfg_attr(not(feature = "openai"), allow(dead_code))]

mod classification;
mod duration;
mod error_body;
mod headers;
mod message;

pub(crate) use classification::verdict_of;
#[cfg(feature = "openai")]
pub(crate) use classification::{Facts, error_in_success, error_of_reply, judge};
#[cfg(feature = "openai")]
pub(crate) use error_body::{excerpt, trim};
#[cfg(feature = "openai")]
pub(crate) use headers::reported_quota;
