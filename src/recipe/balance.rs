//! Several strategies of equal worth: each item goes where it can start first.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use crate::classify::{Classify, KindClassifier};
use crate::error::{Disposition, refusal};
use crate::item::{CallHold, HandOver, Item};
use crate::layer::rate_limiter::{Closed, RateLimiter};
use crate::request::LlmRequest;

/// A waiting item looks for a gate that is free sooner after this time, and whenever its gate closes.
const LOOK: Duration = Duration::from_secs(1);

/// Distributes calls among strategies of equal worth, such as several accounts or deployments of one model: each call goes to the
/// one whose gate forecasts the [earliest start](RateLimiter::next_start).
///
/// - Of those that could start a call at the same time, the one goes first that was not chosen for the longest time.
/// - A call that waits moves when another gate could start it before its own gate could start any: if its gate has closed, or was
///   slower than forecast. It leaves the queue, which costs nothing; a call that was sent is never repeated for that.
/// - A latched gate is left out until it is [reopened](RateLimiter::reopen). The call whose failure latched it goes to another one.
///   If all are latched, the calls fail with the error of the last one.
/// - A throttled call fails with its throttle, and the retry policy around it repeats it immediately if another gate is free.
///
/// Each strategy is the gate and everything inside it (accounting, call timeout, client); the retries and the time limit of the
/// item belong around the balance, as it chooses anew for every call. The calls of all strategies are in the accounts of the
/// item, and each ledger has its own. The strategies must have one type; use
/// [`boxed_strategy`](crate::StrategyExt::boxed_strategy) to unify them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use futures::{StreamExt, stream};
/// use llm_batch::recipe::Balance;
/// use llm_batch::{
///     LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy,
/// };
/// use tower::{Layer, service_fn};
///
/// // One gate for each account, with its own limits.
/// let account = |name: &'static str, requests_per_minute| {
///     let gate = RateLimiter::builder().name(name).requests_per_minute(requests_per_minute).build()?;
///     // For a real provider: OpenAi::builder().api_key(..).build()?.model(..)
///     let client = service_fn(move |_: LlmRequest| async move { Ok::<_, LlmError>(LlmResponse::new(name.to_owned())) });
///     Ok::<_, LlmError>((gate.clone(), RateLimiterLayer::new(gate).layer(client)))
/// };
/// let balance = Balance::new([account("first", 60_000)?, account("second", 240_000)?]);
/// let model = RetryLayer::new(RetryPolicy::new(3)).layer(balance);
/// let results = stream::iter(["a", "b", "c"]).with_strategy(model).llm_batch(2);
/// assert!(results.all(async |outcome| outcome.result.is_ok()).await);
/// # Ok(()) }
/// ```
///
/// It waits for the strategy in its future, as the choice depends on the time: its `poll_ready` is always ready.
///
/// # Cancel safety
/// A dropped future drops the call of its strategy, and gives up its place in that queue.
pub struct Balance<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    members: Box<[Member<S>]>,
    /// The number of choices so far.
    choices: AtomicU64,
}

struct Member<S> {
    gate: RateLimiter,
    strategy: S,
    /// The choice that fell on it last.
    chosen: AtomicU64,
}

impl<S> Balance<S> {
    /// Distributes calls among `strategies`, each with the gate inside it.
    ///
    /// # Panics
    /// If there is no strategy.
    #[track_caller]
    pub fn new(strategies: impl IntoIterator<Item = (RateLimiter, S)>) -> Self {
        let members: Box<[_]> = strategies
            .into_iter()
            .map(|(gate, strategy)| Member {
                gate,
                strategy,
                chosen: AtomicU64::new(0),
            })
            .collect();
        assert!(!members.is_empty(), "a balance has at least one strategy");
        Self {
            shared: Arc::new(Shared {
                members,
                choices: AtomicU64::new(0),
            }),
        }
    }

