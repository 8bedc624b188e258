//! The formats of the output. A format owns its rows, its facts, and what a later run reads back of it.

use std::fmt;
use std::fs::File;
use std::io;

use clap::ValueEnum;

use super::{Row, csv, jsonl, openai_batch, text};
use crate::resume::Visitor;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A JSON object a line
    Jsonl,
    /// A table with a header
    Csv,
    /// The answers alone, each followed by a line break
    Text,
    /// OpenAI's result lines, with the provider's body unchanged
    OpenaiBatch,
}

/// What the rest of the program needs to know of a format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// It has a place for the fields of `--keep`.
    pub(crate) keeps_fields: bool,
    /// It has a row for an item that failed.
    pub(crate) has_failures: bool,
    /// A later run can go on with it.
    pub(crate) is_resumable: bool,
    /// It needs the bodies of the provider's replies.
    pub(crate) needs_raw_body: bool,
}

impl OutputFormat {
    /// What is to be known of it before it is made.
    pub(crate) const fn facts(self) -> Facts {
        match self {
            Self::Jsonl => jsonl::FACTS,
            Self::Csv => csv::FACTS,
            Self::Text => text::FACTS,
            Self::OpenaiBatch => openai_batch::FACTS,
        }
    }

    /// The format with its settings. `keep` are the fields of `--keep`.
    pub(crate) fn with(self, keep: &[String]) -> Box<dyn Format> {
        match self {
            Self::Jsonl => Box::new(jsonl::Jsonl),
            Self::Csv => Box::new(csv::Csv::new(keep)),
            Self::Text => Box::new(text::Text),
            Self::OpenaiBatch => Box::new(openai_batch::OpenaiBatch),
        }
    }
}

/// The rows of one output.
pub(crate) trait Format: fmt::Debug + Send {
    /// The bytes before the first row.
    fn head(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// The bytes of a row, with its end.
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>>;

    /// Reads the output of an earlier run. The inner error says why it cannot be resumed.
    fn scan(&self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>>;
}
