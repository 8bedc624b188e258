//! The words of a prompt, those of a strategy's defaults and extra fields, where several speak of one thing.

use llm_batch::provider::anthropic::Anthropic;
use llm_batch::provider::gemini::{Gemini, ThinkingLevel};
use llm_batch::provider::{Model, Streaming};
use llm_batch::{
    Delivery, ErrorKind, LlmRequest, Message, OpenAi, Prompt, ReasoningEffort, Tool, ToolChoice,
};
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

#[test]
fn what_a_raw_body_cannot_have_beside_it_is_refused_by_name() {
    let raw = || Prompt::raw(fields(json!({"messages": []})));
    let cases = [
        (raw().with_message(Message::user("x")), "messages"),
        (raw().with_system("x"), "a system text"),
        (raw().with_temperature(0.0), "a temperature"),
        (raw().with_top_p(0.5), "`top_p`"),
        (raw().with_max_output_tokens(5), "a limit of output tokens"),
        (raw().with_stop("x"), "stop sequences"),
        (raw().with_seed(1), "a seed"),
        (raw().with_output_schema(schema()), "an output schema"),
        (raw().with_tool(Tool::new("now", schema())), "tools"),
        (raw().with_tool_choice(ToolChoice::Auto), "a tool choice"),
        (raw().with_parallel_tool_calls(false), "parallel tool calls"),
        (
            raw().with_reasoning_effort(ReasoningEffort::Low),
            "a reasoning effort",
        ),
        (
            raw().with_seed(1).with_temperature(0.0),
            "it: a temperature, a seed; put",
        ),
    ];
    let sent = raw()
        .with_model("n")
        .with_extra("seed", 1)
        .with_header("x-run", "1");
    for model in [openai().chat("m"), openai().responses("m"), anthropic(), gemini()] {
        for (prompt, what) in &cases {
            let error = refused(&model, prompt);
            assert!(error.contains(what) && error.contains("with_extra"), "{error}");
        }
        assert!(model.request_body(&sent).is_ok());
    }
}

#[test]
fn extra_fields_inside_of_settings_leave_the_others() {
    let thinking = |level: &str| json!({"thinkingLevel": level, "includeThoughts": true});
    let more = |value: Value| json!({ "thinkingConfig": value });
    let high = Prompt::new("x").with_reasoning_effort(ReasoningEffort::High);
    let with = |value: Value| high.clone().with_extra("generationConfig", more(value));
    let config = "/generationConfig/thinkingConfig";
    let sent =
        |model: &Model, prompt: &Prompt, place: &str| body(model, prompt).pointer(place).cloned().unwrap();
    let model = gemini();
    let shown = json!({"includeThoughts": true});
    assert_eq!(sent(&model, &with(shown.clone()), config), thinking("HIGH"));
    let by_default = model
        .clone()
        .with_defaults(Prompt::default().with_extra("generationConfig", more(shown.clone())));
    assert_eq!(sent(&by_default, &high, config), thinking("HIGH"));
    let low = with(json!({"thinkingLevel": "LOW"}));
    assert_eq!(sent(&by_default, &low, config), thinking("LOW"));
    // A budget and a level exclude each other.
    let budget = with(json!({"thinkingBudget": 9}));
    assert_eq!(
        sent(&by_default, &budget, config),
        json!({"includeThoughts": true, "thinkingBudget": 9})
    );
    let client = Gemini::builder()
        .base_url(NOWHERE)
        .api_key("k")
        .thinking_level(ThinkingLevel::Low);
    let of_client = client.build().unwrap().model("m");
    let prompt = Prompt::new("x").with_extra("generationConfig", more(shown));
    assert_eq!(sent(&of_client, &prompt, config), thinking("LOW"));
    // A schema is one value.
    let own = json!({"type": "string"});
    let typed = Prompt::new("x").with_output_schema(schema());
    let prompt = typed
        .clone()
        .with_extra("generationConfig", json!({"responseJsonSchema": own}));
    assert_eq!(sent(&model, &prompt, "/generationConfig/responseJsonSchema"), own);

    let model = openai().responses("m");
    let format = |value: Value| {
        typed
            .clone()
            .with_extra("text", json!({"format": value, "verbosity": "low"}))
    };
    let ours = sent(&model, &typed, "/text/format");
    let named = sent(&model, &format(json!({"name": "mine", "schema": own})), "/text");
    let expected = json!({"type": "json_schema", "name": "mine", "schema": own, "strict": ours["strict"]});
    assert_eq!(named, json!({"format": expected, "verbosity": "low"}));
    let object = json!({"type": "json_object"});
    assert_eq!(sent(&model, &format(object.clone()), "/text/format"), object);
    let prompt = high.clone().with_extra("reasoning", json!({"summary": "auto"}));
    assert_eq!(
        sent(&model, &prompt, "/reasoning"),
        json!({"effort": "high", "summary": "auto"})
    );

    let model = anthropic();
    let prompt = high.with_extra("thinking", json!({"display": "summarized"}));
    assert_eq!(
        sent(&model, &prompt, "/thinking"),
        json!({"type": "adaptive", "display": "summarized"})
    );
    let prompt = prompt.with_extra("thinking", json!({"type": "disabled"}));
    assert_eq!(sent(&model, &prompt, "/thinking"), json!({"type": "disabled"}));

    let model = openai().chat("m").with_streaming(Streaming::new());
    let prompt = Prompt::new("x").with_extra("stream_options", json!({"include_obfuscation": false}));
    assert_eq!(
        sent(&model, &prompt, "/stream_options"),
        json!({"include_usage": true, "include_obfuscation": false})
    );
}

#[test]
fn a_number_of_tokens_for_reasoning_fits_into_the_limit_that_is_sent() {
    let model = anthropic();
    let prompt = Prompt::new("x").with_reasoning_effort(ReasoningEffort::Tokens(2_048));
    let small = prompt.clone().with_extra("max_tokens", 100);
    assert!(refused(&model, &small).contains("100 output tokens leaves no room beside 2048"));
    let by_default = model
        .clone()
        .with_defaults(Prompt::default().with_extra("max_tokens", 100));
    assert!(refused(&by_default, &prompt).contains("no room"));
    assert!(refused(&model, &prompt.clone().with_max_output_tokens(2_048)).contains("no room"));
    let raised = prompt.with_max_output_tokens(100).with_extra("max_tokens", 4_096);
    assert_eq!(body(&model, &raised)["max_tokens"], 4_096);
}
