//! The classifier for plain HTTP responses.

use std::any::Any;

use super::wire;
use crate::classify::{Classify, KindClassifier, Verdict};
use crate::error::{BoxError, ErrorKind, LlmError};

/// Judges HTTP responses by status and headers, for stacks over a plain HTTP client.
///
/// It serves `http::Response` with any body, and with the feature `reqwest` the `Response` of reqwest 0.13; those of other
/// versions convert into `http::Response`. An error of this crate is judged as [`KindClassifier`] would, a
/// `reqwest::Error` by how far the call got, and any other error is [`ErrorKind::Other`], retried after a backoff.
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
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return verdict_of_reqwest(error);
    }
    if let Some(error) = error.downcast_ref::<BoxError>() {
        #[cfg(feature = "reqwest")]
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            return verdict_of_reqwest(error);
        }
        return Classify::<(), BoxError>::classify(&KindClassifier, Err(error));
    }
    Verdict::of_kind(ErrorKind::Other)
}

#[cfg(feature = "reqwest")]
fn verdict_of_reqwest(error: &reqwest::Error) -> Verdict {
    if let Some(status) = error.status() {
        // From `error_for_status`, which dropped the headers.
        return wire::verdict_of(status.as_u16(), &http::HeaderMap::new());
    }
    if error.is_builder() {
        return Verdict::of_kind(ErrorKind::InvalidRequest);
    }
    if error.is_timeout() && !error.is_connect() {
        return Verdict::of_kind(ErrorKind::TimedOut).with_maybe_billed(true);
    }
    Verdict::of_kind(ErrorKind::Connection)
}