    /// The strategies with their gates.
    pub fn strategies(&self) -> impl Iterator<Item = (&RateLimiter, &S)> {
        self.shared
            .members
            .iter()
            .map(|member| (&member.gate, &member.strategy))
    }
}

impl<S> Shared<S> {
    /// Chooses the strategy that can start a call first, but not `except`. `None`: all gates are latched.
    fn choose(&self, except: Option<usize>) -> Option<(usize, Instant)> {
        let now = Instant::now();
        let forecasts = self.members.iter().enumerate().filter_map(|(place, member)| {
            let start = member.gate.next_start(0).filter(|_| Some(place) != except)?;
            // The gates are asked one after another: what differs by less is a tie.
            let wait = start.saturating_duration_since(now).as_millis();
            Some((wait, member.chosen.load(Ordering::Relaxed), place, start))
        });
        forecasts.min().map(|(.., place, start)| (place, start))
    }

    /// A strategy that could start a call before the gate of this one could start any.
    fn sooner_than(&self, place: usize) -> Option<usize> {
        let own = self.members[place].gate.next_start_at_head();
        let (other, start) = self.choose(Some(place))?;
        own.is_none_or(|own| start < own).then_some(other)
    }

    fn note_choice(&self, place: usize) -> &Member<S> {
        let member = &self.members[place];
        let choice = self.choices.fetch_add(1, Ordering::Relaxed) + 1;
        member.chosen.store(choice, Ordering::Relaxed);
        member
    }

    /// The strategy that was chosen last.
    fn last(&self) -> usize {
        let last =
            (self.members.iter().enumerate()).max_by_key(|(_, member)| member.chosen.load(Ordering::Relaxed));
        last.map_or(0, |(place, _)| place)
    }
}

impl<S> Clone for Balance<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S, I> Service<LlmRequest<I>> for Balance<S>
where
    S: Service<LlmRequest<I>> + Clone,
    S::Error: 'static,
    I: Clone,
    KindClassifier: Classify<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BalanceFuture<S, I>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest<I>) -> Self::Future {
        let item = Arc::clone(request.item());
        let spare = (self.shared.members.len() > 1).then(|| request.clone());
        let hold = request.context_mut().hold();
        BalanceFuture {
            // Chosen at the first poll, when the call is about to be made.
            step: Step::Choosing(Some((request, hold))),
            course: Course {
                shared: Arc::clone(&self.shared),
                place: 0,
                spare,
                wait: None,
                item,
            },
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Balance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.strategies()).finish()
    }
}

/// The future of [`Balance`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct BalanceFuture<S, I>
where
    S: Service<LlmRequest<I>>,
{
    #[pin]
    step: Step<S, I>,
    course: Course<S, I>,
}

#[pin_project(project = StepProjection)]
enum Step<S, I>
where
    S: Service<LlmRequest<I>>,
{
    /// `None` once it was chosen.
    Choosing(Option<(LlmRequest<I>, CallHold)>),
    Calling {
        #[pin]
        run: HandOver<S, LlmRequest<I>>,
    },
}

/// The way of one call among the strategies.
struct Course<S, I> {
    shared: Arc<Shared<S>>,
    /// The strategy that has the request.
    place: usize,
    /// The request for another strategy, if there is one.
    spare: Option<LlmRequest<I>>,
    /// Wakes the item while it waits at a gate.
    wait: Option<Pin<Box<Wait>>>,
    item: Arc<Item>,
}

/// The occasions to look for another gate.
#[pin_project]
struct Wait {
    #[pin]
    closed: Closed,
    /// `None` outside a runtime.
    #[pin]
    sleep: Option<Sleep>,
}

impl Wait {
    fn new(gate: &RateLimiter) -> Self {
        Self {
            closed: gate.closed(),
            sleep: Handle::try_current().ok().map(|_| tokio::time::sleep(LOOK)),
        }
    }

