//! The words of a prompt, those of a strategy's defaults and extra fields, where several speak of one thing.

use llm_batch::provider::anthropic::Anthropic;
use llm_batch::provider::gemini::Gemini;
use llm_batch::provider::{Model, Streaming};
use llm_batch::{Delivery, ErrorKind, LlmRequest, OpenAi, Prompt, Tool, ToolChoice};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::server::{Reply, Server};

const NOWHERE: &str = "http://127.0.0.1:9";

fn openai() -> OpenAi {
    OpenAi::builder().base_url(NOWHERE).api_key("k").build().unwrap()
}

fn anthropic() -> Model {
    let builder = Anthropic::builder().base_url(NOWHERE).api_key("k");
    builder.version("2023-06-01").build().unwrap().model("m")
}

fn gemini() -> Model {
    let builder = Gemini::builder().base_url(NOWHERE).api_key("k");
    builder.build().unwrap().model("m")
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => panic!("{value}"),
    }
}

fn chat_request(more: Value) -> Prompt {
    let mut body = fields(json!({"messages": [{"role": "user", "content": "x"}]}));
    body.extend(fields(more));
    Prompt::from_chat_request(body).unwrap()
}

fn text(model: &Model, prompt: &Prompt) -> String {
    String::from_utf8(model.request_body(prompt).unwrap()).unwrap()
}

fn body(model: &Model, prompt: &Prompt) -> Value {
    serde_json::from_str(&text(model, prompt)).unwrap()
}

fn refused(model: &Model, prompt: &Prompt) -> String {
    let error = model.request_body(prompt).unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::InvalidRequest, Delivery::NotSent)
    );
    error.to_string()
}

fn schema() -> Value {
    json!({"type": "object", "properties": {}, "additionalProperties": false})
}

#[test]
fn a_prompts_field_of_a_chat_completion_replaces_the_word_of_the_defaults() {
    let defaults = || {
        Prompt::default()
            .with_output_schema(schema())
            .with_tool(Tool::new("now", schema()))
            .with_tool_choice(ToolChoice::Required)
    };
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}});
    let own = chat_request(json!({"response_format": {"type": "text"}, "tool_choice": allowed}));
    let chat = openai().chat("m");
    let sent = text(&chat.clone().with_defaults(defaults()), &own);
    for name in ["\"response_format\":", "\"tool_choice\":"] {
        assert_eq!(sent.matches(name).count(), 1, "{sent}");
    }
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["response_format"], json!({"type": "text"}));
    assert_eq!(sent["tool_choice"], allowed);

    // Elsewhere it keeps the default's schema out, too.
    let plain = chat_request(json!({"response_format": {"type": "text"}}));
    let format = [
        "/text/format",
        "/output_config",
        "/generationConfig/responseJsonSchema",
    ];
    for model in [openai().responses("m"), anthropic(), gemini()] {
        let model = model.with_defaults(defaults());
        let sent = body(&model, &plain);
        assert!(format.iter().all(|place| sent.pointer(place).is_none()), "{sent}");
        assert!(refused(&model, &own).contains("`tool_choice`"));
    }

    // The same the other way round.
    let object = chat_request(json!({"response_format": {"type": "json_object"}, "tool_choice": allowed}));
    let typed = Prompt::new("x")
        .with_tool(Tool::new("now", schema()))
        .with_output_schema(schema())
        .with_tool_choice(ToolChoice::None);
    let sent = text(&chat.with_defaults(object.clone()), &typed);
    for name in ["\"response_format\":", "\"tool_choice\":"] {
        assert_eq!(sent.matches(name).count(), 1, "{sent}");
    }
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["response_format"]["type"], "json_schema");
    assert_eq!(sent["tool_choice"], "none");
    for model in [openai().responses("m"), anthropic(), gemini()] {
        let model = model.with_defaults(object.clone());
        let sent = body(&model, &typed);
        assert!(format.iter().any(|place| sent.pointer(place).is_some()), "{sent}");
        assert!(refused(&model, &Prompt::new("x")).contains("with_extra"));
    }
}

#[test]
fn several_answers_by_the_defaults_are_not_streamed() {
    let several = chat_request(json!({"n": 2}));
    let one = chat_request(json!({"n": 1}));
    let model = openai().chat("m").with_streaming(Streaming::new());
    let by_default = model.clone().with_defaults(several.clone());
    assert!(refused(&by_default, &Prompt::new("x")).contains("several answers"));
    assert!(by_default.request_body(&one).is_ok());
    // It is not sent in a raw body.
    let raw = Prompt::raw(fields(json!({"messages": []})));
    assert!(by_default.request_body(&raw).is_ok());

    let config = |value: Value| Prompt::new("x").with_extra("generationConfig", value);
    let model = gemini().with_streaming(Streaming::new());
    let model = model.with_defaults(config(json!({"candidateCount": 2})));
    assert!(refused(&model, &config(json!({"topK": 3}))).contains("several answers"));
    assert!(model.request_body(&config(json!({"candidateCount": 1}))).is_ok());
    let raw = Prompt::raw(fields(
        json!({"contents": [], "generationConfig": {"candidateCount": 2}}),
    ));
    assert!(refused(&model, &raw).contains("several answers"));
    assert!(
        model
            .request_body(&raw.with_extra("generationConfig", json!({})))
            .is_ok()
    );
}

#[tokio::test]
async fn a_raw_prompt_takes_nothing_of_the_defaults() {
    let server = Server::start(|_| Reply::new(400, &[], "{}")).await;
    let defaults = Prompt::default()
        .with_header("x-run", "1")
        .with_temperature(0.5)
        .with_extra("stream", true)
        .with_extra("background", true);
    let client = server.builder().build().unwrap();
    for (model, body) in [
        (client.chat("m"), json!({"model": "m", "messages": []})),
        (client.responses("m"), json!({"model": "m", "input": "x"})),
    ] {
        let raw = Prompt::raw(fields(body.clone())).with_header("x-own", "2");
        let model = model.with_defaults(defaults.clone());
        let _ = model.oneshot(LlmRequest::new(raw)).await;
        let sent = server.received().pop().unwrap();
        assert_eq!((sent.header("x-run"), sent.header("x-own")), (None, Some("2")));
        assert_eq!(serde_json::from_str::<Value>(&sent.body).unwrap(), body);
    }
}
