//! Answers alone.

use std::fs::File;
use std::io;

use super::Row;
use super::format::{Facts, Format};
use crate::resume::Visitor;
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: false,
    has_failures: false,
    is_resumable: false,
    needs_raw_body: false,
};

#[derive(Debug)]
pub(super) struct Text;

impl Format for Text {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        Ok(match row.result {
            Ok(response) => format!("{}\n", text_of(&response.output)).into_bytes(),
            Err(_) => Vec::new(),
        })
    }

    fn scan(&self, _: File, _: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        Ok(Err(
            "answers alone do not show which items they belong to".to_owned()
        ))
    }
}
