//! A strategy that is created at its first call.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use pin_project::pin_project;
use tokio::runtime::Handle;
use tower_service::Service;

use crate::error::{BoxError, MakeFailed};
use crate::item::{CallContext, CallHold, CallRefused, HandOver};
use crate::request::{FindItem, InRequest, Untracked};

/// Returns a strategy that `make` creates at the first call, once for all clones.
///
/// Concurrent callers share one initialisation, and its error if it fails; the next call after a failure tries
/// again. Waiting for it is not part of a call: an item that is ended meanwhile by a stop or a time limit has sent nothing. If the
/// strategy holds resources to release, set [`Lazy::on_close`], and call [`Lazy::close`] when the batch is done.
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
/// A caller that is dropped during the initialisation does not stop it for the others. It pauses if every
/// caller is dropped, and the next call continues it.
pub fn lazy<S, M, Fut, E>(make: M) -> Lazy<S>
where
    M: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<S, E>> + Send + 'static,
    S: Clone + Send + Sync + 'static,
    E: Into<BoxError>,
{
    let make = Arc::new(make);
    let make = move || {
        let make = Arc::clone(&make);
        // The closure itself may panic, too.
        let making = async move { make().await };
        AssertUnwindSafe(making)
            .catch_unwind()
            .map(|made| match made {
                Ok(Ok(strategy)) => Ok(Arc::new(strategy)),
                Ok(Err(error)) => Err(MakeFailed::of(error.into())),
                Err(_) => Err(MakeFailed::panicked()),
            })
            .boxed()
    };
    Lazy {
        cell: Arc::new(Cell {
            make: Arc::new(make),
            release: Mutex::new(None),
            state: Mutex::new(State::New),
            runtime: OnceLock::new(),
        }),
        find: InRequest,
    }
}

type Make<S> = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<S>, MakeFailed>> + Send + Sync>;
type Making<S> = Shared<BoxFuture<'static, Result<Arc<S>, MakeFailed>>>;
type Release<S> = Arc<dyn Fn(Arc<S>) -> BoxFuture<'static, ()> + Send + Sync>;

/// A strategy created at its first call; see [`lazy`].
pub struct Lazy<S, F = InRequest> {
    cell: Arc<Cell<S>>,
    find: F,
}

struct Cell<S> {
    make: Make<S>,
    release: Mutex<Option<Release<S>>>,
    // No user code runs under this lock, neither a clone nor a drop.
    state: Mutex<State<S>>,
    /// The runtime in which the strategy was created, to release it there if it is dropped without [`Lazy::close`].
    runtime: OnceLock<Handle>,
}

enum State<S> {
    New,
    Making(Making<S>),
    Made(Arc<S>),
    Closed(Shared<BoxFuture<'static, ()>>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the release; its panic does not reach callers.
async fn run_release<S>(release: Release<S>, strategy: Arc<S>) {
    let released = AssertUnwindSafe(async { release(strategy).await })
        .catch_unwind()
        .await;
    if released.is_err() {
        tracing::error!("the release of a lazy strategy panicked");
    }
}

/// All handles are dropped: the strategy, if created, is released in a task if there is a runtime.
impl<S> Drop for Cell<S> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::New);
        let (State::Made(strategy), Some(release)) = (state, lock(&self.release).take()) else {
            return;
        };
        match Handle::try_current().ok().or_else(|| self.runtime.take()) {
            // A panic of the closure must not leave this drop.
            Some(runtime) => match catch_unwind(AssertUnwindSafe(|| release(strategy))) {
                Ok(releasing) => drop(runtime.spawn(releasing)),
                Err(_) => tracing::error!("the release of a lazy strategy panicked"),
            },
            None => tracing::warn!(
                "a lazy strategy was dropped without a runtime for its release; call `Lazy::close` before"
            ),
        }
    }
}

impl<S: Clone + Send + Sync + 'static, F> Lazy<S, F> {
    /// Sets the release function that [`close`](Self::close) runs if the strategy was created. It applies to all clones of the handle;
    /// the last one set counts.
    ///
    /// It also runs, in a task, when the last handle is dropped without [`close`](Self::close), provided that the runtime in
    /// which the strategy was created still runs. Only `close` waits for its end.
    #[must_use]
    pub fn on_close<R, Fut>(self, release: R) -> Self
    where
        R: Fn(S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let release: Release<S> = Arc::new(move |strategy| release((*strategy).clone()).boxed());
        if matches!(&*lock(&self.cell.state), State::Closed(_)) {
            tracing::warn!("`Lazy::on_close` comes after `close`, so the release never runs");
        }
        let old = lock(&self.cell.release).replace(release);
        drop(old);
        self
    }

    /// Closes the strategy for all clones: it is released once, and later calls fail, including those that wait for the
    /// initialisation. An initialisation under way is awaited first. Closing again only waits for the first closing.
    ///
    /// It does not wait for calls under way: close when the batch is done.
    ///
    /// # Cancel safety
    /// If the future is dropped before its end, the release pauses until the next call of `close`.
    pub async fn close(&self) {
        let closing = {
            let mut state = lock(&self.cell.state);
            let release = lock(&self.cell.release).clone();
            match std::mem::replace(&mut *state, State::New) {
                State::Closed(closing) => {
                    *state = State::Closed(closing.clone());
                    closing
                }
                old => {
                    let closing = async move {
                        let made = match old {
                            State::Made(strategy) => Some(strategy),
                            State::Making(making) => making.await.ok(),
                            State::New | State::Closed(_) => None,
                        };
                        if let (Some(strategy), Some(release)) = (made, release) {
                            run_release(release, strategy).await;
                        }
                    }
                    .boxed()
                    .shared();
                    *state = State::Closed(closing.clone());
                    closing
                }
            }
        };
        closing.await;
    }
}

