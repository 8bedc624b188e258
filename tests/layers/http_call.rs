//! Calls over HTTP that end with their bodies.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use llm_batch::layer::http::{BodyFailed, Exchange, FinishedBody, HttpCallBody, HttpCallLayer};
use llm_batch::layer::rate_limiter::RateLimiter;
use llm_batch::layer::timeout::TimedOut;
use llm_batch::layer::token_accounting::TokenLedger;
use llm_batch::{
    BoxError, CallTimeoutLayer, ErrorKind, EventKind, Events, HttpClassifier, Item, ItemId, LlmError,
    LlmRequest, RateLimiterLayer, RetryLayer, RetryPolicy, TokenAccountingLayer, TokenUsage,
};
use proptest::prelude::*;
use tokio::time::{Instant, Sleep};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

/// One step of a [`Scripted`] body.
#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Wait(Duration),
    Trailers(HeaderMap),
    Fail(&'static str),
    Panic,
}

fn data(text: &'static str) -> Piece {
    Piece::Data(Bytes::from_static(text.as_bytes()))
}

/// A body that plays its pieces, and counts as alive until its last one.
struct Scripted {
    pieces: VecDeque<Piece>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// `true` if it knows its length and its end, like one with a `content-length`.
    exact: bool,
    alive: Option<Alive>,
    polls: Arc<AtomicUsize>,
}

/// The number of bodies under way.
#[derive(Clone, Debug, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    fn enter(&self) -> Alive {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Alive(self.clone())
    }
}

struct Alive(Gauge);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self {
            pieces: pieces.into_iter().collect(),
            sleep: None,
            exact: false,
            alive: None,
            polls: Arc::default(),
        }
    }

    fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    fn left(&self) -> u64 {
        (self.pieces.iter())
            .map(|piece| match piece {
                Piece::Data(data) => data.len() as u64,
                _ => 0,
            })
            .sum()
    }
}

impl Body for Scripted {
    // In two parts, so that more than the first chunk has to be delivered.
    type Data = bytes::buf::Chain<Bytes, Bytes>;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        loop {
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            return Poll::Ready(match self.pieces.pop_front() {
                Some(Piece::Wait(time)) => {
                    self.sleep = Some(Box::pin(tokio::time::sleep(time)));
                    continue;
                }
                Some(Piece::Data(mut data)) => {
                    let first = data.split_to(data.len() / 2);
                    if self.pieces.is_empty() {
                        self.alive = None;
                    }
                    Some(Ok(Frame::data(first.chain(data))))
                }
                Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Piece::Fail(why)) => Some(Err(std::io::Error::other(why))),
                Some(Piece::Panic) => panic!("as the script says"),
                None => {
                    self.alive = None;
                    None
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact {
            SizeHint::with_exact(self.left())
        } else {
            SizeHint::default()
        }
    }
}

fn reply(status: u16, body: Scripted) -> Response<Scripted> {
    Response::builder()
        .status(status)
        .header("x-of", "the server")
        .body(body)
        .unwrap()
}

/// A client that plays its replies.
fn client(
    replies: impl IntoIterator<Item = Response<Scripted>>,
) -> impl Service<
    &'static str,
    Response = Response<Scripted>,
    Error = BoxError,
    Future = impl Future<Output = Result<Response<Scripted>, BoxError>> + Send + 'static,
> + Clone
+ Send
+ Sync
+ 'static {
    let replies: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(replies.into_iter().collect()));
    service_fn(move |_: &'static str| {
        let reply = replies.lock().unwrap().pop_front();
        std::future::ready(reply.ok_or_else(|| BoxError::from("played out")))
    })
}

/// The usage at the end of a body from OpenAI.
fn usage(outcome: Result<&Response<FinishedBody>, &BoxError>) -> Option<TokenUsage> {
    let reply = outcome.ok()?;
    if !reply.status().is_success() {
        return Some(TokenUsage::ZERO);
    }
    reply.body().json().rev().find_map(|value| {
        let usage = value.get("usage")?;
        Some(TokenUsage::new(
            usage["prompt_tokens"].as_u64()?,
            usage["completion_tokens"].as_u64()?,
        ))
    })
}

