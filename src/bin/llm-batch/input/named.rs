//! Fields of the input that options name: one that no item has is a mistake.

use super::item::{Content, Item};

/// A field of the input that an option names.
#[derive(Clone, Debug)]
pub(crate) struct NamedField {
    pub(crate) option: &'static str,
    pub(crate) field: String,
}

/// Fields that options name and no item had so far.
#[derive(Debug)]
pub(crate) struct Unseen {
    left: Vec<NamedField>,
    any: bool,
}

impl Unseen {
    pub(super) const fn new(named: Vec<NamedField>) -> Self {
        Self {
            left: named,
            any: false,
        }
    }

    /// Takes note of an item's fields.
    pub(crate) fn note(&mut self, item: &Item) {
        if let Ok(content) = &item.content {
            self.any = true;
            if let Content::Fields(fields) = content {
                self.left.retain(|named| !fields.contains_key(&named.field));
            }
        }
    }

    /// A warning for each field that no item had, if there was any item to have it.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let left = self.left.iter().filter(|_| self.any);
        left.map(|NamedField { option, field }| {
            format!("warning: {option} {field}: no item has a field `{field}`")
        })
        .collect()
    }
}
