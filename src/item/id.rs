//! An item's identifier.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An item's identifier: a text given by the user, or its index in the batch.
///
/// An id need not be unique; the index is. Two ids are equal if their texts are equal.
///
/// ```
/// use llm_batch::ItemId;
/// assert_eq!(ItemId::from(7_u64), ItemId::from("7"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ItemId {
    /// The item's index, from 0, if no id was given.
    Index(u64),
    /// The id that was given.
    Text(Arc<str>),
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl PartialEq for ItemId {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Index(a), Self::Index(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Index(index), Self::Text(text)) | (Self::Text(text), Self::Index(index)) => {
                *index.to_string() == **text
            }
        }
    }
}

impl Eq for ItemId {}

impl PartialEq<str> for ItemId {
    fn eq(&self, other: &str) -> bool {
        match self {
            Self::Index(index) => index.to_string() == other,
            Self::Text(text) => **text == *other,
        }
    }
}

impl PartialEq<&str> for ItemId {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl std::hash::Hash for ItemId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Self::Index(index) => index.to_string().as_str().hash(state),
            Self::Text(text) => text.hash(state),
        }
    }
}

impl From<&str> for ItemId {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for ItemId {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for ItemId {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for ItemId {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

impl From<u32> for ItemId {
    fn from(index: u32) -> Self {
        Self::Index(index.into())
    }
}

impl From<usize> for ItemId {
    fn from(index: usize) -> Self {
        Self::Index(index as u64)
    }
}

impl From<i32> for ItemId {
    fn from(number: i32) -> Self {
        Self::from(i64::from(number))
    }
}

impl From<i64> for ItemId {
    fn from(number: i64) -> Self {
        u64::try_from(number).map_or_else(|_| Self::Text(number.to_string().into()), Self::Index)
    }
}

impl Serialize for ItemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
