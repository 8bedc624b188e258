//! A plain client of all wire formats, written from the providers' documents only.

use std::time::Duration;

use llm_batch::TokenUsage;
use llm_batch::testing::{SimulatedProvider, SimulatedProviderBuilder, SimulatedServer};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

pub(crate) struct Setup {
    pub(crate) provider: SimulatedProvider,
    pub(crate) server: SimulatedServer,
    pub(crate) client: Client,
}

pub(crate) async fn serve(set: impl FnOnce(SimulatedProviderBuilder) -> SimulatedProviderBuilder) -> Setup {
    let provider = set(SimulatedProvider::builder()).build().unwrap();
    let server = provider.serve("127.0.0.1:0").await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    Setup {
        provider,
        server,
        client,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Chat,
    Responses,
    Messages,
    Gemini,
}

pub(crate) const WIRES: [Wire; 4] = [Wire::Chat, Wire::Responses, Wire::Messages, Wire::Gemini];

/// A prompt independent of the wire format.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) system: Option<String>,
    pub(crate) text: String,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) schema: Option<Value>,
    pub(crate) streamed: bool,
}

impl Ask {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    pub(crate) fn streamed(self) -> Self {
        Self {
            streamed: true,
            ..self
        }
    }

    pub(crate) fn body(&self, wire: Wire) -> Value {
        let mut body = match wire {
            Wire::Chat => {
                let system = self
                    .system
                    .iter()
                    .map(|text| json!({"role": "system", "content": text}));
                let messages: Vec<_> = system
                    .chain([json!({"role": "user", "content": self.text})])
                    .collect();
                json!({"model": "m", "messages": messages})
            }
            Wire::Responses => json!({"model": "m", "input": self.text, "store": false}),
            Wire::Messages => json!({
                "model": "m",
                "max_tokens": self.max_tokens.unwrap_or(8_192),
                "messages": [{"role": "user", "content": [{"type": "text", "text": self.text}]}],
            }),
            Wire::Gemini => {
                json!({"contents": [{"role": "user", "parts": [{"text": self.text}]}], "generationConfig": {}})
            }
        };
        if let Some(system) = &self.system {
            match wire {
                Wire::Chat => {}
                Wire::Responses => body["instructions"] = system.as_str().into(),
                Wire::Messages => body["system"] = system.as_str().into(),
                Wire::Gemini => body["systemInstruction"] = json!({"parts": [{"text": system}]}),
            }
        }
        if let Some(limit) = self.max_tokens {
            match wire {
                Wire::Chat => body["max_completion_tokens"] = limit.into(),
                Wire::Responses => body["max_output_tokens"] = limit.into(),
                Wire::Messages => {}
                Wire::Gemini => body["generationConfig"]["maxOutputTokens"] = limit.into(),
            }
        }
        if let Some(schema) = &self.schema {
            let named = json!({"type": "json_schema", "name": "n", "schema": schema});
            match wire {
                Wire::Chat => {
                    body["response_format"] =
                        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
                }
                Wire::Responses => body["text"] = json!({"format": named}),
                Wire::Messages => {
                    body["output_config"] = json!({"format": {"type": "json_schema", "schema": schema}});
                }
                Wire::Gemini => {
                    body["generationConfig"]["responseMimeType"] = "application/json".into();
                    body["generationConfig"]["responseJsonSchema"] = schema.clone();
                }
            }
        }
        if self.streamed && wire != Wire::Gemini {
            body["stream"] = true.into();
        }
        if self.streamed && wire == Wire::Chat {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}

impl Setup {
    /// A request to the wire format's path with its headers, without a key.
    pub(crate) fn request(&self, wire: Wire, streamed: bool) -> RequestBuilder {
        let path = match wire {
            Wire::Chat => "/v1/chat/completions",
            Wire::Responses => "/v1/responses",
            Wire::Messages => "/v1/messages",
            Wire::Gemini if streamed => "/v1beta/models/m:streamGenerateContent?alt=sse",
            Wire::Gemini => "/v1beta/models/m:generateContent",
        };
        let request = self.client.post(format!("{}{path}", self.server.origin()));
        match wire {
            Wire::Messages => request.header("anthropic-version", "2026-10-21"),
            _ => request,
        }
    }

    pub(crate) async fn ask(&self, wire: Wire, ask: &Ask) -> reqwest::Result<Response> {
        let body = ask.body(wire).to_string();
        self.request(wire, ask.streamed).body(body).send().await
    }

    /// Sends a body to a path, and reads status and body.
    pub(crate) async fn post(&self, wire: Wire, body: &Value) -> (u16, Value) {
        let streamed = body["stream"] == true;
        let response = self
            .request(wire, streamed)
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), json(response).await)
    }

    /// A request of Gemini's other methods.
    pub(crate) async fn gemini(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = method.parse().unwrap();
        let url = format!("{}{path}", self.server.origin());
        let response = self
            .client
            .request(method, url)
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), json(response).await)
    }
}

pub(crate) async fn json(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    response
        .headers()
        .get(name)
        .map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// An answer independent of the wire format.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) finish: String,
    pub(crate) usage: TokenUsage,
}

