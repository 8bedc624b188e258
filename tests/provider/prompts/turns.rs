//! The model's turns in a conversation that goes on.

use llm_batch::provider::Model;
use llm_batch::{Message, OpenAi, Part, Prompt, ReasoningEffort, Role, ToolCall};
use serde_json::{Value, json};

use super::{
    NOWHERE, WIRES, answer, anthropic, body, calls, chat, conversation, gemini, refused, responses, weather,
};

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
fn a_turn_of_reasoning_alone_is_sent_where_it_is_taken_and_left_out_elsewhere() {
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
    let sealed = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "g"});
    let own = json!({"text": "hm", "thought": true});
    let parts = [
        Vec::new(),
        vec![thought.clone()],
        vec![sealed.clone()],
        vec![own.clone()],
    ];
    let turns = parts.map(|parts| {
        let text = "hm".to_owned();
        Message::new(Role::Assistant, vec![Part::Reasoning { text, parts }])
    });
    let blank = |mut turn: Message| {
        turn.content.push(Part::text(""));
        turn
    };
    let asked_on = |turn: Message| {
        let prompt = Prompt::new("x").with_message(turn);
        prompt.with_message(Message::user("y"))
    };
    let list = |sent: &Value| {
        let messages = ["messages", "input", "contents"]
            .into_iter()
            .find_map(|name| sent.get(name));
        messages.unwrap().as_array().unwrap().clone()
    };
    for (name, model) in WIRES {
        for turn in turns.iter().cloned().chain(turns.iter().cloned().map(blank)) {
            let is_own = name == "gemini" && json!(turn).to_string().contains("thought\":true");
            let sent = list(&body(&model(NOWHERE), &asked_on(turn.clone())));
            if is_own {
                assert_eq!(sent[1], json!({"role": "model", "parts": [own]}));
            } else {
                assert_eq!(sent.len(), 2, "{name}: {sent:?}");
            }
            if !is_own {
                let alone = Prompt::default().with_message(turn);
                assert!(refused(&model(NOWHERE), &alone).contains("no content"), "{name}");
            }
        }
    }
    // DeepSeek takes the text back.
    let deepseek = Model::builder("deepseek:m").api_key("k").build().unwrap();
    let sent = list(&body(&deepseek, &asked_on(turns[0].clone())));
    let said = json!({"role": "assistant", "content": null, "reasoning_content": "hm"});
    assert_eq!(sent[1], said);

    // What follows in another message of the same turn keeps the reasoning.
    let call = || Message::tool_calls([ToolCall::new("c1", "now", "{}")]);
    let followed = |turn: &Message| Prompt::new("x").with_message(turn.clone()).with_message(call());
    assert_eq!(list(&body(&responses(NOWHERE), &followed(&turns[2])))[1], sealed);
    let sent = list(&body(&anthropic(NOWHERE), &followed(&turns[1])));
    assert_eq!(sent[1]["content"], json!([thought]));
    // Both refuse reasoning that nothing follows.
    let ended = |turn: &Message| {
        let mut turn = turn.clone();
        turn.content.insert(0, Part::text("so"));
        asked_on(turn)
    };
    let sent = list(&body(&responses(NOWHERE), &ended(&turns[2])));
    assert_eq!((sent.len(), &sent[1]["content"][0]["text"]), (3, &json!("so")));
    let sent = list(&body(&anthropic(NOWHERE), &ended(&turns[1])));
    assert_eq!(sent[1]["content"], json!([{"type": "text", "text": "so"}]));
}

#[tokio::test]
async fn a_recording_goes_back_by_its_identifier_and_elsewhere_in_words() {
    let reply = |content: &str| {
        format!(
            r#"{{"choices": [{{"finish_reason": "stop", "message": {{"role": "assistant", "content": {content},
            "audio": {{"id": "audio_1", "data": "AA==", "expires_at": 1, "transcript": "Hello."}}}}}}]}}"#
        )
    };
    let spoken = answer(chat, reply("null")).await;
    let prompt = Prompt::new("x").with_message(Message::from(&spoken));
    let sent = body(&chat(NOWHERE), &prompt);
    let said = json!({"role": "assistant", "content": null, "audio": {"id": "audio_1"}});
    assert_eq!(sent["messages"][1], said);
    for (name, model) in WIRES {
        let sent = body(&model(NOWHERE), &prompt).to_string();
        assert_eq!(sent.contains("Hello."), name != "chat", "{sent}");
        assert_eq!(sent.contains("audio_1"), name == "chat", "{sent}");
    }
    let both = answer(chat, reply("\"Hi.\"")).await;
    let prompt = Prompt::new("x").with_message(Message::from(&both));
    let sent = body(&chat(NOWHERE), &prompt);
    assert_eq!(
        sent["messages"][1],
        json!({"role": "assistant", "content": "Hi.", "audio": {"id": "audio_1"}})
    );
    assert!(!body(&gemini(NOWHERE), &prompt).to_string().contains("Hello."));
    // A server that keeps none names none.
    let words = answer(chat, reply("null").replace(r#""id": "audio_1", "#, "")).await;
    let prompt = Prompt::new("x").with_message(Message::from(&words));
    assert_eq!(body(&chat(NOWHERE), &prompt)["messages"][1]["content"], "Hello.");

    // The same from the body of a chat completion.
    let Value::Object(request) = json!({"messages": [{"role": "user", "content": "x"}, said]}) else {
        unreachable!()
    };
    let prompt = Prompt::from_chat_request(request).unwrap();
    assert_eq!(body(&chat(NOWHERE), &prompt)["messages"][1], said);
    assert!(refused(&gemini(NOWHERE), &prompt).contains("no content"));
    let Value::Object(request) =
        json!({"messages": [{"role": "assistant", "audio": {"id": "a", "data": "AA=="}}]})
    else {
        unreachable!()
    };
    let error = Prompt::from_chat_request(request).unwrap_err();
    assert!(error.message().contains("messages[0].audio.data"), "{error}");
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
