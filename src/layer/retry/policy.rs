//! The retry policy.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::retry::Policy;
use tower::retry::budget::Budget;

use super::backoff::Backoff;
use super::future::RetryWait;
use super::hook::{NoHook, OnError, OnErrorFn};
use crate::classify::{Classify, KindClassifier, Verdict};
use crate::error::{Disposition, ErrorKind, LlmError, was_sent};
use crate::events::{EventKind, Events};
use crate::item::{CallContext, Item};
use crate::prompt::Prompt;
use crate::request::{FindItem, InRequest, LlmRequest, Untracked};
use crate::telemetry::Meter;

/// The first wait after a broken connection, and those after throttles for which the gate stays open, are the backoff divided by
/// this.
const SHORT: u32 = 10;

/// Decides whether an item is called again, and how long to wait before.
///
/// Pass it to [`RetryLayer`](super::RetryLayer). tower clones the policy for every request, so its counters
/// belong to one item. The [module](super) describes the order of decisions.
///
/// Three type parameters have defaults and are changed by methods: the classifier
/// ([`classify_with`](Self::classify_with)), the look-up of the item ([`untracked`](Self::untracked)) and the hook
/// ([`on_error`](Self::on_error)).
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::retry::RetryPolicy;
///
/// let policy = RetryPolicy::new(5)
///     .max_throttles(50)
///     .initial_backoff(Duration::from_millis(200))
///     .max_backoff(Duration::from_secs(10));
/// # let _ = policy;
/// ```
#[derive(Clone)]
pub struct RetryPolicy<C = KindClassifier, F = InRequest, H = NoHook> {
    config: Arc<Config>,
    classifier: C,
    find: F,
    hook: H,
    progress: Progress,
    /// Set if the service inside refuses a call after a stop, and adds each call to the item's accounts.
    refused_inside: bool,
}

#[derive(Clone)]
struct Config {
    max_attempts: u32,
    max_throttles: u32,
    max_calls: u32,
    max_billed_repeats: u32,
    backoff: Backoff,
    max_hint: Duration,
    warned: Arc<AtomicBool>,
    budget: Option<Arc<dyn Budget + Send + Sync>>,
    events: Option<Events>,
    meter: Meter,
}

impl Config {
    /// Warns once about contradictory settings.
    fn warn_of_contradictions(&self) {
        let Backoff { initial, max, .. } = self.backoff;
        if let Some(max) = max.filter(|max| initial > *max)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                target: "llm_batch::retry",
                "retry policy: the initial backoff of {initial:?} is longer than the maximum of {max:?}, which counts; \
                 raise `max_backoff` or lower `initial_backoff`"
            );
        }
    }
}

/// The default cap on a provider's hint, the same as for [`Cooldown`](crate::layer::rate_limiter::Cooldown).
const MAX_HINT: Duration = Duration::from_secs(600);

/// The calls, attempts and throttles that one item has used up.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    calls: u32,
    failed_attempts: u32,
    throttles: u32,
    billed_repeats: u32,
}

impl RetryPolicy {
    /// Creates a policy with `max_attempts` attempts (3 is usual), 20 throttles, and a backoff of 1 s that doubles up to
    /// 60 s.
    ///
    /// # Panics
    /// If `max_attempts` is 0.
    #[track_caller]
    pub fn new(max_attempts: u32) -> Self {
        assert!(
            max_attempts > 0,
            "max_attempts must be at least 1: the first attempt counts"
        );
        Self {
            config: Arc::new(Config {
                max_attempts,
                max_throttles: 20,
                max_calls: u32::MAX,
                max_billed_repeats: 1,
                backoff: Backoff::DEFAULT,
                max_hint: MAX_HINT,
                warned: Arc::default(),
                budget: None,
                events: None,
                meter: Meter::new(None),
            }),
            classifier: KindClassifier,
            find: InRequest,
            hook: NoHook,
            progress: Progress::default(),
            refused_inside: false,
        }
    }
}

