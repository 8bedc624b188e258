//! Tools and the choice of one.

use llm_batch::provider::gemini::{Gemini, SchemaForm};
use llm_batch::{Prompt, Tool, ToolChoice};
use serde_json::json;

use super::{NOWHERE, WIRES, anthropic, body, chat, gemini, parameters, refused, responses, weather};

#[test]
fn tools_and_their_choice() {
    let prompt = Prompt::new("hi")
        .with_tool(weather())
        .with_tool(Tool::new("now", json!({"type": "object", "properties": {}})))
        .with_tool_choice(ToolChoice::Tool("weather".to_owned()));
    let now = json!({"type": "object", "properties": {}});
    assert_eq!(
        body(&chat(NOWHERE), &prompt),
        json!({
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [
                {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": parameters()}},
                {"type": "function", "function": {"name": "now", "parameters": now}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        })
    );
    // Tools are strict there unless that is declined.
    assert_eq!(
        body(&responses(NOWHERE), &prompt),
        json!({
            "input": "hi",
            "tools": [
                {"type": "function", "name": "weather", "description": "The weather", "parameters": parameters(), "strict": false},
                {"type": "function", "name": "now", "parameters": now, "strict": false},
            ],
            "tool_choice": {"type": "function", "name": "weather"},
        })
    );
    assert_eq!(
        body(&anthropic(NOWHERE), &prompt),
        json!({
            "max_tokens": 8_192, "messages": [{"role": "user", "content": "hi"}],
            "tools": [
                {"name": "weather", "description": "The weather", "input_schema": parameters()},
                {"name": "now", "input_schema": now},
            ],
            "tool_choice": {"type": "tool", "name": "weather"},
        })
    );
    assert_eq!(
        body(&gemini(NOWHERE), &prompt),
        json!({
            "contents": [{"parts": [{"text": "hi"}], "role": "user"}],
            "tools": [{"functionDeclarations": [
                {"name": "weather", "description": "The weather", "parametersJsonSchema": parameters()},
                {"name": "now", "parametersJsonSchema": now},
            ]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        })
    );
    let older = Gemini::builder()
        .base_url(NOWHERE)
        .schema_form(SchemaForm::OpenApi)
        .build()
        .unwrap();
    let declared = &body(&older.model("m"), &prompt)["tools"][0]["functionDeclarations"][0];
    assert!(
        declared["parameters"].is_object() && declared["parametersJsonSchema"].is_null(),
        "{declared}"
    );

    for (choice, words) in [
        (ToolChoice::Auto, ["auto", "auto", "auto", "AUTO"]),
        (ToolChoice::None, ["none", "none", "none", "NONE"]),
        (ToolChoice::Required, ["required", "required", "any", "ANY"]),
    ] {
        let prompt = prompt.clone().with_tool_choice(choice);
        let sent = WIRES.map(|(_, model)| body(&model(NOWHERE), &prompt));
        let places = [
            "/tool_choice",
            "/tool_choice",
            "/tool_choice/type",
            "/toolConfig/functionCallingConfig/mode",
        ];
        for ((sent, place), word) in sent.iter().zip(places).zip(words) {
            assert_eq!(sent.pointer(place), Some(&json!(word)), "{sent}");
        }
    }
    for (name, model) in WIRES {
        // A strategy's own tools serve every prompt.
        let shared = model(NOWHERE).with_defaults(Prompt::default().with_tool(weather()));
        assert_eq!(
            body(&shared, &"hi".into())["tools"],
            body(&model(NOWHERE), &Prompt::new("hi").with_tool(weather()))["tools"]
        );
        let lost = Prompt::new("hi")
            .with_tool(weather())
            .with_tool_choice(ToolChoice::Tool("wether".to_owned()));
        assert!(refused(&model(NOWHERE), &lost).contains("wether"), "{name}");
    }
}

#[test]
fn strict_tools_and_calls_one_at_a_time() {
    let loose = json!({"type": "object", "properties": {"city": {"type": "string", "minLength": 2}, "day": {"type": "string"}},
        "required": ["city"]});
    let prompt = Prompt::new("hi").with_tool(Tool::new("weather", loose).with_strict(true));
    let required = json!(["city", "day"]);
    let function = &body(&chat(NOWHERE), &prompt)["tools"][0]["function"];
    assert_eq!(
        (&function["strict"], &function["parameters"]["required"]),
        (&json!(true), &required)
    );
    let tool = &body(&responses(NOWHERE), &prompt)["tools"][0];
    assert_eq!(
        (&tool["strict"], &tool["parameters"]["required"]),
        (&json!(true), &required)
    );
    let tool = &body(&anthropic(NOWHERE), &prompt)["tools"][0];
    assert_eq!(
        (&tool["strict"], &tool["input_schema"]["additionalProperties"]),
        (&json!(true), &json!(false))
    );
    let sent = body(&gemini(NOWHERE), &prompt);
    assert_eq!(sent["toolConfig"]["functionCallingConfig"]["mode"], "VALIDATED");
    let shapeless =
        Prompt::new("hi").with_tool(Tool::new("any", json!({"type": "object"})).with_strict(true));
    assert!(refused(&chat(NOWHERE), &shapeless).contains("no strict form"));

    let single = Prompt::new("hi")
        .with_tool(weather())
        .with_parallel_tool_calls(false);
    assert_eq!(body(&chat(NOWHERE), &single)["parallel_tool_calls"], false);
    assert_eq!(body(&responses(NOWHERE), &single)["parallel_tool_calls"], false);
    let choice = json!({"type": "auto", "disable_parallel_tool_use": true});
    assert_eq!(body(&anthropic(NOWHERE), &single)["tool_choice"], choice);
    assert!(refused(&gemini(NOWHERE), &single).contains("several tools"));
}
