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
    let unsent = Verdict::of_kind(ErrorKind::Connection).with_not_sent(true);
    assert_eq!(judge(&refused), unsent);
    let boxed = BoxError::from(refused.unwrap_err());
    assert_eq!(
        HttpClassifier.classify(Err::<&reqwest::Response, _>(&boxed)),
        unsent
    );

    let server = Server::start(|_| Reply::raw("", After::Close)).await;
    let cut = client
        .post(format!("http://{}", server.address))
        .body("{}")
        .send()
        .await;
    assert_eq!(judge(&cut), Verdict::of_kind(ErrorKind::Connection));

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
    let malformed = judge(&malformed);
    assert_eq!(
        (malformed.disposition, malformed.not_sent),
        (Disposition::Fatal, true)
    );
}

#[tokio::test]
async fn errors_of_hypers_client_are_judged_by_how_far_the_call_got() {
    use hyper_util::client::legacy::{Client, Error};
    let client = Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let ask = async |address: &str| {
        let request = http::Request::post(format!("http://{address}/")).body("{}".to_owned());
        client.request(request.unwrap()).await.unwrap_err()
    };
    let judge = |error: &Error| HttpClassifier.classify(Err::<&http::Response<()>, _>(error));

    let refused = ask("127.0.0.1:1").await;
    let unsent = Verdict::of_kind(ErrorKind::Connection).with_not_sent(true);
    assert_eq!(judge(&refused), unsent);
    let boxed = BoxError::from(refused);
    assert_eq!(
        HttpClassifier.classify(Err::<&http::Response<()>, _>(&boxed)),
        unsent
    );
    let server = Server::start(|_| Reply::raw("", After::Close)).await;
    let cut = ask(&server.address.to_string()).await;
    assert_eq!(judge(&cut), Verdict::of_kind(ErrorKind::Connection));
}
