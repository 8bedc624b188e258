//! The input: from files, folders and standard input to items, one at a time.

mod compressed;
mod detect;
mod folder;
mod identity;
mod item;
mod jsonl;
mod lines;
mod named;
mod openai_batch;
mod order;
mod table;
mod text;
mod values;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub(crate) use self::detect::BYTE_ORDER_MARK;
use self::detect::{Format, Opened, detect};
use self::folder::Selection;
use self::identity::{Digest, Identity, Ids};
use self::item::Row;
pub(crate) use self::item::{Content, Item, Place};
pub(crate) use self::named::{NamedField, Unseen};
pub(crate) use self::openai_batch::Endpoint;
use self::order::{Items, Order};
use self::table::Table;
use crate::args::{InputArgs, InputFormat};
use crate::exit::UsageError;

/// The links in a row that a system follows, at most.
const MOST_LINKS: usize = 40;

type Rows = Box<dyn Iterator<Item = io::Result<Row>> + Send>;

#[derive(Clone, Debug)]
enum Input {
    Stdin,
    /// Something that can be read once.
    Pipe(PathBuf),
    File(RegularFile),
    Folder(PathBuf),
}

#[derive(Clone, Debug)]
struct RegularFile {
    path: PathBuf,
    format: Format,
    /// The fields of every item, where the format says so.
    columns: Option<Vec<String>>,
}

/// The inputs, looked at but not yet read.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    inputs: Vec<Input>,
    format: InputFormat,
    selection: Arc<Selection>,
    id_field: String,
    keep: Vec<String>,
    /// The fields that options name.
    named: Vec<NamedField>,
    limit: Option<u64>,
    order: Order,
    /// Standard input, copied to a file that vanishes with the last clone of this.
    spooled: Option<Arc<tempfile::NamedTempFile>>,
    /// Outputs, which no folder gives.
    left_out: Vec<PathBuf>,
}

impl Inputs {
    /// Checks that every input is there and of a format that can be read.
    ///
    /// `named` are the fields that have to be somewhere.
    pub(crate) fn new(args: &InputArgs, named: Vec<NamedField>) -> Result<Self, UsageError> {
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
        let inputs = Self {
            inputs,
            format: args.format,
            selection: Arc::new(selection),
            id_field: args.id_field.clone().unwrap_or_else(|| "id".to_owned()),
            keep: args.keep.clone(),
            named,
            limit: args.limit,
            order: Order {
                sample: args
                    .sample
                    .map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
                shuffle: args.shuffle,
                seed: args.sample_seed,
            },
            spooled: None,
            left_out: Vec::new(),
        };
        inputs.check_named()?;
        Ok(inputs)
    }

    /// Rejects an option that names a field which no item can have.
    fn check_named(&self) -> Result<(), UsageError> {
        let mut known = Vec::new();
        for input in &self.inputs {
            match input {
                Input::Stdin | Input::Pipe(_) | Input::File(RegularFile { columns: None, .. }) => {
                    return Ok(());
                }
                Input::File(RegularFile {
                    columns: Some(columns),
                    ..
                }) => known.extend(columns.iter().map(String::as_str)),
                Input::Folder(_) => known.extend(folder::FIELDS),
            }
        }
        match self
            .named
            .iter()
            .find(|named| !known.contains(&named.field.as_str()))
        {
            None => Ok(()),
            Some(NamedField { option, field }) if known.is_empty() => Err(UsageError::new(format!(
                "{option} {field}: the input holds whole requests, which have no fields"
            ))),
            Some(NamedField { option, field }) => Err(UsageError::new(format!(
                "{option} {field}: the input has no field `{field}`; it has {}",
                known.join(", ")
            ))),
        }
    }

    /// Rejects inputs whose items all have the same fields, as those of a table have, if `check` rejects these fields.
    pub(crate) fn check_columns(
        &self,
        check: impl Fn(&[String]) -> Result<(), String>,
    ) -> Result<(), UsageError> {
        for input in &self.inputs {
            let (path, columns) = match input {
                Input::File(RegularFile {
                    path,
                    format: Format::Table { .. } | Format::Text,
                    columns: Some(columns),
                }) => (path, columns.clone()),
                Input::Folder(path) => (path, folder::FIELDS.map(str::to_owned).to_vec()),
                Input::Stdin | Input::Pipe(_) | Input::File(_) => continue,
            };
            // A file with nothing in it has no items.
            if columns.is_empty() {
                continue;
            }
            check(&columns).map_err(|message| match self.is_spooled(path) {
                true => UsageError::new(message),
                false => UsageError::new(format!("{}: {message}", path.display())),
            })?;
        }
        Ok(())
    }

    /// The fields that options name, to note which of them no item has.
    pub(crate) fn unseen(&self) -> Unseen {
        Unseen::new(self.named.clone())
    }

