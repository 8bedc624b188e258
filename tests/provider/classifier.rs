//! The classifier for replies of other HTTP clients.

use std::convert::Infallible;
use std::time::Duration;

use llm_batch::{BoxError, Classify, Disposition, ErrorKind, HttpClassifier, LlmError, Verdict};

use crate::server::{After, Reply, Server};

fn status(status: u16, headers: &[(&str, &str)]) -> Verdict {
    let mut reply = http::Response::builder().status(status);
    for (name, value) in headers {
        reply = reply.header(*name, *value);
    }
    let reply = reply.body("any body").unwrap();
    HttpClassifier.classify(Ok::<_, &Infallible>(&reply))
}

#[test]
fn replies_are_judged_by_status_and_headers() {
    assert_eq!(status(200, &[("retry-after", "9")]), Verdict::SUCCESS);
    let verdict = status(200, &[("x-ratelimit-remaining-requests", "3")]);
    assert_eq!(verdict.quota.unwrap().requests.remaining, Some(3));

    let verdict = status(429, &[("retry-after", "2")]);
    assert_eq!(verdict.disposition, Disposition::Throttled);
    assert_eq!(
        (verdict.kind, verdict.retry_after),
        (Some(ErrorKind::RateLimit), Some(Duration::from_secs(2)))
    );
    assert_eq!(status(401, &[]).disposition, Disposition::ScopeFatal);
    assert_eq!(status(400, &[]).disposition, Disposition::Fatal);
    // Only the body tells whether the model is missing, or an object of this request.
    let missing = status(404, &[]);
    assert_eq!(
        (missing.kind, missing.disposition),
        (Some(ErrorKind::NotFound), Disposition::Fatal)
    );
    assert_eq!(
        status(400, &[("x-should-retry", "true")]).disposition,
        Disposition::Backoff
    );
    assert_eq!(
        status(500, &[("x-should-retry", "false")]).disposition,
        Disposition::Fatal
    );
    assert_eq!(
        status(503, &[("retry-after-ms", "1500")]).retry_after,
        Some(Duration::from_millis(1_500))
    );
    assert!(status(504, &[]).maybe_billed && status(408, &[]).maybe_billed);
    assert!(!status(500, &[]).maybe_billed && !status(503, &[]).maybe_billed);
}

#[test]
fn errors_of_any_type_are_judged() {
    type Reply = http::Response<()>;
    fn judge<E: 'static>(error: &E) -> Verdict {
        HttpClassifier.classify(Err::<&Reply, _>(error))
    }
    assert_eq!(judge(&std::fmt::Error).disposition, Disposition::Backoff);
    assert_eq!(
        judge(&LlmError::validation("x")).disposition,
        Disposition::RetryNow
    );
    let boxed: BoxError = LlmError::rate_limit("x", None).into();
    assert_eq!(judge(&boxed).disposition, Disposition::Throttled);
    assert_eq!(judge(&BoxError::from("text")).kind, Some(ErrorKind::Other));
}

#[tokio::test]
async fn errors_of_reqwest_are_judged_by_how_far_the_call_got() {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let judge =
        |outcome: &Result<reqwest::Response, reqwest::Error>| HttpClassifier.classify(outcome.as_ref());

    let refused = client.get("http://127.0.0.1:1/").send().await;
    assert_eq!(judge(&refused).kind, Some(ErrorKind::Connection));

    let server = Server::start(|_| Reply::raw("", After::Close)).await;
    let cut = client
        .post(format!("http://{}", server.address))
        .body("{}")
        .send()
        .await;
    assert_eq!(judge(&cut).kind, Some(ErrorKind::Connection));

    let server = Server::start(|_| Reply::new(429, &[("retry-after", "3")], "")).await;
    let reply = client
        .post(format!("http://{}", server.address))
        .body("{}")
        .send()
        .await;
    assert_eq!(judge(&reply).retry_after, Some(Duration::from_secs(3)));
    let status = reply.unwrap().error_for_status();
    assert_eq!(judge(&status).disposition, Disposition::Throttled);
    let malformed = client.get("nonsense").send().await;
    assert_eq!(judge(&malformed).disposition, Disposition::Fatal);
}
