//! What HTTP replies of providers mean, in any wire format: waits, quotas, error bodies, and the classification.
//!
//! Pure functions over status, headers and bytes; no client, so they work without the HTTP feature.

mod classification;
mod duration;
mod error_body;
mod headers;
mod message;

pub(crate) use classification::{Facts, judge, verdict_of};
#[cfg(feature = "openai")]
pub(crate) use classification::{error_in_success, error_of_reply};
#[cfg(feature = "openai")]
pub(crate) use error_body::{excerpt, trim};
#[cfg(feature = "openai")]
pub(crate) use headers::reported_quota;
