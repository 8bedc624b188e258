//! The limits that earlier runs have found, kept in the user's cache folder.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use llm_batch::layer::rate_limiter::{LearnedLimit, LimitKind};
use serde::Deserialize as _;
use serde_json::Value;

use crate::args::RunArgs;
use crate::console::Console;
use crate::model::Model;

/// The file, inside the cache folder.
const FILE: &str = "limits.json";

/// An older limit is not used.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The limits by provider, host, model and the variable of the key, if one was named.
/// An entry that this version does not understand stays as it is.
type Limits = BTreeMap<String, Value>;

/// The file of limits, and the place of this run's in it.
#[derive(Debug)]
pub(crate) struct LearnedLimits {
    path: PathBuf,
    key: String,
    /// The user knows that the file cannot be used.
    is_reported: bool,
}

impl LearnedLimits {
    /// `None` if none are to be kept: by option, for the simulated provider inside this program, and without a cache folder.
    pub(crate) fn of(args: &RunArgs, name: &str, key_variable: Option<&str>, model: &Model) -> Option<Self> {
        if args.limits.no_learned_limits {
            return None;
        }
        let (provider, name) = name.split_once(':')?;
        // Each account has a limit of its own. Its variable names it, never the key.
        let account = key_variable.map_or(String::new(), |variable| format!(" {variable}"));
        Some(Self {
            key: format!("{provider} {} {name}{account}", model.host()?),
            path: cache_folder()?.join("llm-batch").join(FILE),
            is_reported: false,
        })
    }

    /// The limit of an earlier run, unless an option states one of its kind.
    pub(crate) fn read(&mut self, args: &RunArgs, console: &Console) -> Option<LearnedLimit> {
        let limits = match read(&self.path) {
            Ok(limits) => limits,
            Err(error) => {
                self.is_reported = true;
                if !args.reporting.quiet {
                    let path = self.path.display();
                    console.line(format_args!(
                        "warning: the limits that earlier runs have found are not used, as {path} cannot be read: {error}"
                    ));
                }
                return None;
            }
        };
        let stated = &args.limits;
        let limit = limits.get(&self.key).and_then(limit_of);
        limit.filter(|limit| match limit.kind {
            LimitKind::Rate => stated.rpm.is_none() && stated.tpm.is_none(),
            LimitKind::InFlight => stated.max_in_flight.is_none(),
            _ => true,
        })
    }

    /// Keeps the limit of this run.
    pub(crate) fn write(&self, limit: LearnedLimit, args: &RunArgs, console: &Console) {
        if let Err(error) = self.replace(limit)
            && !self.is_reported
            && !args.reporting.quiet
        {
            console.line(format_args!(
                "warning: {} cannot be written, so the next run finds the provider's limit anew: {error}",
                self.path.display()
            ));
        }
    }

    /// Adds the limit to the file as it is now. Other runs may do the same at this time.
    fn replace(&self, limit: LearnedLimit) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let lock = File::create(self.path.with_extension("lock"))?;
        match lock.lock() {
            // Without locks one of two runs that end at the same time may lose its limit.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let mut limits = match read(&self.path) {
            Ok(limits) => limits,
            // A file without JSON was reported, and is replaced.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Limits::new(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Limits::new(),
            Err(error) => return Err(error),
        };
        let now = SystemTime::now();
        limits.retain(|_, entry| {
            limit_of(entry).is_none_or(|limit| now.duration_since(limit.at).is_ok_and(|age| age <= KEPT))
        });
        limits.insert(self.key.clone(), serde_json::to_value(limit)?);
        let mut file = tempfile::Builder::new().prefix(".limits-").tempfile_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &limits)?;
        file.write_all(b"\n")?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn limit_of(entry: &Value) -> Option<LearnedLimit> {
    LearnedLimit::deserialize(entry).ok()
}

/// Reads the limits from the file; a missing file is an empty one.
fn read(path: &Path) -> io::Result<Limits> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Limits::new()),
        Err(error) => Err(error),
    }
}

/// The user's folder for what can be made anew.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let variable = |name| env::var_os(name).map(PathBuf::from).and_then(absolute);
    let home = || env::home_dir().and_then(absolute);
    variable("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            variable("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            Some(home()?.join("Library/Caches"))
        } else {
            Some(home()?.join(".cache"))
        }
    })
}

/// The line on a run that starts with a limit.
pub(crate) fn starting(limit: &LearnedLimit) -> String {
    let start = match (limit.kind, limit.starts_per_second, limit.max_in_flight) {
        (LimitKind::Rate, Some(rate), _) => {
            let (number, unit) = match rate * 60.0 {
                requests if requests >= 1.0 => (requests, "minute"),
                requests => (requests * 60.0, "hour"),
            };
            format!("starting at {number:.0} requests a {unit}")
        }
        (LimitKind::InFlight, _, Some(calls)) => format!("starting with {calls} calls at a time at most"),
        _ => "starting in the knowledge that rejections come at any rate".to_owned(),
    };
    let age = SystemTime::now().duration_since(limit.at).unwrap_or_default();
    let ago = match age.as_secs() {
        0..60 => "less than a minute".to_owned(),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    };
    format!("{start}, learnt {ago} ago; --no-learned-limits to ignore that")
}
