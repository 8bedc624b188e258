//! The request body.

use serde_json::{Map, Value, json};

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::options::{Options, SMALLEST_THINKING_BUDGET, Thinking};
use super::turns;
use crate::error::LlmError;
use crate::prompt::{Message, ReasoningEffort, Role, Tool, ToolChoice};
use crate::provider::body::{RawBody, lay_over};
use crate::provider::request::{check_chat_fields, refuse, write};
use crate::provider::wire::schema::{Dialect, for_wire};
use crate::provider::wire_format::Ask;

/// The output token limit of a prompt that sets none.
const DEFAULT_MAX_TOKENS: u32 = 8_192;

/// The version since which the API refuses sampling parameters. Versions are dates, so they compare as text.
const WITHOUT_SAMPLING: &str = "2026-10-21";

/// The body of a request of a prompt.
struct Body {
    fields: Map<String, Value>,
    /// The messages of a prompt, for which `fields` has a place.
    messages: Option<Box<RawValue>>,
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            match &self.messages {
                Some(messages) if name == "messages" => map.serialize_entry(name, messages)?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

/// The body of a request.
pub(super) fn body(ask: &Ask<'_>, options: &Options) -> Result<Vec<u8>, LlmError> {
    match ask.prompt.raw_body() {
        Some(raw) => write(&RawBody {
            ask,
            raw,
            names_model: true,
            added: if ask.streamed {
                &[("stream", Value::Bool(true))]
            } else {
                &[]
            },
        }),
        None => write(&prompt_body(ask, options)?),
    }
}

/// Returns `true` if no answer is wanted: such a call only fills the prompt cache.
pub(super) fn wants_nothing(ask: &Ask<'_>) -> bool {
    let field = |fields: &Map<String, Value>| fields.get("max_tokens").and_then(Value::as_u64);
    let (prompt, defaults) = (ask.prompt, ask.defaults);
    let limit = match prompt.raw_body() {
        Some(raw) => field(prompt.extra()).or_else(|| field(raw)),
        None => field(prompt.extra())
            .or_else(|| field(defaults.extra()))
            .or_else(|| prompt.max_output_tokens().map(u64::from))
            .or_else(|| defaults.max_output_tokens().map(u64::from)),
    };
    limit == Some(0)
}

fn prompt_body(ask: &Ask<'_>, options: &Options) -> Result<Body, LlmError> {
    check_chat_fields(ask, &[], "Anthropic")?;
    let (prompt, defaults) = (ask.prompt, ask.defaults);
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);

    set("model", ask.model.into());
    let max_tokens = prompt.max_output_tokens().or(defaults.max_output_tokens());
    let reasoning = reasoning(ask, options)?;
    let budget = match reasoning.thinking {
        Some(Thinking::Enabled { budget_tokens }) => budget_tokens,
        _ => 0,
    };
    let max_tokens = max_tokens.unwrap_or_else(|| DEFAULT_MAX_TOKENS.saturating_add(budget));
    set("max_tokens", max_tokens.into());
    let (first, messages) = leading(prompt.messages());
    let text = prompt.system().or(defaults.system());
    if let Some(system) = turns::system(text, options.system_cache, first)? {
        set("system", system);
    }
    set("messages", Value::Null);
    let messages = turns::turns(messages)?;

    let sampling = [
        ("temperature", prompt.temperature().or(defaults.temperature())),
        ("top_p", prompt.top_p().or(defaults.top_p())),
    ];
    for (name, value) in sampling {
        let Some(value) = value else { continue };
        if options.version.as_str() >= WITHOUT_SAMPLING {
            return Err(refuse(format!(
                "anthropic-version {} takes no {name}; leave it out, or set the client's version to 2023-06-01",
                options.version
            )));
        }
        set(name, value.into());
    }
    if prompt.seed().or(defaults.seed()).is_some() {
        return Err(refuse("Anthropic's models take no seed; leave it out"));
    }
    let stop = [prompt.stop(), defaults.stop()]
        .into_iter()
        .find(|stop| !stop.is_empty());
    if let Some(stop) = stop {
        set("stop_sequences", stop.into());
    }
    if let Some(thinking) = reasoning.thinking {
        set("thinking", json!(thinking));
    }
    if let Some(config) = output_config(ask, reasoning.effort)? {
        set("output_config", config);
    }
    if !ask.tools().is_empty() {
        let tools: Result<Vec<_>, _> = ask.tools().iter().map(tool).collect();
        set("tools", tools?.into());
    }
    if let Some(choice) = tool_choice(ask) {
        set("tool_choice", choice);
    }
    if let Some(ttl) = options.prefix_cache {
        set("cache_control", ttl.mark());
    }
    if ask.streamed {
        set("stream", true.into());
    }
    for (name, value) in defaults.extra().iter().chain(prompt.extra()) {
        match (body.get_mut(name), value) {
            // Merged, so that the schema in it is kept.
            (Some(Value::Object(ours)), Value::Object(more)) if name == "output_config" => {
                lay_over(ours, more);
            }
            // One of another type has other fields.
            (Some(Value::Object(ours)), Value::Object(more))
                if name == "thinking" && !more.contains_key("type") =>
            {
                ours.extend(more.clone());
            }
            _ => {
                body.insert(name.clone(), value.clone());
            }
        }
    }
    // Extra fields may have changed both.
    let limit = body.get("max_tokens").and_then(Value::as_u64);
    let budget = body
        .get("thinking")
        .and_then(|thinking| thinking["budget_tokens"].as_u64());
    if let (Some(limit), Some(tokens), Some(ReasoningEffort::Tokens(_))) =
        (limit, budget, ask.reasoning_effort())
        && limit <= tokens
    {
        return Err(refuse(format!(
            "the limit of {limit} output tokens leaves no room beside {tokens} tokens for reasoning; raise it"
        )));
    }
    let is_replaced = prompt.extra().contains_key("messages") || defaults.extra().contains_key("messages");
    Ok(Body {
        fields: body,
        messages: (!is_replaced).then_some(messages),
    })
}

/// The application's messages before the first turn of another speaker, and the rest.
fn leading(messages: &[Message]) -> (&[Message], &[Message]) {
    let is_application = |message: &Message| matches!(message.role, Role::System | Role::Developer);
    let count = messages
        .iter()
        .take_while(|message| is_application(message))
        .count();
    messages.split_at(count)
}

/// The amount of reasoning: two settings of this wire.
struct Reasoning {
    thinking: Option<Thinking>,
    effort: Option<Value>,
}

/// The client's settings, unless the prompt has one of its own.
fn reasoning(ask: &Ask<'_>, options: &Options) -> Result<Reasoning, LlmError> {
    let own_effort = options.effort.map(|effort| json!(effort));
    Ok(match ask.reasoning_effort() {
        None => Reasoning {
            thinking: options.thinking,
            effort: own_effort,
        },
        Some(ReasoningEffort::None) => Reasoning {
            thinking: Some(Thinking::Disabled),
            effort: None,
        },
        Some(ReasoningEffort::Minimal) => {
            return Err(refuse(
                "Anthropic has no reasoning effort `minimal`; the least is `low`, and `none` turns reasoning off",
            ));
        }
        Some(ReasoningEffort::Tokens(tokens)) if tokens < SMALLEST_THINKING_BUDGET => {
            return Err(refuse(format!(
                "{tokens} tokens for reasoning are too few; Anthropic wants {SMALLEST_THINKING_BUDGET} at least, and `none` \
                 turns reasoning off"
            )));
        }
        Some(ReasoningEffort::Tokens(budget_tokens)) => Reasoning {
            thinking: Some(Thinking::Enabled { budget_tokens }),
            effort: own_effort,
        },
        Some(effort) => Reasoning {
            thinking: Some(options.thinking.unwrap_or(Thinking::Adaptive)),
            effort: effort.name().map(Value::from),
        },
    })
}

fn tool(tool: &Tool) -> Result<Value, LlmError> {
    let mut wire = json!({ "name": tool.name });
    if let Some(description) = &tool.description {
        wire["description"] = description.as_str().into();
    }
    wire["input_schema"] = match &tool.parameters {
        Some(schema) if tool.strict == Some(true) => for_wire(schema, Dialect::Anthropic)?.into_owned(),
        Some(schema) => schema.clone(),
        None => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
    };
    if let Some(strict) = tool.strict {
        wire["strict"] = strict.into();
    }
    Ok(wire)
}

/// The choice of a tool, which also says whether several may be called at once.
fn tool_choice(ask: &Ask<'_>) -> Option<Value> {
    let one_at_a_time = ask.parallel_tool_calls() == Some(false);
    let mut choice = match ask.tool_choice() {
        Some(ToolChoice::Auto) => json!({ "type": "auto" }),
        Some(ToolChoice::None) => return Some(json!({ "type": "none" })),
        Some(ToolChoice::Required) => json!({ "type": "any" }),
        Some(ToolChoice::Tool(name)) => json!({ "type": "tool", "name": name }),
        None if one_at_a_time && !ask.tools().is_empty() => json!({ "type": "auto" }),
        None => return None,
    };
    if one_at_a_time {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

fn output_config(ask: &Ask<'_>, effort: Option<Value>) -> Result<Option<Value>, LlmError> {
    let mut config = Map::new();
    if let Some(schema) = ask.output_schema() {
        let schema = for_wire(schema, Dialect::Anthropic)?;
        config.insert(
            "format".to_owned(),
            json!({ "type": "json_schema", "schema": schema }),
        );
    }
    if let Some(effort) = effort {
        config.insert("effort".to_owned(), effort);
    }
    Ok((!config.is_empty()).then_some(Value::Object(config)))
}
