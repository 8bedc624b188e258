//! The context of a request: its item, and the call that it belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::handed::Origin;
use super::record::{OpenCall, Record, Within};
use super::{CallGuard, HandedOn, Item, current};
use crate::error::CallRefused;

/// The item of a request and the call that the request belongs to, if one has begun.
///
/// Layers reach it through [`FindItem`](crate::FindItem), strategies through [`LlmRequest`](crate::LlmRequest).
#[derive(Debug)]
pub struct CallContext {
    item: Arc<Item>,
    call: Option<Joined>,
    /// The call in which the request was made, where it is not sent as that call.
    within: Option<Within>,
    origin: Origin,
}

/// A call as seen from one depth of the stack.
#[derive(Clone, Copy, Debug)]
struct Joined {
    key: u32,
    number: u32,
    depth: u32,
}

impl Joined {
    const fn within(self) -> Within {
        Within {
            key: self.key,
            depth: self.depth,
        }
    }
}

/// The same item and the same call: the first of the clones that is sent is that call, each further one is a call of its own.
impl Clone for CallContext {
    fn clone(&self) -> Self {
        Self {
            item: Arc::clone(&self.item),
            call: self.call,
            within: self.within,
            origin: self.origin,
        }
    }
}

impl CallContext {
    /// The context of a request that is made for `item`, before any call.
    pub fn new(item: Arc<Item>) -> Self {
        let hand_over = current::of(&item);
        Self::of_hand_over(item, hand_over)
    }

    /// The context of the request that the driver makes.
    pub(crate) fn of_driver(item: Arc<Item>) -> Self {
        Self::of_hand_over(item, Some(0))
    }

    fn of_hand_over(item: Arc<Item>, hand_over: Option<u32>) -> Self {
        let request = item.requests.fetch_add(1, Ordering::Relaxed);
        Self {
            item,
            call: None,
            within: None,
            origin: Origin {
                hand_over: hand_over.unwrap_or_default(),
                request,
                spawned: hand_over.is_none(),
            },
        }
    }

    /// The call around the request: the one that it belongs to, or in which it was made.
    pub(crate) fn surrounding(&self) -> Option<Within> {
        self.call.map(Joined::within).or(self.within)
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
        self.begin(false, Instant::now)
    }

    /// As [`begin_call`](Self::begin_call), for a caller that has read the clock.
    ///
    /// # Errors
    /// As there.
    pub fn begin_call_at(&mut self, now: Instant) -> Result<CallGuard, CallRefused> {
        self.begin(false, || now)
    }

