//! What answers hold beside text, on every wire: the same fields from a whole reply and from a stream.

mod anthropic;
mod chat;
mod gemini;
mod responses;

use llm_batch::provider::{Model, Streaming};
use llm_batch::response::{Citations, MediaFile};
use llm_batch::{LlmRequest, LlmResponse, ResponseMetadata};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

/// The answer to a body that comes whole.
async fn whole(model: impl Fn(&Server) -> Model, body: &Value) -> LlmResponse {
    let reply = Reply::json(body);
    let server = Server::start(move |_| reply.clone()).await;
    let response = model(&server).oneshot(LlmRequest::new("x".into())).await.unwrap();
    survives_serde(&response);
    response
}

/// The answer to a stream of events.
async fn streamed(model: impl Fn(&Server) -> Model, events: &[Value]) -> LlmResponse {
    let event = |event: &Value| match event.get("type").and_then(Value::as_str) {
        Some(kind) => format!("event: {kind}\ndata: {event}\n\n"),
        None => format!("data: {event}\n\n"),
    };
    let events: Vec<_> = events.iter().map(event).collect();
    let reply = Reply::events(&events).ended();
    let server = Server::start(move |_| reply.clone()).await;
    let model = model(&server).with_streaming(Streaming::new());
    model.oneshot(LlmRequest::new("x".into())).await.unwrap()
}

/// The answer to a body, which a stream has to give as well.
async fn both(model: impl Fn(&Server) -> Model + Copy, body: &Value, events: &[Value]) -> LlmResponse {
    let whole = whole(model, body).await;
    assert_eq!(streamed(model, events).await, whole);
    whole
}

fn survives_serde(response: &LlmResponse) {
    let text = serde_json::to_string(response).unwrap();
    assert_eq!(&serde_json::from_str::<LlmResponse>(&text).unwrap(), response);
}

fn reasoning(response: &LlmResponse) -> (&str, &[Value]) {
    let reasoning = response.metadata.reasoning.as_ref().unwrap();
    (&reasoning.text, &reasoning.parts)
}

/// Tokens, their log probabilities, and the tokens that were likely in their place.
type Token<'a> = (&'a str, f64, Vec<(&'a str, f64)>);

fn logprobs(response: &LlmResponse) -> Vec<Token<'_>> {
    let logprobs = response.metadata.logprobs.as_ref().unwrap();
    logprobs
        .tokens
        .iter()
        .map(|token| {
            let top = token.top.iter().map(|top| (&*top.token, top.logprob));
            (&*token.token, token.logprob, top.collect())
        })
        .collect()
}

/// URL, title and quote of each source.
fn sources(citations: &Citations) -> Vec<[Option<&str>; 3]> {
    citations
        .sources
        .iter()
        .map(|source| [&source.url, &source.title, &source.quote].map(Option::as_deref))
        .collect()
}

fn citations(response: &LlmResponse) -> &Citations {
    response.metadata.citations.as_ref().unwrap()
}

/// Media type, content and address of each file.
fn files(files: &[MediaFile]) -> Vec<[Option<&str>; 3]> {
    files
        .iter()
        .map(|file| [&file.mime_type, &file.data, &file.url].map(Option::as_deref))
        .collect()
}

#[test]
fn an_answer_of_text_alone_stays_small() {
    // What is rare is one pointer each.
    assert!(size_of::<ResponseMetadata>() <= 208);
    let plain = serde_json::to_value(LlmResponse::new("4".to_owned())).unwrap();
    assert_eq!(plain, json!({"output": "4", "usage": null, "metadata": {}}));
    // Rows that were written before there were these fields are read.
    assert_eq!(
        serde_json::from_value::<LlmResponse>(json!({"output": "4", "usage": null})).unwrap(),
        LlmResponse::new("4".to_owned())
    );
}

#[test]
fn the_content_of_a_file_is_not_shown() {
    let file: MediaFile =
        serde_json::from_value(json!({"data": "c2VjcmV0", "mime_type": "image/png"})).unwrap();
    let shown = format!("{file:?}");
    assert!(
        shown.contains("8 characters") && !shown.contains("c2VjcmV0"),
        "{shown}"
    );
}
