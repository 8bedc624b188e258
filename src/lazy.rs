//! A strategy that is made at its first call.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use crate::error::{BoxError, Delivery, ErrorKind, LlmError};

/// A strategy that `make` makes at the first call, once for all clones.
///
/// Callers that come while it is being made wait for the same making, and share its failure if it fails; the next call after
/// a failure makes it again. If it has something to release, say how with [`Lazy::on_close`], and call
/// [`Lazy::close`] when the batch is done.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, lazy};
/// use tower::{ServiceExt, service_fn};
///
/// let model = lazy(async || {
///     // Load weights, open a connection, create a context cache ...
///     Ok::<_, LlmError>(service_fn(async |_: LlmRequest| {
///         Ok::<_, LlmError>(LlmResponse::new("42".to_owned()))
///     }))
/// });
/// let answer = model.clone().oneshot(LlmRequest::new("6 times 7?".into())).await.unwrap();
/// assert_eq!(answer.output, "42");
/// model.close().await;
/// # }
/// ```
///
/// # Cancel safety
/// A caller that goes away while the strategy is being made does not stop the making for the others. If all go away, it rests
/// until the next call and goes on then.
pub fn lazy<S, M, Fut, E>(make: M) -> Lazy<S>
where
    M: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<S, E>> + Send + 'static,
    S: Clone + Send + Sync + 'static,
    E: Into<BoxError>,
{
    let make = move || {
        // The closure itself may panic too.
        match std::panic::catch_unwind(AssertUnwindSafe(&make)) {
            Ok(making) => AssertUnwindSafe(making)
                .catch_unwind()
                .map(|made| match made {
                    Ok(Ok(strategy)) => Ok(strategy),
                    Ok(Err(error)) => Err(MakeFailed(Some(Arc::new(error.into())))),
                    Err(_) => Err(MakeFailed::panicked()),
                })
                .boxed()
                .shared(),
            Err(_) => futures::future::ready(Err(MakeFailed::panicked()))
                .boxed()
                .shared(),
        }
    };
    Lazy {
        cell: Arc::new(Cell {
            make: Box::new(make),
            release: None,
            state: Mutex::new(State::New),
        }),
    }
}

type Making<S> = Shared<BoxFuture<'static, Result<S, MakeFailed>>>;
type Release<S> = Arc<dyn Fn(S) -> BoxFuture<'static, ()> + Send + Sync>;

/// A strategy made at its first call; see [`lazy`].
pub struct Lazy<S> {
    cell: Arc<Cell<S>>,
}

struct Cell<S> {
    make: Box<dyn Fn() -> Making<S> + Send + Sync>,
    release: Option<Release<S>>,
    state: Mutex<State<S>>,
}

enum State<S> {
    New,
    Making(Making<S>),
    Made(S),
    Closed(Shared<BoxFuture<'static, ()>>),
}

impl<S> Cell<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Clone + Send + Sync + 'static> Lazy<S> {
    /// What [`close`](Self::close) does with the strategy, if one was made.
    ///
    /// To be called before the handle is cloned.
    #[must_use]
    pub fn on_close<R, Fut>(self, release: R) -> Self
    where
        R: Fn(S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let release: Release<S> = Arc::new(move |strategy| release(strategy).boxed());
        match Arc::try_unwrap(self.cell) {
            Ok(cell) => Self {
                cell: Arc::new(Cell {
                    release: Some(release),
                    ..cell
                }),
            },
            Err(cell) => Self { cell },
        }
    }

    /// Ends the strategy for all clones: what was made is released, once, and later calls fail. A making under
    /// way is awaited first. Closing again waits for the first closing and does nothing else.
    ///
    /// Calls that are under way are not waited for: close when the batch is done.
    ///
    /// # Cancel safety
    /// Dropped before its end, the release rests where it is until somebody closes again.
    pub async fn close(&self) {
        let closing = {
            let mut state = self.cell.state();
            let release = self.cell.release.clone();
            let closing: BoxFuture<'static, ()> = match std::mem::replace(&mut *state, State::New) {
                State::Closed(closing) => {
                    *state = State::Closed(closing.clone());
                    closing.boxed()
                }
                old => {
                    let closing = async move {
                        let made = match old {
                            State::Made(strategy) => Some(strategy),
                            State::Making(making) => making.await.ok(),
                            State::New | State::Closed(_) => None,
                        };
                        if let (Some(strategy), Some(release)) = (made, release) {
                            release(strategy).await;
                        }
                    }
                    .boxed()
                    .shared();
                    *state = State::Closed(closing.clone());
                    closing.boxed()
                }
            };
            closing
        };
        closing.await;
    }
}

impl<S> Clone for Lazy<S> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
        }
    }
}

impl<S> fmt::Debug for Lazy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.cell.state() {
            State::New => "new",
            State::Making(_) => "being made",
            State::Made(_) => "made",
            State::Closed(_) => "closed",
        };
        f.debug_tuple("Lazy").field(&state).finish()
    }
}

