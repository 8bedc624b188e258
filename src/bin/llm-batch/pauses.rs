//! Long pauses of the gate, which would otherwise look as if nothing happened.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use llm_batch::{ErrorKind, EventKind, Events};

use crate::console::Console;

/// Shorter pauses are at the gate's ordinary work: the bar shows them, and the summary counts them.
const LONG: Duration = Duration::from_secs(10);

/// Reports each pause that is long, and each that becomes so much longer.
pub(crate) fn report(events: &Events, console: &Console, is_resumable: bool, waits_for_reset: bool) {
    let (console, reported) = (console.clone(), Mutex::new(SystemTime::UNIX_EPOCH));
    events.on_event(move |event| {
        let (pause, reason) = match event.kind {
            EventKind::CooldownStarted { pause, kind, .. } => (pause, reason(kind)),
            EventKind::QuotaExhausted { resets_in, .. } if waits_for_reset => {
                (resets_in, "a quota of --quota is used up, and then resets".to_owned())
            }
            _ => return,
        };
        let now = SystemTime::now();
        let Some(end) = now.checked_add(pause).filter(|_| pause > LONG) else {
            return;
        };
        {
            let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
            if end.duration_since(*reported).is_ok_and(|longer| longer <= LONG) || end < *reported {
                return;
            }
            *reported = end;
        }
        let resume = if is_resumable {
            " and --resume goes on later"
        } else {
            ""
        };
        console.line(format_args!(
            "no call begins for {}, until {}: {}. Nothing is lost; Ctrl-C ends the run{resume}, --batch-timeout bounds the wait",
            humantime::format_duration(Duration::from_secs(pause.as_secs())),
            humantime::format_rfc3339_seconds(end),
            reason,
        ));
    });
}

fn reason(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::RateLimit => "the provider throttles and asks for this pause".to_owned(),
        ErrorKind::Overloaded => "the provider is overloaded".to_owned(),
        ErrorKind::QuotaExhausted => "the provider's quota is used up, and then resets".to_owned(),
        ErrorKind::Connection => "the server cannot be reached".to_owned(),
        other => format!("after a failure of the kind {}", other.as_str()),
    }
}
