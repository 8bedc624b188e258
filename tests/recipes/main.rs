//! The recipes: the numbers that each of them promises.
#![allow(clippy::unwrap_used)]

mod balance;
mod escalate;
mod fallback;
mod feedback;
mod partial;
mod profile;
mod support;
