//! A scripted strategy.

use std::collections::BTreeMap;
use std::collections::hash_map::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tower_service::Service;

use super::latency::Latency;
use super::{call_seed, function_call, hash};
use crate::error::{ErrorKind, LlmError};
use crate::prompt::ToolCall;
use crate::request::LlmRequest;
use crate::response::{FinishReason, LlmResponse};
use crate::usage::TokenUsage;

/// A strategy that answers from a closure and fails according to a script.
///
/// Calls are numbered from 1 in the order in which they start, **over all items and clones**; after
/// [`per_item`](Self::per_item) each item's calls are numbered separately. Without a script every call succeeds
/// immediately, with unknown usage. A throttled or rejected call has known zero usage, as with a real provider.
///
/// Clones share the script, the numbering and the counters.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::testing::FakeStrategy;
/// use llm_batch::{ErrorKind, LlmRequest, TokenUsage};
/// use tower::ServiceExt;
///
/// let fake = FakeStrategy::new(|request: &LlmRequest| format!("item {}", request.id()))
///     .throttle_on_call(1)
///     .usage(TokenUsage::new(10, 2));
///
/// let throttled = fake.clone().oneshot(LlmRequest::new("hi".into())).await.unwrap_err();
/// assert_eq!(throttled.kind(), ErrorKind::RateLimit);
/// let answer = fake.clone().oneshot(LlmRequest::new("hi".into())).await.unwrap();
/// assert_eq!(answer.output, "item 0");
/// assert_eq!(fake.calls(), 2);
/// # }
/// ```
pub struct FakeStrategy<F> {
    answer: Arc<F>,
    script: Arc<Script>,
    counters: Arc<Counters>,
}

#[derive(Clone, Debug, Default)]
struct Script {
    latency: Latency,
    usage: Option<TokenUsage>,
    retry_after: Option<Duration>,
    steps: BTreeMap<u64, Step>,
    rates: Vec<(f64, ErrorKind)>,
    seed: u64,
    per_item: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Fail(ErrorKind),
    CallTools(Vec<ToolCall>),
    Hang,
    Panic,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

/// Counts a call as in flight until it is dropped.
struct InFlight(Arc<Counters>);

impl InFlight {
    fn new(counters: &Arc<Counters>) -> Self {
        let now = counters.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        counters.most_in_flight.fetch_max(now, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The numbers of calls of one item, per fake.
#[derive(Default)]
struct ItemCalls(HashMap<usize, u64>);

impl<F> FakeStrategy<F> {
    /// Creates a fake that answers with the result of `answer` for the request.
    pub fn new<I, O>(answer: F) -> Self
    where
        F: Fn(&LlmRequest<I>) -> O,
    {
        Self {
            answer: Arc::new(answer),
            script: Arc::default(),
            counters: Arc::default(),
        }
    }

    fn script(&mut self) -> &mut Script {
        Arc::make_mut(&mut self.script)
    }

    fn step(mut self, call: u64, step: Step) -> Self {
        self.script().steps.insert(call, step);
        self
    }

    /// Sets the latency of every call; none by default.
    #[must_use]
    pub fn latency(mut self, latency: impl Into<Latency>) -> Self {
        self.script().latency = latency.into();
        self
    }

    /// Sets the usage that a successful call reports. By default it is unknown.
    #[must_use]
    pub fn usage(mut self, usage: TokenUsage) -> Self {
        self.script().usage = Some(usage);
        self
    }

    /// Throttles the call with that number (a 429).
    #[must_use]
    pub fn throttle_on_call(self, call: u64) -> Self {
        self.step(call, Step::Fail(ErrorKind::RateLimit))
    }

    /// Sets the retry-after hint of throttled calls; none by default.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.script().retry_after = Some(wait);
        self
    }

    /// Fails the call with that number with [`ErrorKind::Timeout`] (a 504) and unknown usage.
    #[must_use]
    pub fn timeout_on_call(self, call: u64) -> Self {
        self.step(call, Step::Fail(ErrorKind::Timeout))
    }

    /// Fails the call with that number with `kind`.
    #[must_use]
    pub fn fail_on_call(self, call: u64, kind: ErrorKind) -> Self {
        self.step(call, Step::Fail(kind))
    }

    /// The call with that number answers with these calls of tools beside its output, and with
    /// [`FinishReason::ToolCalls`]. After [`per_item`](Self::per_item) each item's first call can ask for a tool, and its second
    /// one answer:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use llm_batch::testing::FakeStrategy;
    /// use llm_batch::{LlmRequest, ToolCall};
    /// use tower::ServiceExt;
    ///
    /// let fake = FakeStrategy::new(|_: &LlmRequest| "It rains.".to_owned())
    ///     .tool_calls_on_call(1, [ToolCall::new("c1", "weather", r#"{"city": "Oslo"}"#)])
    ///     .per_item();
    /// let asked = fake.clone().oneshot(LlmRequest::new("Oslo?".into())).await.unwrap();
    /// assert_eq!(asked.tool_calls()[0].name, "weather");
    /// # }
    /// ```
    #[must_use]
    pub fn tool_calls_on_call(self, call: u64, calls: impl IntoIterator<Item = ToolCall>) -> Self {
        self.step(call, Step::CallTools(calls.into_iter().collect()))
    }

    /// The call with that number never ends; only a timeout or a drop does.
    #[must_use]
    pub fn hang_on_call(self, call: u64) -> Self {
        self.step(call, Step::Hang)
    }

    /// Makes the call with that number panic, after its latency.
    #[must_use]
    pub fn panic_on_call(self, call: u64) -> Self {
        self.step(call, Step::Panic)
    }

    /// Fails a share of all calls (0 to 1) with `kind`, selected by the [`seed`](Self::seed) and the call's
    /// number only. May be set several times; a script for the call's number takes precedence.
    #[must_use]
    pub fn fail_at_rate(mut self, rate: f64, kind: ErrorKind) -> Self {
        self.script().rates.push((rate, kind));
        self
    }

    /// Sets the seed of latencies and failure rates; 0 by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.script().seed = seed;
        self
    }

    /// Numbers the calls of each item separately, from 1.
    #[must_use]
    pub fn per_item(mut self) -> Self {
        self.script().per_item = true;
        self
    }

    /// Calls started so far, over all clones.
    pub fn calls(&self) -> u64 {
        self.counters.calls.load(Ordering::Relaxed)
    }

    /// Calls in flight now.
    pub fn in_flight(&self) -> u64 {
        self.counters.in_flight.load(Ordering::Relaxed)
    }

    /// The maximum number of calls that were in flight at the same time.
    pub fn most_in_flight(&self) -> u64 {
        self.counters.most_in_flight.load(Ordering::Relaxed)
    }
}

impl Script {
    /// Returns the script step for a call, if there is one, and the latency of the call.
    fn plan(&self, number: u64, item: u64) -> (Option<Step>, Duration) {
        let seed = if self.per_item {
            hash(self.seed, &item.to_le_bytes())
        } else {
            self.seed
        };
        let mut rng = fastrand::Rng::with_seed(call_seed(seed, number));
        let latency = self.latency.sample(&mut rng);
        let mut random = None;
        for &(rate, kind) in &self.rates {
            if rng.f64() < rate && random.is_none() {
                random = Some(Step::Fail(kind));
            }
        }
        (self.steps.get(&number).cloned().or(random), latency)
    }

