//! Gemini's `generateContent`.

use llm_batch::provider::Model;
use llm_batch::provider::gemini::Gemini;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{both, citations, files, logprobs, reasoning, sources, whole};
use crate::server::{Reply, Server};

fn model(server: &Server) -> Model {
    let client = Gemini::builder()
        .base_url(format!("http://{}", server.address))
        .api_key("key");
    client.build().unwrap().model("gemini-2.5-flash")
}

/// A candidate with these parts, and these fields beside them.
fn body(parts: &Value, fields: &Value) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
    let fields = fields.as_object().unwrap().clone();
    candidate.as_object_mut().unwrap().extend(fields);
    json!({"candidates": [candidate], "modelVersion": "m", "responseId": "r1"})
}

const END: &str = "STOP";

#[tokio::test]
async fn thoughts_are_reasoning() {
    let thought = |text: &str| json!({"text": text, "thought": true});
    let parts = json!([thought("2 and 2 make 4"), {"text": "4"}]);
    let events = [
        body(&json!([thought("2 and 2 ")]), &json!({})),
        body(&json!([thought("make 4")]), &json!({})),
        body(&json!([{"text": "4"}]), &json!({"finishReason": END})),
    ];
    let answer = both(model, &body(&parts, &json!({"finishReason": END})), &events).await;
    assert_eq!(answer.output, "4");
    assert_eq!(
        reasoning(&answer),
        ("2 and 2 make 4", &[thought("2 and 2 make 4")][..])
    );
}

#[tokio::test]
async fn log_probabilities_go_on_from_chunk_to_chunk() {
    let result = |tokens: &[(&str, f64)]| {
        let token =
            |(token, logprob): &(&str, f64)| json!({"token": token, "tokenId": 7, "logProbability": logprob});
        let chosen: Vec<_> = tokens.iter().map(token).collect();
        let top: Vec<_> = chosen
            .iter()
            .map(|token| json!({"candidates": [token, {"token": "5", "logProbability": -2.5}]}))
            .collect();
        json!({"chosenCandidates": chosen, "topCandidates": top})
    };
    let parts = json!([{"text": "4 4"}]);
    let mean = json!({"finishReason": END, "avgLogprobs": -0.25, "logprobsResult": result(&[("4", -0.25), ("4", -0.25)])});
    let events = [
        body(
            &json!([{"text": "4"}]),
            &json!({"logprobsResult": result(&[("4", -0.25)])}),
        ),
        body(
            &json!([{"text": " 4"}]),
            &json!({"finishReason": END, "avgLogprobs": -0.25, "logprobsResult": result(&[("4", -0.25)])}),
        ),
    ];
    let answer = both(model, &body(&parts, &mean), &events).await;
    let top = vec![("4", -0.25), ("5", -2.5)];
    assert_eq!(logprobs(&answer), [("4", -0.25, top.clone()), ("4", -0.25, top)]);
    assert_eq!(answer.metadata.logprobs.unwrap().mean, Some(-0.25));
    // The mean comes unasked from some models.
    let answer = whole(
        model,
        &body(&parts, &json!({"finishReason": END, "avgLogprobs": -0.5})),
    )
    .await;
    assert_eq!(answer.metadata.logprobs.unwrap().mean, Some(-0.5));
}

