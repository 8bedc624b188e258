//! What is sent: for the calls that Google's own client was recorded with, the same.

use llm_batch::provider::Streaming;
use llm_batch::provider::gemini::{HarmBlockThreshold, HarmCategory, SchemaForm, ThinkingLevel};
use llm_batch::{Delivery, ErrorKind, LlmRequest, Message, Part, Prompt, Role};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{KEY, answer, ask, builder, model, reply};
use crate::server::{Received, Reply, Server};

const GENERATE: &str = "/v1/models/gemini-2.5-flash:generateContent";

/// What `prompt` is sent as.
async fn sent(prompt: impl Into<Prompt>) -> Received {
    let server = Server::start(|_| reply("ok")).await;
    ask(&model(&server), prompt).await.unwrap();
    server.received().remove(0)
}

#[tokio::test]
async fn a_plain_prompt_is_sent_as_by_googles_client() {
    let text = "Hello, é日本 🙂 \"q\" \\ </b>";
    let sent = sent(text).await;
    assert_eq!((sent.method.as_str(), sent.path.as_str()), ("POST", GENERATE));
    assert_eq!(sent.header("x-goog-api-key"), Some(KEY));
    assert_eq!(sent.header("authorization"), None);
    assert_eq!(sent.header("content-type"), Some("application/json"));
    assert_eq!(
        sent.json(),
        json!({"contents": [{"parts": [{"text": text}], "role": "user"}]})
    );
}

#[tokio::test]
async fn system_text_is_an_instruction() {
    let sent = sent(Prompt::new("hi").with_system("Be brief.")).await;
    assert_eq!(
        sent.json(),
        json!({
            "contents": [{"parts": [{"text": "hi"}], "role": "user"}],
            "systemInstruction": {"parts": [{"text": "Be brief."}], "role": "user"},
        })
    );
}

#[tokio::test]
async fn parameters_stand_in_the_generation_config() {
    let prompt = Prompt::new("hi")
        .with_temperature(0.2)
        .with_top_p(0.9)
        .with_max_output_tokens(64)
        .with_stop("END")
        .with_seed(7)
        .with_extra(
            "generationConfig",
            json!({"topK": 5.0, "candidateCount": 2, "responseLogprobs": true, "logprobs": 2,
                   "presencePenalty": 0.1, "frequencyPenalty": -0.1}),
        );
    assert_eq!(
        sent(prompt).await.json(),
        json!({
            "contents": [{"parts": [{"text": "hi"}], "role": "user"}],
            "generationConfig": {
                "temperature": 0.2, "topP": 0.9, "topK": 5.0, "candidateCount": 2, "maxOutputTokens": 64,
                "stopSequences": ["END"], "responseLogprobs": true, "logprobs": 2, "presencePenalty": 0.1,
                "frequencyPenalty": -0.1, "seed": 7,
            },
        })
    );
}

#[tokio::test]
async fn safety_and_thinking_are_the_clients() {
    let server = Server::start(|_| reply("ok")).await;
    let client = builder(&server)
        .safety_setting(HarmCategory::Harassment, HarmBlockThreshold::OnlyHigh)
        .safety_setting(HarmCategory::Harassment, HarmBlockThreshold::None)
        .thinking_budget(0)
        .build()
        .unwrap();
    ask(&client.model("gemini-2.5-flash"), "hi").await.unwrap();
    assert_eq!(
        server.received()[0].json(),
        json!({
            "contents": [{"parts": [{"text": "hi"}], "role": "user"}],
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "generationConfig": {"thinkingConfig": {"thinkingBudget": 0}},
        })
    );
    let client = builder(&server)
        .safety_setting(HarmCategory::HateSpeech, HarmBlockThreshold::LowAndAbove)
        .safety_setting(HarmCategory::SexuallyExplicit, HarmBlockThreshold::MediumAndAbove)
        .safety_setting(HarmCategory::DangerousContent, HarmBlockThreshold::Off)
        .thinking_level(ThinkingLevel::XHigh)
        .include_thoughts(true)
        .build()
        .unwrap();
    ask(&client.model("gemini-3"), "hi").await.unwrap();
    let sent = server.received()[1].json();
    assert_eq!(
        sent["safetySettings"],
        json!([
            {"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_LOW_AND_ABOVE"},
            {"category": "HARM_CATEGORY_SEXUALLY_EXPLICIT", "threshold": "BLOCK_MEDIUM_AND_ABOVE"},
            {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "threshold": "OFF"},
        ])
    );
    assert_eq!(
        sent["generationConfig"]["thinkingConfig"],
        json!({"includeThoughts": true, "thinkingLevel": "XHIGH"})
    );
}