    fn error(&self, kind: ErrorKind, number: u64) -> LlmError {
        let error = LlmError::new(kind, format!("scripted failure of call {number}"));
        match (kind, self.retry_after) {
            (ErrorKind::RateLimit, Some(wait)) => error.with_status(429).with_retry_after(wait),
            (ErrorKind::RateLimit, None) => error.with_status(429),
            (ErrorKind::Timeout, _) => error.with_status(504),
            _ => error,
        }
    }
}

impl<I, O, F> Service<LlmRequest<I>> for FakeStrategy<F>
where
    F: Fn(&LlmRequest<I>) -> O + Send + Sync + 'static,
    I: Send + Sync + 'static,
    O: Send + 'static,
{
    type Response = LlmResponse<O>;
    type Error = LlmError;
    type Future = BoxFuture<'static, Result<LlmResponse<O>, LlmError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest<I>) -> Self::Future {
        let in_flight = InFlight::new(&self.counters);
        let mut number = self.counters.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.script.per_item {
            let fake = Arc::as_ptr(&self.counters) as usize;
            number = request.state().update(|ItemCalls(calls): &mut ItemCalls| {
                let count = calls.entry(fake).or_default();
                *count += 1;
                *count
            });
        }
        let (step, latency) = self.script.plan(number, request.index());
        let answer = Arc::clone(&self.answer);
        let script = Arc::clone(&self.script);
        Box::pin(async move {
            let _in_flight = in_flight;
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            let answered = || {
                let mut response = LlmResponse::new(answer(&request));
                response.usage = script.usage;
                response
            };
            match step {
                None => Ok(answered()),
                Some(Step::CallTools(calls)) => {
                    let mut response = answered();
                    response.metadata.finish_reason = Some(FinishReason::ToolCalls);
                    response.metadata.tool_calls = calls
                        .iter()
                        .map(|call| function_call(&call.id, &call.name, &call.arguments))
                        .collect();
                    Ok(response)
                }
                Some(Step::Fail(kind)) => Err(script.error(kind, number)),
                Some(Step::Hang) => match pending::<Infallible>().await {},
                Some(Step::Panic) => panic!("scripted panic of call {number}"),
            }
        })
    }
}

impl<F> Clone for FakeStrategy<F> {
    fn clone(&self) -> Self {
        Self {
            answer: Arc::clone(&self.answer),
            script: Arc::clone(&self.script),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl<F> fmt::Debug for FakeStrategy<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeStrategy")
            .field("script", &self.script)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
