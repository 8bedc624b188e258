//! The input: from files, folders and standard input to items, one at a time.

mod detect;
mod folder;
mod jsonl;
mod lines;
mod openai_batch;
mod table;
mod text;

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub(crate) use self::detect::BYTE_ORDER_MARK;
use self::detect::{Format, Opened, detect};
use self::folder::Selection;
use crate::args::{InputArgs, InputFormat};
use crate::exit::UsageError;

/// One entry of the input.
#[derive(Debug)]
struct Row {
    /// Its line, from 1; 0 where the id says enough.
    line: u64,
    /// Its id, where the format has one of its own.
    id: Option<String>,
    /// What it holds, or what is wrong with it.
    content: Result<Content, String>,
}

/// What an entry holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// Fields for a template.
    Fields(Map<String, Value>),
    /// A request body in the provider's own dialect.
    Body(Map<String, Value>),
}

/// An item of the run.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) id: Arc<str>,
    /// Its position in the input, from 0.
    pub(crate) index: u64,
    pub(crate) place: Place,
    /// Fields to copy to the output.
    pub(crate) kept: Map<String, Value>,
    /// What it holds, or what is wrong with it.
    pub(crate) content: Result<Content, String>,
}

/// Where in the input an item stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The file's name, where there are several.
    name: Option<Arc<str>>,
    line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.line) {
            (Some(name), 0) => f.write_str(name),
            (None, 0) => f.write_str("input"),
            (Some(name), line) => write!(f, "{name}, line {line}"),
            (None, line) => write!(f, "line {line}"),
        }
    }
}

type Rows = Box<dyn Iterator<Item = io::Result<Row>> + Send>;

#[derive(Clone, Debug)]
enum Input {
    Stdin,
    /// Something that can be read once.
    Pipe(PathBuf),
    File(PathBuf, Format),
    Folder(PathBuf),
}

/// The inputs, looked at but not yet read.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    inputs: Vec<Input>,
    format: InputFormat,
    selection: Arc<Selection>,
    id_field: String,
    keep: Vec<String>,
    limit: Option<u64>,
    /// Standard input, copied to a file that vanishes with the last clone of this.
    spooled: Option<Arc<tempfile::NamedTempFile>>,
}

impl Inputs {
    /// Checks that every input is there and of a format that can be read.
    pub(crate) fn new(args: &InputArgs) -> Result<Self, UsageError> {
        let selection = Selection::new(&args.glob)?;
        let mut inputs = Vec::new();
        for path in &args.inputs {
            inputs.push(look(path, args.format)?);
        }
        if inputs.is_empty() {
            inputs.push(Input::Stdin);
        }
        if inputs
            .iter()
            .filter(|input| matches!(input, Input::Stdin))
            .count()
            > 1
        {
            return Err(UsageError::new("standard input can be read once only"));
        }
        if !args.glob.is_empty() && !inputs.iter().any(|input| matches!(input, Input::Folder(_))) {
            return Err(UsageError::new(
                "--glob chooses files of a folder, but no INPUT is a folder",
            ));
        }
        Ok(Self {
            inputs,
            format: args.format,
            selection: Arc::new(selection),
            id_field: args.id_field.clone(),
            keep: args.keep.clone(),
            limit: args.limit,
            spooled: None,
        })
    }

    /// Whether a person is about to type the input.
    pub(crate) fn is_typed(&self) -> bool {
        self.inputs.iter().any(|input| matches!(input, Input::Stdin)) && io::stdin().is_terminal()
    }

    /// Whether reading it twice gives the same.
    pub(crate) fn is_rereadable(&self) -> bool {
        self.inputs
            .iter()
            .all(|input| matches!(input, Input::File(..) | Input::Folder(_)))
    }

    /// Whether an input is known to hold request bodies, to which no template applies.
    pub(crate) fn has_bodies(&self) -> bool {
        self.format == InputFormat::OpenaiBatch
            || self
                .inputs
                .iter()
                .any(|input| matches!(input, Input::File(_, Format::OpenAiBatch)))
    }

