//! Ids of items that have none of their own: from what they hold, so that they do not depend on where they stand.

use std::collections::HashMap;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// 64 bits of a SHA-256. Of a million different rows, two share one with a chance of 3 in 100 million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64);

impl Digest {
    /// Of a row's fields, in whichever order and layout they were written.
    pub(super) fn of_fields(fields: &Map<String, Value>) -> Self {
        let mut value = Value::Object(fields.clone());
        value.sort_all_objects();
        Self::of("fields", value.to_string().as_bytes())
    }

    /// Of a row that cannot be read.
    pub(super) fn of_malformed(bytes: &[u8]) -> Self {
        Self::of("malformed", bytes)
    }

    fn of(what: &str, bytes: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(what)
            .chain_update([0])
            .chain_update(bytes)
            .finalize();
        Self(first_64_bits(&hash))
    }
}

/// A number between 0 and the highest one, for an id and a seed: the same on every machine.
pub(super) fn draw(seed: u64, id: &str) -> u64 {
    let hash = Sha256::new()
        .chain_update(seed.to_be_bytes())
        .chain_update(id)
        .finalize();
    first_64_bits(&hash)
}

fn first_64_bits(hash: &[u8]) -> u64 {
    hash.iter()
        .take(8)
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// The identity of an entry, as far as its format knows it.
#[derive(Debug)]
pub(super) enum Identity {
    /// The format names it.
    Named(String),
    /// By its id field, or by what it holds.
    Fields,
    /// It cannot be read; these are its bytes.
    Malformed(Digest),
}

/// Makes ids from digests. Equal rows are numbered as they come: `-2`, `-3` and so on.
#[derive(Debug, Default)]
pub(super) struct Ids(HashMap<Digest, u64>);

impl Ids {
    pub(super) fn of_fields(&mut self, fields: &Map<String, Value>) -> String {
        self.numbered("", Digest::of_fields(fields))
    }

    pub(super) fn of_malformed(&mut self, digest: Digest) -> String {
        self.numbered("malformed-", digest)
    }

    fn numbered(&mut self, prefix: &str, digest: Digest) -> String {
        let count = self.0.entry(digest).or_default();
        *count += 1;
        let Digest(number) = digest;
        match count {
            1 => format!("{prefix}{number:016x}"),
            count => format!("{prefix}{number:016x}-{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn order_and_layout_do_not_matter_and_content_does() {
        let mut ids = Ids::default();
        let first = ids.of_fields(&fields(r#"{"a": {"x": 1, "y": 2}, "b": "1"}"#));
        assert_eq!(first.len(), 16);
        let again = ids.of_fields(&fields(r#"{"b":"1","a":{"y":2,"x":1}}"#));
        assert_eq!(again, format!("{first}-2"));
        let other = ids.of_fields(&fields(r#"{"a": {"x": 1, "y": 2}, "b": 1}"#));
        assert!(!other.starts_with(&first));
        // Ids are kept in files: they never change.
        assert_eq!(
            Ids::default().of_fields(&fields(r#"{"prompt":"hi"}"#)),
            "12fda689fac8dd3b"
        );
    }
}