fn person() -> Value {
    json!({
        "title": "Person", "description": "A person.", "type": "object",
        "properties": {
            "name": {"description": "full name", "title": "Name", "type": "string"},
            "age": {"title": "Age", "type": "integer"},
            "pet": {"anyOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]},
        },
        "required": ["name", "age"],
        "$defs": {"Pet": {
            "title": "Pet", "type": "object", "required": ["kind"],
            "properties": {"kind": {"enum": ["cat", "dog"], "title": "Kind", "type": "string"}},
        }},
    })
}

#[tokio::test]
async fn a_schema_goes_out_in_either_form() {
    let server = Server::start(|_| reply("{}")).await;
    let prompt = || Prompt::new("hi").with_output_schema(person());
    ask(&model(&server), prompt()).await.unwrap();
    assert_eq!(
        server.received()[0].json(),
        json!({
            "contents": [{"parts": [{"text": "hi"}], "role": "user"}],
            "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": person()},
        })
    );
    let client = builder(&server).schema_form(SchemaForm::OpenApi).build().unwrap();
    ask(&client.model("gemini-2.5-flash"), prompt()).await.unwrap();
    assert_eq!(
        server.received()[1].json()["generationConfig"],
        json!({
            "responseMimeType": "application/json",
            "responseSchema": {
                "title": "Person", "description": "A person.", "type": "OBJECT", "required": ["name", "age"],
                "propertyOrdering": ["name", "age", "pet"],
                "properties": {
                    "name": {"description": "full name", "title": "Name", "type": "STRING"},
                    "age": {"title": "Age", "type": "INTEGER"},
                    "pet": {
                        "nullable": true, "title": "Pet", "type": "OBJECT", "required": ["kind"],
                        "propertyOrdering": ["kind"],
                        "properties": {"kind": {"enum": ["cat", "dog"], "title": "Kind", "type": "STRING"}},
                    },
                },
            },
        })
    );
}