    /// The regular files, for a check that no output replaces one. Standard input may be one, too.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.inputs.iter().filter_map(|input| match input {
            Input::File(path, _) => Some(path.as_path()),
            Input::Stdin if cfg!(unix) => Some(Path::new("/dev/stdin")),
            Input::Stdin | Input::Pipe(_) | Input::Folder(_) => None,
        })
    }

    /// Bytes of all regular files, if there is nothing else.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let sizes = self.inputs.iter().map(|input| match input {
            Input::File(path, _) => std::fs::metadata(path).ok().map(|metadata| metadata.len()),
            Input::Stdin | Input::Pipe(_) | Input::Folder(_) => None,
        });
        sizes.sum()
    }

    /// Copies what can be read once only to temporary files, so that it can be read again.
    pub(crate) fn spool(&mut self) -> Result<(), UsageError> {
        let mut inputs = std::mem::take(&mut self.inputs);
        for input in &mut inputs {
            let reader: Box<dyn Read + Send> = match input {
                Input::Stdin => Box::new(io::stdin()),
                Input::Pipe(path) => Box::new(open(path)?),
                Input::File(..) | Input::Folder(_) => continue,
            };
            *input = self.copy(reader)?;
        }
        self.inputs = inputs;
        Ok(())
    }

    fn copy(&mut self, mut reader: Box<dyn Read + Send>) -> Result<Input, UsageError> {
        let failed =
            |error: io::Error| UsageError::new(format!("the input cannot be copied for --strict: {error}"));
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        io::copy(&mut reader, &mut file).map_err(failed)?;
        let copy = file.reopen().map_err(failed)?;
        let (format, _) = detect(Box::new(copy), None, self.format)
            .map_err(failed)?
            .map_err(|message| UsageError::new(format!("the input {message}")))?;
        let path = file.path().to_owned();
        self.spooled = Some(Arc::new(file));
        Ok(Input::File(path, format))
    }

    /// Reads the items. An error is a message for the user, and the last thing that comes.
    pub(crate) fn items(&self) -> impl Iterator<Item = Result<Item, String>> + Send + use<> {
        let all = self.clone();
        let several = all.inputs.len() > 1;
        let inputs = all.inputs.clone();
        let rows = inputs.into_iter().flat_map({
            let all = all.clone();
            move |input| {
                let name = all.name(&input).filter(|_| several);
                let path = name.clone().unwrap_or_else(|| "the input".into());
                let rows: Rows = match all.rows(input, several) {
                    Ok(rows) => rows,
                    Err(error) => Box::new(std::iter::once(Err(error))),
                };
                rows.map(move |row| match row {
                    Ok(row) => Ok((name.clone(), row)),
                    Err(error) => Err(format!("{path} cannot be read any further: {error}")),
                })
            }
        });
        let limit = all
            .limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let mut failed = false;
        rows.take_while(move |row| !std::mem::replace(&mut failed, row.is_err()))
            .take(limit)
            .zip(0..)
            .map(move |(row, index)| row.map(|(name, row)| all.item(name, index, row)))
    }

    fn name(&self, input: &Input) -> Option<Arc<str>> {
        match input {
            Input::File(path, _) | Input::Pipe(path) if !self.is_spooled(path) => {
                Some(path.to_string_lossy().into())
            }
            Input::Folder(path) => Some(path.to_string_lossy().into()),
            Input::Stdin | Input::File(..) | Input::Pipe(_) => Some("standard input".into()),
        }
    }

    fn is_spooled(&self, path: &Path) -> bool {
        self.spooled.as_ref().is_some_and(|file| file.path() == path)
    }

    fn rows(&self, input: Input, several: bool) -> io::Result<Rows> {
        let (format, opened) = match input {
            Input::Folder(path) => {
                let prefix = if several {
                    format!("{}/", path.to_string_lossy().trim_end_matches('/'))
                } else {
                    String::new()
                };
                return Ok(Box::new(folder::rows(path, prefix, Arc::clone(&self.selection))));
            }
            Input::Stdin => detected(detect(Box::new(io::stdin()), None, self.format)?)?,
            Input::Pipe(path) => detected(detect(Box::new(File::open(&path)?), Some(&path), self.format)?)?,
            Input::File(path, format) => {
                let name = (!self.is_spooled(&path)).then_some(&*path);
                let (_, opened) = detected(detect(Box::new(File::open(&path)?), name, self.format)?)?;
                (format, opened)
            }
        };
        Ok(match format {
            Format::Jsonl => Box::new(jsonl::rows(opened)),
            Format::OpenAiBatch => Box::new(jsonl::batch_rows(opened)),
            Format::Text => Box::new(text::rows(opened)),
            Format::Table { delimiter } => {
                Box::new(table::rows(opened, delimiter)?.map_err(io::Error::other)?)
            }
        })
    }

    fn item(&self, name: Option<Arc<str>>, index: u64, row: Row) -> Item {
        let Row { line, id, content } = row;
        let (id, content) = match (id, content) {
            (Some(id), content) => (Some(id), content),
            (None, Ok(Content::Fields(fields))) => match id_of(fields.get(&self.id_field)) {
                Ok(id) => (id, Ok(Content::Fields(fields))),
                Err(message) => (None, Err(format!("field `{}` {message}", self.id_field))),
            },
            (None, content) => (None, content),
        };
        let id = match (id, &name) {
            (Some(id), _) => id.into(),
            (None, Some(name)) => format!("{name}:{line}").into(),
            (None, None) => line.to_string().into(),
        };
        let kept = match &content {
            Ok(Content::Fields(fields)) => {
                let keep = self.keep.iter();
                keep.filter_map(|name| Some((name.clone(), fields.get(name)?.clone())))
                    .collect()
            }
            _ => Map::new(),
        };
        Item {
            place: Place {
                name: if line == 0 { Some(Arc::clone(&id)) } else { name },
                line,
            },
            id,
            index,
            kept,
            content,
        }
    }
}

