//! The look-up of the item's record in a request.

use std::sync::Arc;

use super::LlmRequest;
use crate::item::{CallContext, Item};

/// Finds the record of the item that a request belongs to, for a layer.
///
/// A type parameter of this crate's layers, because no trait on the request type could be implemented for requests
/// of other crates. The default is [`InRequest`]; `.untracked()` on a layer chooses [`Untracked`].
pub trait FindItem<Req> {
    /// The item and the call of the request, if it carries them.
    fn context<'a>(&self, request: &'a Req) -> Option<&'a CallContext>;

    /// The same, to begin a call.
    fn context_mut<'a>(&self, request: &'a mut Req) -> Option<&'a mut CallContext>;

    /// The item, if the request carries one.
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

/// Finds nothing: for requests of other crates.
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
