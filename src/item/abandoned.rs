//! A future that may not begin its call and has no error to fail with.

use std::sync::Arc;

use super::Item;

/// Kept by a future that may not begin its call, has no error to fail with, and so never ends: while it exists, a stop ends the
/// item, once no call of it is under way.
#[derive(Debug)]
#[must_use = "dropping it says that the future is gone"]
pub(crate) struct Abandoned {
    item: Arc<Item>,
}

impl Abandoned {
    pub(crate) fn new(item: &Arc<Item>) -> Self {
        item.record().abandoned += 1;
        item.driver.wake();
        Self {
            item: Arc::clone(item),
        }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.item.record().abandoned -= 1;
    }
}
