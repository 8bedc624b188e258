//! The states of the gates, derived from their events.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::summary::Seconds;
use crate::error::ErrorKind;
use crate::events::{EventError, EventKind, EventReceiver};
use crate::layer::rate_limiter::DEFAULT_NAME;

/// The gates, by the names in their events.
#[derive(Default)]
pub(super) struct Gates {
    list: Vec<(Option<Arc<str>>, Gate)>,
}

/// The state of one gate, according to its events.
#[derive(Default)]
struct Gate {
    closed_until: Option<(Instant, ErrorKind)>,
    latched: Option<ErrorKind>,
}

impl Gates {
    /// Applies the events received since the last update.
    pub(super) fn update(&mut self, events: Option<&mut EventReceiver>) {
        let Some(events) = events else { return };
        loop {
            let event = match events.try_recv() {
                Ok(Some(event)) => event,
                // Some events were lost; the newest are still there.
                Err(EventError::Lost(_)) => continue,
                Ok(None) | Err(EventError::Closed) => return,
            };
            #[allow(clippy::match_wildcard_for_single_variants)] // the others are many, and say nothing here
            match event.kind {
                EventKind::CooldownStarted { pause, kind, .. } => {
                    self.gate(event.limiter).closed_until =
                        Instant::now().checked_add(pause).map(|until| (until, kind))
                }
                EventKind::CooldownEnded { .. } => self.gate(event.limiter).closed_until = None,
                EventKind::Latched { kind } => self.gate(event.limiter).latched = Some(kind),
                EventKind::Reopened => self.gate(event.limiter).latched = None,
                _ => {}
            }
        }
    }

    fn gate(&mut self, name: Option<Arc<str>>) -> &mut Gate {
        let position = self.list.iter().position(|(known, _)| *known == name);
        let position = position.unwrap_or_else(|| {
            self.list.push((name, Gate::default()));
            self.list.len() - 1
        });
        &mut self.list[position].1
    }

    /// Returns the reasons that hold the calls, with the names of their gates.
    pub(super) fn text(&self) -> String {
        let several = self.list.len() > 1;
        let texts = self.list.iter().filter_map(|(name, gate)| {
            let text = gate.text()?;
            Some(match name {
                // A gate without its own name is not identified by the default one.
                Some(name) if several || &**name != DEFAULT_NAME => format!(", {name}: {text}"),
                _ => format!(", {text}"),
            })
        });
        texts.collect()
    }
}

impl Gate {
    fn text(&self) -> Option<String> {
        if let Some(kind) = self.latched {
            return Some(format!("gate latched ({kind})"));
        }
        let (until, kind) = self.closed_until?;
        let left = until.checked_duration_since(Instant::now())?;
        if left.is_zero() {
            return None;
        }
        let state = match kind {
            ErrorKind::Overloaded => "overloaded, closed",
            ErrorKind::Connection => "not reachable, closed",
            _ => "throttled",
        };
        Some(format!("{state} for {}", Seconds(left)))
    }
}
