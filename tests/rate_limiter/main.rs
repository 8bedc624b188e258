//! The gate: quotas, cooldowns, pace, queue, and the layer around a service.
#![allow(clippy::unwrap_used)]

mod cooldown;
mod quota;
mod support;
