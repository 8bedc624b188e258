//! OpenAI's Responses.

use llm_batch::provider::Model;
use serde_json::{Value, json};

use super::{both, citations, files, logprobs, reasoning, sources, whole};
use crate::server::Server;

fn model(server: &Server) -> Model {
    server.builder().build().unwrap().responses("test-model")
}

fn body(output: &Value) -> Value {
    json!({"id": "resp_1", "object": "response", "model": "m", "status": "completed", "output": output})
}

fn message(part: &Value) -> Value {
    json!({"type": "message", "role": "assistant", "content": [part]})
}

/// The events of a server whose last one leaves the output out.
fn events(output: &Value) -> Vec<Value> {
    let items = output.as_array().unwrap().iter();
    let mut events: Vec<_> = items
        .map(|item| json!({"type": "response.output_item.done", "item": item}))
        .collect();
    events.push(json!({"type": "response.completed", "response": body(&json!([]))}));
    events
}

#[tokio::test]
async fn reasoning_items_are_reasoning() {
    let text = json!({"type": "output_text", "text": "4", "annotations": []});
    let summary = json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "b3BhcXVl", "summary": [
        {"type": "summary_text", "text": "2 and 2"}, {"type": "summary_text", "text": "make 4"}]});
    // vLLM and other open servers reveal the reasoning itself.
    let open = json!({"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "short"}],
        "content": [{"type": "reasoning_text", "text": "long"}]});
    let output = json!([summary, open, message(&text)]);
    let answer = both(model, &body(&output), &events(&output)).await;
    assert_eq!(answer.output, "4");
    assert_eq!(
        reasoning(&answer),
        ("2 and 2\n\nmake 4\n\nlong", &[summary, open][..])
    );

    let sealed = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "b3BhcXVl"});
    let answer = whole(model, &body(&json!([sealed, message(&text)]))).await;
    assert_eq!(reasoning(&answer), ("", &[sealed][..]));
    // What OpenAI sends unless asked for more.
    let empty = json!({"type": "reasoning", "id": "rs_1", "summary": []});
    let answer = whole(model, &body(&json!([empty, message(&text)]))).await;
    assert_eq!(answer.metadata.reasoning, None);
}

#[tokio::test]
async fn log_probabilities_and_annotations_stand_in_the_text() {
    let annotations = json!([
        {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "Sums", "url": "https://a.test/sums"},
        {"type": "file_citation", "file_id": "file-1", "filename": "sums.pdf", "index": 1}
    ]);
    let top = json!([{"token": "4", "logprob": -0.5, "bytes": [52]}]);
    let text = json!({"type": "output_text", "text": "4", "annotations": annotations,
        "logprobs": [{"token": "4", "logprob": -0.5, "bytes": [52], "top_logprobs": top}]});
    let output = json!([message(&text)]);
    let answer = both(model, &body(&output), &events(&output)).await;
    assert_eq!(logprobs(&answer), [("4", -0.5, vec![("4", -0.5)])]);
    let cited = citations(&answer);
    assert_eq!(
        sources(cited),
        [
            [Some("https://a.test/sums"), Some("Sums"), None],
            [None, Some("sums.pdf"), None]
        ]
    );
    assert_eq!(&cited.parts, annotations.as_array().unwrap());
}

#[tokio::test]
async fn what_is_said_before_the_final_answer_has_no_citations() {
    let text = |text: &str, url: &str| json!({"type": "output_text", "text": text, "annotations": [{"type": "url_citation", "url": url}]});
    let mut before = message(&text("let me see", "https://a.test/before"));
    before["phase"] = "commentary".into();
    let mut answer = message(&text("4", "https://a.test/sums"));
    answer["phase"] = "final_answer".into();
    let answer = whole(model, &body(&json!([before, answer]))).await;
    assert_eq!(
        sources(citations(&answer)),
        [[Some("https://a.test/sums"), None, None]]
    );
}

#[tokio::test]
async fn images_and_recordings_are_media() {
    let output = json!([
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aW1n", "output_format": "webp"},
        {"type": "image_generation_call", "id": "ig_2", "status": "completed", "result": "aW1n"},
        {"type": "image_generation_call", "id": "ig_3", "status": "failed", "result": null},
        message(&json!({"type": "output_audio", "data": "b25l", "transcript": "Four."})),
    ]);
    let answer = both(model, &body(&output), &events(&output)).await;
    let media = answer.metadata.media.as_ref().unwrap();
    assert_eq!(
        files(&media.images),
        [
            [Some("image/webp"), Some("aW1n"), None],
            [Some("image/png"), Some("aW1n"), None]
        ]
    );
    assert_eq!(media.images[0].id.as_deref(), Some("ig_1"));
    assert_eq!(files(&media.audio), [[None, Some("b25l"), None]]);
    assert_eq!(media.audio[0].transcript.as_deref(), Some("Four."));
}
