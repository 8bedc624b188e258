//! The channel that delivers a reply past the layers around its call.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::error::BoxError;

tokio::task_local! {
    /// The passage of the call that is being polled: a [`Passage`] of the body's type.
    pub(super) static CURRENT: Arc<dyn Any + Send + Sync>;
}

/// The state shared by the two ends of a call: the [`Exchange`](super::Exchange) inside the layers writes, the caller reads.
///
/// No foreign code runs under its lock: bodies are polled and dropped outside of it.
pub(super) struct Passage<B> {
    state: Mutex<State<B>>,
}

struct State<B> {
    head: Option<Head<B>>,
    /// A body is being delivered to the caller, so no other call can replace this one.
    carrying: bool,
    frame: Option<Frame<Bytes>>,
    /// The failure of the body itself.
    error: Option<BoxError>,
    /// The size hint of the part that was not delivered yet.
    hint: SizeHint,
    caller: Caller,
    /// Wakes the caller. Set only while it waits.
    reader: Option<Waker>,
    /// Wakes the exchange, which may wait until its frame has been taken.
    writer: Option<Waker>,
}

impl<B> State<B> {
    /// Replaces the previous head, unless a body is being delivered. Returns whether it did, and the head to drop.
    fn replace_head(&mut self, head: Head<B>) -> (bool, Option<Head<B>>) {
        if self.carrying {
            (false, Some(head))
        } else {
            (true, self.head.replace(head))
        }
    }
}

/// The caller's use of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Reads,
    /// It has dropped the body, and checks whether the end has arrived.
    Leaves,
    /// It has dropped the call.
    Gone,
}

/// The head of a reply, with its body if the call ends with the head, and without if the call delivers the body.
pub(super) type Head<B> = http::Response<Option<B>>;

impl<B> Passage<B> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                head: None,
                carrying: false,
                frame: None,
                error: None,
                hint: SizeHint::default(),
                caller: Caller::Reads,
                reader: None,
                writer: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the caller if it waits.
    fn put<R>(&self, change: impl FnOnce(&mut State<B>) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        result
    }

    /// Returns `true` if a body is being delivered to the caller.
    pub(super) fn is_carrying(&self) -> bool {
        self.state().carrying
    }

    /// Stores a reply whose call ends with the head. An earlier one (before a retry inside) is replaced. Returns `false` if the body
    /// of another call is being delivered.
    pub(super) fn put_reply(&self, reply: Head<B>) -> bool {
        let (taken, _dropped_outside_the_lock) = self.put(|state| state.replace_head(reply));
        taken
    }

    /// Stores a head whose body the exchange delivers. Returns the same as [`put_reply`](Self::put_reply).
    pub(super) fn put_head(&self, head: Head<B>, hint: SizeHint, cx: &Context<'_>) -> bool {
        let (taken, _dropped_outside_the_lock) = self.put(|state| {
            let (taken, dropped) = state.replace_head(head);
            if taken {
                state.carrying = true;
                state.hint = hint;
                state.writer = Some(cx.waker().clone());
            }
            (taken, dropped)
        });
        taken
    }

    /// Returns the caller's state if there is room for another frame. The exchange will be woken when that changes.
    pub(super) fn room(&self, cx: &Context<'_>) -> Option<Caller> {
        let mut state = self.state();
        match &mut state.writer {
            Some(writer) => writer.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        (state.frame.is_none() || state.caller == Caller::Gone).then_some(state.caller)
    }

    /// Stores a frame; `hint` is the size hint of the rest.
    pub(super) fn put_frame(&self, frame: Frame<Bytes>, hint: SizeHint) {
        self.put(|state| {
            state.frame = Some(frame);
            state.hint = hint;
        });
    }

    pub(super) fn put_error(&self, error: BoxError) {
        self.put(|state| state.error = Some(error));
    }

    /// The caller is about to poll the call.
    pub(super) fn before_poll(&self, cx: &Context<'_>) {
        let mut state = self.state();
        // The polling task need not be woken.
        let reader = state.reader.take();
        let writer = match state.frame {
            Some(_) => None,
            None => state.writer.take(),
        };
        drop(state);
        drop(reader);
        // Usually the layers between poll the exchange in the caller's task. Then it need not be woken either.
        if let Some(writer) = writer.filter(|writer| !writer.will_wake(cx.waker())) {
            writer.wake();
        }
    }

    /// Takes the head, if the call delivers its body or has `ended`. Otherwise the caller will be woken.
    pub(super) fn take_head(&self, ended: bool, cx: &Context<'_>) -> Option<Head<B>> {
        let mut state = self.state();
        if state.carrying || ended {
            return state.head.take();
        }
        state.reader = Some(cx.waker().clone());
        None
    }

    /// Takes the next frame. If there is none, the caller will be woken.
    pub(super) fn take_frame(&self, cx: &Context<'_>) -> Option<Frame<Bytes>> {
        let mut state = self.state();
        if state.frame.is_none() {
            state.reader = Some(cx.waker().clone());
        }
        state.frame.take()
    }

    pub(super) fn take_error(&self) -> Option<BoxError> {
        self.state().error.take()
    }

    /// The caller has dropped the body, and is about to poll the call for the last time.
    pub(super) fn leave(&self) {
        self.state().caller = Caller::Leaves;
    }

    /// The caller has dropped the call. If a layer has moved it to another task, this makes it end there.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.caller = Caller::Gone;
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// The number of bytes that wait for the caller.
    pub(super) fn waiting(&self) -> Option<u64> {
        let state = self.state();
        let frame = state.frame.as_ref()?;
        Some(frame.data_ref().map_or(0, |data| data.len() as u64))
    }

    /// The size hint of the part that the exchange has not read yet.
    pub(super) fn hint(&self) -> SizeHint {
        self.state().hint
    }
}
