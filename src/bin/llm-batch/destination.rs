//! The destination of the answers: checked before anything is called, opened when the run begins.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::args::{InputArgs, OutputArgs};
use crate::backup;
use crate::console::Console;
use crate::events::end_line;
use crate::exit::UsageError;
use crate::lock;
use crate::output::{Format, INDEX, Output, OutputFormat, Sink, remove_torn};
use crate::resume::{self, Done, Survey};

/// A checked place for the output. Nothing is changed before [`open`](Self::open).
#[derive(Debug)]
pub(crate) struct Destination {
    target: Target,
    /// A folder that has to be there first.
    folder: Option<PathBuf>,
    format: Box<dyn Format>,
    is_resumable: bool,
    /// `true` if the rows are for people.
    is_shown: bool,
}

#[derive(Debug)]
enum Target {
    Stdout,
    /// A device or a pipe.
    Device(PathBuf),
    /// A file to begin anew. If it is there it is locked.
    New(PathBuf, Option<File>),
    /// A locked file to begin anew, whose answers are kept under another name.
    Overwrite(PathBuf, File),
    /// A locked file to go on with behind what is kept of it: so many bytes.
    Append(PathBuf, File, u64),
    /// A locked file to replace by the rows that are kept of it.
    Replace(PathBuf, File, Box<Copied>),
}

/// The rows of an output that are kept.
#[derive(Debug)]
struct Copied {
    kept: NamedTempFile,
    /// The lines that are not rows and the answers that do not stay.
    aside: NamedTempFile,
    /// The number of lines that are not rows.
    bad: u64,
    /// The number of answers that are requested again.
    answers: u64,
}

/// An output that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) output: Output,
    /// The file with the answers that `--overwrite` replaces.
    pub(crate) replaced: Option<PathBuf>,
}

/// The answers of an earlier run.
#[derive(Clone, Debug)]
pub(crate) enum Earlier {
    Nothing,
    Rows(Done),
}

impl Earlier {
    /// Returns `true` if the item at this position needs no run.
    pub(crate) fn take(&mut self, id: &str, index: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Rows(done) => done.take(id, index),
        }
    }
}

impl Destination {
    /// Checks the place, and reads what is there if the run is to be resumed.
    pub(crate) fn new(args: &OutputArgs, input: &InputArgs) -> Result<(Self, Earlier), UsageError> {
        let folder = args.output_dir.clone();
        let root = folder.as_deref().unwrap_or(Path::new(""));
        let mut format = args.format().with(&args.settings(input), root);
        // Another one, as a format remembers what it has read.
        let old_format = args.format().with(&args.settings(input), root);
        let (target, earlier) = match (&folder, &args.output) {
            (Some(folder), _) => directory(folder, args, &mut *format)?,
            (None, Some(path)) if path != Path::new("-") => file(path, args, &mut *format)?,
            (None, _) if args.resume || args.overwrite => {
                return Err(UsageError::new(
                    "--resume and --overwrite are about a file: name it with -o FILE",
                ));
            }
            (None, _) => (Target::Stdout, Earlier::Nothing),
        };
        let target = match target {
            Target::New(path, Some(file)) if args.overwrite && has_answers(&path, &file, old_format)? => {
                Target::Overwrite(path, file)
            }
            target => target,
        };
        let destination = Self {
            target,
            folder,
            format,
            is_resumable: args.format().facts().is_resumable,
            is_shown: args.format() == OutputFormat::Terminal,
        };
        Ok((destination, earlier))
    }