impl<C, F, H> RetryPolicy<C, F, H> {
    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    pub(in crate::layer) const fn classifier(&self) -> &C {
        &self.classifier
    }

    pub(in crate::layer) fn max_attempts(self, max_attempts: u32) -> Self {
        self.set(|config| config.max_attempts = max_attempts)
    }

    /// Sets how many calls of an item may be throttled, rejected for overload ([`ErrorKind::Overloaded`]) or fail to connect
    /// ([`ErrorKind::Connection`], not sent), not counting its attempts: `n` allow `n + 1` calls, 0 fails on the first. 20 by default.
    #[must_use]
    pub fn max_throttles(self, max_throttles: u32) -> Self {
        self.set(|config| config.max_throttles = max_throttles)
    }

    /// Sets an upper bound on the calls of one item, over both budgets. None by default.
    ///
    /// # Panics
    /// If `max_calls` is 0.
    #[must_use]
    #[track_caller]
    pub fn max_calls(self, max_calls: u32) -> Self {
        assert!(max_calls > 0, "max_calls must be at least 1");
        self.set(|config| config.max_calls = max_calls)
    }

    /// Sets how often an item repeats a call that timed out. Such a call may have been answered and billed, and
    /// its repeat is billed again. 1 by default; the attempts limit it too.
    #[must_use]
    pub fn max_billed_repeats(self, max_billed_repeats: u32) -> Self {
        self.set(|config| config.max_billed_repeats = max_billed_repeats)
    }

    /// The whole wait before the second attempt; the real one is between half of it and all of it. 1 s by default. After a broken
    /// connection it is a tenth of this, the first time.
    #[must_use]
    pub fn initial_backoff(self, initial: Duration) -> Self {
        self.set(|config| config.backoff.initial = initial)
    }

    /// Sets the factor by which each further wait grows. 2 by default.
    ///
    /// # Panics
    /// If `base` is not finite or below 1.
    #[must_use]
    #[track_caller]
    pub fn backoff_base(self, base: f64) -> Self {
        assert!(
            base.is_finite() && base >= 1.0,
            "the backoff base must be finite and at least 1, not {base}"
        );
        self.set(|config| config.backoff.base = base)
    }

    /// Sets the longest backoff. By default 60 s, or the [initial backoff](Self::initial_backoff) if that is longer. A provider's
    /// hint may be longer, and is obeyed up to [`max_hint`](Self::max_hint). A maximum below the initial backoff is applied, with one
    /// warning in the log.
    #[must_use]
    pub fn max_backoff(self, max: Duration) -> Self {
        self.set(|config| config.backoff.max = Some(max))
    }

    /// Caps the wait that a provider's hint may request. 600 s by default, as at a gate.
    #[must_use]
    pub fn max_hint(self, max: Duration) -> Self {
        self.set(|config| config.max_hint = max)
    }

    /// Sets a retry budget that its clones share, so that a broken input set does not double the cost:
    /// a success deposits, an attempt after the first withdraws. Throttled calls do not withdraw; the gate paces them.
    ///
    /// [`TpsBudget`](tower::retry::budget::TpsBudget) is tower's.
    #[must_use]
    pub fn budget(self, budget: Arc<dyn Budget + Send + Sync>) -> Self {
        self.set(|config| config.budget = Some(budget))
    }

    /// Sends [`EventKind::RetryScheduled`] to `events`.
    #[must_use]
    pub fn events(self, events: &Events) -> Self {
        self.set(|config| config.events = Some(events.clone()))
    }