    /// Returns `true` if a person is about to type the input.
    pub(crate) fn is_typed(&self) -> bool {
        self.inputs.iter().any(|input| matches!(input, Input::Stdin)) && io::stdin().is_terminal()
    }

    /// Returns `true` if reading it twice gives the same.
    pub(crate) fn is_rereadable(&self) -> bool {
        self.inputs
            .iter()
            .all(|input| matches!(input, Input::File(_) | Input::Folder(_)))
    }

    /// Returns `true` if an input is known to hold request bodies, to which no template applies.
    pub(crate) fn has_bodies(&self) -> bool {
        self.format == InputFormat::OpenaiBatch
            || self
                .inputs
                .iter()
                .any(|input| matches!(input, Input::File(file) if file.format == Format::OpenAiBatch))
    }

    /// The endpoint of the first request body, where it can be looked up beforehand.
    pub(crate) fn first_endpoint(&self) -> Option<Endpoint> {
        if !self.is_rereadable() || !self.has_bodies() {
            return None;
        }
        let contents = self.items().filter_map(|item| item.ok()?.content.ok());
        contents.into_iter().find_map(|content| match content {
            Content::Body(endpoint, _) => Some(endpoint),
            Content::Fields(_) => None,
        })
    }

    /// The regular files, for a check that no output replaces one. Standard input may be one, too.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.inputs.iter().filter_map(|input| match input {
            Input::File(file) => Some(file.path.as_path()),
            Input::Stdin if cfg!(unix) => Some(Path::new("/dev/stdin")),
            Input::Stdin | Input::Pipe(_) | Input::Folder(_) => None,
        })
    }

    /// Leaves an output out of the folders that it is in, so that no answer is read as a prompt. The error is an input folder
    /// that is the output itself.
    pub(crate) fn leave_out(&mut self, output: &Path) -> Result<(), PathBuf> {
        let output = real_path(output);
        let is_output = |folder: &Path| folder.canonicalize().is_ok_and(|folder| folder == output);
        for input in &self.inputs {
            if let Input::Folder(folder) = input
                && is_output(folder)
            {
                return Err(folder.clone());
            }
        }
        self.left_out.push(output);
        Ok(())
    }

    /// Bytes of all regular files, if there is nothing else.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let sizes = self.inputs.iter().map(|input| match input {
            Input::File(file) => std::fs::metadata(&file.path).ok().map(|metadata| metadata.len()),
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
                Input::File(_) | Input::Folder(_) => continue,
            };
            *input = self.copy(reader)?;
        }
        self.inputs = inputs;
        self.check_named()
    }

    fn copy(&mut self, mut reader: Box<dyn Read + Send>) -> Result<Input, UsageError> {
        let failed =
            |error: io::Error| UsageError::new(format!("the input cannot be copied for --strict: {error}"));
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        io::copy(&mut reader, &mut file).map_err(failed)?;
        let copy = file.reopen().map_err(failed)?;
        let path = file.path().to_owned();
        let (format, columns) = look_inside(copy, None, self.format)
            .map_err(failed)?
            .map_err(|message| UsageError::new(format!("the input {message}")))?;
        self.spooled = Some(Arc::new(file));
        Ok(Input::File(RegularFile {
            path,
            format,
            columns,
        }))
    }

    /// Reads the items that are asked for, in the order asked for. An error is a message for the user, and the last thing
    /// that comes.
    pub(crate) fn items(&self) -> Items {
        self.order.apply(self.all_items())
    }

    /// Reads the items within the limit.
    pub(crate) fn all_items(&self) -> Items {
        let all = self.clone();
        let inputs = all.inputs.clone();
        let several = inputs.len() > 1;
        let rows = inputs.into_iter().flat_map({
            let all = all.clone();
            move |input| {
                let name = all.name(&input).filter(|_| several);
                let path = name.clone().unwrap_or_else(|| "the input".into());
                let rows: Rows = match all.rows(input) {
                    Ok(rows) => rows,
                    Err(error) => Box::new(std::iter::once(Err(error))),
                };
                rows.map(move |row| match row {
                    Ok(row) => Ok((name.clone(), row)),
                    Err(error) => Err(format!("{path} could not be read to its end: {error}")),
                })
            }
        });
        let limit = all
            .limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let (mut failed, mut ids) = (false, Ids::default());
        let items = rows
            .take_while(move |row| !std::mem::replace(&mut failed, row.is_err()))
            .take(limit)
            .zip(0..)
            .map(move |(row, index)| row.map(|(name, row)| all.item(&mut ids, name, index, row)));
        Box::new(items)
    }

    fn name(&self, input: &Input) -> Option<Arc<str>> {
        match input {
            Input::File(RegularFile { path, .. }) | Input::Pipe(path) if !self.is_spooled(path) => {
                Some(path.to_string_lossy().into())
            }
            Input::Folder(path) => Some(path.to_string_lossy().into()),
            Input::Stdin | Input::File(_) | Input::Pipe(_) => Some("standard input".into()),
        }
    }

    fn is_spooled(&self, path: &Path) -> bool {
        self.spooled.as_ref().is_some_and(|file| file.path() == path)
    }

    fn rows(&self, input: Input) -> io::Result<Rows> {
        let (format, opened) = match input {
            Input::Folder(path) => {
                let folders = self
                    .inputs
                    .iter()
                    .filter(|input| matches!(input, Input::Folder(_)));
                let prefix = if folders.count() > 1 {
                    format!("{}/", path.to_string_lossy().trim_end_matches('/'))
                } else {
                    String::new()
                };
                return Ok(Box::new(folder::rows(
                    path,
                    prefix,
                    Arc::clone(&self.selection),
                    self.left_out.clone(),
                )));
            }
            Input::Stdin => detected(detect(Box::new(io::stdin()), None, self.format)?)?,
            Input::Pipe(path) => detected(detect(Box::new(File::open(&path)?), Some(&path), self.format)?)?,
            Input::File(RegularFile { path, format, .. }) => {
                let name = (!self.is_spooled(&path)).then_some(&*path);
                let (_, opened) = detected(detect(Box::new(File::open(&path)?), name, self.format)?)?;
                (format, opened)
            }
        };
        let id_field = self.id_field.clone();
        Ok(match format {
            Format::Jsonl => Box::new(jsonl::rows(opened, id_field)),
            Format::Json => Box::new(jsonl::value_rows(opened, id_field)),
            Format::OpenAiBatch => Box::new(jsonl::batch_rows(opened)),
            Format::Text => Box::new(text::rows(opened)),
            Format::Table { delimiter } => {
                Box::new(Table::new(opened, delimiter)?.map_err(io::Error::other)?)
            }
        })
    }

    fn item(&self, ids: &mut Ids, name: Option<Arc<str>>, index: u64, row: Row) -> Item {
        let Row {
            line,
            identity,
            content,
        } = row;
        let (id, content) = match (identity, content) {
            (Identity::Named(id), content) => (id, content),
            (Identity::Malformed(digest), content) => (ids.of_malformed(digest), content),
            (Identity::Fields, Ok(Content::Fields(fields))) => match id_of(fields.get(&self.id_field)) {
                Ok(Some(id)) => (id, Ok(Content::Fields(fields))),
                Ok(None) => (ids.of_fields(&fields), Ok(Content::Fields(fields))),
                Err(message) => (
                    ids.of_malformed(Digest::of_fields(&fields)),
                    Err(format!("field `{}` {message}", self.id_field)),
                ),
            },
            (Identity::Fields, content) => (ids.of_malformed(Digest::of_malformed(b"")), content),
        };
        let id: Arc<str> = id.into();
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
    let (format, columns) = look_inside(open(path)?, Some(path), format)
        .map_err(failed)?
        .map_err(|message| UsageError::new(format!("{name} {message}")))?;
    Ok(Input::File(RegularFile {
        path: path.to_owned(),
        format,
        columns,
    }))
}

