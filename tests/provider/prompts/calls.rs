//! Calls of tools, and their results.

use llm_batch::provider::Streaming;
use llm_batch::provider::anthropic::CacheTtl;
use llm_batch::{LlmRequest, LlmResponse, Message, Part, Prompt, Role, Tool, ToolCall};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    BIG, MakeModel, NOWHERE, WIRES, answer, anthropic, body, calls, chat, conversation, gemini, refused,
    responses,
};
use crate::server::{Reply, Server};

fn answered(prompt: Prompt, response: &LlmResponse) -> Prompt {
    let results = response.tool_calls().into_iter().zip(["done", r#"{"hour": 7}"#]);
    let results = results.map(|(call, result)| Message::tool_result(call.id, result));
    results.fold(prompt.with_message(Message::from(response)), Prompt::with_message)
}

#[tokio::test]
async fn calls_are_answered_with_every_digit_of_their_arguments() {
    for (wire, model) in WIRES {
        let (first, conversation) = calls(wire);
        let reply = Reply::new(200, &[("content-type", "application/json")], &first);
        let server = Server::start(move |_| reply.clone()).await;
        let model = model(&format!("http://{}", server.address));
        let prompt = Prompt::new("Cancel it.").with_tool(Tool::new("cancel", json!({"type": "object"})));
        let response = model
            .clone()
            .oneshot(LlmRequest::new(prompt.clone()))
            .await
            .unwrap();
        let calls = response.tool_calls();
        assert_eq!(
            calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(),
            ["cancel", "now"],
            "{wire}"
        );
        assert_eq!(calls[0].arguments, BIG, "{wire}");
        // As a program that keeps its responses as JSON has them.
        let kept = serde_json::to_string(&response).unwrap();
        let response: LlmResponse = serde_json::from_str(&kept).unwrap();
        assert_eq!(response.tool_calls(), calls, "{wire}");

        model
            .oneshot(LlmRequest::new(answered(prompt, &response)))
            .await
            .unwrap();
        let sent = server.received().pop().unwrap().body;
        // JSON's reader would round what it is to show.
        let number = BIG.split_at(10).1.trim_end_matches('}').trim();
        let readable = if matches!(wire, "anthropic" | "gemini") {
            assert!(sent.contains(number), "{sent}");
            sent.replace(BIG, r#""BIG""#)
        } else {
            sent
        };
        let sent: Value = serde_json::from_str(&readable).unwrap();
        let messages = ["messages", "input", "contents"]
            .into_iter()
            .find_map(|name| sent.get(name));
        assert_eq!(messages, Some(&conversation), "{wire}");
    }
}

#[tokio::test]
async fn streamed_calls_keep_their_digits() {
    let input = BIG.replace('"', "\\\"");
    let (one, two) = input.split_at(30);
    let events = [
        r#"{"type":"message_start","message":{"content":[]}}"#.to_owned(),
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"c1","name":"cancel","input":{}}}"#.to_owned(),
        format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"input_json_delta","partial_json":"{one}"}}}}"#),
        format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"input_json_delta","partial_json":"{two}"}}}}"#),
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#.to_owned(),
        r#"{"type":"message_stop"}"#.to_owned(),
    ];
    let events: Vec<_> = events
        .iter()
        .map(|event| format!("event: x\ndata: {event}\n\n"))
        .collect();
    let (whole, _) = calls("gemini");
    let chunk = format!("data: {}\n\n", whole.replace('\n', " "));
    let cases = [(anthropic as MakeModel, events), (gemini, vec![chunk])];
    for (model, events) in cases {
        let reply = Reply::events(&events).ended();
        let server = Server::start(move |_| reply.clone()).await;
        let model = model(&format!("http://{}", server.address)).with_streaming(Streaming::new());
        let response = model.oneshot(LlmRequest::new("x".into())).await.unwrap();
        assert_eq!(response.tool_calls()[0].arguments, BIG);
    }
}

