//! Bodies of chat completions as prompts: the same request at OpenAI, and a request of each other provider.

use llm_batch::provider::Model;
use llm_batch::provider::anthropic::Anthropic;
use llm_batch::provider::gemini::Gemini;
use llm_batch::{ErrorKind, OpenAi, Prompt};
use serde_json::{Map, Value, json};

const NOWHERE: &str = "http://127.0.0.1:9";

fn fields(body: Value) -> Map<String, Value> {
    let Value::Object(fields) = body else {
        panic!("{body}")
    };
    fields
}

fn prompt(body: Value) -> Prompt {
    Prompt::from_chat_request(fields(body)).unwrap()
}

fn openai() -> OpenAi {
    OpenAi::builder().base_url(NOWHERE).api_key("k").build().unwrap()
}

fn sent(model: &Model, prompt: &Prompt) -> Value {
    serde_json::from_slice(&model.request_body(prompt).unwrap()).unwrap()
}

fn conversation() -> Value {
    json!({
        "model": "gpt-5",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"id\": 18446744073709551616}"}},
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Sure?"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks again", "strict": true, "parameters": {
            "type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "additionalProperties": false}}}],
        "tool_choice": "auto",
        "parallel_tool_calls": true,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 64,
        "stop": ["END", "STOP"],
        "seed": 7,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": {
            "type": "object", "properties": {"animal": {"type": "string", "maxLength": 9}}, "required": ["animal"],
            "additionalProperties": false}}},
    })
}

#[test]
fn a_chat_completion_comes_back() {
    let mut plain = json!({"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]});
    for body in [plain.clone(), conversation()] {
        let chat = openai().chat("other");
        assert_eq!(sent(&chat, &prompt(body.clone())), body);
    }
    // What a prompt has no word for stays, too.
    for (name, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(2)),
        ("frequency_penalty", json!(-0.1)),
        ("logit_bias", json!({"5": -100})),
        ("metadata", json!({"k": "v"})),
        ("service_tier", json!("flex")),
        ("store", json!(true)),
        ("user", json!("u1")),
        ("verbosity", json!("low")),
        ("response_format", json!({"type": "json_object"})),
        (
            "tool_choice",
            json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
        ),
    ] {
        plain[name] = value;
    }
    let kept = prompt(plain.clone());
    assert_eq!(sent(&openai().chat("other"), &kept), plain);
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<Prompt>(&text).unwrap(), kept);
}