type Looked = (Format, Option<Vec<String>>);

/// The format of a file, and the fields of every item, where the format says so.
fn look_inside(file: File, path: Option<&Path>, asked: InputFormat) -> io::Result<Result<Looked, String>> {
    let (format, opened) = match detect(Box::new(file), path, asked)? {
        Ok(detected) => detected,
        Err(message) => return Ok(Err(message)),
    };
    let columns = match format {
        Format::Table { delimiter } => match Table::new(opened, delimiter)? {
            Ok(table) => Some(table.columns),
            Err(message) => return Ok(Err(message)),
        },
        Format::Text => Some(text::FIELDS.map(str::to_owned).to_vec()),
        Format::OpenAiBatch => Some(Vec::new()),
        Format::Jsonl | Format::Json => None,
    };
    Ok(Ok((format, columns)))
}

/// The path without links, also of what is not there yet.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    let mut whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // A link may lead to a file that the run will make.
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&whole) {
            Ok(target) => whole = whole.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => break,
        }
    }
    for folder in whole.ancestors() {
        if let (Ok(real), Ok(rest)) = (folder.canonicalize(), whole.strip_prefix(folder)) {
            // Joined with nothing it would end in a separator.
            return if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            };
        }
    }
    whole
}

/// The fault of a value, and where in it: its own line is reported elsewhere.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    match error.line() {
        0 | 1 => format!("not JSON: {what} (column {})", error.column()),
        line => format!("not JSON: {what} (its line {line}, column {})", error.column()),
    }
}
