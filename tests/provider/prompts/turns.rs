//! The model's turns in a conversation that goes on.

use llm_batch::provider::Model;
use llm_batch::{Message, OpenAi, Part, Prompt, ReasoningEffort, Role};
use serde_json::{Value, json};

use super::{NOWHERE, WIRES, answer, anthropic, body, calls, chat, conversation, gemini, responses, weather};

#[test]
fn reasoning_goes_back_to_the_kind_of_server_that_it_came_from() {
    let turn = |text: &str, parts: Vec<Value>| {
        let reasoning = Part::Reasoning {
            text: text.to_owned(),
            parts,
        };
        let turn = Message::new(Role::Assistant, vec![reasoning, Part::text("so")]);
        Prompt::new("x").with_message(turn)
    };
    let at = |name: &str| {
        Model::builder(name)
            .base_url(format!("{NOWHERE}/v1"))
            .api_key("k")
            .build()
            .unwrap()
    };
    let plain = turn("hm", Vec::new());
    let said = json!({"role": "assistant", "content": "so"});
    assert_eq!(body(&chat(NOWHERE), &plain)["messages"][1], said);
    assert_eq!(
        body(&at("deepseek:m"), &plain)["messages"][1]["reasoning_content"],
        "hm"
    );
    let detail = json!({"type": "reasoning.text", "text": "hm", "signature": "s"});
    let detailed = turn("hm", vec![detail.clone()]);
    assert_eq!(
        body(&at("openrouter:m"), &detailed)["messages"][1]["reasoning_details"],
        json!([detail])
    );
    assert_eq!(
        body(&anthropic(NOWHERE), &detailed)["messages"][1]["content"],
        json!([{"type": "text", "text": "so"}])
    );
}

#[tokio::test]
async fn a_turn_goes_back_in_its_order_with_every_part() {
    let thought = |text: &str| json!({"type": "thinking", "thinking": text, "signature": text});
    let search =
        json!({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "rain"}});
    let found = json!({"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"encrypted_content": "e"}]});
    let cited = json!({"type": "text", "text": "Rain.", "citations": [{"url": "u", "encrypted_index": "i"}]});
    let call = json!({"type": "tool_use", "id": "c1", "name": "clock", "input": {"zone": 1}});
    let blocks =
        json!([thought("a"), search, found, thought("b"), cited, {"type": "text", "text": "Now"}, call]);
    let reply = json!({"id": "m1", "content": blocks, "stop_reason": "tool_use"});
    let first = answer(anthropic, reply.to_string()).await;
    let turns = [("Rain?", "noon"), ("Sure?", "still noon")];
    let replies = [first.clone(), first.clone()];
    let sent = conversation(&anthropic(NOWHERE), &turns, &replies);
    for turn in [1, 4] {
        assert_eq!(sent["messages"][turn]["content"], blocks);
    }
    assert_eq!(sent["messages"][5]["content"][0]["tool_use_id"], "c1");
    // Another provider gets what it can read.
    let sent = conversation(&responses(NOWHERE), &turns[..1], &replies);
    let said = json!([{"type": "output_text", "text": "Rain."}, {"type": "output_text", "text": "Now"}]);
    assert_eq!(
        sent["input"].as_array().unwrap()[1..],
        [
            json!({"type": "message", "role": "assistant", "content": said}),
            json!({"type": "function_call", "call_id": "c1", "name": "clock", "arguments": "{\"zone\":1}"}),
            json!({"type": "function_call_output", "call_id": "c1", "output": "noon"}),
        ]
    );
    for model in [chat, gemini] {
        let sent = conversation(&model(NOWHERE), &turns, &replies).to_string();
        assert!(sent.contains("Rain.") && !sent.contains("web_search"), "{sent}");
    }

    let reasoning = |id: &str| json!({"type": "reasoning", "id": id, "summary": [], "encrypted_content": id});
    let call = |id: &str| json!({"type": "function_call", "id": "fc", "call_id": id, "name": "clock", "arguments": "{}", "status": "completed"});
    let content = json!([{"type": "output_text", "text": "Let me look.", "annotations": []}]);
    let message = json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": "commentary",
        "content": content});
    let search =
        json!({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}});
    let output = json!([
        reasoning("rs_1"),
        message,
        search,
        call("c1"),
        reasoning("rs_2"),
        call("c2")
    ]);
    let reply = json!({"id": "r1", "status": "completed", "output": output});
    let first = answer(responses, reply.to_string()).await;
    let replies = [first.clone(), first];
    let sent = conversation(&responses(NOWHERE), &turns, &replies);
    let plain =
        |id: &str| json!({"type": "function_call", "call_id": id, "name": "clock", "arguments": "{}"});
    let said = json!({"type": "message", "role": "assistant", "phase": "commentary", "content": content});
    let items = [
        reasoning("rs_1"),
        said,
        search,
        plain("c1"),
        reasoning("rs_2"),
        plain("c2"),
    ];
    let input = sent["input"].as_array().unwrap();
    assert_eq!(input[1..7], items);
    assert_eq!(input[10..16], items);
    let sent = conversation(&anthropic(NOWHERE), &turns[..1], &replies);
    let types: Vec<_> = sent["messages"][1]["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|block| &block["type"])
        .collect();
    assert_eq!(types, ["tool_use", "tool_use"]);

    let signed = json!({"text": "A cat.", "thoughtSignature": "s1"});
    let picture = json!({"inlineData": {"mimeType": "image/png", "data": "AA=="}, "thoughtSignature": "s2"});
    let call = json!({"functionCall": {"id": "c1", "name": "clock", "args": {}}, "thoughtSignature": "s3"});
    let parts = json!([{"text": "hm", "thought": true}, signed, picture, call, {"text": "", "thoughtSignature": "s4"}]);
    let reply = json!({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]});
    let first = answer(gemini, reply.to_string()).await;
    let replies = [first.clone(), first];
    let sent = conversation(&gemini(NOWHERE), &turns, &replies);
    for turn in [1, 4] {
        assert_eq!(sent["contents"][turn]["parts"], parts);
    }
    let sent = conversation(&chat(NOWHERE), &turns[..1], &replies);
    assert_eq!(sent["messages"][1]["content"], "A cat.");
    assert_eq!(sent["messages"][1]["tool_calls"][0]["id"], "c1");
}

