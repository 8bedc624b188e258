//! The context of a request: its item, and the call that it belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::handed::Origin;
use super::record::{OpenCall, Record, Within};
use super::{CallGuard, HandedOn, HeldItem, Item, current};
use crate::error::CallRefused;

/// The item of a request and the call that the request belongs to, if one has begun.
///
/// Layers reach it through [`FindItem`](crate::FindItem), strategies through [`LlmRequest`](crate::LlmRequest).
#[derive(Debug)]
pub struct CallContext {
    item: Arc<Item>,
    call: Option<Joined>,
    /// The call in which the request was made, if it is not sent as that call.
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

/// A clone belongs to the same item and call: the first clone that is sent is that call, each further one is a separate call.
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
    /// Creates the context of a new request for `item`, before any call.
    pub fn new(item: Arc<Item>) -> Self {
        let hand_over = current::of(&item);
        Self::of_hand_over(item, hand_over)
    }

    /// Creates the context of the driver's request.
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

    /// The call around the request: the one that it belongs to, or the one in which it was made.
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
    /// Keep the guard until the call has ended, and report the usage with [`CallGuard::observe`].
    ///
    /// # Errors
    /// If no call may begin, because the batch is stopping or the item's deadline has passed. Then send nothing.
    pub fn begin_call(&mut self) -> Result<CallGuard, CallRefused> {
        self.begin(false, Instant::now)
    }

    /// Like [`begin_call`](Self::begin_call), for a caller that has read the clock.
    ///
    /// # Errors
    /// As for [`begin_call`](Self::begin_call).
    pub fn begin_call_at(&mut self, now: Instant) -> Result<CallGuard, CallRefused> {
        self.begin(false, || now)
    }

    /// For a gate, which checks its own state once more before the call: like [`begin_call_at`](Self::begin_call_at), but the call
    /// does not count as sent until [`CallGuard::release`].
    ///
    /// # Errors
    /// As for [`begin_call`](Self::begin_call).
    pub(crate) fn begin_held_at(&mut self, now: Instant) -> Result<CallGuard, CallRefused> {
        self.begin(true, || now)
    }

