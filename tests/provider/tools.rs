//! Tools, reasoning effort, roles and cache marks on every wire: what is sent, and what comes back to be answered.

use llm_batch::provider::anthropic::{Anthropic, CacheTtl, Thinking};
use llm_batch::provider::gemini::{Gemini, SchemaForm, ThinkingLevel};
use llm_batch::provider::{Model, Streaming};
use llm_batch::{
    Delivery, ErrorKind, ImageDetail, LlmRequest, LlmResponse, Message, OpenAi, Part, Prompt,
    ReasoningEffort, Role, Tool, ToolCall, ToolChoice,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

const BIG: &str = r#"{"order": 340282366920938463463374607431768211455}"#;

fn chat(base: &str) -> Model {
    let client = OpenAi::builder()
        .base_url(format!("{base}/v1"))
        .api_key("k")
        .build();
    client.unwrap().chat("m")
}

fn responses(base: &str) -> Model {
    let client = OpenAi::builder()
        .base_url(format!("{base}/v1"))
        .api_key("k")
        .build();
    client.unwrap().responses("m")
}

fn anthropic(base: &str) -> Model {
    let client = Anthropic::builder()
        .base_url(base)
        .api_key("k")
        .version("2023-06-01")
        .build();
    client.unwrap().model("m")
}

fn gemini(base: &str) -> Model {
    Gemini::builder()
        .base_url(base)
        .api_key("k")
        .build()
        .unwrap()
        .model("m")
}

/// A model of a wire at a base URL.
type MakeModel = fn(&str) -> Model;

const WIRES: [(&str, MakeModel); 4] = [
    ("chat", chat),
    ("responses", responses),
    ("anthropic", anthropic),
    ("gemini", gemini),
];

const NOWHERE: &str = "http://127.0.0.1:9";

/// The body that a prompt is sent as; without what every body has.
fn body(model: &Model, prompt: &Prompt) -> Value {
    let mut body: Value = serde_json::from_slice(&model.request_body(prompt).unwrap()).unwrap();
    for name in ["model", "store"] {
        body.as_object_mut().unwrap().remove(name);
    }
    body
}

fn refused(model: &Model, prompt: &Prompt) -> String {
    let error = model.request_body(prompt).unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::InvalidRequest, Delivery::NotSent)
    );
    error.to_string()
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false})
}

fn weather() -> Tool {
    Tool::new("weather", parameters()).with_description("The weather")
}

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

