//! The look-up of the item's record in a request.

use std::sync::Arc;

use super::LlmRequest;
use crate::item::{CallContext, Item};

/// Finds the item that a request belongs to, for a layer.
///
/// It is a type parameter of this crate's layers, because a trait on the request type could not be implemented for
/// requests of other crates. The default is [`InRequest`]; `.untracked()` on a layer selects [`Untracked`].
pub trait FindItem<Req> {
    /// Returns the request's context (its item and call), if it has one.
    fn context<'a>(&self, request: &'a Req) -> Option<&'a CallContext>;

    /// Returns the context mutably, to begin a call.
    fn context_mut<'a>(&self, request: &'a mut Req) -> Option<&'a mut CallContext>;

    /// Returns the item, if the request has one.
    fn item<'a>(&self, request: &'a Req) -> Option<&'a Arc<Item>> {
        self.context(request).map(CallContext::item)
    }
}

/// Finds the item in an [`LlmRequest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InRequest;

impl<I> FindItem<LlmRequest<I>> for InRequest {
    fn context<'a>(&self, request: &'a LlmRequest<I>) -> Option<&'a CallContext> {
        Some(request.context())
    }

    fn context_mut<'a>(&self, request: &'a mut LlmRequest<I>) -> Option<&'a mut CallContext> {
        Some(request.context_mut())
    }
}

/// Never finds an item: for requests of other crates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untracked;

impl<Req> FindItem<Req> for Untracked {
    fn context<'a>(&self, _: &'a Req) -> Option<&'a CallContext> {
        None
    }

    fn context_mut<'a>(&self, _: &'a mut Req) -> Option<&'a mut CallContext> {
        None
    }
}
