//! Anthropic's Messages: setting up the client, and what a call sends.

use llm_batch::provider::Model;
use llm_batch::provider::anthropic::{Anthropic, AnthropicBuilder, CacheTtl, CacheWrites, Effort, Thinking};
use llm_batch::{Delivery, ErrorKind, LlmRequest, Message, Part, Prompt};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::in_process::describe_in;
use crate::server::{Reply, Server};

pub(crate) const KEY: &str = "sk-ant-test";

pub(crate) fn builder(server: &Server) -> AnthropicBuilder {
    Anthropic::builder()
        .base_url(format!("http://{}", server.address))
        .api_key(KEY)
}

pub(crate) fn model(server: &Server) -> Model {
    builder(server).build().unwrap().model("claude-sonnet-4-5")
}

/// A plain message of 10 + 2 tokens.
pub(crate) fn message(text: &str) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn", "stop_sequence": null, "stop_details": null,
        "usage": {"input_tokens": 10, "output_tokens": 2}
    })
}

async fn server() -> Server {
    Server::start(|_| Reply::json(&message("ok"))).await
}

/// The body that a prompt is sent as.
fn body(builder: AnthropicBuilder, prompt: &Prompt) -> Value {
    let model = builder.api_key(KEY).build().unwrap().model("m");
    serde_json::from_slice(&model.request_body(prompt).unwrap()).unwrap()
}

fn refused(builder: AnthropicBuilder, prompt: &Prompt) -> String {
    let model = builder.api_key(KEY).build().unwrap().model("m");
    let error = model.request_body(prompt).unwrap_err();
    assert_eq!(
        (error.kind(), error.delivery()),
        (ErrorKind::InvalidRequest, Delivery::NotSent)
    );
    error.to_string()
}

/// The text that the calls of the official client below were made with.
const HELLO: &str = "Hello, é日本 🙂 \"q\" \\ </b>";

type SetUp = fn(AnthropicBuilder) -> AnthropicBuilder;

/// What the official client (2.12.0) sends for the same call: path, headers and body. It sends the key as a bearer token,
/// we by choice.
#[tokio::test]
async fn requests_are_those_of_the_official_client() {
    let hello = || Prompt::new(HELLO).with_max_output_tokens(64);
    let messages = json!([{"role": "user", "content": HELLO}]);
    let schema = json!({
        "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
        "additionalProperties": false
    });
    let plain = |builder| builder;
    let cases: Vec<(SetUp, Prompt, Value)> = vec![
        (plain, hello(), json!({})),
        (
            plain,
            hello().with_system("Be brief."),
            json!({"system": "Be brief."}),
        ),
        (
            |builder| builder.cache_system(CacheTtl::FiveMinutes),
            hello().with_system("long shared prefix"),
            json!({"system": [{"type": "text", "text": "long shared prefix", "cache_control": {"type": "ephemeral"}}]}),
        ),
        (
            plain,
            hello().with_output_schema(schema.clone()),
            json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
        ),
        (
            plain,
            hello()
                .with_stop("END")
                .with_extra("metadata", json!({"user_id": "u1"}))
                .with_extra("service_tier", "auto")
                .with_extra("temperature", 0.2)
                .with_extra("top_p", 0.9)
                .with_extra("top_k", 5),
            json!({"metadata": {"user_id": "u1"}, "service_tier": "auto", "stop_sequences": ["END"],
                   "temperature": 0.2, "top_p": 0.9, "top_k": 5}),
        ),
        (
            |builder| builder.thinking(Thinking::Enabled { budget_tokens: 1_024 }),
            hello().with_max_output_tokens(2_048),
            json!({"max_tokens": 2_048, "thinking": {"type": "enabled", "budget_tokens": 1_024}}),
        ),
    ];
    let server = server().await;
    for (set_up, prompt, more) in cases {
        let client = set_up(builder(&server)).bearer().build().unwrap();
        let model = client.model("claude-sonnet-4-5");
        model.oneshot(LlmRequest::new(prompt)).await.unwrap();
        let sent = server.received().pop().unwrap();
        let mut expected = json!({"max_tokens": 64, "messages": messages, "model": "claude-sonnet-4-5"});
        for (name, value) in more.as_object().unwrap() {
            expected[name] = value.clone();
        }
        assert_eq!(sent.path, "/v1/messages");
        assert_eq!(sent.header("accept"), Some("application/json"));
        assert_eq!(sent.header("content-type"), Some("application/json"));
        assert_eq!(sent.header("authorization"), Some("Bearer sk-ant-test"));
        assert_eq!(sent.header("anthropic-version"), Some("2026-10-21"));
        assert_eq!(sent.header("x-api-key"), None);
        assert_eq!(sent.header("anthropic-beta"), None);
        assert_eq!(sent.json(), expected);
    }
}