#[tokio::test]
async fn arguments_as_an_object_in_a_chat_completion_keep_their_digits() {
    let reply = format!(
        r#"{{"choices": [{{"message": {{"tool_calls": [{{"function": {{"name": "cancel", "arguments": {BIG}}}}}]}}, "finish_reason": "tool_calls"}}]}}"#
    );
    let reply = Reply::new(200, &[], reply);
    let server = Server::start(move |_| reply.clone()).await;
    let response = server.model().oneshot(LlmRequest::new("x".into())).await.unwrap();
    let calls = response.tool_calls();
    assert_eq!(calls[0].arguments, BIG);
    // A server that numbers nothing is answered all the same.
    assert!(!calls[0].id.is_empty());
}

#[test]
fn failures_and_results_of_several_parts() {
    let result = |content, is_error| {
        let result = Part::ToolResult {
            id: "c1".to_owned(),
            content,
            is_error,
        };
        let messages = [
            Message::tool_calls([ToolCall::new("c1", "now", "")]),
            Message::new(Role::Tool, vec![result]),
        ];
        messages.into_iter().fold(Prompt::new("x"), Prompt::with_message)
    };
    let failed = result(vec![Part::text("no clock")], true);
    assert_eq!(
        body(&chat(NOWHERE), &failed)["messages"][2],
        json!({"role": "tool", "tool_call_id": "c1", "content": "no clock"})
    );
    let block = json!({"type": "tool_result", "tool_use_id": "c1", "content": "no clock", "is_error": true});
    assert_eq!(
        body(&anthropic(NOWHERE), &failed)["messages"][2]["content"],
        json!([block])
    );
    let response =
        &body(&gemini(NOWHERE), &failed)["contents"][2]["parts"][0]["functionResponse"]["response"];
    assert_eq!(*response, json!({"error": "no clock"}));

    let picture = result(
        vec![Part::text("a"), Part::image("https://x.example/a.png")],
        false,
    );
    assert!(refused(&chat(NOWHERE), &picture).contains("an image"));
    assert!(refused(&gemini(NOWHERE), &picture).contains("not text"));
    let odd = result(
        vec![Part::text("a"), Part::ToolCall(ToolCall::new("c2", "now", ""))],
        false,
    );
    for model in [chat, responses] {
        assert!(refused(&model(NOWHERE), &odd).contains("of the assistant"));
    }
    let output = json!([{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://x.example/a.png"}]);
    assert_eq!(body(&responses(NOWHERE), &picture)["input"][2]["output"], output);
    let content = &body(&anthropic(NOWHERE), &picture)["messages"][2]["content"][0]["content"];
    assert_eq!(
        content[1]["source"],
        json!({"type": "url", "url": "https://x.example/a.png"})
    );
}

#[tokio::test]
async fn results_of_several_turns_name_the_tools_of_their_own_turn() {
    let call = |name: &str, id: &str, response: &str| {
        format!(
            r#"{{"responseId": "{response}", "candidates": [{{"content": {{"parts": [{{"functionCall": {{"name": "{name}"{id}}}}}]}}, "finishReason": "STOP"}}]}}"#
        )
    };
    // Without identifiers, and of a server that numbers each answer's calls anew.
    for id in ["", r#", "id": "call_0""#] {
        let replies = [
            answer(gemini, call("weather", id, "r1")).await,
            answer(gemini, call("clock", id, "r2")).await,
        ];
        let turns = [("Rain?", "rain"), ("When?", "noon")];
        let sent = conversation(&gemini(NOWHERE), &turns, &replies);
        let result = |turn: usize| &sent["contents"][turn]["parts"][0]["functionResponse"];
        for (turn, name, output) in [(2, "weather", "rain"), (5, "clock", "noon")] {
            assert_eq!(
                (&result(turn)["name"], &result(turn)["response"]["output"]),
                (&json!(name), &json!(output)),
                "{sent}"
            );
            let given = if id.is_empty() {
                Value::Null
            } else {
                json!("call_0")
            };
            assert_eq!(result(turn)["id"], given);
        }
        if id.is_empty() {
            // Other providers want an identifier once in a conversation.
            let ids = replies.map(|reply| reply.tool_calls()[0].id.clone());
            assert_ne!(ids[0], ids[1]);
        }
    }
}

/// The request that sends a model's answer back, without spaces.
async fn sent_back(model: MakeModel, reply: String, cache: Option<CacheTtl>) -> String {
    let mut turn = Message::from(&answer(model, reply).await);
    turn.cache = cache;
    let prompt = Prompt::new("x").with_message(turn);
    let sent = model(NOWHERE).request_body(&prompt).unwrap();
    String::from_utf8(sent).unwrap().replace(' ', "")
}

#[tokio::test]
async fn a_call_with_a_field_of_its_own_keeps_it_and_its_digits() {
    for input in [r#"{"order":1}"#, &BIG.replace(' ', "")] {
        let tools = format!(
            r#"[{{"type":"tool_use","id":"c1","name":"cancel","input":{input},"caller":{{"type":"direct"}}}}]"#
        );
        let reply = format!(r#"{{"content": {tools}, "stop_reason": "tool_use"}}"#);
        let sent = sent_back(anthropic, reply.clone(), None).await;
        assert!(sent.contains(&format!(r#""content":{tools}"#)), "{sent}");
        let reply = answer(anthropic, reply).await;
        let sent = conversation(&chat(NOWHERE), &[("Cancel it.", "done")], &[reply]);
        let function = &sent["messages"][1]["tool_calls"][0]["function"];
        assert_eq!(
            (&function["name"], &function["arguments"]),
            (&json!("cancel"), &json!(input))
        );
        let parts = format!(
            r#"[{{"functionCall":{{"id":"c1","name":"cancel","args":{input}}},"partMetadata":{{"a":1}}}},{{"text":"So.","thoughtSignature":"s"}}]"#
        );
        let reply =
            format!(r#"{{"candidates": [{{"content": {{"parts": {parts}}}, "finishReason": "STOP"}}]}}"#);
        let sent = sent_back(gemini, reply, None).await;
        assert!(sent.contains(&format!(r#""parts":{parts}"#)), "{sent}");
    }
}

#[tokio::test]
async fn the_calls_of_the_providers_own_tools_keep_their_digits() {
    let input = BIG.replace(' ', "");
    let block = |kind: &str| format!(r#"{{"type":"{kind}","id":"s1","name":"run","input":{input}}}"#);
    let blocks = format!("[{},{}]", block("server_tool_use"), block("mcp_tool_use"));
    let reply = format!(r#"{{"content": {blocks}, "stop_reason": "end_turn"}}"#);
    let sent = sent_back(anthropic, reply.clone(), None).await;
    assert!(sent.contains(&format!(r#""content":{blocks}"#)), "{sent}");
    // The mark for the cache leaves the rest of the block as it is.
    let sent = sent_back(anthropic, reply, Some(CacheTtl::FiveMinutes)).await;
    let marked = blocks.replace("}}]", r#"},"cache_control":{"type":"ephemeral"}}]"#);
    assert!(sent.contains(&format!(r#""content":{marked}"#)), "{sent}");

    let parts = format!(r#"[{{"toolCall":{{"id":"s1","toolType":"URL_CONTEXT","args":{input}}}}}]"#);
    let reply = format!(r#"{{"candidates": [{{"content": {{"parts": {parts}}}, "finishReason": "STOP"}}]}}"#);
    let sent = sent_back(gemini, reply, None).await;
    assert!(sent.contains(&format!(r#""parts":{parts}"#)), "{sent}");
}

#[test]
fn a_result_of_nothing_is_an_empty_text() {
    let result = Part::ToolResult {
        id: "c1".to_owned(),
        content: Vec::new(),
        is_error: false,
    };
    let messages = [
        Message::tool_calls([ToolCall::new("c1", "now", "")]),
        Message::new(Role::Tool, vec![result]),
    ];
    let prompt = messages.into_iter().fold(Prompt::new("x"), Prompt::with_message);
    assert_eq!(body(&chat(NOWHERE), &prompt)["messages"][2]["content"], "");
    assert_eq!(body(&responses(NOWHERE), &prompt)["input"][2]["output"], "");
    let sent = body(&gemini(NOWHERE), &prompt);
    assert_eq!(
        sent["contents"][2]["parts"][0]["functionResponse"]["response"],
        json!({"output": ""})
    );
    let sent = body(&anthropic(NOWHERE), &prompt);
    assert_eq!(
        sent["messages"][2]["content"],
        json!([{"type": "tool_result", "tool_use_id": "c1"}])
    );
}
