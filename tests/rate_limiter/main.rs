//! The gate: quotas, cooldowns, pace, queue, and the layer around a service.
#![allow(clippy::unwrap_used)]

mod bucket_fit;
mod builder;
mod closed;
mod cooldown;
mod invariants;
mod layer;
mod learned;
mod local;
mod lock_free;
mod overload;
mod pace;
mod priority;
mod queue;
mod quota;
mod quotas;
mod runtimes;
mod store;
mod support;
mod telemetry;
mod usage;