impl<S, Req> Service<Req> for Lazy<S>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: From<MakeFailed>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LazyFuture<S, Req>;

    // A waiting service waits in its future: readying the strategy here would reserve its place for all that time.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let mut state = self.cell.state();
        let step = match &mut *state {
            State::Made(strategy) => Step::Calling {
                call: Oneshot::new(strategy.clone(), request),
            },
            State::Closed(_) => Step::Failed {
                error: Some(MakeFailed(None)),
            },
            State::Making(making) => Step::Making {
                making: making.clone(),
                request: Some(request),
            },
            State::New => {
                let making = (self.cell.make)();
                *state = State::Making(making.clone());
                Step::Making {
                    making,
                    request: Some(request),
                }
            }
        };
        LazyFuture {
            step,
            cell: Arc::clone(&self.cell),
        }
    }
}

/// The future of [`Lazy`].
#[pin_project]
pub struct LazyFuture<S: Service<Req>, Req> {
    #[pin]
    step: Step<S, Req>,
    cell: Arc<Cell<S>>,
}

#[pin_project(project = StepProjection)]
enum Step<S: Service<Req>, Req> {
    Making {
        #[pin]
        making: Making<S>,
        request: Option<Req>,
    },
    Calling {
        #[pin]
        call: Oneshot<S, Req>,
    },
    Failed {
        error: Option<MakeFailed>,
    },
}

impl<S, Req> Future for LazyFuture<S, Req>
where
    S: Service<Req> + Clone,
    S::Error: From<MakeFailed>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                StepProjection::Making { making, request } => {
                    let this_making = making.as_ref().get_ref().clone();
                    let made = ready!(making.poll(cx));
                    let mut state = this.cell.state();
                    // Only the first of those who waited moves the state on; a later making is not theirs.
                    if let State::Making(current) = &*state
                        && current.ptr_eq(&this_making)
                    {
                        *state = match &made {
                            Ok(strategy) => State::Made(strategy.clone()),
                            Err(_) => State::New,
                        };
                    }
                    drop(state);
                    match (made, request.take()) {
                        (Ok(strategy), Some(request)) => Step::Calling {
                            call: Oneshot::new(strategy, request),
                        },
                        (made, _) => Step::Failed { error: made.err() },
                    }
                }
                StepProjection::Calling { call } => return call.poll(cx),
                StepProjection::Failed { error } => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error.into())),
                        // Polled after its end.
                        None => Poll::Pending,
                    };
                }
            };
            this.step.set(next);
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for LazyFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Making { .. } => "making",
            Step::Calling { .. } => "calling",
            Step::Failed { .. } => "failed",
        };
        f.debug_tuple("LazyFuture").field(&step).finish()
    }
}

/// A [`lazy`] strategy could not be made, or was closed; nothing was sent.
#[derive(Clone, Debug)]
pub struct MakeFailed(Option<Arc<BoxError>>);

impl MakeFailed {
    fn panicked() -> Self {
        Self(Some(Arc::new("its making panicked".into())))
    }

    /// The category: that of an [`LlmError`] that the making failed with, else [`ErrorKind::Configuration`].
    pub fn kind(&self) -> ErrorKind {
        self.cause().map_or(ErrorKind::Configuration, LlmError::kind)
    }

    fn cause(&self) -> Option<&LlmError> {
        self.0.as_ref()?.downcast_ref()
    }

    /// Whether the strategy was closed, rather than failed to be made.
    pub const fn is_closed(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for MakeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => write!(f, "the strategy could not be made: {error}"),
            None => f.write_str("the strategy was closed"),
        }
    }
}

impl StdError for MakeFailed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .as_ref()
            .map(|error| &***error as &(dyn StdError + 'static))
    }
}

/// Keeps the kind, status and hint of an [`LlmError`] that the making failed with, so that it is retried or not as
/// that says; any other failure is [`ErrorKind::Configuration`].
impl From<MakeFailed> for LlmError {
    fn from(error: MakeFailed) -> Self {
        let cause = error
            .0
            .as_ref()
            .and_then(|error| error.downcast_ref::<Self>())
            .map(|cause| {
                (
                    cause.kind(),
                    cause.disposition(),
                    cause.status(),
                    cause.retry_after(),
                )
            });
        let mut failed = match cause {
            Some((kind, disposition, status, retry_after)) => {
                let mut failed = Self::new(kind, error.to_string()).with_disposition(disposition);
                if let Some(status) = status {
                    failed = failed.with_status(status);
                }
                if let Some(wait) = retry_after {
                    failed = failed.with_retry_after(wait);
                }
                failed
            }
            None => Self::new(ErrorKind::Configuration, error.to_string()),
        };
        failed = failed.with_delivery(Delivery::NotSent);
        failed.with_source(error)
    }
}