    /// Returns `true` if it is time to look.
    fn poll(self: Pin<&mut Self>, gate: &RateLimiter, cx: &mut Context<'_>) -> bool {
        let mut this = self.project();
        let closed = this.closed.as_mut().poll(cx).is_ready();
        if closed {
            this.closed.set(gate.closed());
            // Registered, for the next time it closes.
            let _ = this.closed.poll(cx);
        }
        let Some(mut sleep) = this.sleep.as_pin_mut() else {
            return closed;
        };
        let is_time = sleep.as_mut().poll(cx).is_ready();
        if is_time {
            sleep.as_mut().reset(Instant::now() + LOOK);
            let _ = sleep.poll(cx);
        }
        closed || is_time
    }
}

impl<S, I> Course<S, I> {
    fn gate(&self) -> &RateLimiter {
        &self.shared.members[self.place].gate
    }

    /// The strategy to go to after a failure with this disposition: the call whose failure latched the gate has another chance.
    fn after_failure(&self, disposition: Disposition) -> Option<usize> {
        let other = || self.shared.choose(Some(self.place));
        let signals = self.item.signals();
        match disposition {
            Disposition::ScopeFatal if self.gate().snapshot().latched.is_some() => {
                signals.may_call().ok()?;
                other().map(|(place, _)| place)
            }
            Disposition::Throttled => {
                // The item waits for the gate that opens first.
                if signals.throttled_until().is_some()
                    && let Some((_, start)) = other()
                {
                    signals.shorten_hold(start);
                }
                None
            }
            _ => None,
        }
    }

    /// The strategy to go to while the item waits.
    fn while_waiting(&mut self, cx: &mut Context<'_>) -> Option<usize> {
        let signals = self.item.signals();
        if !signals.is_held_back() || signals.may_call().is_err() {
            self.wait = None;
            return None;
        }
        let gate = &self.shared.members[self.place].gate;
        let is_new = self.wait.is_none();
        let wait = self.wait.get_or_insert_with(|| Box::pin(Wait::new(gate)));
        if !wait.as_mut().poll(gate, cx) || is_new {
            return None;
        }
        self.shared.sooner_than(self.place)
    }
}

impl<S, I> Future for BalanceFuture<S, I>
where
    S: Service<LlmRequest<I>> + Clone,
    S::Error: 'static,
    I: Clone,
    KindClassifier: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let course = this.course;
        loop {
            let (place, request, hold) = match this.step.as_mut().project() {
                StepProjection::Choosing(chosen) => {
                    let Some((request, hold)) = chosen.take() else {
                        panic!("`BalanceFuture` polled after completion");
                    };
                    let place = match course.spare {
                        Some(_) => course.shared.choose(None).map(|(place, _)| place),
                        None => Some(0),
                    };
                    // If all are latched, the last one has the error.
                    (place.unwrap_or_else(|| course.shared.last()), request, hold)
                }
                StepProjection::Calling { run } => {
                    let polled = run.poll(cx);
                    if course.spare.is_none() {
                        return polled;
                    }
                    let other = match &polled {
                        Poll::Pending => course.while_waiting(cx),
                        Poll::Ready(Ok(_)) => None,
                        Poll::Ready(result) => {
                            let verdict = KindClassifier.classify(result.as_ref());
                            course.after_failure(verdict.disposition)
                        }
                    };
                    let (Some(place), Some(spare)) = (other, &course.spare) else {
                        return polled;
                    };
                    let mut request = spare.clone();
                    let hold = request.context_mut().hold();
                    (place, request, hold)
                }
            };
            course.place = place;
            course.wait = None;
            let strategy = course.shared.note_choice(place).strategy.clone();
            // The strategy before is dropped first: it leaves the queue of its gate.
            this.step.set(Step::Choosing(None));
            let run = HandOver::new(strategy, request, Some(hold), refusal);
            this.step.set(Step::Calling { run });
        }
    }
}

impl<S, I> fmt::Debug for BalanceFuture<S, I>
where
    S: Service<LlmRequest<I>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceFuture")
            .field("gate", &self.course.gate().name())
            .finish_non_exhaustive()
    }
}
