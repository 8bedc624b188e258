//! No more connections than calls.
//!
//! A client that finds no idle connection opens one at once, though the one of a call that just ended may be free a
//! moment later. In a busy batch that adds up to more connections than calls. So opening one first asks here whether
//! one is missing, and if not waits for the one that is about to come back.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http::header::SERVER;
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tower_layer::Layer;
use tower_service::Service;

use super::open_files;
use crate::error::BoxError;

/// Servers close idle connections, mostly after 5 s (Node, uvicorn, llama.cpp), and a request that crosses such a close
/// is lost. So we close first. In a busy batch no connection is idle that long.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The time that an idle connection that should be there may take to turn up before it counts as closed by the server. A
/// free connection takes microseconds, or a tenth of a second on a machine that is busy with other things.
const GRACE: Duration = Duration::from_millis(250);

/// After how many of them in a row, with no connection used again in between, none is waited for any more.
const MISSING_IN_A_ROW: u32 = 3;

/// The time that a request's body waits behind its head on a server that is known to close connections unasked: enough
/// for a close that is under way on this machine to arrive, also when the machine is busy. A call of an LLM takes
/// seconds.
const PATIENCE: Duration = Duration::from_millis(10);

/// An idle connection younger than this was in use a moment ago. Servers close idle ones after a second at the least.
const FRESH: Duration = Duration::from_millis(500);

/// The name of llama.cpp's server in its replies. It announces to keep the connection after a stream, and closes it up to half
/// a second later.
const CLOSES_STREAMS: &str = "llama.cpp";

tokio::task_local! {
    /// The call that a connection would be opened for.
    pub(super) static CALL: Arc<Call>;
}

/// The connections of one client, as far as they can be known from outside its pool.
#[derive(Default)]
pub(super) struct Connections {
    counts: Mutex<Counts>,
    changed: Notify,
    limit: Option<usize>,
    /// `true` if a connection ever broke between a request and its reply.
    broke: AtomicBool,
    /// `true` if the server was seen to close kept connections without saying so.
    closes_unasked: AtomicBool,
    /// `true` if there was a reply.
    known: AtomicBool,
    /// `true` if the server is one that closes the connection after each streamed reply, whatever it announces.
    closes_streams: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    calls: usize,
    busy: usize,
    opening: usize,
    /// The time at which each idle connection became idle. The pool takes the youngest first, too.
    idle: VecDeque<Instant>,
    /// The number of times a call used a connection again, so far and when one was missing last.
    reuses: u64,
    reuses_when_missing: u64,
    missing_in_a_row: u32,
}

impl Counts {
    fn open(&self) -> usize {
        self.busy + self.opening + self.idle.len()
    }
}

impl Connections {
    pub(super) fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            ..Self::default()
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call that needs a connection. It ends when dropped.
    pub(super) fn call(self: &Arc<Self>) -> CallGuard {
        self.counts().calls += 1;
        let call = Call {
            connections: Arc::clone(self),
            arrived: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            over: Notify::new(),
        };
        CallGuard {
            call: Arc::new(call),
            reusable: false,
        }
    }

    /// Notes that a connection broke between a request and its reply, whichever side caused it.
    pub(super) fn set_broke(&self) {
        self.broke.store(true, Ordering::Relaxed);
    }

    /// Notes that a kept connection turned out to be closed.
    pub(super) fn set_closes_unasked(&self) {
        self.closes_unasked.store(true, Ordering::Relaxed);
    }

    /// Notes the server that a reply is from.
    pub(super) fn set_known(&self, headers: &HeaderMap) {
        if headers.get(SERVER).is_some_and(|name| name == CLOSES_STREAMS) {
            self.closes_streams.store(true, Ordering::Relaxed);
        }
        self.known.store(true, Ordering::Release);
    }

    /// Returns `true` if the server closes the connection after a streamed reply. Where a connection costs next to nothing
    /// (`is_cheap`), also if it may: it is not known yet, or connections broke or were closed unasked.
    pub(super) fn closes_after_stream(&self, is_cheap: bool) -> bool {
        if !self.known.load(Ordering::Acquire) {
            return is_cheap;
        }
        let is_unsteady =
            || self.broke.load(Ordering::Relaxed) || self.closes_unasked.load(Ordering::Relaxed);
        self.closes_streams.load(Ordering::Relaxed) || (is_cheap && is_unsteady())
    }

    /// Returns `true` if a call should let the runtime look at its sockets before it takes a connection, so that those
    /// closed by now are known to be. In a busy batch the runtime does so all the time.
    pub(super) fn should_look_first(&self) -> bool {
        self.broke.load(Ordering::Relaxed) || self.counts().calls == 0
    }

    /// Takes the right to open a connection if one is missing.
    fn try_open(&self) -> bool {
        let mut counts = self.counts();
        while counts
            .idle
            .front()
            .is_some_and(|since| since.elapsed() > IDLE_TIMEOUT)
        {
            counts.idle.pop_front();
        }
        if counts.missing_in_a_row >= MISSING_IN_A_ROW || self.closes_unasked.load(Ordering::Relaxed) {
            // Nothing is known about what is idle.
            counts.idle.clear();
        }
        let wanted = counts.calls.min(self.limit.unwrap_or(usize::MAX));
        let open = counts.open();
        if open >= wanted {
            return false;
        }
        counts.opening += 1;
        drop(counts);
        open_files::warn_near_limit(open + 1);
        true
    }