    /// The file it writes to, for a check against the inputs.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.target {
            Target::Device(path)
            | Target::New(path, _)
            | Target::Overwrite(path, _)
            | Target::Append(path, ..)
            | Target::Replace(path, ..) => Some(path),
            Target::Stdout => None,
        }
    }

    /// Returns `true` if `--resume` can go on with it later.
    pub(crate) fn is_resumable(&self) -> bool {
        match &self.target {
            Target::Stdout | Target::Device(_) => false,
            Target::New(..) | Target::Overwrite(..) | Target::Append(..) | Target::Replace(..) => {
                self.is_resumable
            }
        }
    }

    /// Opens it for writing. Only now is an old file changed; with `keeps_old`, one that would be replaced is not.
    /// `console` takes the warnings.
    pub(crate) fn open(self, keeps_old: bool, console: Option<&Console>) -> Result<Opened, UsageError> {
        let mut replaced = None;
        if let Some(folder) = &self.folder {
            std::fs::create_dir_all(folder).map_err(|error| named(folder, &error))?;
            // The lock of the index is taken.
            if !matches!(self.target, Target::New(_, None)) {
                remove_torn(folder).map_err(|error| named(folder, &error))?;
            }
        }
        let sink = match self.target {
            Target::Stdout if self.is_shown => Sink::terminal(),
            Target::Stdout => Sink::stdout(),
            Target::Device(path) => {
                let file = File::options().append(true).open(&path);
                Sink::file(file.map_err(|error| named(&path, &error))?, true)
            }
            Target::New(path, file) => new(&path, file, keeps_old)?,
            Target::Overwrite(_, file) if keeps_old => Sink::file(file, true),
            Target::Overwrite(path, old) => {
                let empty = temporary(folder_of(&path))?;
                replaced =
                    backup::keep(&path, backup::old_names(&path)).map_err(|error| named(&path, &error))?;
                replace(&path, &old, empty)?
            }
            Target::Append(path, mut file, length) => cut(&mut file, length)
                .and_then(|()| append(file))
                .map_err(|error| named(&path, &error))?,
            Target::Replace(path, old, copied) => {
                set_aside(&path, &copied, console)?;
                replace(&path, &old, copied.kept)?
            }
        };
        let format = self.format;
        Ok(Opened {
            output: Output { sink, format },
            replaced,
        })
    }
}

/// Returns `true` if a file has something that is worth keeping: an answer, or what is not known.
fn has_answers(path: &Path, file: &File, mut format: Box<dyn Format>) -> Result<bool, UsageError> {
    if file.metadata().map_err(|error| named(path, &error))?.len() == 0 {
        return Ok(false);
    }
    let survey = resume::survey(path, &mut *format);
    Ok(survey.map_or(true, |survey| survey.has_answers()))
}

fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn temporary(folder: &Path) -> Result<NamedTempFile, UsageError> {
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix(".llm-batch-").append(true).tempfile_in(folder);
    file.map_err(|error| named(folder, &error))
}

fn named(path: &Path, error: &io::Error) -> UsageError {
    UsageError::new(format!("{}: {error}", path.display()))
}

fn directory(
    folder: &Path,
    args: &OutputArgs,
    format: &mut dyn Format,
) -> Result<(Target, Earlier), UsageError> {
    let index = folder.join(INDEX);
    let is_empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(named(folder, &error)),
    };
    if is_empty || (args.overwrite && !index.is_file()) {
        return Ok((Target::New(index, None), Earlier::Nothing));
    }
    if !args.resume && !args.overwrite {
        return Err(UsageError::new(format!(
            "{} is not empty; continue it with --resume, or name another; --overwrite begins its index anew, and replaces files of the same names",
            folder.display()
        )));
    }
    if !index.is_file() {
        return Err(UsageError::new(format!(
            "{} cannot be resumed: it has no {INDEX}, so which answers are in it is not known; name another folder, or replace them with --overwrite",
            folder.display()
        )));
    }
    file(&index, args, format)
}

fn file(path: &Path, args: &OutputArgs, format: &mut dyn Format) -> Result<(Target, Earlier), UsageError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
                return Err(UsageError::new(format!(
                    "{}: the folder does not exist",
                    parent.display()
                )));
            }
            return Ok((Target::New(path.to_owned(), None), Earlier::Nothing));
        }
        Err(error) => return Err(named(path, &error)),
    };
    if metadata.is_dir() {
        return Err(UsageError::new(format!(
            "{} is a folder; use --output-dir for a file per answer",
            path.display()
        )));
    }
    if !metadata.is_file() {
        if args.resume {
            return Err(UsageError::new(format!(
                "{} is not a file, so it cannot be resumed",
                path.display()
            )));
        }
        // A device or a pipe: nothing to protect, nothing to cut.
        return Ok((Target::Device(path.to_owned()), Earlier::Nothing));
    }
    if metadata.len() > 0 && !args.overwrite && !args.resume {
        return Err(not_empty(path));
    }
    // The file itself is replaced, not a link to it.
    let path = path.canonicalize().map_err(|error| named(path, &error))?;
    let file = lock::open(&path)?;
    if args.overwrite || file.metadata().map_err(|error| named(&path, &error))?.len() == 0 {
        return Ok((Target::New(path, Some(file)), Earlier::Nothing));
    }
    let survey = resume::survey(&path, format)?;
    let target = if survey.is_mixed || survey.bad > 0 || survey.answers > 0 {
        let copied = copy(&path, format, &survey)?;
        Target::Replace(path, file, Box::new(copied))
    } else {
        Target::Append(path, file, survey.keep_to)
    };
    Ok((target, Earlier::Rows(survey.done)))
}

