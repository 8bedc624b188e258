//! Calls of tools by the simulated provider.

use llm_batch::testing::SimulatedProvider;
use llm_batch::{FinishReason, LlmRequest, Message, Prompt, Tool, ToolChoice};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::clients::{CLIENTS, streaming};
use super::support::serve;

fn prompt() -> Prompt {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"], "additionalProperties": false});
    Prompt::new("Rain in Oslo?")
        .with_tool(Tool::new("weather", city))
        .with_tool(Tool::new(
            "now",
            json!({"type": "object", "properties": {}, "additionalProperties": false}),
        ))
}

fn named(name: &str) -> ToolChoice {
    ToolChoice::Tool(name.to_owned())
}

#[tokio::test]
async fn a_tool_that_has_to_be_called_is_called_on_every_wire() {
    let setup = serve(|sim| sim.api_key("key")).await;
    for (choice, name) in [
        (ToolChoice::Required, "weather"),
        (named("weather"), "weather"),
        (named("now"), "now"),
    ] {
        let asked = prompt().with_tool_choice(choice);
        let mut seen = Vec::new();
        for client in CLIENTS {
            for streamed in [false, true] {
                let model = streaming(client(&setup.server), streamed);
                let response = model
                    .clone()
                    .oneshot(LlmRequest::new(asked.clone()))
                    .await
                    .unwrap();
                let calls = response.tool_calls();
                assert_eq!((calls.len(), calls[0].name.as_str()), (1, name));
                assert_eq!(response.output, "");
                assert_eq!(response.metadata.finish_reason, Some(FinishReason::ToolCalls));
                let arguments: Value = calls[0].parse().unwrap();
                match name {
                    "weather" => assert!(
                        arguments["city"].is_string() && arguments["days"] == 42,
                        "{arguments}"
                    ),
                    _ => assert_eq!(arguments, json!({})),
                }
                seen.push((arguments, response.usage));
                // The result goes back, and the model answers.
                let answered = asked
                    .clone()
                    .with_message(Message::from(&response))
                    .with_message(Message::tool_result(calls[0].id.clone(), "rain"))
                    .with_tool_choice(ToolChoice::Auto);
                let answer = model.oneshot(LlmRequest::new(answered)).await.unwrap();
                assert!(answer.tool_calls().is_empty() && answer.output.contains("####"));
            }
        }
        assert!(seen.iter().all(|call| *call == seen[0]), "{seen:?}");
        let direct = setup
            .provider
            .service()
            .oneshot(LlmRequest::new(asked.clone()))
            .await
            .unwrap();
        assert_eq!(direct.tool_calls()[0].name, name);
        assert_eq!(direct.tool_calls()[0].parse::<Value>().unwrap(), seen[0].0);
        assert_eq!((direct.output.as_str(), direct.usage), ("", seen[0].1));
        assert_eq!(setup.provider.answer_to(&asked), direct.tool_calls()[0].arguments);
    }
}

#[tokio::test]
async fn no_tool_is_called_where_the_model_decides_or_the_arguments_are_cut() {
    let setup = serve(|sim| sim.api_key("key")).await;
    let cut = prompt()
        .with_tool_choice(ToolChoice::Required)
        .with_max_output_tokens(2);
    for asked in [
        prompt(),
        prompt().with_tool_choice(ToolChoice::Auto),
        prompt().with_tool_choice(ToolChoice::None),
        cut,
    ] {
        for client in CLIENTS {
            for streamed in [false, true] {
                let model = streaming(client(&setup.server), streamed);
                let response = model.oneshot(LlmRequest::new(asked.clone())).await.unwrap();
                assert!(response.tool_calls().is_empty() && !response.output.is_empty());
            }
        }
    }
    let refusing = SimulatedProvider::builder().refusal_rate(1.0).build().unwrap();
    let asked = prompt().with_tool_choice(ToolChoice::Required);
    let error = refusing
        .service()
        .oneshot(LlmRequest::new(asked))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), llm_batch::ErrorKind::ContentFilter);
}
