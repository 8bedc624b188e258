//! The life of a cache on this side: one search, one creation, one renewal, one removal, however many ask for it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::remote::{Found, Remote, is_missing};
use crate::error::{Delivery, ErrorKind, LlmError};

/// The time for which a failed renewal is left alone.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// The life of a cache, and the time of its renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) to_live: Duration,
    pub(super) renew_before: Duration,
}

/// A cache that is in use.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) name: Arc<str>,
    pub(super) tokens: Option<u64>,
    expires: Instant,
    renew_at: Instant,
}

impl Live {
    /// A cache that has been made or renewed now. Whatever life the provider gave it, some of it is used before the next
    /// renewal.
    fn new(found: Found, times: Times) -> Self {
        let renew_before = times.renew_before.min(found.left / 2);
        Self::adopted(found, renew_before)
    }

    /// A cache with the times that the provider gave it.
    fn adopted(found: Found, renew_before: Duration) -> Self {
        let now = Instant::now();
        let after = |time| now.checked_add(time).unwrap_or(now);
        Self {
            name: found.name,
            tokens: found.tokens,
            expires: after(found.left),
            renew_at: after(found.left.saturating_sub(renew_before)),
        }
    }

    fn is_alive(&self) -> bool {
        Instant::now() < self.expires
    }
}

/// A failure that all who waited share.
type Failure = Arc<LlmError>;
type Work<T> = Shared<BoxFuture<'static, Result<T, Failure>>>;

#[derive(Default)]
pub(super) struct Life {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// The making or renewal that is under way.
    work: Option<Work<Live>>,
    /// The reason why no cache can ever be made.
    refused: Option<Failure>,
    deletion: Option<Work<()>>,
    is_deleted: bool,
}

impl Life {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> Option<Live> {
        self.state().live.clone()
    }

    /// The name of a live cache, another one than `gone`.
    pub(super) async fn current(
        &self,
        remote: &Arc<Remote>,
        times: Times,
        gone: Option<Arc<str>>,
    ) -> Result<Arc<str>, LlmError> {
        let work = {
            let mut state = self.state();
            if state.is_deleted {
                return Err(LlmError::new(
                    ErrorKind::Configuration,
                    "the context cache was deleted; make another one",
                ));
            }
            if let Some(failure) = &state.refused {
                return Err(failure.without_source());
            }
            // Others may have replaced it meanwhile.
            if state.live.as_ref().map(|live| &live.name) == gone.as_ref() {
                state.live = None;
            }
            match (&state.work, &state.live) {
                (Some(work), _) => work.clone(),
                (None, Some(live)) if Instant::now() < live.renew_at => return Ok(Arc::clone(&live.name)),
                (None, live) => {
                    let work = keep(Arc::clone(remote), times, live.clone(), gone)
                        .map(|kept| kept.map_err(Arc::new))
                        .boxed()
                        .shared();
                    state.work = Some(work.clone());
                    work
                }
            }
        };
        let kept = work.clone().await;
        {
            let mut state = self.state();
            // The first of those who waited takes the result in.
            if state.work.as_ref().is_some_and(|current| current.ptr_eq(&work)) {
                state.work = None;
                match &kept {
                    Ok(live) => state.live = Some(live.clone()),
                    Err(failure) if is_lasting(failure) => state.refused = Some(Arc::clone(failure)),
                    Err(_) => state.live = None,
                }
            }
        }
        match kept {
            Ok(live) => Ok(live.name),
            Err(failure) => Err(failure.without_source()),
        }
    }

    pub(super) async fn delete(&self, remote: &Arc<Remote>) -> Result<(), LlmError> {
        let deletion = {
            let mut state = self.state();
            state.is_deleted = true;
            let (live, work) = (state.live.clone(), state.work.clone());
            let remote = Arc::clone(remote);
            state
                .deletion
                .get_or_insert_with(|| {
                    async move {
                        let live = match work {
                            Some(work) => work.await.ok().or(live),
                            None => live,
                        };
                        match live {
                            Some(live) => remote.delete(&live.name).await.map_err(Arc::new),
                            None => Ok(()),
                        }
                    }
                    .boxed()
                    .shared()
                })
                .clone()
        };
        let deleted = deletion.clone().await;
        let mut state = self.state();
        match deleted {
            Ok(()) => {
                state.live = None;
                state.work = None;
                Ok(())
            }
            Err(failure) => {
                // The next one tries again.
                if state
                    .deletion
                    .as_ref()
                    .is_some_and(|current| current.ptr_eq(&deletion))
                {
                    state.deletion = None;
                }
                Err(failure.without_source())
            }
        }
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Life")
            .field("live", &state.live)
            .field("at_work", &state.work.is_some())
            .field("is_deleted", &state.is_deleted)
            .finish_non_exhaustive()
    }
}

/// Returns `true` if no other try can do better: the provider refused the content.
fn is_lasting(failure: &LlmError) -> bool {
    matches!(
        failure.kind(),
        ErrorKind::InvalidRequest | ErrorKind::ContextLength | ErrorKind::ContentFilter
    )
}

/// Renews the cache, or else adopts one, or else makes one.
async fn keep(
    remote: Arc<Remote>,
    times: Times,
    live: Option<Live>,
    gone: Option<Arc<str>>,
) -> Result<Live, LlmError> {
    let mut gone = gone;
    if let Some(live) = live.filter(Live::is_alive) {
        match renew(&remote, times, live).await {
            Ok(live) => return Ok(live),
            Err(name) => gone = Some(name),
        }
    }
    let is_gone = |found: &Found| Some(&found.name) == gone.as_ref();
    // A list that cannot be had says nothing about whether one can be made.
    let found = remote.list().await.unwrap_or_default();
    let longest = found
        .into_iter()
        .filter(|found| !is_gone(found))
        .max_by_key(|found| found.left);
    if let Some(found) = longest {
        let live = Live::adopted(found, times.renew_before);
        if Instant::now() < live.renew_at {
            return Ok(live);
        }
        if let Ok(live) = renew(&remote, times, live).await {
            return Ok(live);
        }
    }
    let made = remote.create(times.to_live).await;
    made.map(|found| Live::new(found, times))
        .map_err(|error| error.with_delivery(Delivery::NotSent))
}

/// Renews a live cache in place; its name back if it is gone. A renewal that fails otherwise leaves it as it is for a while.
async fn renew(remote: &Remote, times: Times, live: Live) -> Result<Live, Arc<str>> {
    match remote.renew(&live.name, times.to_live).await {
        Ok(found) => {
            let tokens = found.tokens.or(live.tokens);
            Ok(Live {
                tokens,
                ..Live::new(found, times)
            })
        }
        Err(error) if is_missing(&error) => Err(live.name),
        Err(_) if live.is_alive() => {
            let pause = Instant::now() + RENEWAL_PAUSE;
            Ok(Live {
                renew_at: pause.min(live.expires),
                ..live
            })
        }
        Err(_) => Err(live.name),
    }
}
