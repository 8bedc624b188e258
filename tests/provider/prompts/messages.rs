//! Messages: roles, details, cache marks, and those that cannot be sent.

use llm_batch::provider::Model;
use llm_batch::provider::anthropic::CacheTtl;
use llm_batch::response::Wire;
use llm_batch::{ImageDetail, Message, Part, Prompt, ReasoningEffort, Role, ToolCall, ToolChoice};
use serde_json::{Value, json};

use super::{BIG, NOWHERE, WIRES, anthropic, body, chat, gemini, refused, responses, weather};

#[test]
fn what_makes_no_sense_is_refused_unsent() {
    let call = || ToolCall::new("c1", "now", "{}");
    // Made by hand: `Message::from` makes such parts in turns of the model alone.
    let native = |own: Part, elsewhere: Option<Part>| Part::Native {
        wire: Wire::Messages,
        own: Box::new(own),
        elsewhere: elsewhere.map(Box::new),
    };
    let result = || Message::tool_result("c1", "x").content.remove(0);
    let with_result = |part: Part| {
        let result = Part::ToolResult {
            id: "c1".to_owned(),
            content: vec![part],
            is_error: false,
        };
        Message::new(Role::Tool, vec![result])
    };
    for (name, model) in WIRES {
        let model = model(NOWHERE);
        for role in [Role::User, Role::System, Role::Developer] {
            let hidden = Message::new(role, vec![Part::text("x"), native(Part::text("a"), None)]);
            let error = refused(&model, &Prompt::default().with_message(hidden));
            assert!(error.contains("native parts"), "{name}: {error}");
        }
        for (message, word) in [
            (
                Message::new(Role::Tool, vec![native(result(), None)]),
                "tool results alone",
            ),
            (
                Message::new(Role::Assistant, vec![native(Part::text("a"), Some(result()))]),
                "another role",
            ),
            (
                with_result(native(Part::text("a"), None)),
                "texts, images and JSON",
            ),
            (with_result(Part::ToolCall(call())), "texts, images and JSON"),
            (with_result(result()), "texts, images and JSON"),
            (
                Message::new(Role::User, vec![Part::ToolCall(call())]),
                "assistant",
            ),
            (
                Message::new(Role::Tool, vec![Part::text("x")]),
                "tool results alone",
            ),
            (Message::tool_result("", "x"), "no identifier"),
            (
                Message::new(Role::User, Message::tool_result("c1", "x").content),
                "another role",
            ),
        ] {
            let error = refused(&model, &Prompt::default().with_message(message));
            assert!(error.contains(word), "{name}: {error}");
        }
    }
    let raw = Prompt::raw(serde_json::Map::new());
    for (prompt, word) in [
        (raw.clone().with_tool(weather()), "tools"),
        (raw.with_reasoning_effort(ReasoningEffort::Low), "effort"),
    ] {
        assert!(refused(&chat(NOWHERE), &prompt).contains(word));
    }
    let empty = Message::new(Role::Assistant, vec![Part::text(""), Part::ToolCall(call())]);
    let content =
        &body(&anthropic(NOWHERE), &Prompt::default().with_message(empty))["messages"][0]["content"];
    assert_eq!(content.as_array().unwrap().len(), 1);
    let cut = Prompt::default().with_message(Message::tool_calls([ToolCall::new("c1", "now", "{\"a")]));
    for model in [anthropic(NOWHERE), gemini(NOWHERE)] {
        assert!(refused(&model, &cut).contains("not a JSON object"));
    }
    let orphan = Prompt::new("x").with_message(Message::tool_result("c1", "x"));
    assert!(refused(&gemini(NOWHERE), &orphan).contains("answers no call"));
}