#[tokio::test]
async fn a_turn_that_its_plain_form_brings_back_is_not_kept_twice() {
    for (wire, model) in WIRES {
        let response = answer(model, calls(wire).0).await;
        assert_eq!(response.metadata.turn, None, "{wire}");
    }
}

#[test]
fn reasoning_is_asked_for_wherever_a_turn_with_calls_has_to_go_back() {
    let search = json!([{"type": "web_search"}]);
    let model = |name: &str| {
        let client = OpenAi::builder().base_url(format!("{NOWHERE}/v1")).api_key("k");
        client.build().unwrap().responses(name)
    };
    let plain = || Prompt::new("x");
    let own_tools = || plain().with_extra("tools", search.clone());
    let effort = ReasoningEffort::Low;
    for (name, prompt, wanted) in [
        (
            "m",
            plain().with_tool(weather()).with_reasoning_effort(effort),
            true,
        ),
        ("m", own_tools().with_reasoning_effort(effort), true),
        (
            "m",
            own_tools().with_extra("reasoning", json!({"effort": "high"})),
            true,
        ),
        (
            "m",
            own_tools().with_extra("reasoning", json!({"summary": "auto"})),
            true,
        ),
        // Some models reason without being asked.
        ("o3", own_tools(), true),
        ("gpt-5.4-mini", own_tools(), true),
        ("gpt-10", plain().with_tool(weather()), true),
        // A model that does not reason refuses the question, and without tools nothing has to go back.
        ("m", own_tools(), false),
        ("gpt-4.1", own_tools(), false),
        ("gpt-5-chat-latest", own_tools(), false),
        ("omni", own_tools(), false),
        ("o3", plain(), false),
        ("o3", plain().with_extra("tools", json!([])), false),
        (
            "o3",
            own_tools().with_reasoning_effort(ReasoningEffort::None),
            false,
        ),
        (
            "o3",
            own_tools().with_extra("reasoning", json!({"effort": "none"})),
            false,
        ),
    ] {
        let sent = body(&model(name), &prompt);
        let expected = if wanted {
            json!(["reasoning.encrypted_content"])
        } else {
            Value::Null
        };
        assert_eq!(sent["include"], expected, "{name}: {sent}");
        // The same in the defaults of the model.
        let sent = body(&model(name).with_defaults(prompt), &plain());
        assert_eq!(sent["include"], expected, "{name}: {sent}");
    }
    // The user's own word stands.
    let own = own_tools().with_extra("include", json!(["web_search_call.action.sources"]));
    assert_eq!(
        body(&model("o3"), &own)["include"],
        json!(["web_search_call.action.sources"])
    );
}