#[tokio::test]
async fn the_key_goes_into_its_own_header_and_betas_are_joined() {
    let server = server().await;
    let client = builder(&server)
        .version("2023-06-01")
        .beta("one-2026-01-01")
        .beta("two-2026-02-02")
        .header("anthropic-workspace-id", "w1")
        .build()
        .unwrap();
    client
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap();
    let sent = server.received().pop().unwrap();
    assert_eq!(sent.header("x-api-key"), Some(KEY));
    assert_eq!(sent.header("authorization"), None);
    assert_eq!(sent.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(
        sent.header("anthropic-beta"),
        Some("one-2026-01-01,two-2026-02-02")
    );
    assert_eq!(sent.header("anthropic-workspace-id"), Some("w1"));
    assert!(sent.header("user-agent").unwrap().starts_with("llm-batch/"));
    assert_eq!(
        sent.json(),
        json!({"model": "m", "max_tokens": 8_192, "messages": [{"role": "user", "content": "x"}]})
    );
}

#[tokio::test]
async fn the_base_url_may_end_in_the_version() {
    let server = server().await;
    for (base, path) in [
        ("", "/v1/messages"),
        ("/", "/v1/messages"),
        ("/v1", "/v1/messages"),
        ("/v1/", "/v1/messages"),
        ("/anthropic", "/anthropic/v1/messages"),
        ("/proxy/v1?team=a", "/proxy/v1/messages?team=a"),
        ("/xv1", "/xv1/v1/messages"),
    ] {
        let base = format!("http://{}{base}", server.address);
        let client = Anthropic::builder().base_url(&base).build().unwrap();
        client
            .model("m")
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap();
        let sent = server.received().pop().unwrap();
        assert_eq!(sent.path, path, "{base}");
        assert_eq!(sent.header("x-api-key"), None);
    }
}

#[tokio::test]
async fn every_parameter_reaches_the_wire() {
    let prompt = Prompt::default()
        .with_system("Be brief.")
        .with_message(Message::new(
            llm_batch::Role::User,
            vec![
                Part::text("What is this?"),
                Part::image("data:image/png;base64,AA=="),
                Part::image("DATA:image/jpeg;name=x;base64,BB=="),
                Part::image("https://host.example/a.png"),
                Part::json(json!({"type": "text", "text": "shared", "cache_control": {"type": "ephemeral", "ttl": "1h"}})),
            ],
        ))
        .with_message(Message::system("From here on in French."))
        .with_message(Message::assistant("Un chat."))
        .with_message(Message::user("Sûr?"))
        .with_model("override")
        .with_temperature(0.5)
        .with_top_p(0.25)
        .with_stop("END")
        .with_output_schema(json!({"type": "object", "additionalProperties": false, "properties": {}, "required": []}))
        .with_extra("top_k", 5);
    let builder = Anthropic::builder()
        .version("2023-06-01")
        .cache_system(CacheTtl::OneHour)
        .cache_prefix(CacheTtl::FiveMinutes)
        .thinking(Thinking::Adaptive)
        .effort(Effort::XHigh);
    assert_eq!(
        body(builder, &prompt),
        json!({
            "model": "override",
            "max_tokens": 8_192,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "BB=="}},
                    {"type": "image", "source": {"type": "url", "url": "https://host.example/a.png"}},
                    {"type": "text", "text": "shared", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                ]},
                {"role": "system", "content": "From here on in French."},
                {"role": "assistant", "content": "Un chat."},
                {"role": "user", "content": "Sûr?"},
            ],
            "temperature": 0.5,
            "top_p": 0.25,
            "stop_sequences": ["END"],
            "thinking": {"type": "adaptive"},
            "output_config": {
                "format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": false, "properties": {}, "required": []}},
                "effort": "xhigh",
            },
            "cache_control": {"type": "ephemeral"},
            "top_k": 5,
        })
    );
}