fn id_of(field: Option<&Value>) -> Result<Option<String>, &'static str> {
    match field {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.is_empty() => Ok(None),
        Some(Value::String(id)) => Ok(Some(id.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err("names the item, so it must be text or a number")
        }
    }
}

fn detected(found: Result<(Format, Opened), String>) -> io::Result<(Format, Opened)> {
    found.map_err(io::Error::other)
}

fn open(path: &Path) -> Result<File, UsageError> {
    File::open(path).map_err(|error| UsageError::new(format!("{}: {error}", path.display())))
}

fn look(path: &Path, format: InputFormat) -> Result<Input, UsageError> {
    if path == Path::new("-") {
        return Ok(Input::Stdin);
    }
    let name = path.display();
    let failed = |error: io::Error| UsageError::new(format!("{name}: {error}"));
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return match format {
            InputFormat::Auto | InputFormat::Text => Ok(Input::Folder(path.to_owned())),
            _ => Err(UsageError::new(format!(
                "{name} is a folder, whose files are texts; to read its files as lines, name them: {name}/*.jsonl"
            ))),
        };
    }
    if !metadata.is_file() {
        return Ok(Input::Pipe(path.to_owned()));
    }
    let (found, opened) = detect(Box::new(open(path)?), Some(path), format)
        .map_err(failed)?
        .map_err(|message| UsageError::new(format!("{name} {message}")))?;
    if let Format::Table { delimiter } = found {
        // For the header only.
        let _rows = table::rows(opened, delimiter)
            .map_err(failed)?
            .map_err(|message| UsageError::new(format!("{name} {message}")))?;
    }
    Ok(Input::File(path.to_owned(), found))
}

/// The fault of a line. Its number is reported elsewhere.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {what} (column {})", error.column())
}
