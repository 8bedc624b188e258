//! The context of a request: its item, and the call that it belongs to.

use std::sync::Arc;

use tokio::time::Instant;

use super::record::Handed;
use super::{CallGuard, Item};
use crate::error::CallRefused;

/// The item of a request and the call that the request belongs to, if one has begun.
///
/// Layers reach it through [`FindItem`](crate::FindItem), strategies through [`LlmRequest`](crate::LlmRequest).
#[derive(Debug)]
pub struct CallContext {
    item: Arc<Item>,
    call: Option<Joined>,
}

/// A call as seen from one depth of the stack.
#[derive(Clone, Copy, Debug)]
struct Joined {
    key: u32,
    number: u32,
    depth: u32,
}

/// The same item and the same call: the first of the clones that is sent is that call, each further one is a call of its own.
impl Clone for CallContext {
    fn clone(&self) -> Self {
        Self {
            item: Arc::clone(&self.item),
            call: self.call,
        }
    }
}

impl CallContext {
    /// The context of a request that is made for `item`, before any call.
    pub const fn new(item: Arc<Item>) -> Self {
        Self { item, call: None }
    }

    /// The item.
    pub const fn item(&self) -> &Arc<Item> {
        &self.item
    }

    /// The number of the call that the request belongs to, from 1.
    pub fn call_number(&self) -> Option<u32> {
        self.call.map(|call| call.number)
    }

    /// Begins the call of this request, or joins the one that an outer layer has begun.
    ///
    /// Keep the guard until the call has ended, and report what was used with [`CallGuard::observe`].
    ///
    /// # Errors
    /// If no call may begin, because the batch is stopping or the item's deadline has passed. Then send nothing.
    pub fn begin_call(&mut self) -> Result<CallGuard, CallRefused> {
        self.begin_call_at(Instant::now())
    }

    /// As [`begin_call`](Self::begin_call), for a caller that has read the clock.
    ///
    /// # Errors
    /// As there.
    pub fn begin_call_at(&mut self, now: Instant) -> Result<CallGuard, CallRefused> {
        let mut record = self.item.record();
        let joined = match self.call {
            // Another clone of the request may have been sent as that call; then this is a new one.
            Some(joined) => match record.call(joined.key) {
                Some(call) if call.depth == joined.depth => {
                    let held = call.held;
                    if held {
                        record.may_begin(now)?;
                    }
                    record.call(joined.key).map(|call| {
                        if held {
                            call.held = false;
                            call.started = now;
                        }
                        call.depth += 1;
                        Joined {
                            depth: call.depth,
                            ..joined
                        }
                    })
                }
                _ => None,
            },
            None => None,
        };
        let joined = match joined {
            Some(joined) => joined,
            None => {
                let (key, number) = record.begin(now)?;
                Joined {
                    key,
                    number,
                    depth: 1,
                }
            }
        };
        drop(record);
        self.call = Some(joined);
        Ok(CallGuard {
            item: Arc::clone(&self.item),
            key: joined.key,
            number: joined.number,
            depth: joined.depth,
        })
    }

    /// For layers that hand the request on at once: the service inside may send it. As [`hold`](Self::hold) and
    /// [`release`](CallHold::release) in one act.
    ///
    /// # Errors
    /// If no call may begin any more. Then the request must not be handed on.
    pub(crate) fn pass(&mut self, now: Instant) -> Result<(), CallRefused> {
        let mut record = self.item.record();
        let watched = record.begun && matches!(record.handed, Handed::No | Handed::Watched);
        match record.may_begin(now) {
            // A layer inside watches the item's calls, and refuses with an error of its own.
            Err(CallRefused::Stopped) if watched => return Ok(()),
            may_begin => may_begin?,
        }
        self.call = self.call.filter(|joined| match record.call(joined.key) {
            Some(call) if call.depth == joined.depth => {
                call.started = now;
                true
            }
            _ => false,
        });
        if self.call.is_none() {
            record.hand_over(now);
        }
        Ok(())
    }

    /// For layers that wait before they let a call begin, or answer without one: until the call begins further in, nothing was
    /// sent.
    pub fn hold(&mut self) -> CallHold {
        let mut record = self.item.record();
        record.holds += 1;
        // Another clone of the request may have been sent as that call; then this will be a new one.
        self.call = self.call.filter(|joined| match record.call(joined.key) {
            Some(call) if call.depth == joined.depth => {
                call.held = true;
                true
            }
            _ => false,
        });
        if self.call.is_none() {
            record.handed = Handed::Watched;
        }
        drop(record);
        CallHold {
            item: Arc::clone(&self.item),
            key: self.call.map(|call| call.key),
            released: false,
        }
    }
}

/// A layer holds a request back; made by [`CallContext::hold`].
///
/// While it exists, a stop ends the item. What it held is begun further in by [`CallContext::begin_call`], or handed on with
/// [`release`](Self::release); if it is dropped without either, the layer answered without a call.
#[derive(Debug)]
#[must_use = "dropping it ends the wait"]
pub struct CallHold {
    item: Arc<Item>,
    key: Option<u32>,
    released: bool,
}

impl CallHold {
    /// The item that waits.
    pub const fn item(&self) -> &Arc<Item> {
        &self.item
    }

    /// Ends the wait: the request is handed to the service inside, which may send it.
    ///
    /// # Errors
    /// If no call may begin any more. Then the request must not be handed on.
    pub fn release(self) -> Result<(), CallRefused> {
        self.release_at(Instant::now())
    }

    /// As [`release`](Self::release), for a caller that has read the clock.
    pub(crate) fn release_at(mut self, now: Instant) -> Result<(), CallRefused> {
        self.released = true;
        let mut record = self.item.record();
        record.holds -= 1;
        record.may_begin(now)?;
        match self.key.and_then(|key| record.call(key)) {
            Some(call) => {
                call.held = false;
                call.started = now;
            }
            None => record.hand_over(now),
        }
        Ok(())
    }
}

impl Drop for CallHold {
    fn drop(&mut self) {
        if !self.released {
            self.item.record().holds -= 1;
        }
    }
}