#[tokio::test]
async fn options_and_defaults_give_way_to_the_prompt() {
    let server = server().await;
    let defaults = Prompt::default()
        .with_system("Be brief.")
        .with_max_output_tokens(8)
        .with_stop("END")
        .with_extra("metadata", json!({"user_id": "u1"}));
    let model = builder(&server)
        .thinking(Thinking::Enabled { budget_tokens: 2_000 })
        .build()
        .unwrap()
        .model("m")
        .with_defaults(defaults);
    let own = Prompt::new("b")
        .with_system("Be long.")
        .with_max_output_tokens(40_000)
        .with_extra("thinking", json!({"type": "disabled"}));
    for prompt in [Prompt::new("a"), own] {
        model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap();
    }
    let sent = server.received();
    assert_eq!(
        sent[0].json(),
        json!({"model": "m", "max_tokens": 8, "system": "Be brief.", "messages": [{"role": "user", "content": "a"}],
               "stop_sequences": ["END"], "thinking": {"type": "enabled", "budget_tokens": 2_000},
               "metadata": {"user_id": "u1"}})
    );
    assert_eq!(
        sent[1].json(),
        json!({"model": "m", "max_tokens": 40_000, "system": "Be long.", "messages": [{"role": "user", "content": "b"}],
               "stop_sequences": ["END"], "thinking": {"type": "disabled"}, "metadata": {"user_id": "u1"}})
    );
    // What is thought comes on top of the room for the answer.
    let builder = Anthropic::builder().thinking(Thinking::Enabled { budget_tokens: 2_000 });
    assert_eq!(body(builder, &"x".into())["max_tokens"], 10_192);
    let builder = Anthropic::builder().thinking(Thinking::Disabled);
    let sent = body(builder, &"x".into());
    assert_eq!(
        (&sent["max_tokens"], &sent["thinking"]),
        (&json!(8_192), &json!({"type": "disabled"}))
    );
}