    /// For a gate, which has a last look at its own state before the call: as [`begin_call_at`](Self::begin_call_at), and the call
    /// does not count as sent until [`CallGuard::release`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_held_at(&mut self, now: Instant) -> Result<CallGuard, CallRefused> {
        self.begin(true, || now)
    }

    /// For an accounting layer, which will [`end`](CallGuard::end) the call: as [`begin_call`](Self::begin_call), with the start of
    /// the call for the first one. Metrics, spans and events report one call once, however many layers watch it.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_claimed(&mut self) -> Result<(CallGuard, Option<Instant>), CallRefused> {
        let mut started = None;
        let guard = self.begin_as(false, Instant::now, |call| {
            call.accounting += 1;
            started = (!std::mem::replace(&mut call.claimed, true)).then_some(call.started);
        })?;
        Ok((guard, started))
    }

    fn begin(&mut self, hold: bool, now: impl Fn() -> Instant) -> Result<CallGuard, CallRefused> {
        self.begin_as(hold, now, |_| {})
    }

    fn begin_as(
        &mut self,
        hold: bool,
        now: impl Fn() -> Instant,
        note: impl FnOnce(&mut OpenCall),
    ) -> Result<CallGuard, CallRefused> {
        let mut record = self.item.record();
        let joined = match self.call {
            // Another clone of the request may have been sent as that call; then this is a new one.
            Some(joined) => match record.call(joined.key) {
                Some(call) if call.depth == joined.depth => {
                    let begins = call.held.then(&now);
                    let may = match begins {
                        Some(now) => record.may_begin(|| now),
                        // Begun further out, it is sent only now. In a final report it stands as sent.
                        None if record.closed => Ok(()),
                        None => record.may_go_on(),
                    };
                    if let Err(refused) = may {
                        record.take_back(joined.within());
                        return Err(refused);
                    }
                    record.call(joined.key).map(|call| {
                        if let Some(now) = begins.filter(|_| !hold) {
                            call.held = false;
                            call.started = now;
                        }
                        call.depth += 1;
                        call.inside += 1;
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
                let parent = self.surrounding().map(|within| within.key);
                let (key, number) = record.begin(now(), hold, parent, self.origin)?;
                Joined {
                    key,
                    number,
                    depth: 1,
                }
            }
        };
        record.call(joined.key).map(note);
        drop(record);
        self.call = Some(joined);
        Ok(CallGuard {
            item: Arc::clone(&self.item),
            key: joined.key,
            number: joined.number,
            depth: joined.depth,
            left: AtomicBool::new(false),
        })
    }

    /// For a layer that hands the request on at once: as [`hold`](Self::hold) and [`release`](CallHold::release) in one act. The
    /// clock is not read again where the caller has `read` it.
    ///
    /// # Errors
    /// If no call may begin any more. Then the request must not be handed on.
    pub(crate) fn pass(&mut self, read: Option<Instant>) -> Result<HandedOn, CallRefused> {
        let now = || read.unwrap_or_else(Instant::now);
        let mut record = self.item.record();
        let from = self.origin.hand_over;
        let entering = match self.call {
            Some(_) => None,
            None => record.entering(self.origin),
        };
        if let Some(entering) = entering {
            record.may_begin(now)?;
            // Its time begins with the end of this very poll.
            let id = record.pass_on(entering, self.origin, self.item.requests_made());
            self.origin.hand_over = id;
            return Ok(HandedOn::Unwatched { id, from });
        }
        let now = now();
        record.may_begin(|| now)?;
        let within = self.surrounding();
        record.take(self.origin);
        let id = record.next_hand_over();
        self.call = self.call.filter(|joined| {
            let call = record.own_call(joined.within(), self.origin);
            call.is_some_and(|call| {
                call.held = false;
                call.handed_on = Some(id);
                call.started = now;
                true
            })
        });
        self.origin.hand_over = id;
        self.within = within;
        if let Some(joined) = self.call {
            return Ok(HandedOn::AsCall(joined.within()));
        }
        record.hand_over(&self.item, self.origin, within, false, now);
        Ok(HandedOn::Unwatched { id, from })
    }

    /// For layers that wait before they let a call begin, or answer without one: until the call begins further in, nothing was
    /// sent.
    pub fn hold(&mut self) -> CallHold {
        let within = self.surrounding();
        let from = self.origin.hand_over;
        let mut record = self.item.record();
        record.holds += 1;
        let by_driver = record.entering(self.origin).is_some();
        let id = record.next_hand_over();
        // Another clone of the request may have been sent as that call; then this will be a new one.
        self.call = self.call.filter(|joined| {
            let call = record.own_call(joined.within(), self.origin);
            call.is_some_and(|call| {
                call.held = true;
                call.handed_on = Some(id);
                true
            })
        });
        if self.call.is_none() {
            record.watch(self.origin);
        }
        self.origin.hand_over = id;
        drop(record);
        self.within = within;
        CallHold {
            item: Arc::clone(&self.item),
            key: self.call.map(|call| call.key),
            within,
            origin: self.origin,
            from,
            by_driver,
            released: false,
            refused_at: None,
            alone: 0,
        }
    }

    /// For a policy that waits before the request is sent again: holds it until then, and not the call around it.
    pub(crate) fn hold_before_repeat(&self) -> CallHold {
        let mut record = self.item.record();
        record.holds += 1;
        record.watch(self.origin);
        CallHold {
            item: Arc::clone(&self.item),
            key: None,
            within: self.surrounding(),
            origin: self.origin,
            from: self.origin.hand_over,
            by_driver: false,
            released: false,
            refused_at: None,
            alone: 0,
        }
    }

    /// For a policy, right before the request is sent: the service may send it.
    pub(crate) fn expect_call(&self) {
        let mut record = self.item.record();
        // If it is in the hands of a service, its time runs already.
        if !record.is_handed_over(self.origin) {
            record.take(self.origin);
            let within = self.surrounding();
            record.hand_over(&self.item, self.origin, within, false, Instant::now());
        }
    }

    /// For a policy, when what followed [`expect_call`](Self::expect_call) has ended.
    pub(crate) fn settle_call(&self, sent: bool, answered: bool) {
        let waiting = {
            let mut record = self.item.record();
            record.settle_request(self.origin, sent, answered);
            record.take_waiting()
        };
        self.item.wake_after_a_call(waiting);
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
    /// The call around it.
    within: Option<Within>,
    /// As which it will be handed on.
    origin: Origin,
    /// The hand-over that the request came by.
    from: u32,
    /// It holds what the driver has just handed over.
    by_driver: bool,
    released: bool,
    /// Refused, with this number of wakes by the end of a call.
    refused_at: Option<u32>,
    /// The number of polls in a row for which there was no reason but one outside.
    alone: u8,
}

impl CallHold {
    /// The item that waits.
    pub const fn item(&self) -> &Arc<Item> {
        &self.item
    }

    /// For a future whose call was refused by a stop, before it fails: ready once no call of another clone of the request is under
    /// way. An error now would cost the answer of the call that it stands beside (the other one of a hedge). It is ready, too, where
    /// that call is not polled, so that it could not end.
    pub fn poll_refused(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut record = self.item.record();
        let Some(polled) = record.look_beside(self.within, self.origin.request) else {
            return Poll::Ready(());
        };
        // Woken by neither the end of a call nor, as it seems, by one that is polled with this. A `select` that polls in random order
        // leaves one out at times, but never twice.
        let is_alone = self.refused_at.replace(record.wakes) == Some(record.wakes) && !polled;
        self.alone = if is_alone { self.alone.saturating_add(1) } else { 0 };
        if self.alone > 1 {
            return Poll::Ready(());
        }
        record.register(cx.waker());
        drop(record);
        if is_alone {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The way in which it will be handed on.
    pub(crate) fn handed_on(&self) -> HandedOn {
        match self.within.filter(|_| self.key.is_some()) {
            Some(call) => HandedOn::AsCall(call),
            None => HandedOn::Unwatched {
                id: self.origin.hand_over,
                from: self.from,
            },
        }
    }

    /// The call around it.
    pub(crate) const fn within(&self) -> Option<Within> {
        self.within
    }

    /// Ends the wait: the request is handed to the service inside, which may send it.
    ///
    /// # Errors
    /// If no call may begin any more. Then the request must not be handed on.
    pub fn release(mut self) -> Result<(), CallRefused> {
        let now = Instant::now();
        self.released = true;
        let mut record = self.item.record();
        record.holds -= 1;
        record.may_begin(|| now)?;
        match self.key.and_then(|key| record.call(key)) {
            Some(call) => {
                call.held = false;
                call.handed_on = Some(self.origin.hand_over);
                call.started = now;
            }
            None => {
                record.hand_over(&self.item, self.origin, self.within, self.by_driver, now);
            }
        }
        Ok(())
    }
}

impl CallHold {
    /// The hold ends in the record, with the beginning of the call.
    pub(super) fn end(mut self, record: &mut Record) {
        self.released = true;
        record.holds -= 1;
    }
}

impl Drop for CallHold {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let mut record = self.item.record();
        record.holds -= 1;
        // The next request like it may be sent as that call.
        if let Some(call) = self.key.and_then(|key| record.call(key))
            && call.handed_on == Some(self.origin.hand_over)
        {
            call.handed_on = None;
        }
    }
}
