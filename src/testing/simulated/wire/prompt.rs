//! The question in a strategy's prompt: in this crate's own form, or in a raw body of any wire format.

use serde_json::{Map, Value};

use super::super::answer::{Question, WantedTool, join};
use super::{chat, gemini, messages, responses};
use crate::prompt::{Part, Prompt, ToolChoice};

impl Question {
    pub(in super::super) fn from_prompt(prompt: &Prompt) -> Self {
        if let Some(body) = prompt.raw_body() {
            let mut question = question(body);
            question.model = prompt.model().map(str::to_owned).or(question.model);
            return question;
        }
        let parts = prompt.messages().iter().flat_map(|message| &message.content);
        let texts = parts.flat_map(texts_of);
        Self {
            text: join(prompt.system().into_iter().chain(texts)),
            model: prompt.model().map(str::to_owned),
            max_tokens: prompt.max_output_tokens().map(u64::from),
            json: prompt.output_schema().cloned(),
            tool: wanted_tool(prompt),
        }
    }
}

fn wanted_tool(prompt: &Prompt) -> Option<WantedTool> {
    let name = match prompt.tool_choice()? {
        ToolChoice::Tool(name) => Some(name.as_str()),
        ToolChoice::Required => None,
        ToolChoice::Auto | ToolChoice::None => return None,
    };
    let tools = prompt.tools().iter().map(|tool| WantedTool {
        name: tool.name.clone(),
        parameters: tool.parameters.clone(),
    });
    WantedTool::of(tools, name)
}

/// The texts of a part; results of tools are texts, their calls and reasoning are not.
fn texts_of(part: &Part) -> Vec<&str> {
    match part {
        Part::Text { text } => vec![text],
        Part::ToolResult { content, .. } => content.iter().flat_map(texts_of).collect(),
        Part::Json { value } => value.get("text").and_then(Value::as_str).into_iter().collect(),
        Part::Native { elsewhere, .. } => elsewhere.as_deref().map_or_else(Vec::new, texts_of),
        Part::Image { .. } | Part::ToolCall(_) | Part::Reasoning { .. } => Vec::new(),
    }
}

/// The question in a raw body of any wire format.
pub(super) fn question(body: &Map<String, Value>) -> Question {
    let read = if body.contains_key("contents") {
        gemini::question(body, None)
    } else if body.contains_key("input") {
        responses::question(body)
    } else if body.contains_key("system") || body.contains_key("output_config") {
        messages::question(body)
    } else {
        chat::question(body)
    };
    read.unwrap_or_default()
}