#[tokio::test]
async fn a_streamed_question_has_an_address_of_its_own() {
    let server = Server::start(|_| {
        Reply::new(
            200,
            &[("content-type", "text/event-stream")],
            format!("data: {}\r\n\r\n", answer("ok")),
        )
    })
    .await;
    let model = model(&server).with_streaming(Streaming::new());
    ask(&model, "hi").await.unwrap();
    let sent = server.received().remove(0);
    assert_eq!(
        sent.path,
        "/v1/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    );
    assert_eq!(
        sent.json(),
        json!({"contents": [{"parts": [{"text": "hi"}], "role": "user"}]})
    );
}

#[tokio::test]
async fn every_part_has_its_form() {
    let prompt = Prompt::default()
        .with_system("One.")
        .with_message(Message::system("Two."))
        .with_message(Message::new(
            Role::User,
            vec![
                Part::text("What is this?"),
                Part::image("data:image/webp;charset=x;base64,AA=="),
                Part::image("data:;base64,BB=="),
                Part::image("https://host.example/cat.JPEG?size=2"),
                Part::image("gs://bucket/dir.x/file"),
                Part::json(json!({"videoMetadata": {"fps": 1}})),
            ],
        ))
        .with_message(Message::assistant("A cat."))
        .with_message(Message::user("Sure?"))
        .with_extra("serviceTier", "flex");
    assert_eq!(
        sent(prompt).await.json(),
        json!({
            "contents": [
                {"role": "user", "parts": [
                    {"text": "What is this?"},
                    {"inlineData": {"mimeType": "image/webp", "data": "AA=="}},
                    {"inlineData": {"mimeType": "image/png", "data": "BB=="}},
                    {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://host.example/cat.JPEG?size=2"}},
                    {"fileData": {"fileUri": "gs://bucket/dir.x/file"}},
                    {"videoMetadata": {"fps": 1}},
                ]},
                {"role": "model", "parts": [{"text": "A cat."}]},
                {"role": "user", "parts": [{"text": "Sure?"}]},
            ],
            "systemInstruction": {"role": "user", "parts": [{"text": "One."}, {"text": "Two."}]},
            "serviceTier": "flex",
        })
    );
    let server = Server::start(|_| reply("ok")).await;
    for url in ["data:image/svg+xml,<svg/>", "data:image/png;base64"] {
        let prompt = Prompt::default().with_message(Message::new(Role::User, vec![Part::image(url)]));
        let error = ask(&model(&server), prompt).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent)
        );
    }
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn extra_fields_replace_and_the_config_is_merged() {
    let server = Server::start(|_| reply("ok")).await;
    let client = builder(&server).thinking_budget(5).build().unwrap();
    let defaults = Prompt::default()
        .with_system("Be brief.")
        .with_temperature(0.0)
        .with_extra("labels", json!({"team": "a"}))
        .with_extra("generationConfig", json!({"topK": 3, "seed": 1}));
    let model = client.model("gemini-2.5-flash").with_defaults(defaults);
    let prompt = Prompt::new("x")
        .with_max_output_tokens(9)
        .with_extra("labels", json!({"team": "b"}))
        .with_extra(
            "generationConfig",
            json!({"seed": 2, "temperature": 1.5, "thinkingConfig": {"thinkingLevel": "LOW"}}),
        )
        .with_extra("systemInstruction", json!({"parts": [{"text": "Mine."}]}));
    ask(&model, prompt).await.unwrap();
    assert_eq!(
        server.received()[0].json(),
        json!({
            "contents": [{"parts": [{"text": "x"}], "role": "user"}],
            "systemInstruction": {"parts": [{"text": "Mine."}]},
            "labels": {"team": "b"},
            "generationConfig": {
                "temperature": 1.5, "maxOutputTokens": 9, "topK": 3, "seed": 2, "thinkingConfig": {"thinkingLevel": "LOW"},
            },
        })
    );
    ask(
        &model,
        Prompt::new("x").with_extra("generationConfig", Value::Null),
    )
    .await
    .unwrap();
    assert_eq!(server.received()[1].json()["generationConfig"], Value::Null);
    // The prompt's word replaces the defaults', which cannot be merged.
    let model = model.with_defaults(Prompt::default().with_extra("generationConfig", Value::Null));
    let prompt = Prompt::new("x")
        .with_seed(1)
        .with_extra("generationConfig", json!({"topK": 3}));
    ask(&model, prompt).await.unwrap();
    assert_eq!(
        server.received()[2].json()["generationConfig"],
        json!({"seed": 1, "thinkingConfig": {"thinkingBudget": 5}, "topK": 3})
    );
}

#[tokio::test]
async fn a_raw_body_passes_unchanged() {
    let server = Server::start(|_| reply("ok")).await;
    let text =
        r#"{"zeta":1,"contents":[{"parts":[{"text":"own","x":null}]}],"generationConfig":{"topK":1.5}}"#;
    let body = || Prompt::raw(serde_json::from_str(text).unwrap());
    let model = model(&server).with_defaults(Prompt::default().with_system("not for raw"));
    ask(&model, body()).await.unwrap();
    ask(
        &model,
        body()
            .with_model("gemini-2.5-pro")
            .with_extra("zeta", 2)
            .with_extra("store", false),
    )
    .await
    .unwrap();
    let sent = server.received();
    assert_eq!((sent[0].path.as_str(), sent[0].body.as_str()), (GENERATE, text));
    assert_eq!(sent[1].path, "/v1/models/gemini-2.5-pro:generateContent");
    assert_eq!(
        sent[1].body,
        text.replace("\"zeta\":1", "\"zeta\":2")
            .replace("1.5}}", "1.5},\"store\":false}")
    );
}

#[tokio::test]
async fn the_address_is_that_of_version_and_model() {
    use llm_batch::provider::gemini::ApiVersion::{V1, V1Beta};
    let server = Server::start(|_| reply("ok")).await;
    for (base, version, name, path) in [
        ("", None, "gemini-2.5-flash", "/v1/models/gemini-2.5-flash"),
        (
            "/",
            None,
            "models/gemini-2.5-flash",
            "/v1/models/gemini-2.5-flash",
        ),
        (
            "",
            None,
            "gemini-flash-latest",
            "/v1beta/models/gemini-flash-latest",
        ),
        (
            "",
            Some(V1),
            "gemini-flash-latest",
            "/v1/models/gemini-flash-latest",
        ),
        ("", Some(V1Beta), "g", "/v1beta/models/g"),
        ("/v1beta", Some(V1), "g", "/v1beta/models/g"),
        ("/v1beta1/", None, "g-latest", "/v1beta1/models/g-latest"),
        ("/v1alpha", None, "g", "/v1alpha/models/g"),
        ("/gateway", None, "tunedModels/t", "/gateway/v1/tunedModels/t"),
        (
            "/vertex",
            None,
            "publishers/google/models/g",
            "/vertex/v1/publishers/google/models/g",
        ),
        ("/v1?key=x", None, "a b", "/v1/models/a%20b"),
    ] {
        let mut builder = builder(&server).base_url(format!("http://{}{base}", server.address));
        if let Some(version) = version {
            builder = builder.version(version);
        }
        ask(
            &builder.build().unwrap().model("other"),
            Prompt::new("x").with_model(name),
        )
        .await
        .unwrap();
        let sent = server.received().pop().unwrap();
        let query = if base.contains('?') { "?key=x" } else { "" };
        assert_eq!(
            sent.path,
            format!("{path}:generateContent{query}"),
            "{base} {name}"
        );
    }
    for name in ["", "..", "a/../b", "models/"] {
        let error = ask(&model(&server), Prompt::new("x").with_model(name))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_model_of_one_prompt_fails_that_prompt_alone() {
    use llm_batch::Disposition::{Fatal, ScopeFatal};
    let server = Server::start(|_| {
        Reply::new(404, &[], r#"{"error":{"code":404,"message":"models/x is not found for API version v1","status":"NOT_FOUND"}}"#)
    })
    .await;
    let model = model(&server);
    let own = model
        .clone()
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!((own.kind(), own.disposition()), (ErrorKind::NotFound, ScopeFatal));
    let other = ask(&model, Prompt::new("x").with_model("x")).await.unwrap_err();
    assert_eq!((other.kind(), other.disposition()), (ErrorKind::NotFound, Fatal));
}