/// A reply with two calls, on each wire, and what the second request of the conversation holds of them.
fn calls(wire: &str) -> (String, Value) {
    let text = BIG.replace('"', "\\\"");
    match wire {
        "chat" => (
            format!(
                r#"{{"choices": [{{"finish_reason": "tool_calls", "message": {{"content": null, "tool_calls": [
                {{"id": "c1", "type": "function", "function": {{"name": "cancel", "arguments": "{text}"}}}},
                {{"id": "c2", "type": "function", "function": {{"name": "now", "arguments": ""}}}}]}}}}]}}"#
            ),
            json!([
                {"role": "user", "content": "Cancel it."},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "cancel", "arguments": BIG}},
                    {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                ]},
                {"role": "tool", "tool_call_id": "c1", "content": "done"},
                {"role": "tool", "tool_call_id": "c2", "content": "{\"hour\": 7}"},
            ]),
        ),
        "responses" => (
            format!(
                r#"{{"status": "completed", "output": [
                {{"type": "reasoning", "id": "rs_1", "summary": [{{"type": "summary_text", "text": "hm"}}]}},
                {{"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"}},
                {{"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "cancel", "arguments": "{text}"}},
                {{"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "now", "arguments": "{{}}"}}]}}"#
            ),
            json!([
                {"type": "message", "role": "user", "content": "Cancel it."},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"},
                {"type": "function_call", "call_id": "c1", "name": "cancel", "arguments": BIG},
                {"type": "function_call", "call_id": "c2", "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "done"},
                {"type": "function_call_output", "call_id": "c2", "output": "{\"hour\": 7}"},
            ]),
        ),
        "anthropic" => (
            format!(
                r#"{{"content": [{{"type": "thinking", "thinking": "hm", "signature": "c2ln"}}, {{"type": "text", "text": "One moment."}},
                {{"type": "tool_use", "id": "c1", "name": "cancel", "input": {BIG}}},
                {{"type": "tool_use", "id": "c2", "name": "now", "input": {{}}}}], "stop_reason": "tool_use"}}"#
            ),
            json!([
                {"role": "user", "content": "Cancel it."},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                    {"type": "text", "text": "One moment."},
                    {"type": "tool_use", "id": "c1", "name": "cancel", "input": "BIG"},
                    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "done"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "{\"hour\": 7}"},
                ]},
            ]),
        ),
        _ => (
            format!(
                r#"{{"candidates": [{{"content": {{"role": "model", "parts": [{{"thought": true, "text": "hm"}},
                {{"functionCall": {{"name": "cancel", "args": {BIG}}}, "thoughtSignature": "c2ln"}},
                {{"functionCall": {{"id": "c2", "name": "now"}}}}]}}, "finishReason": "STOP"}}]}}"#
            ),
            json!([
                {"role": "user", "parts": [{"text": "Cancel it."}]},
                {"role": "model", "parts": [
                    {"thought": true, "text": "hm"},
                    {"functionCall": {"name": "cancel", "args": "BIG"}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"id": "c2", "name": "now", "args": {}}},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "cancel", "response": {"output": "done"}}},
                    {"functionResponse": {"id": "c2", "name": "now", "response": {"hour": 7}}},
                ]},
            ]),
        ),
    }
}

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
fn what_makes_no_sense_is_refused_unsent() {
    let call = || ToolCall::new("c1", "now", "{}");
    for (name, model) in WIRES {
        let model = model(NOWHERE);
        for (message, word) in [
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

#[test]
fn reasoning_effort_stands_beside_the_schema() {
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let with = |effort| {
        Prompt::new("hi")
            .with_output_schema(schema.clone())
            .with_reasoning_effort(effort)
    };
    let all = [
        ReasoningEffort::None,
        ReasoningEffort::Minimal,
        ReasoningEffort::Low,
        ReasoningEffort::Medium,
        ReasoningEffort::High,
        ReasoningEffort::XHigh,
        ReasoningEffort::Max,
        ReasoningEffort::Tokens(2_048),
    ];
    let sent = |model: &Model, places: &[&str]| {
        all.map(|effort| match model.request_body(&with(effort)) {
            Ok(body) => {
                let body: Value = serde_json::from_slice(&body).unwrap();
                let has_schema = [
                    "/response_format",
                    "/text/format",
                    "/output_config/format",
                    "/generationConfig/responseJsonSchema",
                ];
                assert!(
                    has_schema.iter().any(|place| body.pointer(place).is_some()),
                    "{body}"
                );
                places
                    .iter()
                    .filter_map(|place| body.pointer(place).cloned())
                    .collect::<Value>()
            }
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.delivery()),
                    (ErrorKind::InvalidRequest, Delivery::NotSent)
                );
                Value::Null
            }
        })
    };
    let names = ["none", "minimal", "low", "medium", "high", "xhigh", "max"].map(|name| json!([name]));
    for (model, place) in [
        (chat(NOWHERE), "/reasoning_effort"),
        (responses(NOWHERE), "/reasoning/effort"),
    ] {
        let sent = sent(&model, &[place]);
        assert_eq!((&sent[..7], &sent[7]), (&names[..], &Value::Null));
    }
    let adaptive = |effort: &str| json!([{"type": "adaptive"}, effort]);
    assert_eq!(
        sent(&anthropic(NOWHERE), &["/thinking", "/output_config/effort"]),
        [
            json!([{"type": "disabled"}]),
            Value::Null,
            adaptive("low"),
            adaptive("medium"),
            adaptive("high"),
            adaptive("xhigh"),
            adaptive("max"),
            json!([{"type": "enabled", "budget_tokens": 2_048}]),
        ]
    );
    let level = |level: &str| json!([{ "thinkingLevel": level }]);
    assert_eq!(
        sent(&gemini(NOWHERE), &["/generationConfig/thinkingConfig"]),
        [
            json!([{"thinkingBudget": 0}]),
            level("MINIMAL"),
            level("LOW"),
            level("MEDIUM"),
            level("HIGH"),
            level("XHIGH"),
            Value::Null,
            json!([{"thinkingBudget": 2_048}]),
        ]
    );
}

