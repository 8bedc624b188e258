//! How a layer gets from a request to the item's record.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CallGuard, Item};
use crate::request::LlmRequest;

/// How a layer finds the record of the item that a request belongs to.
///
/// A type parameter of this crate's layers, because no trait on the request type could be implemented for requests
/// of other crates. The default is [`InRequest`]; `.untracked()` on a layer chooses [`Untracked`].
pub trait FindItem<Req> {
    /// The item, if the request carries one.
    fn item<'a>(&self, request: &'a Req) -> Option<&'a Arc<Item>>;

    /// A guard on the request's current call, opened if no outer layer has.
    fn call(&self, request: &mut Req) -> Option<CallGuard>;

    /// As [`call`](Self::call), for a layer that has read the clock: a call that is opened starts at `at`.
    fn call_at(&self, request: &mut Req, _at: Instant) -> Option<CallGuard> {
        self.call(request)
    }
}

/// Finds the item in an [`LlmRequest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InRequest;

impl<I> FindItem<LlmRequest<I>> for InRequest {
    fn item<'a>(&self, request: &'a LlmRequest<I>) -> Option<&'a Arc<Item>> {
        Some(request.item())
    }

    fn call(&self, request: &mut LlmRequest<I>) -> Option<CallGuard> {
        Some(request.open_call())
    }

    fn call_at(&self, request: &mut LlmRequest<I>, at: Instant) -> Option<CallGuard> {
        Some(request.open_call_at(|| at))
    }
}

/// Finds nothing: for requests of other crates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untracked;

impl<Req> FindItem<Req> for Untracked {
    fn item<'a>(&self, _: &'a Req) -> Option<&'a Arc<Item>> {
        None
    }

    fn call(&self, _: &mut Req) -> Option<CallGuard> {
        None
    }
}
