//! The hook that is called after each failure, before the retry decision.

/// Called after each failed call, before the retry decision; it may edit the next request.
///
/// [`RetryPolicy::on_error`](super::RetryPolicy::on_error) takes a closure. Keep state from call to call
/// in the request's [`RetryState`](crate::RetryState).
#[diagnostic::on_unimplemented(
    message = "the hook `{Self}` does not take the error `{E}` and the request `{Req}`",
    label = "`{Self}` does not take these types",
    note = "`on_error` takes `LlmError` and `LlmRequest<Prompt>`; for other types write them out: \
            `.on_error_with(|error: &{E}, next: &mut {Req}| ...)`"
)]
pub trait OnError<Req, E> {
    /// The call failed with `error`; `next` is the request of the next call, if there will be one.
    fn on_error(&self, error: &E, next: &mut Req);
}

/// No hook: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoHook;

impl<Req, E> OnError<Req, E> for NoHook {
    fn on_error(&self, _: &E, _: &mut Req) {}
}

/// A closure as a hook.
#[derive(Clone, Copy)]
pub struct OnErrorFn<G>(pub(super) G);

#[diagnostic::do_not_recommend]
impl<Req, E, G: Fn(&E, &mut Req)> OnError<Req, E> for OnErrorFn<G> {
    fn on_error(&self, error: &E, next: &mut Req) {
        (self.0)(error, next);
    }
}

impl<G> std::fmt::Debug for OnErrorFn<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnErrorFn")
            .field(&std::any::type_name::<G>())
            .finish()
    }
}
