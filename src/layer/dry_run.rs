//! A run without calls to a provider.

use std::fmt;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::item::CallContext;
use crate::request::{FindItem, InRequest, Untracked};

/// Answers in place of the stack inside, which is never called: no call, no quota, usage unknown.
///
/// Place it outermost to run a batch with everything except the calls. The answer is the response type's
/// default, or created from the request by a closure ([`answer_with`](Self::answer_with)).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::layer::dry_run::DryRunLayer;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let model = ServiceBuilder::new()
///     .layer(DryRunLayer::new().answer_with(|request: &LlmRequest<String>| {
///         LlmResponse::new(format!("would ask: {}", request.input()))
///     }))
///     .service(service_fn(async |_: LlmRequest<String>| -> Result<LlmResponse, LlmError> {
///         unreachable!("no provider is called")
///     }));
/// let answer = model.oneshot(LlmRequest::new("hi".to_owned())).await.unwrap();
/// assert_eq!(answer.output, "would ask: hi");
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DryRunLayer<A = DefaultAnswer, F = InRequest> {
    answer: A,
    find: F,
}

impl DryRunLayer {
    /// Answers with the response type's default.
    pub const fn new() -> Self {
        Self {
            answer: DefaultAnswer,
            find: InRequest,
        }
    }
}

impl<A, F> DryRunLayer<A, F> {
    /// Answers with the response that `answer` returns for the request.
    pub fn answer_with<Req, Res, G>(self, answer: G) -> DryRunLayer<G, F>
    where
        G: Fn(&Req) -> Res,
    {
        DryRunLayer {
            answer,
            find: self.find,
        }
    }

    /// Makes it fit requests of other crates, which do not carry an item.
    pub fn untracked(self) -> DryRunLayer<A, Untracked> {
        DryRunLayer {
            answer: self.answer,
            find: Untracked,
        }
    }
}

/// Creates the answer of a dry run. Closures implement it.
pub trait Answer<Req, Res> {
    /// The answer to `request`.
    fn answer(&self, request: &Req) -> Res;
}

impl<Req, Res, G: Fn(&Req) -> Res> Answer<Req, Res> for G {
    fn answer(&self, request: &Req) -> Res {
        self(request)
    }
}

/// Answers with the response type's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultAnswer;

impl<Req, Res: Default> Answer<Req, Res> for DefaultAnswer {
    fn answer(&self, _: &Req) -> Res {
        Res::default()
    }
}

impl<S, A: Clone, F: Clone> Layer<S> for DryRunLayer<A, F> {
    type Service = DryRun<S, A, F>;

    fn layer(&self, _: S) -> Self::Service {
        DryRun {
            answer: self.answer.clone(),
            find: self.find.clone(),
            instead_of: PhantomData,
        }
    }
}

/// Answers in place of a service; created by [`DryRunLayer`].
pub struct DryRun<S, A = DefaultAnswer, F = InRequest> {
    answer: A,
    find: F,
    // Only its types are needed: those of the real run.
    instead_of: PhantomData<fn() -> S>,
}

impl<S, A: Clone, F: Clone> Clone for DryRun<S, A, F> {
    fn clone(&self) -> Self {
        Self {
            answer: self.answer.clone(),
            find: self.find.clone(),
            instead_of: PhantomData,
        }
    }
}

impl<S, A, F, Req> Service<Req> for DryRun<S, A, F>
where
    S: Service<Req>,
    A: Answer<Req, S::Response>,
    F: FindItem<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Ready<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        // Records that nothing is sent.
        drop(self.find.context_mut(&mut request).map(CallContext::hold));
        ready(Ok(self.answer.answer(&request)))
    }
}

impl<S, A, F> fmt::Debug for DryRun<S, A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DryRun").finish_non_exhaustive()
    }
}
