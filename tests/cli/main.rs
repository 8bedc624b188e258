//! The command line as its users meet it: the real program, real files, pipes and signals.
#![allow(clippy::unwrap_used)]

mod acceptance;
mod accounts;
mod chat;
mod directory;
mod endings;
mod files;
mod input;
mod items;
mod keeping;
mod learned;
mod mistakes;
mod output;
mod pace;
mod prices;
mod quotas;
mod resume;
mod schema;
mod secrets;
mod several;
mod support;
mod usage;
mod writing;
