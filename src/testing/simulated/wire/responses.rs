//! OpenAI's Responses.

use http::HeaderMap;
use http::request::Parts;
use serde_json::{Map, Value, json};

use super::super::answer::{Question, WantedTool, join};
use super::super::rejection::Rejection;
use super::{Asked, Refused, Reply, Wire, bearer, event, openai, pieces, schema, texts};
use crate::error::ReportedQuota;
use crate::response::FinishReason;

pub(in super::super) struct Responses;

pub(super) fn question(body: &Map<String, Value>) -> Result<Question, Box<Rejection>> {
    let input = match body.get("input") {
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(items)) if !items.is_empty() => {
            let content = |item| texts(Value::get(item, "content").or_else(|| item.get("output")));
            items.iter().flat_map(content).collect()
        }
        _ => return Err(Rejection::invalid("'input' must be a text or a non-empty array of items.").into()),
    };
    let instructions = body.get("instructions").and_then(Value::as_str);
    Ok(Question {
        text: join(instructions.into_iter().chain(input)),
        model: body.get("model").and_then(Value::as_str).map(str::to_owned),
        max_tokens: body.get("max_output_tokens").and_then(Value::as_u64),
        json: schema(body.get("text").and_then(|text| text.get("format")), "/schema"),
        tool: wanted_tool(body),
    })
}

fn wanted_tool(body: &Map<String, Value>) -> Option<WantedTool> {
    let choice = body.get("tool_choice")?;
    let is_function = |tool: &&Value| tool["type"] == "function";
    let name = Some(choice)
        .filter(is_function)
        .and_then(|choice| choice["name"].as_str());
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let tools = tools
        .filter(is_function)
        .filter_map(|tool| WantedTool::read(tool, "parameters"));
    (name.is_some() || choice == "required").then(|| WantedTool::of(tools, name))?
}

impl Wire for Responses {
    fn key(&self, head: &Parts) -> Option<String> {
        bearer(head)
    }

    fn read(&self, _: &Parts, body: Map<String, Value>) -> Result<Asked, Box<Rejection>> {
        let asks = |name: &str| body.get(name) == Some(&Value::Bool(true));
        if asks("background") {
            return Err(Rejection::invalid("The simulated provider answers in the foreground only.").into());
        }
        Ok(Asked {
            question: question(&body)?,
            streamed: asks("stream"),
            body,
            ..Asked::default()
        })
    }

    fn whole(&self, reply: &Reply<'_>) -> Value {
        let mut items = Vec::new();
        if reply.answer.usage.reasoning > 0 {
            items.push(reasoning(reply));
        }
        if let Some((name, arguments)) = reply.call() {
            items.push(call(reply, "completed", name, arguments));
        } else if has_message(reply) {
            items.push(message(reply, status(reply), &[part(reply, &reply.answer.text)]));
        }
        response(reply, status(reply), &items, true)
    }

    fn events(&self, reply: &Reply<'_>) -> Vec<String> {
        let mut stream = Stream::default();
        let begun = || response(reply, "in_progress", &[], false);
        let mut first = stream.event("response.created", json!({ "response": begun() }));
        first.push_str(&stream.event("response.in_progress", json!({ "response": begun() })));
        let mut index = 0;
        if reply.answer.usage.reasoning > 0 {
            for name in ["response.output_item.added", "response.output_item.done"] {
                let fields = json!({ "output_index": index, "item": reasoning(reply) });
                first.push_str(&stream.event(name, fields));
            }
            index += 1;
        }
        let mut events = Vec::new();
        let mut last = String::new();
        if let Some((name, arguments)) = reply.call() {
            let place = |item: Value| json!({ "output_index": index, "item": item });
            let begun = place(call(reply, "in_progress", name, ""));
            first.push_str(&stream.event("response.output_item.added", begun));
            events.push(first);
            let stem = "response.function_call_arguments";
            let with = |name: &str, value: &str| json!({ "item_id": function_call_id(reply), "output_index": index, name: value });
            for piece in pieces(arguments) {
                events.push(stream.event(&format!("{stem}.delta"), with("delta", piece)));
            }
            last.push_str(&stream.event(&format!("{stem}.done"), with("arguments", arguments)));
            let done = place(call(reply, "completed", name, arguments));
            last.push_str(&stream.event("response.output_item.done", done));
        } else if has_message(reply) {
            let text = &reply.answer.text;
            let (stem, name) = if reply.answer.refused {
                ("response.refusal", "refusal")
            } else {
                ("response.output_text", "text")
            };
            let place = json!({ "item_id": message_id(reply), "output_index": index, "content_index": 0 });
            let with = |name: &str, value: Value| {
                let mut fields = place.clone();
                fields[name] = value;
                fields
            };
            let item = message(reply, "in_progress", &[]);
            let added = json!({ "output_index": index, "item": item });
            first.push_str(&stream.event("response.output_item.added", added));
            let added = with("part", part(reply, ""));
            first.push_str(&stream.event("response.content_part.added", added));
            events.push(first);
            for piece in pieces(text) {
                events.push(stream.event(&format!("{stem}.delta"), with("delta", piece.into())));
            }
            last.push_str(&stream.event(&format!("{stem}.done"), with(name, text.as_str().into())));
            last.push_str(&stream.event("response.content_part.done", with("part", part(reply, text))));
            let item = message(reply, status(reply), &[part(reply, text)]);
            let done = json!({ "output_index": index, "item": item });
            last.push_str(&stream.event("response.output_item.done", done));
        } else {
            events.push(first);
        }
        let end = format!("response.{}", status(reply));
        last.push_str(&stream.event(&end, json!({ "response": self.whole(reply) })));
        events.push(last);
        events
    }