#[test]
fn a_chat_completion_is_asked_over_every_other_wire() {
    let mut body = conversation();
    let removed = body.as_object_mut().unwrap();
    for name in ["seed", "stop", "temperature", "top_p", "parallel_tool_calls"] {
        removed.remove(name);
    }
    // Values that say nothing are no reason to refuse it.
    body["n"] = json!(1);
    body["store"] = json!(false);
    body["frequency_penalty"] = json!(0);
    body["user"] = Value::Null;
    let prompt = prompt(body);
    let responses = sent(&openai().responses("m"), &prompt);
    assert_eq!(responses["reasoning"]["effort"], "low");
    assert_eq!(responses["text"]["format"]["name"], "answer");
    assert_eq!(
        responses["input"][2]["arguments"],
        "{\"id\": 18446744073709551616}"
    );
    let client = Anthropic::builder().base_url(NOWHERE).build().unwrap();
    let body = client.model("m").request_body(&prompt).unwrap();
    assert!(String::from_utf8_lossy(&body).contains(r#""input":{"id": 18446744073709551616}"#));
    let messages: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(messages["system"], json!([{"type": "text", "text": "Be brief."}]));
    assert_eq!(messages["messages"][2]["content"][0]["type"], "tool_result");
    assert_eq!(messages["output_config"]["effort"], "low");
    assert_eq!(
        (&messages["model"], &messages["max_tokens"]),
        (&json!("gpt-5"), &json!(64))
    );
    let client = Gemini::builder().base_url(NOWHERE).build().unwrap();
    let generate = sent(&client.model("m"), &prompt);
    assert_eq!(
        generate["contents"][2]["parts"][0]["functionResponse"],
        json!({"id": "c1", "name": "look", "response": {"output": "a cat"}})
    );
    assert_eq!(
        generate["generationConfig"]["thinkingConfig"],
        json!({"thinkingLevel": "LOW"})
    );
}

#[test]
fn fields_of_chat_completions_alone_are_not_lost_elsewhere() {
    let anthropic = Anthropic::builder().base_url(NOWHERE).build().unwrap().model("m");
    let gemini = Gemini::builder().base_url(NOWHERE).build().unwrap().model("m");
    let messages = json!([{"role": "user", "content": "x"}]);
    for (name, value, for_responses) in [
        ("frequency_penalty", json!(0.5), false),
        ("logprobs", json!(true), false),
        ("n", json!(2), false),
        ("response_format", json!({"type": "json_object"}), false),
        ("service_tier", json!("flex"), true),
        ("user", json!("u1"), true),
        ("store", json!(true), true),
    ] {
        let prompt = prompt(json!({"messages": messages, name: value}));
        for model in [&anthropic, &gemini] {
            let error = model.request_body(&prompt).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
        let responses = openai().responses("m").request_body(&prompt);
        assert_eq!(responses.is_ok(), for_responses, "{name}");
        if let Ok(body) = responses {
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()[name], value);
        }
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let messages = || json!([{"role": "user", "content": "x"}]);
    let first = |message: Value| json!({"messages": [message]});
    for (body, place) in [
        (json!({}), "`messages`"),
        (json!({"messages": []}), "`messages`"),
        (json!({"messages": messages(), "temperatur": 1}), "`temperatur`"),
        (json!({"messages": messages(), "stream": true}), "`stream`"),
        (
            json!({"messages": messages(), "temperature": "1"}),
            "`temperature`",
        ),
        (json!({"messages": messages(), "max_tokens": -1}), "`max_tokens`"),
        (
            json!({"messages": messages(), "max_tokens": 1, "max_completion_tokens": 2}),
            "`max_completion_tokens`",
        ),
        (
            json!({"messages": messages(), "seed": 18446744073709551615_u64}),
            "`seed`",
        ),
        (json!({"messages": messages(), "stop": [1]}), "`stop`"),
        (
            json!({"messages": messages(), "reasoning_effort": "2048"}),
            "`reasoning_effort`",
        ),
        (
            json!({"messages": messages(), "tools": [{"type": "custom", "custom": {"name": "x"}}]}),
            "`tools[0].type`",
        ),
        (
            json!({"messages": messages(), "tools": [{"type": "function", "function": {"name": "x", "colour": 1}}]}),
            "`tools[0].function.colour`",
        ),
        (
            json!({"messages": messages(), "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            "`response_format.json_schema.schema`",
        ),
        (
            first(json!({"role": "robot", "content": "x"})),
            "`messages[0].role`",
        ),
        (first(json!({"role": "user"})), "`messages[0].content`"),
        (
            first(json!({"role": "user", "content": "x", "name": "bob"})),
            "`messages[0].name`",
        ),
        (
            first(json!({"role": "user", "content": [{"type": "input_audio"}]})),
            "`messages[0].content[0].type`",
        ),
        (
            first(
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "tiny"}}]}),
            ),
            "`messages[0].content[0].image_url.detail`",
        ),
        (
            first(json!({"role": "tool", "content": "x"})),
            "`messages[0].tool_call_id`",
        ),
        (
            first(
                json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]}),
            ),
            "`messages[0].tool_calls[0].function.arguments`",
        ),
    ] {
        let error = Prompt::from_chat_request(fields(body.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains(place), "{body}: {error}");
    }
}

#[test]
fn reasoning_and_empty_results_come_back() {
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y", "reasoning_content": "R"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "reasoning_content": "S", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "assistant", "content": null, "reasoning_content": "T"},
    ]});
    let chat = openai().chat("other");
    assert_eq!(sent(&chat, &prompt(body.clone())), body);
    let mut without = body.clone();
    without["messages"][4]["content"] = Value::Null;
    assert_eq!(sent(&chat, &prompt(without)), body);
    // Plain reasoning means nothing to another provider, and alone it is not a turn.
    let anthropic = Anthropic::builder().base_url(NOWHERE).build().unwrap().model("m");
    let messages = sent(&anthropic, &prompt(body));
    assert_eq!(messages["messages"].as_array().unwrap().len(), 5);
    assert_eq!(
        messages["messages"][1]["content"],
        json!([{"type": "text", "text": "y"}])
    );
}

#[test]
fn a_choice_with_more_than_a_name_is_an_error() {
    let messages = json!([{"role": "user", "content": "x"}]);
    for (choice, place) in [
        (
            json!({"type": "function", "function": {"name": "f", "colour": 1}}),
            "`tool_choice.function.colour`",
        ),
        (
            json!({"type": "function", "function": {"name": "f"}, "mode": "auto"}),
            "`tool_choice.mode`",
        ),
        (
            json!({"type": "function", "function": {}}),
            "`tool_choice.function.name`",
        ),
    ] {
        let body = json!({"messages": messages, "tool_choice": choice});
        let error = Prompt::from_chat_request(fields(body)).unwrap_err();
        assert!(error.to_string().contains(place), "{error}");
    }
}
