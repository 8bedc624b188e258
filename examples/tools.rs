//! Tools: the model calls a function of the program, gets the result, and answers. The prompts are the same for every
//! provider.
//!
//! `cargo run --features full --example tools` (against the simulated provider, which calls the tool that the choice
//! names)

use llm_batch::testing::SimulatedProvider;
use llm_batch::{Anthropic, BoxError, LlmError, LlmRequest, Message, Prompt, Tool, ToolCall, ToolChoice};
use serde::Deserialize;
use serde_json::json;
use tower::ServiceExt;

#[derive(Deserialize)]
struct Order {
    order: u64,
}

/// The tool itself.
fn state_of(call: &ToolCall) -> Result<String, LlmError> {
    let Order { order } = call.parse()?;
    Ok(format!("order {order} is on its way"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = SimulatedProvider::builder().build()?.serve("127.0.0.1:0").await?;
    // A model of any other provider accepts the same prompts.
    let model = Anthropic::builder()
        .base_url(server.base_url())
        .build()?
        .model("sim");

    let parameters = json!({
        "type": "object", "properties": {"order": {"type": "integer", "minimum": 1}}, "required": ["order"],
        "additionalProperties": false,
    });
    let tool = Tool::new("state_of", parameters).with_description("The state of an order, by its number");
    let question = Prompt::new("Where is order 7?")
        .with_tool(tool)
        .with_tool_choice(ToolChoice::Tool("state_of".to_owned()));
    let response = model.clone().oneshot(LlmRequest::new(question.clone())).await?;

    // The model's turn, and a result for each of its calls.
    let mut conversation = question
        .with_message(Message::from(&response))
        .with_tool_choice(ToolChoice::Auto);
    for call in response.tool_calls() {
        let result = state_of(&call)?;
        println!("{}({}): {result}", call.name, call.arguments);
        conversation = conversation.with_message(Message::tool_result(call.id, result));
    }
    let answer = model.oneshot(LlmRequest::new(conversation)).await?;
    println!("the model has the last word: {}", !answer.output.is_empty());
    println!("calls: {}", server.shutdown().await.answered);
    Ok(())
}