fn count(usage: &Value, name: &str) -> u64 {
    usage.pointer(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Each provider's arithmetic, normalised.
pub(crate) fn usage(wire: Wire, usage: &Value) -> TokenUsage {
    let of = |name| count(usage, name);
    let (mut read, mut total) = (TokenUsage::ZERO, None);
    match wire {
        Wire::Chat => {
            (read.input, read.output) = (of("/prompt_tokens"), of("/completion_tokens"));
            read.cached_input = of("/prompt_tokens_details/cached_tokens");
            read.reasoning = of("/completion_tokens_details/reasoning_tokens");
            total = Some(of("/total_tokens"));
        }
        Wire::Responses => {
            (read.input, read.output) = (of("/input_tokens"), of("/output_tokens"));
            read.cached_input = of("/input_tokens_details/cached_tokens");
            read.reasoning = of("/output_tokens_details/reasoning_tokens");
            total = Some(of("/total_tokens"));
        }
        Wire::Messages => {
            read.cached_input = of("/cache_read_input_tokens");
            read.cache_write = of("/cache_creation_input_tokens");
            read.input = of("/input_tokens") + read.cached_input + read.cache_write;
            read.output = of("/output_tokens");
            read.reasoning = of("/output_tokens_details/thinking_tokens");
        }
        Wire::Gemini => {
            read.input = of("/promptTokenCount");
            read.reasoning = of("/thoughtsTokenCount");
            read.output = of("/candidatesTokenCount") + read.reasoning;
            read.cached_input = of("/cachedContentTokenCount");
            total = Some(of("/totalTokenCount"));
        }
    }
    assert_eq!(total.unwrap_or(read.total()), read.total(), "{usage}");
    read
}

fn parts(content: &Value, kind: &str) -> String {
    let parts = content.as_array().into_iter().flatten();
    parts
        .filter(|part| part["type"] == kind)
        .map(|part| part["text"].as_str().unwrap())
        .collect()
}

fn gemini_parts(body: &Value) -> String {
    let parts = body
        .pointer("/candidates/0/content/parts")
        .and_then(Value::as_array);
    parts
        .into_iter()
        .flatten()
        .filter(|part| part["thought"] != true)
        .map(|part| part["text"].as_str().unwrap())
        .collect()
}

/// Reads a whole answer.
pub(crate) fn read(wire: Wire, body: &Value) -> Answer {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match wire {
        Wire::Chat => Answer {
            text: text(&body["choices"][0]["message"]["content"]),
            finish: text(&body["choices"][0]["finish_reason"]),
            usage: usage(wire, &body["usage"]),
        },
        Wire::Responses => {
            let items = body["output"].as_array().unwrap();
            let messages = items.iter().filter(|item| item["type"] == "message");
            Answer {
                text: messages
                    .map(|item| parts(&item["content"], "output_text"))
                    .collect(),
                finish: text(&body["status"]),
                usage: usage(wire, &body["usage"]),
            }
        }
        Wire::Messages => Answer {
            text: parts(&body["content"], "text"),
            finish: text(&body["stop_reason"]),
            usage: usage(wire, &body["usage"]),
        },
        Wire::Gemini => Answer {
            text: gemini_parts(body),
            finish: text(&body["candidates"][0]["finishReason"]),
            usage: usage(wire, &body["usageMetadata"]),
        },
    }
}

/// The events of a stream: name and data, without comments.
pub(crate) fn events(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n");
    let blocks = text.split("\n\n");
    blocks
        .filter_map(|block| {
            let (mut name, mut data) = (String::new(), None);
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("event", value)) => value.clone_into(&mut name),
                    Some(("data", value)) => data = Some(value.to_owned()),
                    _ => {}
                }
            }
            Some((name, data?))
        })
        .collect()
}

/// Reads a stream. `None` if it is incomplete.
pub(crate) fn read_stream(wire: Wire, stream: &str) -> Option<Answer> {
    let mut answer = Answer::default();
    let mut done = false;
    for (name, data) in events(stream) {
        if data == "[DONE]" {
            assert_eq!(wire, Wire::Chat);
            done = true;
            continue;
        }
        // A truncated event is ignored.
        let Ok(data) = serde_json::from_str::<Value>(&data) else {
            continue;
        };
        let mut push = |value: &Value| answer.text.push_str(value.as_str().unwrap_or_default());
        match wire {
            Wire::Chat => {
                push(&data["choices"][0]["delta"]["content"]);
                if let Some(reason) = data["choices"][0]["finish_reason"].as_str() {
                    reason.clone_into(&mut answer.finish);
                }
                if data["usage"].is_object() {
                    assert_eq!(data["choices"], json!([]));
                    answer.usage = usage(wire, &data["usage"]);
                }
            }
            Wire::Responses => {
                assert_eq!(data["type"], name.as_str());
                match name.as_str() {
                    "response.output_text.delta" => push(&data["delta"]),
                    "response.completed" | "response.incomplete" => {
                        let whole = read(wire, &data["response"]);
                        assert_eq!(whole.text, answer.text);
                        answer = whole;
                        done = true;
                    }
                    _ => {}
                }
            }
            Wire::Messages => {
                assert_eq!(data["type"], name.as_str());
                match name.as_str() {
                    "content_block_delta" if data["delta"]["type"] == "text_delta" => {
                        push(&data["delta"]["text"])
                    }
                    "message_delta" => {
                        data["delta"]["stop_reason"]
                            .as_str()
                            .unwrap()
                            .clone_into(&mut answer.finish);
                        answer.usage = usage(wire, &data["usage"]);
                    }
                    "message_stop" => done = true,
                    _ => {}
                }
            }
            Wire::Gemini => {
                let piece = read(wire, &data);
                answer.text.push_str(&piece.text);
                answer.usage = piece.usage;
                done |= !piece.finish.is_empty();
                answer.finish = piece.finish;
            }
        }
    }
    done.then_some(answer)
}
