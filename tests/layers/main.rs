//! The layers: tower's contract, every numeric rule, stacks of several of them.
#![allow(clippy::unwrap_used)]

mod accounting;
mod cache;
mod contract;
mod dry_run;
mod http_call;
mod http_client;
mod lazy;
mod retry;
mod stack;
mod standard;
mod streaming_server;
mod support;
mod telemetry;
mod timeout;
