//! Anthropic's Messages.

use llm_batch::provider::Model;
use serde_json::{Value, json};

use super::{both, citations, reasoning, sources, whole};
use crate::server::Server;

fn model(server: &Server) -> Model {
    let client = crate::anthropic::builder(server).build().unwrap();
    client.model("claude-sonnet-4-5")
}

fn body(content: &Value) -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
        "stop_reason": "end_turn", "usage": {"input_tokens": 10, "output_tokens": 5}})
}

/// The events around those of the blocks.
fn events(blocks: &[Value]) -> Vec<Value> {
    let mut start = body(&json!([]));
    start["stop_reason"] = Value::Null;
    let mut events = vec![json!({"type": "message_start", "message": start})];
    events.extend_from_slice(blocks);
    events.push(
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
    );
    events.push(json!({"type": "message_stop"}));
    events
}

fn start(index: u64, block: &Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

#[tokio::test]
async fn thinking_blocks_are_reasoning() {
    let thinking = json!({"type": "thinking", "thinking": "2 and 2 make 4", "signature": "sig"});
    let redacted = json!({"type": "redacted_thinking", "data": "b3BhcXVl"});
    let content = json!([thinking, redacted, {"type": "text", "text": "4"}]);
    let blocks = [
        start(0, &json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, &json!({"type": "thinking_delta", "thinking": "2 and 2 "})),
        delta(0, &json!({"type": "thinking_delta", "thinking": "make 4"})),
        delta(0, &json!({"type": "signature_delta", "signature": "sig"})),
        start(1, &redacted),
        start(2, &json!({"type": "text", "text": ""})),
        delta(2, &json!({"type": "text_delta", "text": "4"})),
    ];
    let answer = both(model, &body(&content), &events(&blocks)).await;
    assert_eq!(answer.output, "4");
    assert_eq!(reasoning(&answer), ("2 and 2 make 4", &[thinking, redacted][..]));

    let plain = whole(model, &body(&json!([{"type": "text", "text": "4"}]))).await;
    assert_eq!(plain.metadata.reasoning, None);
}

#[tokio::test]
async fn citations_of_every_kind_of_source_are_read() {
    let cited = json!([
        {"type": "web_search_result_location", "url": "https://a.test/sums", "title": "Sums", "cited_text": "2 + 2", "encrypted_index": "x"},
        {"type": "search_result_location", "source": "https://b.test", "title": "Mine", "cited_text": "is 4", "search_result_index": 0},
        {"type": "char_location", "document_index": 0, "document_title": "Book", "cited_text": "four", "start_char_index": 3, "end_char_index": 7},
        {"type": "page_location", "document_index": 1, "document_title": null, "cited_text": "pages", "start_page_number": 1, "end_page_number": 2}
    ]);
    let content = json!([
        {"type": "text", "text": "It is ", "citations": null},
        {"type": "text", "text": "4", "citations": cited}
    ]);
    let mut blocks = vec![
        start(0, &json!({"type": "text", "text": "", "citations": null})),
        delta(0, &json!({"type": "text_delta", "text": "It is "})),
        start(1, &json!({"type": "text", "text": "", "citations": []})),
    ];
    for citation in cited.as_array().unwrap() {
        blocks.push(delta(
            1,
            &json!({"type": "citations_delta", "citation": citation}),
        ));
    }
    blocks.push(delta(1, &json!({"type": "text_delta", "text": "4"})));
    let answer = both(model, &body(&content), &events(&blocks)).await;
    assert_eq!(answer.output, "It is 4");
    let found = citations(&answer);
    assert_eq!(
        sources(found),
        [
            [Some("https://a.test/sums"), Some("Sums"), Some("2 + 2")],
            [Some("https://b.test"), Some("Mine"), Some("is 4")],
            [None, Some("Book"), Some("four")],
            [None, None, Some("pages")]
        ]
    );
    assert_eq!(&found.parts, cited.as_array().unwrap());
}
