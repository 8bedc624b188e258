//! Futures that may not begin their call and have no error to fail with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Item;
use super::record::Within;

/// Held by a future that may not begin its call, cannot express that as an error, and so stays pending: while it exists, a stop or
/// a missed deadline ends the item as soon as no call beside it is under way.
#[derive(Debug)]
#[must_use = "dropping it marks the future as gone"]
pub(crate) struct Abandoned {
    item: Arc<Item>,
    within: Option<Within>,
}

impl Abandoned {
    /// Registers a future that waits in the call `within`.
    pub(crate) fn new(item: &Arc<Item>, within: Option<Within>) -> Self {
        item.record().seldom().abandoned.push(within);
        item.may_end.store(true, Ordering::Release);
        item.driver.wake();
        Self {
            item: Arc::clone(item),
            within,
        }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let mut record = self.item.record();
        let abandoned = &mut record.seldom().abandoned;
        if let Some(position) = abandoned.iter().position(|within| *within == self.within) {
            abandoned.swap_remove(position);
        }
    }
}