    /// Sets the label `batch` of the [metrics](crate::telemetry). `default` by default.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.set(|config| config.meter = Meter::new(Some(name)))
    }

    /// Classifies outcomes by `classifier`, such as a closure `Fn(Result<&Res, &E>) -> Verdict`. Its verdict on a response may
    /// lead to a retry too.
    pub fn classify_with<D>(self, classifier: D) -> RetryPolicy<D, F, H> {
        RetryPolicy {
            config: self.config,
            classifier,
            find: self.find,
            hook: self.hook,
            progress: self.progress,
            refused_inside: self.refused_inside,
        }
    }

    /// Makes it fit requests of other crates, which do not carry an item: nothing is recorded, no deadline is known, and after a
    /// throttle the policy always sleeps itself; a gate below is closed in the same period, so the waits do not add up.
    pub fn untracked(self) -> RetryPolicy<C, Untracked, H> {
        RetryPolicy {
            config: self.config,
            classifier: self.classifier,
            find: Untracked,
            hook: self.hook,
            progress: self.progress,
            refused_inside: self.refused_inside,
        }
    }

    /// Calls `hook` for every failed call, before the decision; it may edit the next request. For the crate's own
    /// error and prompt; [`on_error_with`](Self::on_error_with) takes any types.
    ///
    /// The hook is not called for a response that the classifier rejects, as that is not an error.
    pub fn on_error<G>(self, hook: G) -> RetryPolicy<C, F, OnErrorFn<G>>
    where
        G: Fn(&LlmError, &mut LlmRequest<Prompt>),
    {
        self.on_error_with(hook)
    }

    /// Like [`on_error`](Self::on_error), for any types: annotate the closure's arguments.
    pub fn on_error_with<E, Req, G>(self, hook: G) -> RetryPolicy<C, F, OnErrorFn<G>>
    where
        G: Fn(&E, &mut Req),
    {
        RetryPolicy {
            config: self.config,
            classifier: self.classifier,
            find: self.find,
            hook: OnErrorFn(hook),
            progress: self.progress,
            refused_inside: self.refused_inside,
        }
    }

    /// Returns the wait before the next call after `verdict`, or `None` for no further call.
    fn decide(&mut self, verdict: &Verdict, item: Option<&Arc<Item>>) -> Option<Duration> {
        let config = &*self.config;
        let progress = &mut self.progress;
        // A server may send any value.
        let hint = verdict.retry_after.unwrap_or_default().min(config.max_hint);
        let jittered = |failure| config.backoff.wait(failure, fastrand::f64());
        // `true` if a gate will hold the call for the wait, so that the policy need not sleep.
        let mut held_below = false;
        // Overload is not the item's failure: it counts against the budget of throttles.
        let overloaded = verdict.is_overload();
        let turned_away = overloaded || verdict.disposition == Disposition::Throttled;
        let wait = match verdict.disposition {
            Disposition::RetryNow | Disposition::Backoff if !turned_away => {
                progress.failed_attempts += 1;
                if progress.failed_attempts >= config.max_attempts {
                    return None;
                }
                // A connection that broke says nothing about the server's load.
                let broken = verdict.kind == Some(ErrorKind::Connection) && progress.failed_attempts == 1;
                match verdict.disposition {
                    Disposition::RetryNow => hint,
                    _ if broken => hint.max(jittered(1) / SHORT),
                    _ => hint.max(jittered(progress.failed_attempts)),
                }
            }
            Disposition::RetryNow | Disposition::Backoff | Disposition::Throttled => {
                progress.throttles += 1;
                if progress.throttles > config.max_throttles {
                    return None;
                }
                if let Some(until) = item.and_then(|item| item.signals().throttled_until()) {
                    let held = until.saturating_duration_since(Instant::now());
                    held_below = !item.is_some_and(|item| item.signals().is_held_by_open_gate());
                    // Where the gate stays open it would be rejected again and again within moments.
                    if held_below {
                        held
                    } else {
                        jittered(progress.throttles) / SHORT
                    }
                } else if verdict.retry_after.is_some() && !overloaded {
                    hint
                } else {
                    hint.max(jittered(progress.throttles))
                }
            }
            // A gate that waits for the reset of a quota holds the item, and bounds how often.
            Disposition::ScopeFatal if verdict.kind == Some(ErrorKind::QuotaExhausted) => {
                let until = item.and_then(|item| item.signals().throttled_until())?;
                held_below = true;
                until.saturating_duration_since(Instant::now())
            }
            Disposition::Success | Disposition::Fatal | Disposition::ScopeFatal => return None,
        };
        if progress.calls >= config.max_calls || item.is_some_and(|item| item.signals().stop_requested()) {
            return None;
        }
        if verdict.maybe_billed {
            progress.billed_repeats += 1;
            if progress.billed_repeats > config.max_billed_repeats {
                return None;
            }
        }
        if let Some(item) = item
            && let Some(deadline) = item.deadline()
            && wait >= deadline.saturating_duration_since(Instant::now())
        {
            item.signals().set_deadline_missed();
            return None;
        }
        if let (false, Some(budget)) = (turned_away, &config.budget)
            && !budget.withdraw()
        {
            return None;
        }
        Some(if held_below { Duration::ZERO } else { wait })
    }
}