#[test]
fn what_the_wire_cannot_carry_is_refused_unsent() {
    let hot = Prompt::new("x").with_temperature(1.0);
    let nucleus = Prompt::new("x").with_top_p(1.0);
    for version in ["2026-10-21", "2027-01-01"] {
        for (prompt, name) in [(&hot, "temperature"), (&nucleus, "top_p")] {
            let text = refused(Anthropic::builder().version(version), prompt);
            assert!(text.contains(name) && text.contains(version), "{text}");
            assert!(text.contains("2023-06-01"), "{text}");
            // By a header of one's own it is the same version.
            let text = refused(Anthropic::builder().header("Anthropic-Version", version), prompt);
            assert!(text.contains(version), "{text}");
        }
    }
    let old = || Anthropic::builder().header("anthropic-version", "2023-06-01");
    assert_eq!(body(old(), &hot)["temperature"], 1.0);
    assert_eq!(body(old(), &nucleus)["top_p"], 1.0);

    let text = refused(Anthropic::builder(), &Prompt::new("x").with_seed(7));
    assert!(text.contains("seed"), "{text}");

    for url in [
        "data:image/png,raw-secret",
        "data:;base64,secret",
        "data:image/png;base64",
        "file:///secret.png",
        "secret",
        "",
        "data:",
        "daté:é",
    ] {
        let prompt =
            Prompt::default().with_message(Message::new(llm_batch::Role::User, vec![Part::image(url)]));
        let text = refused(Anthropic::builder(), &prompt);
        assert!(
            text.contains("image") && !text.contains("secret"),
            "{url}: {text}"
        );
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_with_what_to_do() {
    let error = |builder: AnthropicBuilder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    assert!(error(Anthropic::builder()).contains("ANTHROPIC_API_KEY"));
    let small = Thinking::Enabled { budget_tokens: 1_023 };
    assert!(error(Anthropic::builder().api_key(KEY).thinking(small)).contains("1024"));
    let text = error(Anthropic::builder().api_key(KEY).version("a\nb"));
    assert!(text.contains("anthropic-version"), "{text}");
    assert!(error(Anthropic::builder().base_url("host/v1")).contains("base URL"));
}

#[test]
fn the_environment_sets_up_a_client() {
    for name in ["anthropic_from_env", "anthropic:claude-sonnet-4-5"] {
        let text = describe_in(name, &[]);
        assert!(
            text.contains("error:") && text.contains("ANTHROPIC_API_KEY is not set"),
            "{text}"
        );
        let text = describe_in(name, &[("ANTHROPIC_API_KEY", "sk-in-the-environment")]);
        assert!(text.contains("ok:"), "{text}");
        assert!(!text.contains("sk-in-the-environment"), "{text}");
        let text = describe_in(name, &[("ANTHROPIC_BASE_URL", "http://gpu.example:8000")]);
        assert!(text.contains("ok:"), "{text}");
        let text = describe_in(name, &[("ANTHROPIC_BASE_URL", "nonsense")]);
        assert!(text.contains("base URL"), "{text}");
    }
    let text = describe_in("anthropic_from_env", &[("ANTHROPIC_API_KEY", "k")]);
    assert!(text.contains("api.anthropic.com"), "{text}");
}

#[tokio::test]
async fn a_named_strategy_asks_the_given_server() {
    let server = server().await;
    let model = Model::builder("anthropic:claude-x:beta")
        .base_url(format!("http://{}/v1", server.address))
        .api_key(KEY)
        .build()
        .unwrap();
    assert_eq!((model.name(), model.provider()), ("claude-x:beta", "anthropic"));
    let answer = model.oneshot(LlmRequest::new("x".into())).await.unwrap();
    assert_eq!(answer.output, "ok");
    let sent = server.received().pop().unwrap();
    assert_eq!(sent.path, "/v1/messages");
    assert_eq!(sent.header("x-api-key"), Some(KEY));
    assert_eq!(sent.json()["model"], "claude-x:beta");
}

#[tokio::test]
async fn a_raw_body_passes_unchanged() {
    let server = server().await;
    let text = r#"{"zeta":1,"model":"own","max_tokens":5,"temperature":1.0,"messages":[{"role":"user","x":null}],"unknown":{"b":2,"a":1}}"#;
    let raw = || Prompt::raw(serde_json::from_str(text).unwrap());
    let model = builder(&server)
        .effort(Effort::Low)
        .build()
        .unwrap()
        .model("m")
        .with_defaults(Prompt::default().with_system("not for raw").with_seed(1));
    let other = raw().with_model("other").with_extra("zeta", 2);
    let nameless = Prompt::raw(serde_json::from_str(r#"{"messages":[]}"#).unwrap());
    for prompt in [raw(), other, nameless] {
        model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap();
    }
    let sent = server.received();
    assert_eq!(sent[0].body, text);
    assert_eq!(
        sent[1].body,
        text.replace("\"own\"", "\"other\"")
            .replace("\"zeta\":1", "\"zeta\":2")
    );
    assert_eq!(sent[2].body, r#"{"messages":[],"model":"m"}"#);
}

#[tokio::test]
async fn no_key_is_shown_or_given_away() {
    let clean = |text: &str| assert!(!text.contains(KEY) && !text.contains("hidden"), "{text}");
    let set_up = Anthropic::builder()
        .api_key(KEY)
        .header("x-gateway-key", "hidden");
    clean(&format!("{set_up:?}"));
    let set_up = set_up.base_url("https://host.example/v1?secret=hidden");
    let client = set_up.build().unwrap();
    clean(&format!("{client:?} {:?}", client.model("m")));

    for (status, body) in [
        (
            401,
            format!(
                r#"{{"type":"error","error":{{"type":"authentication_error","message":"invalid {KEY}"}}}}"#
            ),
        ),
        (500, format!("x-api-key: {KEY}")),
        (200, format!("<html>{KEY}</html>")),
        (
            200,
            format!(r#"{{"type":"error","error":{{"type":"{KEY}","message":"{KEY}"}}}}"#),
        ),
        (
            200,
            format!(
                r#"{{"content":[{{"type":"text","text":"{KEY}"}}],"stop_reason":"refusal","stop_details":{{"category":"{KEY}"}}}}"#
            ),
        ),
    ] {
        let server = Server::start(move |_| Reply::new(status, &[], &body)).await;
        let error = model(&server)
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap_err();
        clean(&format!(
            "{error} {error:?} {}",
            serde_json::to_string(&error).unwrap()
        ));
    }

    let other = Server::start(|_| Reply::json(&message("stolen"))).await;
    let target = format!("http://{}/v1/messages", other.address);
    let server = Server::start(move |_| Reply::new(307, &[("location", &target)], "")).await;
    let error = model(&server)
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    clean(&format!("{error} {error:?}"));
    assert_eq!(other.accepted(), 0);
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Anthropic>();
    crosses::<AnthropicBuilder>();
    crosses::<CacheWrites>();
}