impl<S, F> Lazy<S, F> {
    /// Makes it fit requests of other crates, which do not carry an item.
    pub fn untracked(self) -> Lazy<S, Untracked> {
        Lazy {
            cell: self.cell,
            find: Untracked,
        }
    }
}

impl<S, F: Clone> Clone for Lazy<S, F> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
            find: self.find.clone(),
        }
    }
}

impl<S, F> fmt::Debug for Lazy<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*lock(&self.cell.state) {
            State::New => "new",
            State::Making(_) => "being made",
            State::Made(_) => "made",
            State::Closed(_) => "closed",
        };
        f.debug_tuple("Lazy").field(&state).finish()
    }
}

impl<S, F, Req> Service<Req> for Lazy<S, F>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: From<MakeFailed> + 'static,
    F: FindItem<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LazyFuture<S, Req>;

    // It waits in its future: making the strategy ready here would reserve its capacity for all that time.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        enum Found<S> {
            Making(Making<S>),
            Made(Arc<S>),
            Closed,
        }
        let found = {
            let mut state = lock(&self.cell.state);
            match &*state {
                State::Made(strategy) => Found::Made(Arc::clone(strategy)),
                State::Closed(_) => Found::Closed,
                State::Making(making) => Found::Making(making.clone()),
                State::New => {
                    // The closure runs at the first poll, outside the lock.
                    let make = Arc::clone(&self.cell.make);
                    let making = async move { make().await }.boxed().shared();
                    *state = State::Making(making.clone());
                    Found::Making(making)
                }
            }
        };
        let step = match found {
            Found::Made(strategy) => Step::Calling {
                call: {
                    let hold = self.find.context_mut(&mut request).map(CallContext::hold);
                    hand_over(&*strategy, request, hold)
                },
            },
            Found::Closed => {
                // Records that nothing is sent.
                drop(self.find.context_mut(&mut request).map(CallContext::hold));
                Step::Failed {
                    error: Some(MakeFailed::CLOSED),
                }
            }
            Found::Making(making) => Step::Making {
                making,
                hold: self.find.context_mut(&mut request).map(CallContext::hold),
                request: Some(request),
            },
        };
        LazyFuture {
            step,
            cell: Arc::clone(&self.cell),
        }
    }
}

fn hand_over<S, Req>(strategy: &S, request: Req, hold: Option<CallHold>) -> HandOver<S, Req>
where
    S: Service<Req> + Clone,
    S::Error: From<MakeFailed>,
{
    HandOver::new(strategy.clone(), request, hold, |refused| {
        Some(MakeFailed::refused(refused).into())
    })
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
        /// Marks in the item's record that nothing was sent yet.
        hold: Option<CallHold>,
        request: Option<Req>,
    },
    Calling {
        #[pin]
        call: HandOver<S, Req>,
    },
    Failed {
        error: Option<MakeFailed>,
    },
}

impl<S, Req> Future for LazyFuture<S, Req>
where
    S: Service<Req> + Clone,
    S::Error: From<MakeFailed> + 'static,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                StepProjection::Making {
                    making,
                    hold,
                    request,
                } => {
                    let this_making = making.as_ref().get_ref().clone();
                    if let Some(hold) = hold.as_mut()
                        && hold.item().signals().stop_requested()
                    {
                        ready!(hold.poll_refused(cx));
                        return Poll::Ready(Err(MakeFailed::refused(CallRefused::Stopped).into()));
                    }
                    let Poll::Ready(made) = making.poll(cx) else {
                        if let Some(hold) = hold {
                            hold.item().signals().wake_at_stop(cx);
                        }
                        return Poll::Pending;
                    };
                    if let Ok(runtime) = Handle::try_current() {
                        let _ = this.cell.runtime.set(runtime);
                    }
                    let next = match &made {
                        Ok(strategy) => State::Made(Arc::clone(strategy)),
                        Err(_) => State::New,
                    };
                    let (old, closed) = {
                        let mut state = lock(&this.cell.state);
                        // Only the first of the waiters advances the state; a later initialisation is not theirs.
                        match &*state {
                            State::Making(current) if current.ptr_eq(&this_making) => {
                                (std::mem::replace(&mut *state, next), false)
                            }
                            State::Closed(_) => (next, true),
                            _ => (next, false),
                        }
                    };
                    drop(old);
                    match (made, request.take()) {
                        // The strategy is released, or will be.
                        (Ok(_), _) if closed => Step::Failed {
                            error: Some(MakeFailed::CLOSED),
                        },
                        (Ok(strategy), Some(request)) => Step::Calling {
                            call: hand_over(&*strategy, request, hold.take()),
                        },
                        (made, _) => Step::Failed { error: made.err() },
                    }
                }
                StepProjection::Calling { call } => return call.poll(cx),
                StepProjection::Failed { error } => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error.into())),
                        // Polled after completion.
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