type Usage = fn(Result<&Response<FinishedBody>, &BoxError>) -> Option<TokenUsage>;
type Gate =
    RateLimiterLayer<HttpClassifier, llm_batch::Untracked, llm_batch::CharacterEstimate, RateLimiter, Usage>;
type Accounting = TokenAccountingLayer<Usage, llm_batch::Untracked>;

fn gate(limiter: &RateLimiter) -> Gate {
    RateLimiterLayer::new(limiter.clone())
        .classify_with(HttpClassifier)
        .untracked()
        .usage_with(usage as Usage)
}

fn accounting(ledger: &TokenLedger) -> Accounting {
    TokenAccountingLayer::new(ledger.clone())
        .usage_with(usage as Usage)
        .untracked()
}

/// The layers that work per call.
fn per_call(
    limiter: &RateLimiter,
    ledger: &TokenLedger,
    limit: Duration,
) -> HttpCallLayer<(Gate, Accounting, CallTimeoutLayer)> {
    HttpCallLayer::new((gate(limiter), accounting(ledger), CallTimeoutLayer::new(limit)))
}

async fn frame<B: Body + Unpin>(body: &mut B) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// The bytes and trailers of a body, in the pieces received.
async fn read<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
) -> Result<(Vec<Bytes>, Option<HeaderMap>), B::Error> {
    let (mut pieces, mut trailers) = (Vec::new(), None);
    while let Some(frame) = frame(&mut body).await {
        match frame?.into_data() {
            Ok(data) => pieces.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(frame(&mut body).await.is_none(), "it stays ended");
    Ok((pieces, trailers))
}

const SSE: [&str; 3] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"4\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
];

#[tokio::test(start_paused = true)]
async fn a_cap_on_calls_in_flight_counts_bodies() {
    let limiter = RateLimiter::builder().max_in_flight(5).build().unwrap();
    let ledger = TokenLedger::new();
    let gauge = Gauge::default();
    let at_provider = gauge.clone();
    let model = per_call(&limiter, &ledger, 60 * SECOND).layer(service_fn(move |_: &'static str| {
        let mut body = Scripted::new([Piece::Wait(3 * SECOND)].into_iter().chain(SSE.map(data)));
        body.alive = Some(at_provider.enter());
        std::future::ready(Ok::<_, BoxError>(reply(200, body)))
    }));
    let start = Instant::now();
    let calls = (0..60).map(|_| {
        let head = model.clone().oneshot("hi").boxed();
        tokio::spawn(async move { read(head.await.unwrap().into_body()).await.unwrap() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().0.concat(), SSE.concat().as_bytes());
    }
    assert_eq!(gauge.most.load(Ordering::SeqCst), 5);
    // Twelve rounds; the gate also spaces the starts a little.
    assert!(
        (36..37).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        (limiter.snapshot().in_flight, limiter.snapshot().settled),
        (0, 60)
    );
    let counted = ledger.snapshot();
    assert_eq!(
        (counted.calls, counted.failed_calls, counted.unknown_usage_calls),
        (60, 0, 0)
    );
    assert_eq!(counted.usage, TokenUsage::new(600, 120));
}

#[tokio::test(start_paused = true)]
async fn the_head_is_there_before_the_body() {
    let limiter = RateLimiter::default();
    let ledger = TokenLedger::new();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let body = Scripted::new([
        Piece::Wait(5 * SECOND),
        data("one"),
        Piece::Wait(5 * SECOND),
        data(" two"),
        Piece::Trailers(trailers.clone()),
    ]);
    let polls = Arc::clone(&body.polls);
    let start = Instant::now();
    let response = per_call(&limiter, &ledger, 60 * SECOND)
        .layer(client([reply(200, body)]))
        .oneshot("hi")
        .await
        .unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(response.headers()["x-of"], "the server");
    assert_eq!(limiter.snapshot().in_flight, 1);
    assert_eq!(ledger.snapshot().calls, 0);
    assert_eq!(polls.load(Ordering::SeqCst), 0, "nothing is read ahead");
    let mut body = response.into_body();
    assert!(!body.is_end_stream());
    let first = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((start.elapsed(), &*first), (5 * SECOND, &b"one"[..]));
    assert_eq!(limiter.snapshot().in_flight, 1);
    let (rest, sums) = read(body).await.unwrap();
    assert_eq!((rest, sums), (vec![Bytes::from(" two")], Some(trailers)));
    assert_eq!(start.elapsed(), 10 * SECOND);
    assert_eq!(limiter.snapshot().in_flight, 0);
    let counted = ledger.snapshot();
    // The body did not report its usage.
    assert_eq!(
        (counted.calls, counted.failed_calls, counted.unknown_usage_calls),
        (1, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_with_the_last_byte_where_the_length_is_known() {
    let limiter = RateLimiter::default();
    let body = Scripted::new([
        data("{\"usage\":{\"prompt_tokens\":3,"),
        data("\"completion_tokens\":4}}"),
    ])
    .exact();
    let ledger = TokenLedger::new();
    let response = per_call(&limiter, &ledger, SECOND)
        .layer(client([reply(200, body)]))
        .oneshot("hi")
        .await
        .unwrap();
    let mut body = response.into_body();
    let length = body.size_hint().exact().unwrap();
    let first = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(body.size_hint().exact(), Some(length - first.len() as u64));
    assert_eq!(limiter.snapshot().in_flight, 1);
    let second = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((first.len() + second.len()) as u64, length);
    // Before the caller reads more, which it need not do.
    assert!(body.is_end_stream());
    assert_eq!(limiter.snapshot().in_flight, 0);
    assert_eq!(ledger.snapshot().usage, TokenUsage::new(3, 4));
    assert_eq!(ledger.snapshot().failed_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_ends_its_call_with_the_head() {
    for (status, method) in [(200, Method::HEAD), (204, Method::POST)] {
        let limiter = RateLimiter::default();
        let ledger = TokenLedger::new();
        let response = per_call(&limiter, &ledger, SECOND)
            .layer(client([reply(status, Scripted::new([]).exact())]))
            .oneshot("hi")
            .await
            .unwrap();
        let counted = ledger.snapshot();
        assert_eq!((counted.calls, counted.failed_calls), (1, 0), "{method}");
        assert_eq!(limiter.snapshot().in_flight, 0, "{method}");
        assert!(response.body().is_end_stream());
        assert!(read(response.into_body()).await.unwrap().0.is_empty());
    }
    // Its end is known only when it is read, or dropped.
    for reads in [true, false] {
        let ledger = TokenLedger::new();
        let response = per_call(&RateLimiter::default(), &ledger, SECOND)
            .layer(client([reply(200, Scripted::new([]))]))
            .oneshot("hi")
            .await
            .unwrap();
        assert_eq!(ledger.snapshot().calls, 0);
        if reads {
            assert!(read(response.into_body()).await.unwrap().0.is_empty());
        } else {
            drop(response);
        }
        let counted = ledger.snapshot();
        assert_eq!((counted.calls, counted.failed_calls), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_no_success_ends_its_call_with_the_head() {
    let limiter = RateLimiter::default();
    let ledger = TokenLedger::new();
    let body = || Scripted::new([Piece::Wait(SECOND), data("slow down"), data("!")]).exact();
    let layer = per_call(&limiter, &ledger, 9 * SECOND);
    let start = Instant::now();
    let response = layer
        .layer(client([reply(429, body())]))
        .oneshot("hi")
        .await
        .unwrap();
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.throttled), (0, 1));
    assert_eq!(snapshot.closed_by, Some(ErrorKind::RateLimit));
    assert_eq!(ledger.snapshot().usage, TokenUsage::ZERO);
    assert_eq!(ledger.snapshot().unknown_usage_calls, 0);
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        read(response.into_body()).await.unwrap().0.concat(),
        b"slow down!"
    );
    assert_eq!(start.elapsed(), SECOND);

    // So a retry outside works as usual, and one inside sees the earlier reply.
    for inside in [false, true] {
        let ledger = TokenLedger::new();
        let policy = RetryPolicy::new(3)
            .initial_backoff(Duration::from_millis(1))
            .classify_with(HttpClassifier)
            .untracked();
        let retry = RetryLayer::new(policy);
        let replies = [429, 503, 200].map(|status| reply(status, body()));
        let layers = (gate(&RateLimiter::default()), accounting(&ledger));
        let response = if inside {
            let layer = HttpCallLayer::new((retry, layers));
            layer.layer(client(replies)).oneshot("hi").await.unwrap()
        } else {
            let layer = (retry, HttpCallLayer::new(layers));
            layer.layer(client(replies)).oneshot("hi").await.unwrap()
        };
        assert_eq!(ledger.snapshot().calls, 2);
        let pieces = read(response.into_body()).await.unwrap().0;
        assert_eq!(pieces.concat(), b"slow down!");
        assert_eq!(ledger.snapshot().calls, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_body_is_a_cancelled_call() {
    for reads in 0..3 {
        let limiter = RateLimiter::builder().max_in_flight(1).build().unwrap();
        let ledger = TokenLedger::new();
        let gauge = Gauge::default();
        let mut body = Scripted::new([data("one"), data("two"), data("three"), data("four")]);
        body.alive = Some(gauge.enter());
        let response = per_call(&limiter, &ledger, SECOND)
            .layer(client([reply(200, body)]))
            .oneshot("hi")
            .await
            .unwrap();
        let mut body = response.into_body();
        for _ in 0..reads {
            frame(&mut body).await.unwrap().unwrap();
        }
        drop(body);
        assert_eq!(limiter.snapshot().in_flight, 0);
        let counted = ledger.snapshot();
        assert_eq!(
            (counted.calls, counted.failed_calls, counted.unknown_usage_calls),
            (1, 1, 1)
        );
        assert_eq!(gauge.now.load(Ordering::SeqCst), 0, "the connection is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_at_the_last_event_has_read_all() {
    // A server may still send: nothing for a long time, the end, or an empty piece and the end.
    let ends = [vec![Piece::Wait(9 * SECOND)], vec![], vec![data("")]];
    for end in ends {
        let ledger = TokenLedger::new();
        let body = Scripted::new(SSE.map(data).into_iter().chain(end));
        let response = per_call(&RateLimiter::default(), &ledger, SECOND)
            .layer(client([reply(200, body)]))
            .oneshot("hi")
            .await
            .unwrap();
        let mut body = response.into_body();
        for _ in SSE {
            frame(&mut body).await.unwrap().unwrap();
        }
        drop(body);
        let counted = ledger.snapshot();
        assert_eq!(
            (counted.calls, counted.failed_calls, counted.unknown_usage_calls),
            (1, 0, 0)
        );
        assert_eq!(counted.usage, TokenUsage::new(10, 2));
    }
    // A call that stops before that is not complete.
    let ledger = TokenLedger::new();
    let response = per_call(&RateLimiter::default(), &ledger, SECOND)
        .layer(client([reply(200, Scripted::new(SSE.map(data)))]))
        .oneshot("hi")
        .await
        .unwrap();
    let mut body = response.into_body();
    frame(&mut body).await.unwrap().unwrap();
    frame(&mut body).await.unwrap().unwrap();
    drop(body);
    assert_eq!(ledger.snapshot().failed_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn the_call_timeout_covers_the_body() {
    let limiter = RateLimiter::default();
    let ledger = TokenLedger::new();
    let gauge = Gauge::default();
    let mut body = Scripted::new((0..100).flat_map(|_| [Piece::Wait(SECOND), data("more")]));
    body.alive = Some(gauge.enter());
    let start = Instant::now();
    let response = per_call(&limiter, &ledger, 5 * SECOND)
        .layer(client([reply(200, body)]))
        .oneshot("hi")
        .await
        .unwrap();
    let mut body = response.into_body();
    let mut frames = 0;
    let error = loop {
        match frame(&mut body).await.unwrap() {
            Ok(_) => frames += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(
        (start.elapsed(), frames),
        (5 * SECOND, 5),
        "what has arrived is handed on"
    );
    assert_eq!(error.downcast::<TimedOut>().unwrap().limit(), 5 * SECOND);
    // Ended and released, although the body still exists.
    assert!(frame(&mut body).await.is_none());
    assert!(body.is_end_stream());
    assert_eq!(gauge.now.load(Ordering::SeqCst), 0);
    assert_eq!(limiter.snapshot().in_flight, 0);
    let counted = ledger.snapshot();
    assert_eq!((counted.failed_calls, counted.unknown_usage_calls), (1, 1));

    // Before the head it is the call's error, as usual.
    let stalls = service_fn(|_: &'static str| std::future::pending::<Result<Response<Scripted>, BoxError>>());
    let error = per_call(&limiter, &ledger, 5 * SECOND)
        .layer(stalls)
        .oneshot("hi")
        .await
        .unwrap_err();
    assert!(error.is::<TimedOut>());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_a_failed_call_and_its_own_error() {
    let limiter = RateLimiter::default();
    let ledger = TokenLedger::new();
    let body = Scripted::new([data("one"), Piece::Fail("reset by peer"), data("two")]);
    let response = per_call(&limiter, &ledger, SECOND)
        .layer(client([reply(200, body)]))
        .oneshot("hi")
        .await
        .unwrap();
    let mut body = response.into_body();
    frame(&mut body).await.unwrap().unwrap();
    let error = frame(&mut body).await.unwrap().unwrap_err();
    assert_eq!(
        error.downcast::<std::io::Error>().unwrap().to_string(),
        "reset by peer"
    );
    assert!(frame(&mut body).await.is_none());
    let counted = ledger.snapshot();
    assert_eq!((counted.failed_calls, counted.unknown_usage_calls), (1, 1));
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_layer_lets_go_of_the_call() {
    for pieces in [vec![data("one"), Piece::Panic], vec![data("one")]] {
        let limiter = RateLimiter::default();
        let body_panics = pieces.len() == 2;
        let layers = (
            gate(&limiter),
            TokenAccountingLayer::new(TokenLedger::new())
                .usage_with(move |_: Result<&Response<FinishedBody>, &BoxError>| {
                    assert!(body_panics, "no usage");
                    None
                })
                .untracked(),
        );
        let response = HttpCallLayer::new(layers)
            .layer(client([reply(200, Scripted::new(pieces))]))
            .oneshot("hi")
            .await
            .unwrap();
        let ended = tokio::spawn(read(response.into_body())).await;
        assert!(ended.unwrap_err().is_panic());
        assert_eq!(limiter.snapshot().in_flight, 0);
    }
}

/// Where a layer polls the call: in place, in another task from the start, or in another task once it was made.
#[derive(Clone, Copy, Debug)]
enum Where {
    Here,
    MadeElsewhere,
    PolledElsewhere,
}

type Through = Pin<Box<dyn Future<Output = Result<Response<FinishedBody>, BoxError>> + Send>>;

#[derive(Clone)]
struct Moved<S>(S, Where);

impl<S> Service<&'static str> for Moved<S>
where
    S: Service<&'static str, Response = Response<FinishedBody>, Error = BoxError, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
{
    type Response = Response<FinishedBody>;
    type Error = BoxError;
    type Future = Through;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> Through {
        match self.1 {
            Where::Here => Box::pin(self.0.call(request)),
            Where::MadeElsewhere => {
                let service = self.0.clone();
                Box::pin(async move { tokio::spawn(service.oneshot(request)).await? })
            }
            Where::PolledElsewhere => {
                let call = tokio::spawn(self.0.call(request));
                Box::pin(async move { call.await? })
            }
        }
    }
}

fn moved<S>(place: Where) -> impl Layer<Exchange<S>, Service = Moved<Exchange<S>>> + Clone {
    tower::layer::layer_fn(move |service| Moved(service, place))
}

#[tokio::test(start_paused = true)]
async fn a_layer_may_poll_the_call_in_a_task_of_its_own() {
    for place in [Where::Here, Where::PolledElsewhere] {
        let body = Scripted::new((0..20).flat_map(|_| [Piece::Wait(SECOND), data("more"), data("!")]));
        let start = Instant::now();
        let response = HttpCallLayer::new(moved(place))
            .layer(client([reply(200, body)]))
            .oneshot("hi")
            .await
            .unwrap();
        let pieces = read(response.into_body()).await.unwrap().0;
        assert_eq!(pieces.concat(), "more!".repeat(20).as_bytes(), "{place:?}");
        assert_eq!(start.elapsed(), 20 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_carried_is_not_sent() {
    // Made in another task.
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let service = service_fn(move |_: &'static str| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, BoxError>(reply(200, Scripted::new([]))))
    });
    let error = HttpCallLayer::new(moved(Where::MadeElsewhere))
        .layer(service)
        .oneshot("hi")
        .await
        .unwrap_err();
    let failed = error.downcast::<BodyFailed>().unwrap();
    assert_eq!(failed.kind(), ErrorKind::Configuration);
    assert_eq!(sent.load(Ordering::SeqCst), 0);

    // Retried inside, after the caller has seen the first body.
    let policy = RetryPolicy::new(3)
        .initial_backoff(Duration::from_millis(1))
        .classify_with(HttpClassifier)
        .untracked();
    let bodies = [
        Scripted::new([data("one"), Piece::Fail("reset by peer")]),
        Scripted::new([data("other")]),
    ];
    let response = HttpCallLayer::new(RetryLayer::new(policy))
        .layer(client(bodies.map(|body| reply(200, body))))
        .oneshot("hi")
        .await
        .unwrap();
    let mut body = response.into_body();
    let first = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&*first, b"one");
    assert!(frame(&mut body).await.unwrap().is_err());
    assert!(frame(&mut body).await.is_none());

    // As an error of this crate.
    let error = LlmError::from(*failed);
    assert_eq!(error.usage(), Some(TokenUsage::ZERO));
}

/// Makes two concurrent calls, and takes the first answer.
#[derive(Clone)]
struct Hedge<S>(S);

impl<S> Service<()> for Hedge<S>
where
    S: Service<(), Response = Response<FinishedBody>, Error = BoxError, Future: Send + 'static> + Clone,
{
    type Response = Response<FinishedBody>;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Response<FinishedBody>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, (): ()) -> Self::Future {
        // The client is always ready.
        let (first, second) = (self.0.call(()), self.0.clone().call(()));
        async move {
            let first = futures::future::select(Box::pin(first), Box::pin(second)).await;
            first.factor_first().0
        }
        .boxed()
    }
}

/// Of two concurrent calls only one body is delivered to the caller: the later call fails, and bodies are not mixed.
#[tokio::test(start_paused = true)]
async fn two_calls_at_once_do_not_mix_their_bodies() {
    for (first, second) in [(10, 10), (10, 1), (1, 10), (1, 4)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let client = service_fn(move |(): ()| {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            let (wait, text) = if is_first { (first, "a") } else { (second, "b") };
            async move {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                let pause = || Piece::Wait(Duration::from_millis(5));
                let pieces = [data(text), pause(), data(text), pause(), data(text)];
                Ok::<_, BoxError>(reply(200, Scripted::new(pieces)))
            }
        });
        let model = HttpCallLayer::new(tower::layer::layer_fn(Hedge)).layer(client);
        let outcome = match model.oneshot(()).await {
            Ok(reply) => read(&mut reply.into_body()).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((pieces, _)) => assert!(pieces == ["a"; 3] || pieces == ["b"; 3], "{pieces:?}"),
            Err(error) => assert!(error.is::<BodyFailed>(), "{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn layers_of_others_hold_until_the_end_of_the_body_too() {
    let permits = Arc::new(tokio::sync::Semaphore::new(2));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
    let model = HttpCallLayer::new(limit).layer(client(
        (0..2).map(|_| reply(200, Scripted::new([data("one"), data("two")]))),
    ));
    let first = model.clone().oneshot("hi").await.unwrap();
    let second = model.clone().oneshot("hi").await.unwrap();
    assert_eq!(permits.available_permits(), 0);
    read(first.into_body()).await.unwrap();
    assert_eq!(permits.available_permits(), 1);
    drop(second);
    // The service that remains is not ready.
    assert_eq!(permits.available_permits(), 2);
}

/// With requests of this crate the items' records are kept, and the gate settles its token quota with them.
#[tokio::test(start_paused = true)]
async fn the_items_record_and_the_token_quota_follow_the_body() {
    let events = Events::new();
    let mut seen = events.subscribe();
    let limiter = RateLimiter::builder()
        .tokens_per_minute(60_000)
        .events(&events)
        .build()
        .unwrap();
    let layers = (
        RateLimiterLayer::new(limiter.clone())
            .classify_with(HttpClassifier)
            .estimate_with(|_: &LlmRequest<u8>| 500_u64)
            .usage_with(usage as Usage),
        TokenAccountingLayer::new(TokenLedger::new()).usage_with(usage as Usage),
    );
    let pieces = || [Piece::Wait(3 * SECOND)].into_iter().chain(SSE.map(data));
    let model = HttpCallLayer::new(layers).layer(service_fn(move |_: LlmRequest<u8>| {
        std::future::ready(Ok::<_, BoxError>(reply(200, Scripted::new(pieces()))))
    }));
    let (whole, cut) = (Item::new(ItemId::from(1), 1), Item::new(ItemId::from(2), 2));
    let response = (model.clone().oneshot(LlmRequest::for_item(1, Arc::clone(&whole)))).await;
    read(response.unwrap().into_body()).await.unwrap();
    let report = whole.report();
    assert_eq!((report.calls, report.unknown_usage_calls), (1, 0));
    assert_eq!(
        (report.usage, report.call_time),
        (TokenUsage::new(10, 2), 3 * SECOND)
    );
    let response = (model.clone().oneshot(LlmRequest::for_item(1, Arc::clone(&cut)))).await;
    drop(response);
    assert_eq!((cut.report().calls, cut.report().unknown_usage_calls), (1, 1));
    let settled = std::iter::from_fn(|| seen.try_recv().unwrap())
        .filter_map(|event| match event.kind {
            EventKind::QuotaSettled { estimate, used } => Some((estimate, used)),
            _ => None,
        })
        .collect::<Vec<_>>();
    // The usage of the cut call is unknown: the estimate is kept.
    assert_eq!(settled, [(500, Some(12)), (500, None)]);
}

#[tokio::test]
async fn readiness_is_that_of_the_layers_and_the_instance_is_the_one_that_was_readied() {
    let (mut service, mut handle) =
        tower_test::mock::spawn_with(|mock: tower_test::mock::Mock<&'static str, Response<Scripted>>| {
            HttpCallLayer::new(tower::layer::util::Identity::new()).layer(mock)
        });
    handle.allow(0);
    tokio_test::assert_pending!(service.poll_ready());
    handle.allow(1);
    tokio_test::assert_ready_ok!(service.poll_ready());
    let mut answer = tokio_test::task::spawn(service.call("hi"));
    tokio_test::assert_pending!(answer.poll());
    let (asked, respond) = handle.next_request().await.unwrap();
    assert_eq!(asked, "hi");
    respond.send_response(reply(200, Scripted::new([data("there")])));
    let response = tokio_test::assert_ready_ok!(answer.poll());
    assert_eq!(read(response.into_body()).await.unwrap().0.concat(), b"there");
    tokio_test::assert_pending!(service.poll_ready());
}

/// The clock is real here: a paused one never advances while a task is always ready.
#[test]
fn an_endless_body_is_cut_too() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let error = runtime.block_on(async {
            let endless = Endless(tokio::sync::mpsc::unbounded_channel());
            let endless = Mutex::new(Some(endless));
            let service = service_fn(move |_: &'static str| {
                let body = endless.lock().unwrap().take().unwrap();
                std::future::ready(Ok::<_, BoxError>(Response::new(body)))
            });
            let limit = CallTimeoutLayer::new(Duration::from_millis(20));
            let response = HttpCallLayer::new(limit)
                .layer(service)
                .oneshot("hi")
                .await
                .unwrap();
            tokio::spawn(read(response.into_body()))
                .await
                .unwrap()
                .unwrap_err()
        });
        let _ = done.send(error);
    });
    let error = ended.recv_timeout(60 * SECOND).expect("the limit did not hold");
    assert!(error.is::<TimedOut>());
}

/// A body that always has more data, and uses up tokio's budget.
struct Endless(
    (
        tokio::sync::mpsc::UnboundedSender<()>,
        tokio::sync::mpsc::UnboundedReceiver<()>,
    ),
);

impl Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let (sender, receiver) = &mut self.0;
        sender.send(()).unwrap();
        std::task::ready!(receiver.poll_recv(cx));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
    }
}

#[test]
fn auto_traits() {
    fn everywhere<T: Send + Sync + 'static>(_: &T) {}
    fn sent<T: Send + 'static>(_: T) {}
    let layer = per_call(&RateLimiter::default(), &TokenLedger::new(), SECOND);
    everywhere(&layer);
    let service = layer.layer(client([]));
    everywhere(&service);
    sent(service.oneshot("hi"));
    fn body<T: Send + Sync + Unpin + 'static>() {}
    body::<HttpCallBody<Scripted>>();
    body::<FinishedBody>();
    body::<BodyFailed>();
}

proptest! {
    /// For any pieces, the caller gets them one by one and the layers get their end.
    #[test]
    fn bytes_pass_and_their_end_is_kept(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..30),
        keep in 0_usize..200,
        exact: bool,
    ) {
        let whole = pieces.concat();
        let end = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&end);
        let layer = TokenAccountingLayer::new(TokenLedger::new())
            .usage_with(move |outcome: Result<&Response<FinishedBody>, &BoxError>| {
                let body = outcome.unwrap().body();
                *seen.lock().unwrap() = Some((body.tail().to_vec(), body.length(), body.is_complete()));
                None
            })
            .untracked();
        let mut body = Scripted::new(pieces.iter().cloned().map(|piece| Piece::Data(piece.into())));
        body.exact = exact;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let passed = runtime.block_on(async {
            let layer = HttpCallLayer::new(layer).keep_bytes(keep);
            let response = layer.layer(client([reply(200, body)])).oneshot("hi").await.unwrap();
            assert!(!exact || response.body().size_hint().exact() == Some(whole.len() as u64));
            read(response.into_body()).await.unwrap().0
        });
        prop_assert_eq!(passed, pieces);
        let kept = whole[whole.len().saturating_sub(keep)..].to_vec();
        prop_assert_eq!(end.lock().unwrap().take(), Some((kept, whole.len() as u64, true)));
    }
}

#[tokio::test]
async fn the_json_of_a_body_is_its_own_or_that_of_its_events() {
    let texts = [
        ("{\"a\": 1}", vec!["{\"a\":1}"]),
        (" [1,\n 2]\n", vec!["[1,2]"]),
        (
            "data: {\"a\":1}\n\nevent: b\r\ndata:{\"b\":2}\r\n\r\ndata: [DONE]\n\n",
            vec!["{\"a\":1}", "{\"b\":2}"],
        ),
        ("1}\n\ndata: {\"b\":2}", vec!["{\"b\":2}"]),
        ("no JSON", vec![]),
        ("", vec![]),
    ];
    for (text, values) in texts {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&seen);
        let layer = TokenAccountingLayer::new(TokenLedger::new())
            .usage_with(move |outcome: Result<&Response<FinishedBody>, &BoxError>| {
                let body = outcome.unwrap().body();
                *found.lock().unwrap() = body.json().map(|value| value.to_string()).collect();
                None
            })
            .untracked();
        let response = HttpCallLayer::new(layer)
            .layer(client([reply(200, Scripted::new([data(text)]))]))
            .oneshot("hi")
            .await
            .unwrap();
        read(response.into_body()).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), values, "{text:?}");
    }
}

/// Bodies are read in tasks of several threads while others are dropped: every permit of the gate is released.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_place_is_lost_among_threads() {
    let limiter = RateLimiter::builder().max_in_flight(7).build().unwrap();
    let ledger = TokenLedger::new();
    let places = [Where::Here, Where::PolledElsewhere];
    let calls = futures::stream::iter(0..1_000_usize).map(|n| {
        let layers = (gate(&limiter), accounting(&ledger), moved(places[n % 2]));
        let body = Scripted::new((0..5).map(|_| data("piece")));
        let model = HttpCallLayer::new(layers).layer(client([reply(200, body)]));
        let head = model.oneshot("hi").boxed();
        tokio::spawn(async move {
            let mut body = head.await.unwrap().into_body();
            let mut frames = 0;
            // Every third one is dropped immediately, or in the middle.
            while n % 3 != 0 || frames < n % 4 {
                match frame(&mut body).await {
                    Some(frame) => frames += usize::from(frame.is_ok()),
                    None => break,
                }
            }
            frames
        })
    });
    let frames: Vec<_> = calls.buffer_unordered(50).collect().await;
    assert!(frames.iter().all(|frames| matches!(frames, Ok(0..=5))));
    let read = frames
        .into_iter()
        .filter(|frames| matches!(frames, Ok(5)))
        .count();
    assert_eq!(read, 666);
    assert_eq!(ledger.snapshot().calls, 1_000);
    assert_eq!(ledger.snapshot().failed_calls, 334);
    assert_eq!(limiter.snapshot().in_flight, 0);
}
