//! Headers, and certificates.

use std::sync::Arc;

use llm_batch::recipe::{Escalate, temperatures};
use llm_batch::{
    Delivery, ErrorKind, LlmError, LlmRequest, LlmResponse, OpenAi, Prompt, RetryLayer, RetryPolicy,
    StrategyExt,
};
use tower::{ServiceBuilder, ServiceExt};

use super::{NOWHERE, WIRES, refused};
use crate::server::{Reply, Server};

#[tokio::test]
async fn headers_of_a_prompt_are_sent_with_every_attempt_and_replace_none_of_the_clients() {
    let server =
        Server::start(|_| Reply::new(400, &[], r#"{"error": {"message": "bad token tok-123456"}}"#)).await;
    let model = server
        .builder()
        .header("x-team", "search")
        .build()
        .unwrap()
        .chat("m");
    let prompt = Prompt::new("x")
        .with_header("Idempotency-Key", "row-7")
        .with_header("x-user-token", "tok-123456");
    assert!(!format!("{prompt:?}").contains("row-7"));
    let error = model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
    assert!(!error.to_string().contains("tok-123456"), "{error}");
    let sent = server.received().pop().unwrap();
    assert_eq!(sent.header("idempotency-key"), Some("row-7"));
    assert_eq!(sent.header("x-team"), Some("search"));
    for (name, value) in [
        ("Authorization", "Bearer other"),
        ("api-key", "x"),
        ("X-API-Key", "x"),
        ("x-team", "other"),
        ("Content-Type", "text/plain"),
        ("User-Agent", "other"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "close"),
        ("Trailer", "x-sum"),
        ("Upgrade", "h2c"),
        ("two words", "x"),
        ("x-fine", "a\nb"),
    ] {
        let prompt = Prompt::new("x").with_header(name, value);
        let error = model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent),
            "{name}"
        );
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    assert_eq!(server.received().len(), 1);
    // A header of the same name is set anew.
    let prompt = Prompt::new("x")
        .with_header("X-Beta", "a")
        .with_header("x-run", "2")
        .with_header("x-beta", "a,b");
    assert_eq!(prompt.header_names().collect::<Vec<_>>(), ["x-run", "x-beta"]);
    let _ = model
        .clone()
        .oneshot(LlmRequest::new(prompt.without_header("X-Run")))
        .await;
    let sent = server.received().pop().unwrap();
    assert_eq!((sent.header("x-beta"), sent.header("x-run")), (Some("a,b"), None));
    // Those of a strategy count where a prompt has none of the name.
    let shared = model.with_defaults(
        Prompt::default()
            .with_header("x-run", "1")
            .with_header("x-trace", "shared"),
    );
    let _ = shared
        .oneshot(LlmRequest::new(Prompt::new("x").with_header("x-trace", "own")))
        .await;
    let sent = server.received().pop().unwrap();
    assert_eq!(
        (sent.header("x-run"), sent.header("x-trace")),
        (Some("1"), Some("own"))
    );
}

#[tokio::test]
async fn a_reply_of_many_headers_is_read() {
    let names: Vec<_> = (0..500).map(|number| format!("x-hop-{number}")).collect();
    let server = Server::start(move |_| {
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        Reply::new(200, &headers, crate::server::completion("ok").to_string())
    })
    .await;
    assert_eq!(
        server
            .model()
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap()
            .output,
        "ok"
    );
}

#[test]
fn a_root_certificate_has_to_be_one() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
        let error = OpenAi::builder()
            .api_key("k")
            .root_certificate(pem)
            .build()
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Configuration, Some("invalid_option")),
            "{pem}"
        );
    }
}

#[tokio::test]
async fn a_preview_refuses_the_headers_that_a_call_refuses() {
    for (name, model) in WIRES {
        let model = model(NOWHERE);
        for (header, value, words) in [
            ("x team", "search", "malformed name"),
            ("x-team", "a\nb", "malformed value"),
            ("Content-Type", "text/plain", "the client sends itself"),
        ] {
            let prompt = Prompt::new("x").with_header(header, value);
            let preview = refused(&model, &prompt);
            assert!(preview.contains(words), "{name}: {preview}");
            let called = model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
            assert_eq!(preview, called.to_string(), "{name}");
            // Those of the defaults are sent, too, but not beside a raw body.
            let defaults = Prompt::default().with_header(header, value);
            let with_defaults = model.clone().with_defaults(defaults);
            assert_eq!(refused(&with_defaults, &"x".into()), preview, "{name}");
            let raw = Prompt::raw(serde_json::Map::new());
            assert!(with_defaults.request_body(&raw).is_ok(), "{name}");
        }
    }
}

#[tokio::test]
async fn an_idempotency_key_goes_out_with_one_body() {
    let server = Server::start(|request| match request.json()["temperature"].as_f64() {
        Some(1.0) => Reply::json(&crate::server::completion("right")),
        _ => Reply::json(&crate::server::completion("wrong")),
    })
    .await;
    let checked = |response: LlmResponse| match response.output.as_str() {
        "wrong" => Err(LlmError::validation("it is wrong")),
        _ => Ok(response),
    };
    let rungs = || server.model().boxed_strategy();
    let model = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(9)))
        .layer(temperatures([0.0, 0.5, 1.0]))
        .and_then(async move |response| checked(response))
        .service(Escalate::new([rungs(), rungs()]));
    let keyed = || LlmRequest::new(Prompt::new("x").with_header("Idempotency-Key", "row-7"));
    let request = keyed();
    let item = Arc::clone(request.item());
    model.clone().oneshot(request).await.unwrap();
    let keys = |from: usize| -> Vec<String> {
        let requests = server.received();
        let keys = requests[from..]
            .iter()
            .map(|request| request.header("idempotency-key"));
        keys.map(|key| key.unwrap().to_owned()).collect()
    };
    assert_eq!(keys(0), ["row-7", "row-7-2", "row-7-3"]);
    // The same body has the same key again, and another item keys of its own.
    let again = LlmRequest::for_item(keyed().input().clone().with_temperature(0.5), item);
    server.model().oneshot(again).await.unwrap();
    server.model().oneshot(keyed()).await.unwrap();
    assert_eq!(keys(3), ["row-7-2", "row-7"]);
}
