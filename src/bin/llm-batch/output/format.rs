//! The formats of the output. A format owns its rows, its facts, and what a later run reads back of it.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use clap::ValueEnum;

use super::{Row, csv, directory, jsonl, openai_batch, terminal, text};
use crate::resume::Visitor;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A JSON object a line
    Jsonl,
    /// A table with a header
    Csv,
    /// A line an item, in the order of the input: its answer, or `\error` and why there is none
    Text,
    /// OpenAI's result lines, with the provider's body unchanged
    OpenaiBatch,
    /// The index of `--output-dir`.
    #[value(skip)]
    Directory,
    /// For people, where standard output is a terminal and no format is named.
    #[value(skip)]
    Terminal,
}

/// A part of an outcome that is written only where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Include {
    /// The model's reasoning, as far as the provider reveals it
    Reasoning,
    /// The model's text where it is not a valid answer: it does not follow the schema, or was truncated or refused
    Raw,
    /// The item's id and a tab before each line of text
    Id,
}

/// The properties of a format that the rest of the program uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// It has a place for the fields of `--keep`.
    pub(crate) keeps_fields: bool,
    /// It has a place for more than one answer of an item.
    pub(crate) keeps_choices: bool,
    /// The parts that it has a place for.
    pub(crate) includes: &'static [Include],
    /// A later run can go on with it.
    pub(crate) is_resumable: bool,
    /// Its rows come in the order of the input.
    pub(crate) is_in_order: bool,
    /// It needs the bodies of the provider's replies.
    pub(crate) needs_raw_body: bool,
}

/// The settings of rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The fields of `--keep`.
    pub(crate) keep: Vec<String>,
    pub(crate) include: Vec<Include>,
    /// Answers that are cut or empty do not count as answers.
    pub(crate) require_complete: bool,
    /// The ids are the paths of files, after which the answers' files are named.
    pub(crate) ids_are_paths: bool,
    /// A file of an earlier run is kept under another name when a new answer takes its own.
    pub(crate) keeps_old_files: bool,
}

impl Settings {
    pub(super) fn includes(&self, part: Include) -> bool {
        self.include.contains(&part)
    }
}

impl OutputFormat {
    /// The properties of the format.
    pub(crate) const fn facts(self) -> Facts {
        match self {
            Self::Jsonl => jsonl::FACTS,
            Self::Csv => csv::FACTS,
            Self::Text => text::FACTS,
            Self::OpenaiBatch => openai_batch::FACTS,
            Self::Directory => directory::FACTS,
            Self::Terminal => terminal::FACTS,
        }
    }

    /// The format with its settings. `folder` is the place of the answers' files, where they have files.
    pub(crate) fn with(self, settings: &Settings, folder: &Path) -> Box<dyn Format> {
        let settings = settings.clone();
        match self {
            Self::Jsonl => Box::new(jsonl::Jsonl(settings)),
            Self::Csv => Box::new(csv::Csv(settings)),
            Self::Text => Box::new(text::Text(settings)),
            Self::OpenaiBatch => Box::new(openai_batch::OpenaiBatch(settings)),
            Self::Directory => Box::new(directory::Directory::new(folder.to_owned(), settings)),
            Self::Terminal => Box::new(terminal::Terminal(settings)),
        }
    }

    /// Its name among the options.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "--output-format jsonl",
            Self::Csv => "--output-format csv",
            Self::Text => "--output-format text",
            Self::OpenaiBatch => "--output-format openai-batch",
            Self::Directory => "--output-dir",
            Self::Terminal => "the terminal",
        }
    }

    /// Rejects settings that it has no place for.
    pub(crate) fn check(self, settings: &Settings) -> Result<(), String> {
        let facts = self.facts();
        if !facts.keeps_fields && !settings.keep.is_empty() {
            return Err(format!(
                "--keep needs a place for the fields, which {} has not; use --output-format jsonl or csv",
                self.name()
            ));
        }
        if let Some(name) = settings
            .keep
            .iter()
            .find(|name| jsonl::RESERVED.contains(&name.as_str()))
        {
            return Err(format!(
                "--keep {name}: the output has a field `{name}` of its own"
            ));
        }
        let unknown = settings
            .include
            .iter()
            .find(|part| !facts.includes.contains(part));
        if let Some(part) = unknown.and_then(Include::to_possible_value) {
            return Err(format!(
                "--include {} has no place in {}",
                part.get_name(),
                self.name()
            ));
        }
        Ok(())
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

    /// Reads the output of an earlier run, as often as it is wanted. The inner error says why it cannot be resumed.
    fn scan(&mut self, file: File, visitor: &mut Visitor<'_>) -> io::Result<Result<(), String>>;
}
