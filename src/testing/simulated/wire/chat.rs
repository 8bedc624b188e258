//! OpenAI's chat completions.

use http::HeaderMap;
use http::request::Parts;
use serde_json::{Map, Value, json};

use super::super::answer::{Question, WantedTool, join};
use super::super::rejection::Rejection;
use super::{Asked, Refused, Reply, Wire, bearer, openai, pieces, schema, texts};
use crate::error::ReportedQuota;
use crate::testing::function_call;

pub(in super::super) struct Chat;

pub(super) fn question(body: &Map<String, Value>) -> Result<Question, Box<Rejection>> {
    let messages = match body.get("messages").and_then(Value::as_array) {
        Some(messages) if !messages.is_empty() => messages,
        _ => return Err(Rejection::invalid("'messages' must be a non-empty array.").into()),
    };
    let number = |name: &str| body.get(name).and_then(Value::as_u64);
    Ok(Question {
        text: join(messages.iter().flat_map(|message| texts(message.get("content")))),
        model: body.get("model").and_then(Value::as_str).map(str::to_owned),
        max_tokens: number("max_completion_tokens").or_else(|| number("max_tokens")),
        json: schema(body.get("response_format"), "/json_schema/schema"),
        tool: wanted_tool(body),
    })
}

fn wanted_tool(body: &Map<String, Value>) -> Option<WantedTool> {
    let choice = body.get("tool_choice")?;
    let name = choice.pointer("/function/name").and_then(Value::as_str);
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let tools = tools.filter_map(|tool| WantedTool::read(tool.get("function")?, "parameters"));
    (name.is_some() || choice == "required").then(|| WantedTool::of(tools, name))?
}

impl Wire for Chat {
    fn key(&self, head: &Parts) -> Option<String> {
        bearer(head)
    }

    fn read(&self, _: &Parts, body: Map<String, Value>) -> Result<Asked, Box<Rejection>> {
        Ok(Asked {
            question: question(&body)?,
            streamed: body.get("stream") == Some(&Value::Bool(true)),
            body,
            ..Asked::default()
        })
    }

    fn whole(&self, reply: &Reply<'_>) -> Value {
        let answer = reply.answer;
        let (content, refusal) = match reply.call() {
            Some(_) => (None, None),
            None if answer.refused => (None, Some(&answer.text)),
            None => (Some(&answer.text), None),
        };
        let mut message = json!({"role": "assistant", "content": content, "refusal": refusal});
        if let Some((name, arguments)) = reply.call() {
            message["tool_calls"] = json!([function_call(&reply.call_id(), name, arguments)]);
        }
        json!({
            "id": format!("chatcmpl-sim-{}", reply.number),
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": reply.model,
            "choices": [{
                "index": 0,
                "message": message,
                "logprobs": null,
                "finish_reason": answer.finish.as_str(),
            }],
            "usage": usage(reply),
            "system_fingerprint": "fp_simulated",
        })
    }

    fn events(&self, reply: &Reply<'_>) -> Vec<String> {
        let with_usage = reply
            .asked
            .body
            .get("stream_options")
            .is_some_and(|options| options["include_usage"] == true);
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": format!("chatcmpl-sim-{}", reply.number),
                "object": "chat.completion.chunk",
                "created": 1_700_000_000,
                "model": reply.model,
                "system_fingerprint": "fp_simulated",
                "choices": choices,
            });
            if with_usage {
                chunk["usage"] = usage.unwrap_or_default();
            }
            format!("data: {chunk}\n\n")
        };
        let delta = |delta: Value, finish: Option<&str>| {
            let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
            chunk(json!([choice]), None)
        };
        let name = if reply.answer.refused {
            "refusal"
        } else {
            "content"
        };
        let mut begun = json!({"role": "assistant", "content": "", "refusal": null});
        if let Some((name, _)) = reply.call() {
            let mut call = function_call(&reply.call_id(), name, "");
            call["index"] = 0.into();
            begun["content"] = Value::Null;
            begun["tool_calls"] = json!([call]);
        }
        let mut events = vec![delta(begun, None)];
        for piece in pieces(&reply.answer.text) {
            let more = match reply.call() {
                Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
                None => json!({ name: piece }),
            };
            events.push(delta(more, None));
        }
        let mut last = delta(json!({}), Some(reply.answer.finish.as_str()));
        if with_usage {
            last.push_str(&chunk(json!([]), Some(usage(reply))));
        }
        last.push_str("data: [DONE]\n\n");
        events.push(last);
        events
    }

    fn error_event(&self, _: u64, _: &[String]) -> String {
        format!("data: {}\n\n", openai::stream_error())
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

fn usage(reply: &Reply<'_>) -> Value {
    let usage = reply.answer.usage;
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}