#[test]
fn developers_details_and_cache_marks() {
    let image = |detail| Part::image_with_detail("https://x.example/a.png", detail);
    let prompt = Prompt::default()
        .with_message(Message::developer("Be brief."))
        .with_message(
            Message::new(
                Role::User,
                vec![Part::text("What is it?"), image(ImageDetail::High)],
            )
            .with_cache(CacheTtl::OneHour),
        );
    let url = json!({"url": "https://x.example/a.png", "detail": "high"});
    assert_eq!(
        body(&chat(NOWHERE), &prompt)["messages"],
        json!([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
            {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": url}]}])
    );
    assert_eq!(
        body(&responses(NOWHERE), &prompt)["input"],
        json!([{"type": "message", "role": "developer", "content": "Be brief."}, {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": "https://x.example/a.png", "detail": "high"}]}])
    );
    let sent = body(&anthropic(NOWHERE), &prompt);
    assert_eq!(sent["system"], json!([{"type": "text", "text": "Be brief."}]));
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    assert_eq!(sent["messages"][0]["content"][1]["cache_control"], mark);
    assert_eq!(sent["messages"][0]["content"][0]["cache_control"], Value::Null);
    let sent = body(&gemini(NOWHERE), &prompt);
    assert_eq!(sent["systemInstruction"]["parts"], json!([{"text": "Be brief."}]));

    let text = Prompt::default().with_message(Message::user("long").with_cache(CacheTtl::FiveMinutes));
    let marked = json!([{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]);
    assert_eq!(body(&anthropic(NOWHERE), &text)["messages"][0]["content"], marked);
    // OpenRouter passes marks on; other servers know neither them nor the role.
    let at = |name: &str| {
        Model::builder(name)
            .base_url(format!("{NOWHERE}/v1"))
            .api_key("k")
            .build()
            .unwrap()
    };
    assert_eq!(body(&at("openrouter:m"), &text)["messages"][0]["content"], marked);
    assert_eq!(body(&at("vllm:m"), &text)["messages"][0]["content"], "long");
    assert_eq!(body(&at("vllm:m"), &prompt)["messages"][0]["role"], "system");

    let low = Prompt::default().with_message(Message::new(Role::User, vec![image(ImageDetail::Low)]));
    for model in [anthropic(NOWHERE), gemini(NOWHERE)] {
        assert!(refused(&model, &low).contains("low"));
    }
}

#[test]
fn an_older_prompt_is_read_and_a_new_one_comes_back() {
    let old =
        r#"{"system": "s", "messages": [{"role": "user", "content": [{"type": "image", "url": "u"}]}]}"#;
    let old: Prompt = serde_json::from_str(old).unwrap();
    assert_eq!(
        old,
        Prompt::default()
            .with_system("s")
            .with_message(Message::new(Role::User, vec![Part::image("u")]))
    );
    let new = Prompt::new("x")
        .with_tool(weather().with_strict(true))
        .with_tool_choice(ToolChoice::Tool("weather".to_owned()))
        .with_parallel_tool_calls(true)
        .with_reasoning_effort(ReasoningEffort::Tokens(5))
        .with_header("x-a", "b")
        .with_message(Message::tool_calls([ToolCall::new("c1", "weather", BIG)]))
        .with_message(Message::tool_result("c1", "rain").with_cache(CacheTtl::OneHour));
    let text = serde_json::to_string(&new).unwrap();
    assert_eq!(serde_json::from_str::<Prompt>(&text).unwrap(), new);
}

#[test]
fn blank_texts_beside_calls_are_left_out() {
    let call = || Part::ToolCall(ToolCall::new("c1", "now", "{}"));
    let messages = [
        Message::user("x"),
        Message::new(Role::Assistant, vec![Part::text("\n\n"), call()]),
        Message::tool_result("c1", "7"),
        Message::new(
            Role::User,
            vec![Part::text(" "), Part::image("https://x.example/a.png")],
        ),
    ];
    let prompt = messages.into_iter().fold(Prompt::default(), Prompt::with_message);
    let sent = body(&anthropic(NOWHERE), &prompt);
    assert_eq!(sent["messages"][1]["content"][0]["type"], "tool_use");
    assert_eq!(sent["messages"][3]["content"][0]["type"], "image");
    let sent = body(&gemini(NOWHERE), &prompt);
    assert!(
        sent["contents"][1]["parts"][0]["functionCall"].is_object(),
        "{sent}"
    );
    assert!(sent["contents"][3]["parts"][0]["fileData"].is_object(), "{sent}");
}

#[test]
fn a_cache_mark_is_on_the_last_block_that_takes_one() {
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
    let reasoning = || Part::Reasoning {
        text: "hm".to_owned(),
        parts: vec![thought.clone()],
    };
    let marked = |content| {
        Prompt::new("x")
            .with_message(Message::new(Role::Assistant, content).with_cache(CacheTtl::FiveMinutes))
    };
    let sent = body(
        &anthropic(NOWHERE),
        &marked(vec![Part::text("so"), reasoning(), Part::text(" ")]),
    );
    // The provider refuses a thought at the end.
    let said = json!({"type": "text", "text": "so", "cache_control": {"type": "ephemeral"}});
    assert_eq!(sent["messages"][1]["content"], json!([said]));
    let before = vec![
        Part::text("so"),
        reasoning(),
        Part::image("https://x.example/a.png"),
    ];
    let sent = body(&anthropic(NOWHERE), &marked(before));
    assert_eq!(sent["messages"][1]["content"][1], thought);
    assert!(refused(&anthropic(NOWHERE), &marked(vec![reasoning()])).contains("marked for the cache"));
}

#[test]
fn a_message_without_content_is_refused() {
    let hidden = Part::Native {
        wire: Wire::Messages,
        own: Box::new(Part::text("x")),
        elsewhere: None,
    };
    for (name, model) in WIRES {
        for role in [
            Role::User,
            Role::Assistant,
            Role::System,
            Role::Developer,
            Role::Tool,
        ] {
            let prompt = Prompt::new("x")
                .with_system("s")
                .with_message(Message::new(role, Vec::new()));
            let error = refused(&model(NOWHERE), &prompt);
            assert!(error.contains("no content"), "{name} {role:?}: {error}");
        }
        let prompt = Prompt::new("x").with_message(Message::new(Role::Assistant, vec![hidden.clone()]));
        if name != "anthropic" {
            assert!(refused(&model(NOWHERE), &prompt).contains("no content"), "{name}");
        }
    }
}
