//! The structure of JSON Schemas, for every part of the crate that reads one: pointers, references and the schemas inside.
//!
//! A reference leads into its own schema: `#`, or `#` and a JSON pointer. Anchors and other documents lead nowhere.
// Each feature uses its own part.
#![cfg_attr(
    not(all(feature = "reqwest", feature = "structured", feature = "testing")),
    allow(dead_code)
)]

pub(crate) mod pointer;
pub(crate) mod reference;
pub(crate) mod walk;
