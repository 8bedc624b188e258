//! The classifier for plain HTTP responses.

use std::any::Any;

use super::wire;
use crate::classify::{Classify, KindClassifier, Verdict};
use crate::error::{BoxError, ErrorKind, LlmError};

/// Judges HTTP responses by status and headers, for stacks over a plain HTTP client.
///
/// It serves `http::Response` with any body, and with the feature `reqwest` the `Response` of reqwest 0.13; those of other
/// versions convert into `http::Response`. An error of this crate is judged as [`KindClassifier`] would, a
/// `reqwest::Error` and (with the same feature) an error of hyper-util's client by how far the call got, and any other error is
/// [`ErrorKind::Other`], retried after a backoff. Where no connection came about, the verdict says that nothing was sent, so
/// that calls wait for a server that is down without using up their attempts.
///
/// Bodies are not read, so a 429 is always a rate limit, and a 404, which may be about an object of one request, fails its
/// item alone; a closure that reads the body can be more precise.
/// Around such a client, [`HttpCallLayer`](crate::HttpCallLayer) makes a call last until its body has ended.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use llm_batch::{Classify, Disposition, HttpClassifier};
///
/// let reply = http::Response::builder().status(429).header("retry-after", "2").body(()).unwrap();
/// let verdict = HttpClassifier.classify(Ok::<_, &Infallible>(&reply));
/// assert_eq!(verdict.disposition, Disposition::Throttled);
/// assert_eq!(verdict.retry_after, Some(Duration::from_secs(2)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpClassifier;

impl<B, E: 'static> Classify<http::Response<B>, E> for HttpClassifier {
    fn classify(&self, outcome: Result<&http::Response<B>, &E>) -> Verdict {
        match outcome {
            Ok(response) => wire::verdict_of(response.status().as_u16(), response.headers()),
            Err(error) => verdict_of_error(error),
        }
    }
}

#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl<E: 'static> Classify<reqwest::Response, E> for HttpClassifier {
    fn classify(&self, outcome: Result<&reqwest::Response, &E>) -> Verdict {
        match outcome {
            Ok(response) => wire::verdict_of(response.status().as_u16(), response.headers()),
            Err(error) => verdict_of_error(error),
        }
    }
}

fn verdict_of_error<E: 'static>(error: &E) -> Verdict {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<LlmError>() {
        return Verdict::from(error);
    }
    #[cfg(feature = "reqwest")]
    if let Some(verdict) = verdict_of_client(error.downcast_ref(), error.downcast_ref()) {
        return verdict;
    }
    if let Some(error) = error.downcast_ref::<BoxError>() {
        #[cfg(feature = "reqwest")]
        if let Some(verdict) = verdict_of_client(error.downcast_ref(), error.downcast_ref()) {
            return verdict;
        }
        return Classify::<(), BoxError>::classify(&KindClassifier, Err(error));
    }
    Verdict::of_kind(ErrorKind::Other)
}

/// The verdict on the error of whichever HTTP client it is of.
#[cfg(feature = "reqwest")]
fn verdict_of_client(
    of_reqwest: Option<&reqwest::Error>,
    of_hyper: Option<&hyper_util::client::legacy::Error>,
) -> Option<Verdict> {
    let of_hyper = of_hyper.map(|error| verdict_without_reply(error.is_connect()));
    of_reqwest.map(verdict_of_reqwest).or(of_hyper)
}

/// Without a connection there is nothing to send on. Of one that broke nothing is known.
#[cfg(feature = "reqwest")]
fn verdict_without_reply(without_connection: bool) -> Verdict {
    Verdict::of_kind(ErrorKind::Connection).with_not_sent(without_connection)
}

#[cfg(feature = "reqwest")]
fn verdict_of_reqwest(error: &reqwest::Error) -> Verdict {
    if let Some(status) = error.status() {
        // From `error_for_status`, which dropped the headers.
        return wire::verdict_of(status.as_u16(), &http::HeaderMap::new());
    }
    if error.is_builder() {
        return Verdict::of_kind(ErrorKind::InvalidRequest).with_not_sent(true);
    }
    if error.is_timeout() && !error.is_connect() {
        return Verdict::of_kind(ErrorKind::TimedOut).with_maybe_billed(true);
    }
    verdict_without_reply(error.is_connect())
}