impl<C, F, H, Req, Res, E> Policy<Req, Res, E> for RetryPolicy<C, F, H>
where
    C: Classify<Res, E>,
    F: FindItem<Req>,
    H: OnError<Req, E>,
    Req: Clone,
    E: fmt::Display + 'static,
{
    type Future = RetryWait;

    fn retry(&mut self, request: &mut Req, result: &mut Result<Res, E>) -> Option<Self::Future> {
        let verdict = self.classifier.classify(result.as_ref());
        self.progress.calls = self.progress.calls.saturating_add(1);
        if !self.refused_inside
            && let Some(context) = self.find.context(request)
        {
            let success = verdict.disposition == Disposition::Success;
            context.settle_call(result.as_ref().err().and_then(was_sent).unwrap_or(true), success);
        }
        if verdict.disposition == Disposition::Success {
            if let Some(budget) = &self.config.budget {
                budget.deposit();
            }
            return None;
        }
        if let Err(error) = result {
            self.hook.on_error(error, request);
        }
        let item = self.find.item(request).cloned();
        let wait = self.decide(&verdict, item.as_ref())?;
        let attempt = self.progress.failed_attempts + 1;
        if let Some(item) = &item {
            item.signals().set_attempt(attempt);
            item.signals()
                .set_last_failure(describe(&verdict, result.as_ref().err()));
        }
        if let Some(events) = &self.config.events {
            events.emit(item.as_deref(), || EventKind::RetryScheduled { attempt, wait });
        }
        let context = self.find.context(request);
        let meter = &self.config.meter;
        Some(RetryWait::new(wait, context, self.refused_inside, meter))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        self.config.warn_of_contradictions();
        // tower clones the request right before each call.
        if !self.refused_inside
            && let Some(context) = self.context_of_own(request)
        {
            context.expect_call();
        }
        Some(request.clone())
    }
}

impl<C, F, H> RetryPolicy<C, F, H> {
    /// For a stack in which the layers inside refuse a call after a stop.
    pub(crate) const fn with_calls_refused_inside(mut self) -> Self {
        self.refused_inside = true;
        self
    }

    /// Finds the item as the policy does.
    pub(super) const fn find(&self) -> &F {
        &self.find
    }

    /// The context, if the policy has to announce the calls below; inside a call of an outer layer, that layer does.
    fn context_of_own<'a, Req>(&self, request: &'a Req) -> Option<&'a CallContext>
    where
        F: FindItem<Req>,
    {
        let context = self.find.context(request)?;
        context.call_number().is_none().then_some(context)
    }
}

/// A copy of the item's failure for a later timeout error, as the error itself is returned or dropped.
fn describe<E: fmt::Display + 'static>(verdict: &Verdict, error: Option<&E>) -> LlmError {
    match error {
        Some(error) => crate::error::describe(error, verdict.kind),
        None => {
            let kind = verdict.kind.unwrap_or(ErrorKind::Validation);
            LlmError::new(kind, "the response was not accepted")
        }
    }
}

impl<C, F, H> fmt::Debug for RetryPolicy<C, F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("max_attempts", &self.config.max_attempts)
            .field("max_throttles", &self.config.max_throttles)
            .field("backoff", &self.config.backoff)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}
