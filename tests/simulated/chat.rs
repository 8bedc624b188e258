//! OpenAI's specifics of streamed chat completions. The tests of unstreamed ones are in `http.rs`.

use serde_json::{Value, json};

use super::support::{Ask, Wire, events, serve};

#[tokio::test]
async fn a_stream_has_a_role_first_and_a_terminator_last() {
    let setup = serve(|sim| sim).await;
    let text = setup
        .ask(Wire::Chat, &Ask::new("What is 2 + 3?").streamed())
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let events = events(&text);
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last.1, "[DONE]");
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|(_, data)| serde_json::from_str(data).unwrap())
        .collect();
    assert!(chunks.len() > 5);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let (usage, rest) = chunks.split_last().unwrap();
    assert!(usage["usage"].is_object());
    for chunk in rest {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], "chatcmpl-sim-1");
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
    }
    let finished: Vec<_> = rest
        .iter()
        .filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null())
        .collect();
    assert_eq!(finished.len(), 1);
}

#[tokio::test]
async fn usage_comes_only_when_asked_for() {
    let setup = serve(|sim| sim).await;
    let mut body = Ask::new("hi").streamed().body(Wire::Chat);
    body.as_object_mut().unwrap().remove("stream_options");
    let response = setup
        .request(Wire::Chat, true)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let text = response.text().await.unwrap();
    assert!(
        text.ends_with("data: [DONE]\n\n") && !text.contains("usage"),
        "{text}"
    );
}

#[tokio::test]
async fn a_refusal_is_streamed_as_one() {
    let setup = serve(|sim| sim.refusal_rate(1.0)).await;
    let response = setup.ask(Wire::Chat, &Ask::new("hi").streamed()).await.unwrap();
    let text = response.text().await.unwrap();
    let deltas = events(&text);
    let deltas = deltas
        .iter()
        .filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok());
    let refusal: String = deltas
        .filter_map(|chunk| {
            chunk
                .pointer("/choices/0/delta/refusal")?
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(refusal, "I'm sorry, I can't assist with that.");
}

#[tokio::test]
async fn a_failing_stream_ends_with_an_error_object() {
    let setup = serve(|sim| sim.stream_error_rate(1.0)).await;
    let response = setup.ask(Wire::Chat, &Ask::new("hi").streamed()).await.unwrap();
    let text = response.text().await.unwrap();
    let (_, last) = events(&text).pop().unwrap();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["error"]["type"], json!("server_error"));
}