    /// Alternates between the two shapes.
    fn error_event(&self, number: u64, sent: &[String]) -> String {
        let mut nested = openai::stream_error();
        let body = if number.is_multiple_of(2) {
            nested["type"] = "error".into();
            nested
        } else {
            let message = nested["error"]["message"].take();
            let number_of_next: usize = sent.iter().map(|events| events.matches("event: ").count()).sum();
            json!({ "type": "error", "code": "server_error", "message": message, "param": null, "sequence_number": number_of_next })
        };
        event("error", &body)
    }

    fn headers(&self, number: u64, quota: Option<&ReportedQuota>) -> HeaderMap {
        openai::headers(number, quota)
    }

    fn refuse(&self, rejection: &Rejection, number: u64) -> Refused {
        openai::refuse(rejection, number)
    }

    fn models(&self, model: &str) -> Value {
        openai::models(model)
    }

    fn model(&self, model: &str) -> Value {
        openai::model(model)
    }
}

/// The events with their sequence numbers.
#[derive(Default)]
struct Stream {
    sent: u64,
}

impl Stream {
    fn event(&mut self, name: &str, mut fields: Value) -> String {
        fields["type"] = name.into();
        fields["sequence_number"] = self.sent.into();
        self.sent += 1;
        event(name, &fields)
    }
}

/// Returns `true` if there is a message; there is none if reasoning used up all tokens.
fn has_message(reply: &Reply<'_>) -> bool {
    reply.answer.finish != FinishReason::Length || !reply.answer.text.is_empty()
}

fn status(reply: &Reply<'_>) -> &'static str {
    match reply.answer.finish {
        FinishReason::Length => "incomplete",
        _ => "completed",
    }
}

fn function_call_id(reply: &Reply<'_>) -> String {
    format!("fc_sim_{}", reply.number)
}

fn call(reply: &Reply<'_>, status: &str, name: &str, arguments: &str) -> Value {
    json!({
        "id": function_call_id(reply), "type": "function_call", "status": status, "call_id": reply.call_id(),
        "name": name, "arguments": arguments,
    })
}

fn message_id(reply: &Reply<'_>) -> String {
    format!("msg_sim_{}", reply.number)
}

fn message(reply: &Reply<'_>, status: &str, content: &[Value]) -> Value {
    json!({
        "id": message_id(reply), "type": "message", "role": "assistant", "status": status, "content": content,
    })
}

fn part(reply: &Reply<'_>, text: &str) -> Value {
    if reply.answer.refused {
        json!({ "type": "refusal", "refusal": text })
    } else {
        json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
    }
}

fn reasoning(reply: &Reply<'_>) -> Value {
    json!({ "id": format!("rs_sim_{}", reply.number), "type": "reasoning", "summary": [] })
}

fn response(reply: &Reply<'_>, status: &str, output: &[Value], done: bool) -> Value {
    let asked = |name: &str, default: Value| reply.asked.body.get(name).cloned().unwrap_or(default);
    let incomplete = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
    let usage = reply.answer.usage;
    let usage = done.then(|| {
        json!({
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.total(),
        })
    });
    json!({
        "id": format!("resp_sim_{}", reply.number),
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "background": false,
        "completed_at": (status == "completed").then_some(1_700_000_000),
        "error": null,
        "incomplete_details": incomplete,
        "instructions": asked("instructions", Value::Null),
        "max_output_tokens": asked("max_output_tokens", Value::Null),
        "max_tool_calls": null,
        "metadata": asked("metadata", json!({})),
        "model": reply.model,
        "output": output,
        "parallel_tool_calls": asked("parallel_tool_calls", true.into()),
        "previous_response_id": null,
        "prompt_cache_key": asked("prompt_cache_key", Value::Null),
        "reasoning": asked("reasoning", json!({ "effort": null, "summary": null })),
        "safety_identifier": asked("safety_identifier", Value::Null),
        "service_tier": "default",
        "store": asked("store", true.into()),
        "temperature": asked("temperature", json!(1.0)),
        "text": asked("text", json!({ "format": {"type": "text"}, "verbosity": "medium" })),
        "tool_choice": asked("tool_choice", "auto".into()),
        "tools": asked("tools", json!([])),
        "top_logprobs": 0,
        "top_p": asked("top_p", json!(1.0)),
        "truncation": asked("truncation", "disabled".into()),
        "usage": usage,
        "user": asked("user", Value::Null),
    })
}
