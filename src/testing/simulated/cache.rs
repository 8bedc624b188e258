//! The provider's prompt caches: Gemini's context caches, and the prefixes marked for Anthropic.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A context cache that a client created.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) number: u64,
    pub(super) model: String,
    pub(super) display_name: String,
    pub(super) text: String,
    pub(super) tokens: u64,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
    pub(super) expires: SystemTime,
    gone_at: Instant,
}

impl Content {
    pub(super) fn name(&self) -> String {
        format!("cachedContents/sim-{}", self.number)
    }

    fn keep_for(&mut self, life: Duration) {
        self.updated = SystemTime::now();
        self.expires = self.updated.checked_add(life).unwrap_or(self.updated);
        let now = Instant::now();
        self.gone_at = now.checked_add(life).unwrap_or(now);
    }
}

/// The existing context caches.
#[derive(Debug, Default)]
pub(super) struct Contents {
    created: u64,
    live: BTreeMap<u64, Content>,
}

impl Contents {
    pub(super) fn create(
        &mut self,
        model: String,
        display_name: String,
        text: String,
        tokens: u64,
        life: Duration,
    ) -> Content {
        self.created += 1;
        let now = SystemTime::now();
        let mut content = Content {
            number: self.created,
            model,
            display_name,
            text,
            tokens,
            created: now,
            updated: now,
            expires: now,
            gone_at: Instant::now(),
        };
        content.keep_for(life);
        self.live.insert(content.number, content.clone());
        content
    }

    /// The caches that have not expired, in the order of their creation.
    pub(super) fn list(&mut self) -> impl Iterator<Item = &Content> {
        let now = Instant::now();
        self.live.retain(|_, content| content.gone_at > now);
        self.live.values()
    }

    pub(super) fn get(&mut self, name: &str) -> Option<&Content> {
        self.list().find(|content| content.name() == name)
    }

    pub(super) fn keep_for(&mut self, name: &str, life: Duration) -> Option<&Content> {
        let number = self.get(name)?.number;
        let content = self.live.get_mut(&number)?;
        content.keep_for(life);
        Some(content)
    }

    pub(super) fn delete(&mut self, name: &str) -> Option<Content> {
        let number = self.get(name)?.number;
        self.live.remove(&number)
    }
}

/// A mark in a prompt: cache everything up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The hash of everything up to the mark.
    pub(super) prefix: u64,
    /// The tokens up to the mark.
    pub(super) tokens: u64,
    /// Kept for an hour instead of five minutes.
    pub(super) long: bool,
}

impl Mark {
    fn life(self) -> Duration {
        Duration::from_secs(if self.long { 3_600 } else { 300 })
    }
}

/// The tokens that a call read and wrote because of its marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PrefixUse {
    pub(super) read: u64,
    pub(super) written: u64,
    /// The part of `written` that is kept for an hour.
    pub(super) written_long: u64,
}

/// The cached prefixes with their expiry.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    kept: HashMap<u64, Instant>,
}

impl Prefixes {
    /// Reads the longest cached prefix among the marked ones, and writes the marked part beyond it. A read extends the lifetime.
    pub(super) fn apply(&mut self, marks: &[Mark], minimum: u64) -> PrefixUse {
        if marks.is_empty() {
            return PrefixUse::default();
        }
        let now = Instant::now();
        self.kept.retain(|_, until| *until > now);
        let mut usage = PrefixUse::default();
        let marks = marks.iter().filter(|mark| mark.tokens >= minimum);
        for mark in marks.clone() {
            if self.kept.contains_key(&mark.prefix) {
                usage.read = usage.read.max(mark.tokens);
            }
        }
        let mut done = usage.read;
        for mark in marks {
            let beyond = mark.tokens.saturating_sub(done);
            done += beyond;
            usage.written += beyond;
            if mark.long {
                usage.written_long += beyond;
            }
            self.kept.insert(mark.prefix, now + mark.life());
        }
        usage
    }
}