    /// For an accounting layer, which will [`end`](CallGuard::end) the call: like [`begin_call`](Self::begin_call). The first such
    /// layer also gets the start of the call, so that metrics, spans and events report a call once if several layers watch it.
    ///
    /// # Errors
    /// As for [`begin_call`](Self::begin_call).
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
            // If another clone of the request was sent as that call, this is a new one.
            Some(joined) => match record.call(joined.key) {
                Some(call) if call.depth == joined.depth => {
                    let begins = call.held.then(&now);
                    let may = match begins {
                        Some(now) => record.may_begin(|| now),
                        // Begun further out, it is sent only now. A final report already counts it as sent.
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

    /// For a layer that passes the request on without waiting: [`hold`](Self::hold) and [`release`](CallHold::release) in one step.
    /// Uses the time that the caller has `read`, if given.
    ///
    /// # Errors
    /// If no call may begin. Then the request must not be passed on.
    pub(crate) fn pass(&mut self, read: Option<Instant>) -> Result<HandedOn, CallRefused> {
        let mut record = self.item.record();
        let from = self.origin.hand_over;
        let entering = match self.call {
            Some(_) => None,
            None => record.entering(self.origin),
        };
        if let Some(entering) = entering {
            // All this is one poll: what a layer further out has read of the clock holds here, too.
            let read = read.or(record.entering_at(entering));
            record.may_begin(|| read.unwrap_or_else(Instant::now))?;
            let id = record.pass_on(entering, self.origin, self.item.requests_made(), read);
            self.origin.hand_over = id;
            return Ok(HandedOn::Unwatched { id, from });
        }
        let now = read.unwrap_or_else(Instant::now);
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

    /// For layers that wait before a call, or may answer without one: until the call begins further in, the request counts as not
    /// sent.
    pub fn hold(&mut self) -> CallHold {
        let within = self.surrounding();
        let from = self.origin.hand_over;
        let mut record = self.item.record();
        record.holds += 1;
        let by_driver = record.entering(self.origin).is_some();
        let was_throttled = record.is_throttle_noted();
        let id = record.next_hand_over();
        // If another clone of the request was sent as that call, this will be a new one.
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
            was_throttled,
            released: false,
            refused_at: None,
            alone: 0,
        }
    }

    /// For a policy that waits before it repeats the request: holds the request until then, but not the call around it.
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
            was_throttled: false,
            released: false,
            refused_at: None,
            alone: 0,
        }
    }

    /// For a policy, right before the request is passed to a service that may send it.
    pub(crate) fn expect_call(&self) {
        let mut record = self.item.record();
        // If a service already has it, its time is running.
        if !record.is_handed_over(self.origin) {
            record.take(self.origin);
            let within = self.surrounding();
            record.hand_over(&self.item, self.origin, within, false, Instant::now());
        }
    }

    /// For a policy, when the request announced with [`expect_call`](Self::expect_call) has ended.
    pub(crate) fn settle_call(&self, sent: bool, answered: bool) {
        let mut record = self.item.record();
        record.settle_request(self.origin, sent, answered);
        self.item.wake_after_a_call(record);
    }
}

/// Marks a request as held back by a layer; returned by [`CallContext::hold`].
///
/// While it exists, a stop ends the item. The request is then begun further in by [`CallContext::begin_call`], or passed on with
/// [`release`](Self::release); if the hold is dropped without either, the layer answered without a call.
#[derive(Debug)]
#[must_use = "dropping it ends the wait"]
pub struct CallHold {
    item: Arc<Item>,
    key: Option<u32>,
    /// The call around it.
    within: Option<Within>,
    /// The request's origin when it is passed on.
    origin: Origin,
    /// The hand-over that the request came by.
    from: u32,
    /// It holds the request that the driver has just handed over.
    by_driver: bool,
    /// A gate has noted that it will hold the item, when this began.
    was_throttled: bool,
    released: bool,
    /// The count of wakes by the end of a call at the last poll after a refusal.
    refused_at: Option<u32>,
    /// The number of consecutive polls without a wake by a call and without a poll of the call beside it.
    alone: u8,
}

impl CallHold {
    /// The waiting item.
    pub const fn item(&self) -> &Arc<Item> {
        &self.item
    }

    /// For a future whose call was refused by a stop, before it fails: ready once no call of another clone of the request is under
    /// way, because an earlier error would discard the answer of the call beside it (the other one of a hedge). It is also ready if
    /// that call is not polled, since it could not end.
    pub fn poll_refused(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut record = self.item.record();
        let Some(polled) = record.look_beside(self.within, self.origin.request) else {
            return Poll::Ready(());
        };
        // Woken neither by the end of a call nor, apparently, by one that is polled together with this. A `select` that polls in random
        // order may skip one, but not twice in a row.
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

    /// The way in which the request will be passed on.
    pub(crate) fn handed_on(&self) -> HandedOn {
        match self.within.filter(|_| self.key.is_some()) {
            Some(call) => HandedOn::AsCall(call),
            None => HandedOn::Unwatched {
                id: self.origin.hand_over,
                from: self.from,
            },
        }
    }

    /// For gates: whether and how the gate with this mark holds the item, as [`Signals::take_held_by`](super::Signals).
    pub(crate) fn take_held_by(&self, gate: u64) -> Option<HeldItem> {
        if !self.was_throttled {
            return None;
        }
        self.item.signals().take_held_by(gate)
    }

    /// The call around it.
    pub(crate) const fn within(&self) -> Option<Within> {
        self.within
    }

    /// Ends the wait: the request is passed to the service inside, which may send it.
    ///
    /// # Errors
    /// If no call may begin. Then the request must not be passed on.
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
    /// Ends the hold in the record when the call begins.
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
        // Another clone of the request may be sent as that call.
        if let Some(call) = self.key.and_then(|key| record.call(key))
            && call.handed_on == Some(self.origin.hand_over)
        {
            call.handed_on = None;
        }
    }
}
