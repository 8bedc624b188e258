//! The beginning of a call decides whether it is under way, answered or not sent; no call begins after a stop.

mod accounts;
mod agents;
mod hedges;
mod nested;
#[cfg(feature = "cache")]
mod readiness;
mod several;
mod stops;
mod support;
mod tower;
