//! A call has one beginning: what is under way, answered or not sent follows from it, and nothing begins after a stop.

mod accounts;
mod stops;
mod support;
