//! The reasoning effort.

use llm_batch::provider::Model;
use llm_batch::provider::anthropic::{Anthropic, Thinking};
use llm_batch::provider::gemini::{Gemini, ThinkingLevel};
use llm_batch::{Delivery, ErrorKind, Prompt, ReasoningEffort};
use serde_json::{Value, json};

use super::{NOWHERE, anthropic, body, chat, gemini, refused, responses, weather};

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