#[tokio::test]
async fn grounding_and_recitations_are_citations() {
    let chunk = |number: u64| json!({"web": {"uri": format!("https://a.test/{number}"), "title": "Sums"}});
    let support = |number: u64| json!({"segment": {"text": "4"}, "groundingChunkIndices": [number]});
    let grounding = |numbers: &[u64]| {
        let chunks: Vec<_> = numbers.iter().copied().map(chunk).collect();
        let supports: Vec<_> = numbers.iter().copied().map(support).collect();
        json!({"groundingChunks": chunks, "groundingSupports": supports, "webSearchQueries": ["2 + 2"]})
    };
    let recited = json!({"citationSources": [{"uri": "https://b.test", "startIndex": 0, "endIndex": 1, "license": ""}]});
    let parts = json!([{"text": "44"}]);
    let all =
        json!({"finishReason": END, "groundingMetadata": grounding(&[0, 1]), "citationMetadata": recited});
    for second in [&[1][..], &[0, 1]] {
        // Later chunks go on with the sources, or repeat them from the first on.
        let events = [
            body(
                &json!([{"text": "4"}]),
                &json!({"groundingMetadata": grounding(&[0])}),
            ),
            body(
                &json!([{"text": "4"}]),
                &json!({"groundingMetadata": grounding(second), "citationMetadata": recited}),
            ),
            body(&json!([]), &json!({"finishReason": END, "groundingMetadata": {}})),
        ];
        let answer = both(model, &body(&parts, &all), &events).await;
        let found = citations(&answer);
        assert_eq!(
            sources(found),
            [
                [Some("https://a.test/0"), Some("Sums"), None],
                [Some("https://a.test/1"), Some("Sums"), None],
                [Some("https://b.test"), None, None]
            ]
        );
        assert_eq!(
            found.parts,
            [
                json!({"groundingMetadata": grounding(&[0, 1])}),
                json!({"citationMetadata": recited})
            ]
        );
    }
    let others = json!({"finishReason": END, "groundingMetadata": {"groundingChunks": [
            {"retrievedContext": {"uri": "gs://b/f", "title": "f", "text": "passage"}}, {"maps": {"uri": "https://maps.test", "title": "place"}}]},
        "urlContextMetadata": {"urlMetadata": [{"retrievedUrl": "https://c.test", "urlRetrievalStatus": "S"}]}});
    let answer = whole(model, &body(&parts, &others)).await;
    assert_eq!(
        sources(citations(&answer)),
        [
            [Some("gs://b/f"), Some("f"), Some("passage")],
            [Some("https://maps.test"), Some("place"), None],
            [Some("https://c.test"), None, None]
        ]
    );
    let nothing = whole(
        model,
        &body(&parts, &json!({"finishReason": END, "groundingMetadata": {}})),
    )
    .await;
    assert_eq!(nothing.metadata.citations, None);
}

#[tokio::test]
async fn files_are_media_by_their_type() {
    let inline = |kind: &str| json!({"inlineData": {"mimeType": kind, "data": "aW1n"}});
    let parts = json!([inline("image/png"), inline("audio/L16;rate=24000"), inline("video/mp4"),
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.test/1"}}]);
    let fields = json!({"finishReason": "MAX_TOKENS"});
    let events = [
        body(&json!([parts[0], parts[1]]), &json!({})),
        body(&json!([parts[2], parts[3]]), &fields),
    ];
    // An answer of files alone is one, though it was cut.
    let answer = both(model, &body(&parts, &fields), &events).await;
    assert_eq!(answer.output, "");
    let media = answer.metadata.media.as_ref().unwrap();
    assert_eq!(
        files(&media.images),
        [
            [Some("image/png"), Some("aW1n"), None],
            [Some("image/jpeg"), None, Some("https://a.test/1")]
        ]
    );
    assert_eq!(
        files(&media.audio),
        [[Some("audio/L16;rate=24000"), Some("aW1n"), None]]
    );
    assert_eq!(files(&media.other), [[Some("video/mp4"), Some("aW1n"), None]]);
}

#[tokio::test]
async fn an_answer_in_parts_keeps_the_sources_of_each() {
    let source =
        |number: u64| json!({"groundingChunks": [{"web": {"uri": format!("https://a.test/{number}")}}]});
    let first = body(
        &json!([{"text": "4"}]),
        &json!({"finishReason": "CONTINUATION", "continuationToken": "t", "avgLogprobs": -0.5, "groundingMetadata": source(0)}),
    );
    let last = body(
        &json!([{"text": "4"}]),
        &json!({"finishReason": END, "avgLogprobs": -0.25, "groundingMetadata": source(1)}),
    );
    let server =
        Server::start(move |request| Reply::json(if request.number == 0 { &first } else { &last })).await;
    let answer = model(&server)
        .oneshot(llm_batch::LlmRequest::new("x".into()))
        .await
        .unwrap();
    assert_eq!(answer.output, "44");
    assert_eq!(
        sources(citations(&answer)),
        [
            [Some("https://a.test/0"), None, None],
            [Some("https://a.test/1"), None, None]
        ]
    );
    assert_eq!(answer.metadata.logprobs, None);
}
