//! The recipes: the numbers that each of them promises.
#![allow(clippy::unwrap_used)]

mod escalate;
mod fallback;
mod feedback;
mod partial;
mod profile;
mod support;