    fn opened(&self, succeeded: bool) {
        let mut counts = self.counts();
        counts.opening = counts.opening.saturating_sub(1);
        if succeeded {
            counts.idle.push_back(Instant::now());
        } else {
            drop(counts);
            self.changed.notify_waiters();
        }
    }

    /// No idle connection turned up, so there is none.
    fn give_up_on_idle(&self) {
        let mut counts = self.counts();
        if counts.idle.is_empty() {
            return;
        }
        counts.idle.clear();
        counts.missing_in_a_row = if counts.reuses == counts.reuses_when_missing {
            counts.missing_in_a_row + 1
        } else {
            1
        };
        counts.reuses_when_missing = counts.reuses;
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("counts", &*self.counts())
            .finish_non_exhaustive()
    }
}

/// The time that a request's body should wait behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    No,
    /// Until the runtime has looked at its sockets.
    OneTurn,
    For(Duration),
}

/// One call, for those who work on its connection.
pub(super) struct Call {
    connections: Arc<Connections>,
    arrived: AtomicBool,
    /// `true` if a connection was opened for it. It may have used another all the same.
    opened: AtomicBool,
    handed_over: AtomicBool,
    over: Notify,
}

impl Call {
    /// Notes that the call got its connection, and says how far to trust it.
    pub(super) fn arrive(&self) -> Hold {
        if self.arrived.swap(true, Ordering::AcqRel) {
            return Hold::No;
        }
        let connections = &self.connections;
        let mut counts = connections.counts();
        let idle_since = counts.idle.pop_back();
        counts.busy += 1;
        counts.reuses += u64::from(!self.opened.load(Ordering::Relaxed));
        drop(counts);
        self.over.notify_one();
        if connections.closes_unasked.load(Ordering::Relaxed) {
            Hold::For(PATIENCE)
        } else if connections.broke.load(Ordering::Relaxed)
            || idle_since.is_some_and(|since| since.elapsed() > FRESH)
        {
            Hold::OneTurn
        } else {
            Hold::No
        }
    }

    /// Returns `true` if the request's body was handed to the connection. Until then no server can have acted on the request.
    pub(super) fn handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    pub(super) fn set_handed_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Waits until the client should open a connection for this call; `false` if it has one already.
    async fn may_open(&self) -> bool {
        // Mostly the connection of a call that has just ended turns up at once, and this future is dropped.
        tokio::task::yield_now().await;
        loop {
            let changed = self.connections.changed.notified();
            if self.arrived.load(Ordering::Acquire) {
                return false;
            }
            if self.connections.try_open() {
                self.opened.store(true, Ordering::Relaxed);
                return true;
            }
            tokio::select! {
                () = self.over.notified() => return false,
                () = changed => {}
                () = tokio::time::sleep(GRACE) => self.connections.give_up_on_idle(),
            }
        }
    }
}

/// Ends a call's part in the counts.
pub(super) struct CallGuard {
    call: Arc<Call>,
    reusable: bool,
}

impl CallGuard {
    pub(super) fn call(&self) -> Arc<Call> {
        Arc::clone(&self.call)
    }

    /// Notes that the reply was read to its end and the connection stays open.
    pub(super) fn set_reusable(&mut self) {
        self.reusable = true;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let connections = &self.call.connections;
        let arrived = self.call.arrived.swap(true, Ordering::AcqRel);
        let mut counts = connections.counts();
        counts.calls -= 1;
        if arrived {
            counts.busy -= 1;
            if self.reusable {
                counts.idle.push_back(Instant::now());
            }
        }
        drop(counts);
        self.call.over.notify_one();
        if arrived && !self.reusable {
            connections.changed.notify_waiters();
        }
    }
}

/// Lets a connection be opened when one is missing, within the time that the opening itself may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectWhenMissing {
    pub(super) timeout: Duration,
}

impl<S> Layer<S> for ConnectWhenMissing {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            inner: Arc::new(inner),
            timeout: self.timeout,
        }
    }
}

/// The connector behind the gate. reqwest clones it several times a call, so what is costly to clone is shared, and
/// cloned only when a connection is opened.
#[derive(Debug)]
pub(super) struct Gated<S> {
    inner: Arc<S>,
    timeout: Duration,
}

impl<S> Clone for Gated<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            timeout: self.timeout,
        }
    }
}

impl<S, Req> Service<Req> for Gated<S>
where
    S: Service<Req, Error = BoxError> + Clone + Send + Sync + 'static,
    S::Response: Send,
    S::Future: Send,
    Req: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Req) -> Self::Future {
        let Self { inner, timeout } = self.clone();
        let call = CALL.try_with(Arc::clone).ok();
        Box::pin(async move {
            let connect = || S::clone(&inner).oneshot(destination);
            let Some(call) = call else {
                return connect().await;
            };
            if !call.may_open().await {
                return Err("the call got another connection".into());
            }
            let mut opening = Opening {
                connections: &call.connections,
                succeeded: false,
            };
            let opened = tokio::time::timeout(timeout, connect()).await;
            let connection = opened.map_err(|_| format!("it took longer than {timeout:?} to open"))??;
            opening.succeeded = true;
            Ok(connection)
        })
    }
}

/// Settles an opening however it ends, also by a drop.
struct Opening<'a> {
    connections: &'a Connections,
    succeeded: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.connections.opened(self.succeeded);
    }
}