/// Copies what stays of an output, beside it.
fn copy(path: &Path, format: &mut dyn Format, survey: &Survey) -> Result<Copied, UsageError> {
    let folder = folder_of(path);
    let (mut kept, mut aside) = (temporary(folder)?, temporary(folder)?);
    let (mut rows, mut others) = (io::BufWriter::new(&mut kept), io::BufWriter::new(&mut aside));
    resume::copy(path, format, &mut rows, &mut others)?;
    rows.flush()
        .and_then(|()| others.flush())
        .map_err(|error| named(path, &error))?;
    drop((rows, others));
    Ok(Copied {
        kept,
        aside,
        bad: survey.bad,
        answers: survey.answers,
    })
}

/// The file for the lines of an output that are not rows.
pub(crate) fn bad_lines(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".bad");
    name.into()
}

/// The files that a run may write beside an output: [`bad_lines`], and the old answers that `--overwrite` replaces.
pub(crate) fn files_beside(output: &Path) -> Vec<PathBuf> {
    let mut files = backup::old_files(output);
    files.extend(backup::old_names(output).find(|name| !name.exists()));
    files.push(bad_lines(output));
    files
}

/// Appends the lines that are not rows and the answers that are requested again to a file of their own, so that nothing is lost.
fn set_aside(path: &Path, copied: &Copied, console: Option<&Console>) -> Result<(), UsageError> {
    if copied.bad + copied.answers == 0 {
        return Ok(());
    }
    let bad = bad_lines(path);
    let mut copy = copied.aside.reopen().map_err(|error| named(&bad, &error))?;
    let mut file = lock::open(&bad)?;
    end_line(&mut file).map_err(|error| named(&bad, &error))?;
    io::copy(&mut copy, &mut file)
        .and_then(|_| file.sync_all())
        .map_err(|error| named(&bad, &error))?;
    let lines = match copied.bad {
        1 => "1 line that is not a row".to_owned(),
        count => format!("{count} lines that are not rows"),
    };
    let answers = match copied.answers {
        1 => "1 answer that is requested again".to_owned(),
        count => format!("{count} answers that are requested again"),
    };
    let moved = match (copied.bad, copied.answers) {
        (_, 0) => lines,
        (0, _) => answers,
        _ => format!("{lines} and {answers}"),
    };
    if let Some(console) = console {
        console.line(format_args!(
            "warning: moved from {} to {}: {moved}",
            path.display(),
            bad.display()
        ));
    }
    Ok(())
}

/// Cuts off what a later run replaces, and ends the last row's line.
fn cut(file: &mut File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    if length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn not_empty(path: &Path) -> UsageError {
    UsageError::new(format!(
        "{} is not empty; continue it with --resume, or name another; --overwrite begins it anew",
        path.display()
    ))
}

/// Begins a file anew. One that has come since the check is left alone.
fn new(path: &Path, locked: Option<File>, keeps_old: bool) -> Result<Sink, UsageError> {
    let file = match locked {
        Some(file) if keeps_old => file,
        Some(file) => {
            file.set_len(0).map_err(|error| named(path, &error))?;
            file
        }
        None => {
            let file = lock::open(path)?;
            if file.metadata().map_err(|error| named(path, &error))?.len() > 0 {
                return Err(not_empty(path));
            }
            file
        }
    };
    Ok(Sink::file(file, true))
}

fn append(file: File) -> io::Result<Sink> {
    let new = file.metadata()?.len() == 0;
    Ok(Sink::file(file, new))
}

/// Puts the kept rows in the file's place, at once: at any moment it is the old one or the new one. `old` holds the lock until
/// then.
fn replace(path: &Path, old: &File, kept: NamedTempFile) -> Result<Sink, UsageError> {
    let failed = |error: io::Error| named(path, &error);
    lock::take(kept.as_file(), path)?;
    let permissions = old.metadata().map_err(failed)?.permissions();
    kept.as_file().set_permissions(permissions).map_err(failed)?;
    kept.as_file().sync_all().map_err(failed)?;
    let file = kept.persist(path).map_err(|error| failed(error.error))?;
    append(file).map_err(failed)
}
