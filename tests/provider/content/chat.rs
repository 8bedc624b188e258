//! Chat completions, and the servers that add fields of their own.

use llm_batch::provider::Model;
use serde_json::{Value, json};

use super::{both, citations, files, logprobs, reasoning, sources, whole};
use crate::server::Server;

fn model(server: &Server) -> Model {
    server.model()
}

/// A completion whose message has these fields beside the text `4`.
fn body(fields: &Value) -> Value {
    let mut message = json!({"role": "assistant", "content": "4"});
    extend(&mut message, fields);
    json!({"id": "c1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
}

fn extend(object: &mut Value, fields: &Value) {
    let fields = fields.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(fields);
}

/// Chunks of these deltas, then the text `4` and the end.
fn chunks(deltas: &[Value]) -> Vec<Value> {
    let chunk = |delta: &Value, reason: Value| json!({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let mut chunks: Vec<_> = deltas.iter().map(|delta| chunk(delta, Value::Null)).collect();
    chunks.push(chunk(&json!({"content": "4"}), Value::Null));
    chunks.push(chunk(&json!({}), "stop".into()));
    chunks
}

#[tokio::test]
async fn reasoning_has_two_names_and_is_read_once() {
    // DeepSeek, llama.cpp and SGLang have the one; OpenRouter, Groq and vLLM the other, or both.
    for names in [
        &["reasoning_content"][..],
        &["reasoning"],
        &["reasoning", "reasoning_content"],
    ] {
        let fields = |text: &str| {
            Value::Object(
                names
                    .iter()
                    .map(|name| ((*name).to_owned(), text.into()))
                    .collect(),
            )
        };
        let deltas = [fields("2 and 2 "), fields("make 4")];
        let answer = both(model, &body(&fields("2 and 2 make 4")), &chunks(&deltas)).await;
        assert_eq!(reasoning(&answer), ("2 and 2 make 4", &[][..]), "{names:?}");
        assert_eq!(answer.output, "4");
    }
    // Some servers send null, or nothing, or an object of settings.
    for nothing in [json!(null), json!(""), json!({"effort": "low"})] {
        let answer = whole(
            model,
            &body(&json!({"reasoning": nothing, "reasoning_content": nothing})),
        )
        .await;
        assert_eq!(answer.metadata.reasoning, None, "{nothing}");
    }
}

#[tokio::test]
async fn details_of_openrouters_reasoning_are_kept_as_they_have_to_be_sent_back() {
    let details = json!([
        {"type": "reasoning.text", "text": "2 and 2 make 4", "signature": "sig", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "b3BhcXVl", "format": "anthropic-claude-v1", "index": 1}
    ]);
    let deltas = [
        json!({"reasoning": "2 and 2 ", "reasoning_details": [
            {"type": "reasoning.text", "text": "2 and 2 ", "format": "anthropic-claude-v1", "index": 0}]}),
        json!({"reasoning": "make 4", "reasoning_details": [
            {"type": "reasoning.text", "text": "make 4", "format": "anthropic-claude-v1", "index": 0}]}),
        json!({"reasoning_details": [{"type": "reasoning.text", "signature": "sig", "index": 0}]}),
        json!({"reasoning_details": [details[1]]}),
    ];
    let fields = json!({"reasoning": "2 and 2 make 4", "reasoning_details": details});
    let answer = both(model, &body(&fields), &chunks(&deltas)).await;
    assert_eq!(
        reasoning(&answer),
        ("2 and 2 make 4", details.as_array().unwrap().as_slice())
    );
    // The text is there where only the details are.
    let fields =
        json!({"reasoning_details": [{"type": "reasoning.summary", "summary": "simple"}, details[0]]});
    let answer = whole(model, &body(&fields)).await;
    assert_eq!(reasoning(&answer).0, "simple\n\n2 and 2 make 4");
}

#[tokio::test]
async fn thoughts_among_the_parts_of_the_content_are_reasoning() {
    let thought = |text: &str| json!({"type": "thinking", "thinking": [{"type": "text", "text": text}]});
    let fields = json!({"content": [thought("2 and 2 make 4"), {"type": "text", "text": "4"}]});
    let deltas = [
        json!({"content": [thought("2 and 2 ")]}),
        json!({"content": [thought("make 4")]}),
    ];
    let answer = both(model, &body(&fields), &chunks(&deltas)).await;
    assert_eq!(answer.output, "4");
    assert_eq!(
        reasoning(&answer),
        ("2 and 2 make 4", &[thought("2 and 2 make 4")][..])
    );
}

#[tokio::test]
async fn log_probabilities_are_in_the_order_of_the_tokens() {
    let token = |token: &str, logprob: f64, top: Value| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes(), "top_logprobs": top});
    let top = json!([{"token": "4", "logprob": -0.25, "bytes": null}, {"token": "5", "logprob": -2.5}]);
    let (first, second) = (token("4", -0.25, top), token("!", -1.5, json!([])));
    let mut reply = body(&json!({}));
    reply["choices"][0]["logprobs"] = json!({"content": [first, second], "refusal": null});
    let mut events = chunks(&[json!({"role": "assistant"})]);
    events[0]["choices"][0]["logprobs"] = json!({"content": [first]});
    events[1]["choices"][0]["logprobs"] = json!({"content": [second], "refusal": null});
    let answer = both(model, &reply, &events).await;
    assert_eq!(
        logprobs(&answer),
        [("4", -0.25, vec![("4", -0.25), ("5", -2.5)]), ("!", -1.5, vec![])]
    );
    let tokens = &answer.metadata.logprobs.as_ref().unwrap().tokens;
    assert_eq!(tokens[0].bytes.as_deref(), Some(&b"4"[..]));
    assert_eq!(tokens[0].top[0].bytes, None);

    for nothing in [
        json!(null),
        json!({"content": null}),
        json!({"content": []}),
        json!([7]),
    ] {
        reply["choices"][0]["logprobs"] = nothing;
        assert_eq!(whole(model, &reply).await.metadata.logprobs, None);
    }
}

#[tokio::test]
async fn annotations_are_citations() {
    let annotations = json!([
        {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "title": "Sums", "url": "https://a.test/sums", "content": "2 + 2 = 4"}},
        {"type": "file", "file": {"hash": "h", "name": "sums.pdf"}}
    ]);
    let fields = json!({"annotations": annotations});
    let deltas = [
        json!({"annotations": [annotations[0]]}),
        json!({"annotations": [annotations[1]]}),
    ];
    let answer = both(model, &body(&fields), &chunks(&deltas)).await;
    let cited = citations(&answer);
    assert_eq!(
        sources(cited),
        [[Some("https://a.test/sums"), Some("Sums"), Some("2 + 2 = 4")]]
    );
    assert_eq!(&cited.parts, annotations.as_array().unwrap());
    let none = whole(model, &body(&json!({"annotations": []}))).await;
    assert_eq!(none.metadata.citations, None);
}

#[tokio::test]
async fn sources_beside_the_choices_are_citations() {
    // Perplexity sends both; xAI the addresses alone.
    let results =
        json!([{"title": "Sums", "url": "https://a.test/sums", "date": "2026-01-01", "snippet": "2 + 2"}]);
    let addresses = json!(["https://a.test/sums"]);
    for (fields, expected) in [
        (
            json!({"citations": addresses, "search_results": results}),
            [Some("https://a.test/sums"), Some("Sums"), Some("2 + 2")],
        ),
        (
            json!({"citations": addresses}),
            [Some("https://a.test/sums"), None, None],
        ),
    ] {
        let mut reply = body(&json!({}));
        extend(&mut reply, &fields);
        let mut events = chunks(&[]);
        for event in &mut events {
            extend(event, &fields);
        }
        let answer = both(model, &reply, &events).await;
        assert_eq!(sources(citations(&answer)), [expected]);
    }
}

#[tokio::test]
async fn images_and_recordings_are_media() {
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let images = json!([image("data:image/png;base64,aW1n"), image("https://a.test/1.png")]);
    let audio = json!({"id": "audio_1", "data": "b25ldHdvIQ==", "transcript": "Four.", "expires_at": 5});
    let fields = json!({"images": images, "audio": audio});
    let deltas = [
        json!({"images": [images[0]]}),
        json!({"images": [images[1]]}),
        json!({"audio": {"id": "audio_1", "transcript": "Fo"}}),
        json!({"audio": {"transcript": "ur."}}),
        // Each piece is base64 by itself: "one" and "two!".
        json!({"audio": {"data": "b25l"}}),
        json!({"audio": {"data": "dHdvIQ=="}}),
        json!({"audio": {"expires_at": 5}}),
    ];
    let answer = both(model, &body(&fields), &chunks(&deltas)).await;
    let media = answer.metadata.media.as_ref().unwrap();
    assert_eq!(
        files(&media.images),
        [
            [Some("image/png"), Some("aW1n"), None],
            [None, None, Some("https://a.test/1.png")]
        ]
    );
    assert_eq!(files(&media.audio), [[None, Some("b25ldHdvIQ=="), None]]);
    assert_eq!(media.audio[0].id.as_deref(), Some("audio_1"));
    assert_eq!(media.audio[0].transcript.as_deref(), Some("Four."));
}

#[tokio::test]
async fn an_answer_without_text_is_whole_when_it_has_an_image() {
    let mut reply =
        body(&json!({"content": null, "images": [{"image_url": {"url": "https://a.test/1.png"}}]}));
    reply["choices"][0]["finish_reason"] = "length".into();
    let answer = whole(model, &reply).await;
    assert_eq!(answer.output, "");
    assert_eq!(answer.metadata.media.unwrap().images.len(), 1);
}
