//! The slot in which a waiter finds its reply.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Admission, Reply};
use crate::layer::rate_limiter::gate::waits::Waited;

/// Hands one reply to one waiter, and takes a grant back that the waiter has not taken up.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) struct Slot {
    content: Mutex<Content>,
}

#[derive(Debug)]
enum Content {
    Waiting(Option<Waker>),
    Replied(Reply),
    Lost(Lost),
    /// The reply was taken up, or the waiter has gone.
    Over,
}

/// The reason why a waiter has to ask again.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) enum Lost {
    /// It did not take up its grant in time.
    Late(Option<Box<Waited>>),
    /// The pump that it counted on has died with its runtime.
    Orphaned,
}

/// The fate of an offered grant.
#[derive(Debug)]
pub(super) enum Offered {
    /// It was taken up, or its waiter has gone.
    Over,
    /// It has not arrived yet.
    UnderWay,
    /// It was not taken up; here it is again.
    Untaken(Admission),
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            content: Mutex::new(Content::Waiting(None)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the reply in and wakes the waiter. Returns a grant whose waiter has gone.
    pub(in crate::layer::rate_limiter) fn reply(&self, reply: Reply) -> Option<Admission> {
        self.put(Content::Replied(reply))
    }

    /// The waiter has to ask again.
    pub(in crate::layer::rate_limiter) fn orphan(&self) {
        self.put(Content::Lost(Lost::Orphaned));
    }

    fn put(&self, content: Content) -> Option<Admission> {
        let mut slot = self.lock();
        let Content::Waiting(waker) = &mut *slot else {
            drop(slot);
            return match content {
                Content::Replied(Ok(admission)) => Some(admission),
                _ => None,
            };
        };
        let waker = waker.take();
        *slot = content;
        drop(slot);
        // Outside the lock: a waker is code of others.
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }

    /// Returns `true` if the waiter has gone.
    pub(super) fn is_over(&self) -> bool {
        matches!(*self.lock(), Content::Over | Content::Lost(_))
    }

    /// Takes back what the waiter has not taken up; it asks again when it comes.
    pub(super) fn withdraw(&self) -> Offered {
        let mut slot = self.lock();
        match &mut *slot {
            Content::Replied(Ok(admission)) => {
                let waited = admission.waited.take();
                match std::mem::replace(&mut *slot, Content::Lost(Lost::Late(waited))) {
                    Content::Replied(Ok(admission)) => Offered::Untaken(admission),
                    _ => Offered::Over,
                }
            }
            Content::Waiting(_) => Offered::UnderWay,
            _ => Offered::Over,
        }
    }

    /// The reply, once it is there.
    pub(in crate::layer::rate_limiter) fn poll(&self, context: &Context<'_>) -> Poll<Result<Reply, Lost>> {
        // Wakers are code of others: cloned and dropped outside the lock.
        let waker = context.waker().clone();
        let mut slot = self.lock();
        let outdated = match &mut *slot {
            Content::Waiting(old) => old.replace(waker),
            Content::Over => return Poll::Pending,
            content => {
                return match std::mem::replace(content, Content::Over) {
                    Content::Lost(lost) => Poll::Ready(Err(lost)),
                    Content::Replied(reply) => Poll::Ready(Ok(reply)),
                    Content::Waiting(_) | Content::Over => Poll::Pending,
                };
            }
        };
        drop(slot);
        drop(outdated);
        Poll::Pending
    }

    /// The waiter has gone. Returns a reply that it has not taken up.
    pub(in crate::layer::rate_limiter) fn leave(&self) -> Option<Reply> {
        let content = std::mem::replace(&mut *self.lock(), Content::Over);
        match content {
            Content::Replied(reply) => Some(reply),
            _ => None,
        }
    }
}
