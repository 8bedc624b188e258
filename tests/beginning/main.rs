//! A call has one beginning: what is under way, answered or not sent follows from it, and nothing begins after a stop.

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