#[test]
fn a_prompts_effort_outranks_the_clients() {
    let low = Prompt::new("x").with_reasoning_effort(ReasoningEffort::Low);
    let thinking = Thinking::Enabled { budget_tokens: 4_096 };
    let client = Anthropic::builder()
        .base_url(NOWHERE)
        .thinking(thinking)
        .build()
        .unwrap()
        .model("m");
    let sent = body(&client, &low);
    assert_eq!(
        (
            &sent["thinking"]["budget_tokens"],
            &sent["output_config"]["effort"]
        ),
        (&json!(4_096), &json!("low"))
    );
    for (tokens, limit, word) in [(512, 9_000, "too few"), (2_048, 2_048, "no room")] {
        let prompt = Prompt::new("x")
            .with_reasoning_effort(ReasoningEffort::Tokens(tokens))
            .with_max_output_tokens(limit);
        assert!(refused(&anthropic(NOWHERE), &prompt).contains(word));
    }
    let client = Gemini::builder()
        .base_url(NOWHERE)
        .thinking_level(ThinkingLevel::High)
        .include_thoughts(true);
    let tokens = Prompt::new("x").with_reasoning_effort(ReasoningEffort::Tokens(7));
    let sent = body(&client.build().unwrap().model("m"), &tokens);
    assert_eq!(
        sent["generationConfig"]["thinkingConfig"],
        json!({"includeThoughts": true, "thinkingBudget": 7})
    );

    // What an extra field says beside the effort stays, and nothing else is lost.
    let summary = low
        .with_tool(weather())
        .with_extra("reasoning", json!({"summary": "auto"}));
    let sent = body(&responses(NOWHERE), &summary);
    assert_eq!(sent["reasoning"], json!({"effort": "low", "summary": "auto"}));
    assert_eq!(sent["include"], json!(["reasoning.encrypted_content"]));
    let verbose = Prompt::new("x")
        .with_output_schema(json!({"type": "object", "properties": {}}))
        .with_extra("text", json!({"verbosity": "low"}));
    let text = &body(&responses(NOWHERE), &verbose)["text"];
    assert!(text["format"].is_object() && text["verbosity"] == "low", "{text}");
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
async fn headers_of_a_prompt_are_sent_with_every_attempt_and_replace_none_of_the_clients() {
    let server =
        Server::start(|_| Reply::new(400, &[], r#"{"error": {"message": "bad token tok-123456"}}"#)).await;
    let model = server
        .builder()
        .header("x-team", "search")
        .build()
        .unwrap()
        .chat("m");
    let prompt = Prompt::new("x")
        .with_header("Idempotency-Key", "row-7")
        .with_header("x-user-token", "tok-123456");
    assert!(!format!("{prompt:?}").contains("row-7"));
    let error = model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
    assert!(!error.to_string().contains("tok-123456"), "{error}");
    let sent = server.received().pop().unwrap();
    assert_eq!(sent.header("idempotency-key"), Some("row-7"));
    assert_eq!(sent.header("x-team"), Some("search"));
    for (name, value) in [
        ("Authorization", "Bearer other"),
        ("api-key", "x"),
        ("X-API-Key", "x"),
        ("x-team", "other"),
        ("Content-Type", "text/plain"),
        ("User-Agent", "other"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "close"),
        ("Trailer", "x-sum"),
        ("Upgrade", "h2c"),
        ("two words", "x"),
        ("x-fine", "a\nb"),
    ] {
        let prompt = Prompt::new("x").with_header(name, value);
        let error = model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent),
            "{name}"
        );
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    assert_eq!(server.received().len(), 1);
    // A header of the same name is set anew.
    let prompt = Prompt::new("x")
        .with_header("X-Beta", "a")
        .with_header("x-run", "2")
        .with_header("x-beta", "a,b");
    assert_eq!(prompt.header_names().collect::<Vec<_>>(), ["x-run", "x-beta"]);
    let _ = model
        .clone()
        .oneshot(LlmRequest::new(prompt.without_header("X-Run")))
        .await;
    let sent = server.received().pop().unwrap();
    assert_eq!((sent.header("x-beta"), sent.header("x-run")), (Some("a,b"), None));
    // Those of a strategy count where a prompt has none of the name.
    let shared = model.with_defaults(
        Prompt::default()
            .with_header("x-run", "1")
            .with_header("x-trace", "shared"),
    );
    let _ = shared
        .oneshot(LlmRequest::new(Prompt::new("x").with_header("x-trace", "own")))
        .await;
    let sent = server.received().pop().unwrap();
    assert_eq!(
        (sent.header("x-run"), sent.header("x-trace")),
        (Some("1"), Some("own"))
    );
}

#[tokio::test]
async fn a_reply_of_many_headers_is_read() {
    let names: Vec<_> = (0..400).map(|number| format!("x-hop-{number}")).collect();
    let server = Server::start(move |_| {
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        Reply::new(200, &headers, crate::server::completion("ok").to_string())
    })
    .await;
    assert_eq!(
        server
            .model()
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap()
            .output,
        "ok"
    );
}

#[test]
fn a_root_certificate_has_to_be_one() {
    for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
        let error = OpenAi::builder()
            .api_key("k")
            .root_certificate(pem)
            .build()
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Configuration, Some("invalid_option")),
            "{pem}"
        );
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

/// The prompt after several turns, and its last request as it is sent.
fn conversation(model: &Model, turns: &[(&str, &str)], replies: &[LlmResponse]) -> Value {
    let mut prompt = Prompt::default();
    for ((question, result), reply) in turns.iter().zip(replies) {
        prompt = prompt
            .with_message(Message::user(*question))
            .with_message(Message::from(reply));
        for call in reply.tool_calls() {
            prompt = prompt.with_message(Message::tool_result(call.id, *result));
        }
    }
    body(model, &prompt)
}

/// The answer that a model gives on a reply.
async fn answer(model: MakeModel, reply: String) -> LlmResponse {
    let reply = Reply::new(200, &[("content-type", "application/json")], reply);
    let server = Server::start(move |_| reply.clone()).await;
    let model = model(&format!("http://{}", server.address));
    let response = model.oneshot(LlmRequest::new("x".into())).await.unwrap();
    // As a program that keeps its responses as JSON has them.
    serde_json::from_str(&serde_json::to_string(&response).unwrap()).unwrap()
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
async fn a_call_with_a_field_of_its_own_keeps_it_and_one_with_a_long_integer_its_digits() {
    let call = |input: &str| {
        format!(
            r#"{{"type": "tool_use", "id": "c1", "name": "cancel", "input": {input}, "caller": {{"type": "direct"}}}}"#
        )
    };
    let turns = [("Cancel it.", "done")];
    for input in [r#"{"order": 1}"#, BIG] {
        let reply = format!(r#"{{"content": [{}], "stop_reason": "tool_use"}}"#, call(input));
        let reply = answer(anthropic, reply).await;
        let prompt = Prompt::new("x").with_message(Message::from(&reply));
        let sent = anthropic(NOWHERE).request_body(&prompt).unwrap();
        let sent = String::from_utf8(sent).unwrap();
        assert_eq!(sent.contains("caller"), input != BIG, "{sent}");
        assert!(sent.replace(' ', "").contains(&input.replace(' ', "")), "{sent}");
        let sent = conversation(&chat(NOWHERE), &turns, &[reply]);
        assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["name"], "cancel");
    }
}

#[tokio::test]
async fn a_turn_that_its_plain_form_brings_back_is_not_kept_twice() {
    for (wire, model) in WIRES {
        let response = answer(model, calls(wire).0).await;
        assert_eq!(response.metadata.turn, None, "{wire}");
    }
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
    let said = json!({"type": "text", "text": "so", "cache_control": {"type": "ephemeral"}});
    assert_eq!(sent["messages"][1]["content"], json!([said, thought]));
    assert!(refused(&anthropic(NOWHERE), &marked(vec![reasoning()])).contains("marked for the cache"));
}

#[test]
fn a_message_without_content_is_refused() {
    let foreign = Part::Reasoning {
        text: "hm".to_owned(),
        parts: vec![json!({"type": "elsewhere"})],
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
        let prompt = Prompt::new("x").with_message(Message::new(Role::Assistant, vec![foreign.clone()]));
        assert!(refused(&model(NOWHERE), &prompt).contains("no content"), "{name}");
    }
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
