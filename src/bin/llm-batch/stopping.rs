//! The failures after which a run is not worth going on with.

use std::fmt;
use std::time::SystemTime;

use llm_batch::{Delivery, Disposition, ErrorKind, LlmError};

use crate::args::{LimitArgs, MaxFailures};

/// If this many items fail alike, from the first on, the others will, too.
const ALIKE: u64 = 20;

/// A share of failed items is judged from this many finished items on.
const SHARE_FROM: u64 = 100;

/// The reason to stop a run.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// The failure concerns every item.
    EveryItem(String),
    /// A quota is used up.
    Quota {
        message: String,
        resets_at: Option<SystemTime>,
    },
    /// The first items failed alike.
    Alike(String),
    /// More items failed than `--max-failures` allows.
    TooMany { failed: u64, finished: u64 },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EveryItem(message) => write!(f, "stopped early, as this concerns every item: {message}"),
            Self::Quota { message, resets_at } => {
                f.write_str("stopped early, as a quota is used up")?;
                if let Some(time) = resets_at {
                    write!(
                        f,
                        ", which resets at {}",
                        humantime::format_rfc3339_seconds(*time)
                    )?;
                }
                write!(f, ": {message}")
            }
            Self::Alike(message) => {
                write!(
                    f,
                    "stopped early, as the first {ALIKE} items failed alike: {message}"
                )
            }
            Self::TooMany { failed, finished } => write!(
                f,
                "stopped early: {failed} of {finished} items failed, more than --max-failures allows"
            ),
        }
    }
}

impl Stop {
    /// The option that goes on.
    pub(crate) const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::EveryItem(_) | Self::Alike(_) => "  --keep-going tries the other items all the same",
            Self::Quota { resets_at: None, .. } => return None,
            Self::Quota { .. } => "  --wait-for-reset waits for the reset in place of stopping",
            Self::TooMany { .. } => "  raise --max-failures, or leave it out, to go on",
        })
    }
}

/// Watches the results of a run.
#[derive(Debug)]
pub(crate) struct StopRules {
    keep_going: bool,
    max_failures: Option<MaxFailures>,
    finished: u64,
    failed: u64,
    /// The failure of all items so far, without numbers, and of how many. None once one was answered, or failed otherwise.
    same: Option<(String, u64)>,
    stop: Option<Stop>,
}

impl StopRules {
    pub(crate) fn new(limits: &LimitArgs) -> Self {
        Self {
            keep_going: limits.keep_going,
            max_failures: limits.max_failures,
            finished: 0,
            failed: 0,
            same: (!limits.keep_going).then(|| (String::new(), 0)),
            stop: None,
        }
    }

    /// Records a result. `malformed` items were never sent.
    pub(crate) fn note(&mut self, result: Result<(), &LlmError>, malformed: bool) {
        let error = match result {
            // An item that was not tried is not evidence.
            Err(error) if error.kind() == ErrorKind::Aborted => return,
            Err(error) => Some(error),
            Ok(()) => None,
        };
        self.finished += 1;
        self.failed += u64::from(error.is_some());
        match error {
            None => self.same = None,
            Some(error) if !malformed => {
                if error.kind() == ErrorKind::QuotaExhausted && !self.keep_going {
                    let resets_at = error
                        .retry_after()
                        .and_then(|wait| SystemTime::now().checked_add(wait));
                    let message = error.to_string();
                    self.stop.get_or_insert(Stop::Quota { message, resets_at });
                }
                if concerns_every_item(error) && !self.keep_going {
                    self.stop.get_or_insert(Stop::EveryItem(error.to_string()));
                }
                self.compare(error);
            }
            Some(_) => {}
        }
        let too_many = match self.max_failures {
            Some(MaxFailures::Items(most)) => self.failed > most,
            Some(MaxFailures::Percent(percent)) => {
                self.finished >= SHARE_FROM && self.failed as f64 * 100.0 > percent * self.finished as f64
            }
            None => false,
        };
        if too_many {
            let (failed, finished) = (self.failed, self.finished);
            self.stop.get_or_insert(Stop::TooMany { failed, finished });
        }
    }

    /// Compares a failure with those of all items before.
    fn compare(&mut self, error: &LlmError) {
        let Some((same, count)) = &mut self.same else {
            return;
        };
        // Numbers are those of ports, requests and waits.
        let text = error.to_string().replace(|c: char| c.is_ascii_digit(), "");
        if *count == 0 {
            *same = text;
        } else if *same != text {
            self.same = None;
            return;
        }
        *count += 1;
        if *count == ALIKE {
            self.stop.get_or_insert(Stop::Alike(error.to_string()));
        }
    }

    /// The reason to stop, once there is one.
    pub(crate) const fn stop(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }
}

/// A failure that every later item will share: of the account or the model, or a server that cannot be reached.
fn concerns_every_item(error: &LlmError) -> bool {
    let is_unreachable = error.kind() == ErrorKind::Connection && error.delivery() == Delivery::NotSent;
    match error.disposition() {
        Disposition::ScopeFatal => true,
        Disposition::Fatal => is_unreachable,
        _ => false,
    }
}
