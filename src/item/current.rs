//! The hand-over in which this thread is at work, so that a request that is made for the item belongs to it.

use std::cell::Cell;
use std::marker::PhantomData;

use super::Item;

thread_local! {
    /// The address of an item, and the number of its hand-over: 0 for the driver's.
    static CURRENT: Cell<Option<(usize, u32)>> = const { Cell::new(None) };
}

#[inline]
fn address(item: &Item) -> usize {
    std::ptr::from_ref(item).addr()
}

/// While it exists, this thread is at work on the hand-over.
#[must_use = "dropping it ends the work"]
pub(crate) struct AtWork {
    before: Option<(usize, u32)>,
    /// Not `Send`: it must not be held over an await.
    thread: PhantomData<*const ()>,
}

/// This thread begins to work on a hand-over of the item.
#[inline]
pub(crate) fn enter(item: &Item, hand_over: u32) -> AtWork {
    AtWork {
        before: CURRENT.replace(Some((address(item), hand_over))),
        thread: PhantomData,
    }
}

impl Drop for AtWork {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The innermost hand-over of the item in which this thread is at work; `None` in a task that the item's work has spawned.
pub(super) fn of(item: &Item) -> Option<u32> {
    let (at, hand_over) = CURRENT.get()?;
    (at == address(item)).then_some(hand_over)
}
