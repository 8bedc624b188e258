//! Keys: where they come from, and the places where they must never show.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm_batch::{Delivery, Disposition, ErrorKind, LlmError, LlmRequest, OpenAi};
use tower::ServiceExt;

use crate::server::{After, Reply, Server};

const KEY: &str = "sk-test-0123456789";
const HEADER_KEY: &str = "gateway-key-987654321";

fn assert_clean(text: &str) {
    assert!(!text.contains(KEY) && !text.contains(HEADER_KEY), "{text}");
}

#[tokio::test]
async fn no_debug_shows_a_key() {
    let builder = OpenAi::builder()
        .base_url("https://host.example/v1?secret=hidden-in-query")
        .api_key(KEY)
        .header("x-api-key", HEADER_KEY);
    assert_clean(&format!("{builder:?}"));
    let client = builder.build().unwrap();
    let text = format!("{client:?} {:?}", client.model("m"));
    assert_clean(&text);
    assert!(!text.contains("hidden-in-query"), "{text}");
}

#[tokio::test]
async fn an_address_keeps_its_secrets() {
    let builder = OpenAi::builder().base_url(format!("https://user:{KEY}@host.example/v1"));
    assert_clean(&format!("{builder:?}"));
    assert_clean(&builder.build().unwrap_err().to_string());

    let echo = format!("no such page: /v1/chat/completions?key={KEY}&api-version=1 ");
    let mut page = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{echo}",
        echo.len() + 1
    )
    .into_bytes();
    // A reply that is no text is quoted, too.
    page.push(0xff);
    let server = Server::start(move |_| Reply::raw(page.clone(), After::Keep)).await;
    let address = format!("http://{}/v1?key={KEY}&api-version=1", server.address);
    let client = OpenAi::builder().base_url(address).build().unwrap();
    let error = client
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_clean(&format!("{error} {error:?}"));
    assert!(error.message().contains("api-version=1"), "{error}");
}

#[tokio::test]
async fn no_error_shows_a_key_that_the_server_echoes() {
    for (status, body) in [
        (
            401,
            format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}","code":"bad {KEY}"}}}}"#),
        ),
        (
            500,
            format!("Authorization: Bearer {KEY}, x-api-key: {HEADER_KEY}"),
        ),
        (200, format!("<html>{KEY}</html>")),
        (200, format!("your headers were {KEY} and {HEADER_KEY}")),
        (200, format!(r#"{{"error":"{KEY} {HEADER_KEY}"}}"#)),
        (
            200,
            format!(
                r#"{{"choices":[{{"finish_reason":"content_filter","message":{{"content":"{KEY}"}}}}]}}"#
            ),
        ),
    ] {
        let server = Server::start(move |_| Reply::new(status, &[], &body)).await;
        let client = server.builder().header("x-api-key", HEADER_KEY).build().unwrap();
        let error = client
            .model("m")
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap_err();
        assert_clean(&format!(
            "{error} {error:?} {}",
            serde_json::to_string(&error).unwrap()
        ));
    }
}

#[tokio::test]
async fn a_placeholder_for_a_key_changes_no_word_of_a_reply() {
    let body = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    let server = Server::start(move |_| Reply::new(400, &[], body)).await;
    let client = server.builder().api_key("x").build().unwrap();
    let error = client
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextLength);
    assert_eq!(error.code(), Some("context_length_exceeded"));
}

#[tokio::test]
async fn an_answer_is_never_touched() {
    let server = Server::start(|_| Reply::text(KEY)).await;
    assert_eq!(
        server
            .model()
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap()
            .output,
        KEY
    );
}

#[tokio::test]
async fn connection_errors_show_no_key() {
    let client = OpenAi::builder()
        .base_url("http://127.0.0.1:1/v1?key=sk-test-0123456789")
        .api_key(KEY)
        .build()
        .unwrap();
    let error = client
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert_clean(&format!("{error} {error:?}"));
}

#[tokio::test]
async fn a_redirect_to_another_host_is_refused_and_gets_nothing() {
    let other = Server::start(|_| Reply::text("stolen")).await;
    for status in [301, 302, 303, 307, 308] {
        let target = format!("http://{}/v1/chat/completions?x={KEY}", other.address);
        let server = Server::start(move |_| Reply::new(status, &[("location", &target)], "")).await;
        let error = server
            .model()
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::Rejected)
        );
        assert_eq!(error.status(), Some(status));
        assert!(error.to_string().contains("base URL"), "{error}");
        assert_clean(&format!("{error} {error:?}"));
    }
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn a_redirect_on_the_host_is_followed_with_its_body() {
    let server = Server::start(|request| {
        if request.path == "/v1/chat/completions" {
            Reply::new(308, &[("location", "/v2/chat")], "moved")
        } else {
            Reply::text("found")
        }
    })
    .await;
    let answer = server.model().oneshot(LlmRequest::new("x".into())).await.unwrap();
    assert_eq!(answer.output, "found");
    let received = server.received();
    assert_eq!(received[1].path, "/v2/chat");
    assert_eq!(received[1].body, received[0].body);
    assert_eq!(
        received[1].header("authorization"),
        Some("Bearer sk-test-0123456789")
    );

    let circle = Server::start(|_| Reply::new(307, &[("location", "/v1/chat/completions")], "")).await;
    let error = circle
        .model()
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(circle.received().len() < 10);

    let nowhere = Server::start(|_| Reply::new(307, &[], "")).await;
    let error = nowhere
        .model()
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::InvalidRequest, Some(307))
    );
}

#[tokio::test]
async fn keys_rotate_per_call() {
    let server = Server::start(|_| Reply::text("ok")).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let client = OpenAi::builder()
        .base_url(format!("http://{}", server.address))
        .api_key_with(move || {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                Ok(format!(" key-{number}\n"))
            }
        })
        .build()
        .unwrap();
    for number in 0..3 {
        client
            .model("m")
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap();
        let expected = format!("Bearer key-{number}");
        assert_eq!(
            server.received()[number].header("authorization"),
            Some(expected.as_str())
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_callback_that_fails_sends_nothing() {
    let server = Server::start(|_| Reply::text("ok")).await;
    let client = |error: fn() -> llm_batch::BoxError| {
        OpenAi::builder()
            .base_url(format!("http://{}/v1", server.address))
            .api_key_with(move || async move { Err(error()) })
            .build()
            .unwrap()
    };
    let error = client(|| "the vault is sealed".into())
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.disposition(), error.delivery()),
        (Disposition::Backoff, Delivery::NotSent)
    );
    assert!(error.to_string().contains("the vault is sealed"));
    let own = client(|| LlmError::new(ErrorKind::Authentication, "no lease").into());
    let error = own
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::Authentication, Delivery::NotSent)
    );

    let unsendable = OpenAi::builder()
        .base_url(format!("http://{}/v1", server.address))
        .api_key("a\nb")
        .build()
        .unwrap();
    let error = unsendable
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::Configuration, Delivery::NotSent)
    );
    assert!(server.received().is_empty());
}
