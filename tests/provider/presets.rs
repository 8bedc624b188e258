//! The servers that are known by name or by host: where they are asked, how, and for what.

use llm_batch::provider::openai::{OpenAi, TokenLimitField};
use llm_batch::provider::{Model, Streaming};
use llm_batch::{ErrorKind, LlmRequest, Prompt, QuotaDimension};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::in_process::describe_in;
use crate::server::{Received, Reply, Server};

/// What a strategy of this name sends to a server in place of its own.
async fn sent(name: &str, base: &str, prompt: Prompt) -> Received {
    let server = Server::start(|request| {
        if request.path.ends_with("/responses") {
            Reply::json(&json!({"status": "completed", "output": []}))
        } else {
            Reply::text("ok")
        }
    })
    .await;
    let model = Model::builder(name)
        .base_url(format!("http://{}{base}", server.address))
        .api_key("sk-1")
        .build()
        .unwrap();
    model.oneshot(LlmRequest::new(prompt)).await.unwrap();
    server.received().pop().unwrap()
}

/// The body that a client of the server at this address would send.
fn body_at(url: &str, prompt: &Prompt) -> Value {
    let client = OpenAi::builder().base_url(url).api_key("sk-1").build().unwrap();
    serde_json::from_slice(&client.model("m").request_body(prompt).unwrap()).unwrap()
}

#[tokio::test]
async fn each_server_is_asked_in_its_own_way() {
    let prompt = || Prompt::new("x").with_max_output_tokens(5);
    for (name, path, limit) in [
        ("openai:m", "/v1/chat/completions", "max_completion_tokens"),
        ("openai-chat:m", "/v1/chat/completions", "max_completion_tokens"),
        ("openai-responses:m", "/v1/responses", "max_output_tokens"),
        ("openai-compatible:m", "/v1/chat/completions", "max_tokens"),
        ("azure:m", "/v1/chat/completions", "max_completion_tokens"),
        ("openrouter:m", "/v1/chat/completions", "max_tokens"),
        ("deepseek:m", "/v1/chat/completions", "max_tokens"),
        ("groq:m", "/v1/chat/completions", "max_completion_tokens"),
        ("mistral:m", "/v1/chat/completions", "max_tokens"),
        ("xai:m", "/v1/chat/completions", "max_completion_tokens"),
        ("ollama:m", "/v1/chat/completions", "max_tokens"),
        ("vllm:m", "/v1/chat/completions", "max_tokens"),
        ("llamacpp:m", "/v1/chat/completions", "max_tokens"),
        ("lmstudio:m", "/v1/chat/completions", "max_tokens"),
    ] {
        let sent = sent(name, "/v1", prompt()).await;
        assert_eq!(sent.path, path, "{name}");
        assert_eq!(
            (&sent.json()["model"], &sent.json()[limit]),
            (&json!("m"), &json!(5)),
            "{name}"
        );
        let (bearer, key) = (sent.header("authorization"), sent.header("api-key"));
        if name.starts_with("azure") {
            assert_eq!((bearer, key), (None, Some("sk-1")));
        } else {
            assert_eq!((bearer, key), (Some("Bearer sk-1"), None), "{name}");
        }
    }
}

#[tokio::test]
async fn azure_has_a_path_of_its_own_a_version_and_tokens() {
    for (base, path) in [
        ("", "/openai/v1/chat/completions"),
        ("/", "/openai/v1/chat/completions"),
        ("/openai/v1/", "/openai/v1/chat/completions"),
        (
            "?api-version=preview",
            "/openai/v1/chat/completions?api-version=preview",
        ),
        (
            "/openai/deployments/d?api-version=2024-10-21",
            "/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
    ] {
        assert_eq!(sent("azure:my-deployment", base, "x".into()).await.path, path);
    }

    let server = Server::start(|_| Reply::text("ok")).await;
    let client = OpenAi::builder()
        .base_url(format!("http://{}", server.address))
        .api_key("token")
        .bearer()
        .server("azure")
        .unwrap()
        .build()
        .unwrap();
    client
        .model("d")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap();
    let sent = server.received().pop().unwrap();
    assert_eq!(
        (sent.header("authorization"), sent.header("api-key")),
        (Some("Bearer token"), None)
    );
    assert_eq!(sent.json()["model"], "d");
}

#[test]
fn the_wire_goes_by_the_address_unless_it_is_named() {
    let wire = |model: &Model| {
        let body: Value = serde_json::from_slice(&model.request_body(&"x".into()).unwrap()).unwrap();
        match (body.get("input"), body.get("messages")) {
            (Some(_), None) => "responses",
            (None, Some(_)) => "chat",
            _ => panic!("{body}"),
        }
    };
    let openai = "https://api.openai.com/v1";
    for (name, base_url, expected) in [
        ("openai:m", None, "responses"),
        ("openai:m", Some(openai), "responses"),
        ("openai:m", Some("https://eu.api.openai.com/v1"), "responses"),
        ("openai:m", Some("https://api.openai.com.example/v1"), "chat"),
        ("openai:m", Some("http://localhost:8000/v1"), "chat"),
        ("openai:m", Some("https://api.groq.com/openai/v1"), "chat"),
        ("openai-chat:m", None, "chat"),
        ("openai-responses:m", None, "responses"),
        (
            "openai-responses:m",
            Some("http://localhost:8000/v1"),
            "responses",
        ),
        ("openai-compatible:m", Some(openai), "chat"),
        ("vllm:m", Some(openai), "chat"),
    ] {
        let mut builder = Model::builder(name).api_key("sk-1");
        if let Some(url) = base_url {
            builder = builder.base_url(url);
        }
        assert_eq!(wire(&builder.build().unwrap()), expected, "{name} {base_url:?}");
    }
    for (base_url, expected) in [(openai, "responses"), ("http://localhost:8000/v1", "chat")] {
        let client = OpenAi::builder()
            .base_url(base_url)
            .api_key("sk-1")
            .build()
            .unwrap();
        assert_eq!(wire(&client.model("m")), expected);
        assert_eq!(wire(&client.chat("m")), "chat");
        assert_eq!(wire(&client.responses("m")), "responses");
    }
}

#[tokio::test]
async fn a_raw_body_goes_to_the_wire_whose_form_it_has() {
    let raw = |body: Value| Prompt::raw(serde_json::from_value(body).unwrap());
    let chat = || raw(json!({"messages": []}));
    let response = || raw(json!({"input": "x"}));
    for (name, of_chat, of_response) in [
        ("openai:m", "/v1/chat/completions", "/v1/responses"),
        ("openai-chat:m", "/v1/chat/completions", "/v1/chat/completions"),
        ("openai-responses:m", "/v1/responses", "/v1/responses"),
        (
            "openai-compatible:m",
            "/v1/chat/completions",
            "/v1/chat/completions",
        ),
    ] {
        assert_eq!(sent(name, "/v1", chat()).await.path, of_chat, "{name}");
        assert_eq!(sent(name, "/v1", response()).await.path, of_response, "{name}");
    }

    // At OpenAI itself too. Only chat completions are asked for the usage of a stream.
    let model = Model::builder("openai:m")
        .api_key("x")
        .build()
        .unwrap()
        .with_streaming(Streaming::new());
    for (prompt, is_chat) in [(chat(), true), (response(), false), (Prompt::new("x"), false)] {
        let body: Value = serde_json::from_slice(&model.request_body(&prompt).unwrap()).unwrap();
        assert_eq!(body.get("stream_options").is_some(), is_chat, "{body}");
    }

    // And a stream is read as what it is.
    let server = Server::start(|request| {
        let pieces = if request.path.ends_with("/responses") {
            let output =
                json!([{"type": "message", "content": [{"type": "output_text", "text": "a response"}]}]);
            let last =
                json!({"type": "response.completed", "response": {"status": "completed", "output": output}});
            vec![
                "event: response.created\ndata: {\"type\": \"response.created\"}\n\n".to_owned(),
                format!("event: response.completed\ndata: {last}\n\n"),
            ]
        } else {
            let chunk = json!({"choices": [{"delta": {"content": "a completion"}, "finish_reason": "stop"}]});
            vec![format!("data: {chunk}\n\n"), "data: [DONE]\n\n".to_owned()]
        };
        Reply::events(&pieces).ended()
    })
    .await;
    let model = server.model().with_streaming(Streaming::new());
    for (prompt, text) in [(chat(), "a completion"), (response(), "a response")] {
        let answer = model.clone().oneshot(LlmRequest::new(prompt)).await.unwrap();
        assert_eq!(answer.output, text);
    }
}

#[test]
fn providers_have_their_open_telemetry_names() {
    let named = |name: &str| {
        Model::builder(name)
            .base_url("http://host.example/v1")
            .api_key("x")
            .build()
    };
    for (name, provider) in [
        ("openai:m", "openai"),
        ("openai-compatible:m", "openai-compatible"),
        ("azure:m", "azure.ai.openai"),
        ("openrouter:m", "openrouter"),
        ("deepseek:m", "deepseek"),
        ("groq:m", "groq"),
        ("mistral:m", "mistral_ai"),
        ("xai:m", "x_ai"),
        ("ollama:m", "ollama"),
    ] {
        assert_eq!(named(name).unwrap().provider(), provider);
    }
    // The host outranks the prefix.
    for (url, provider) in [
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://mine.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("https://api.perplexity.ai", "perplexity"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "gcp.gemini",
        ),
        ("https://api.together.example/v1", "openai"),
    ] {
        let model = Model::builder("openai:m")
            .base_url(url)
            .api_key("x")
            .build()
            .unwrap();
        assert_eq!(model.provider(), provider);
    }
}

#[test]
fn a_host_tells_what_its_server_wants() {
    let prompt = Prompt::new("x").with_seed(7).with_max_output_tokens(5);
    let body = body_at("https://api.mistral.ai/v1", &prompt);
    assert_eq!(
        body,
        json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "random_seed": 7})
    );
    let body = body_at("https://api.groq.com/openai/v1", &prompt);
    assert_eq!(
        (&body["seed"], &body["max_completion_tokens"]),
        (&json!(7), &json!(5))
    );
    // The user's word comes first.
    let client = OpenAi::builder()
        .base_url("https://api.groq.com/openai/v1")
        .token_limit_field(TokenLimitField::MaxTokens)
        .api_key("x")
        .build()
        .unwrap();
    let body: Value = serde_json::from_slice(&client.model("m").request_body(&prompt).unwrap()).unwrap();
    assert_eq!(body["max_tokens"], 5);
}

#[test]
fn a_stream_of_mistral_is_not_asked_for_its_usage() {
    let client = |url| OpenAi::builder().base_url(url).api_key("x").build().unwrap();
    let raw = Prompt::raw(serde_json::from_value(json!({"messages": []})).unwrap());
    for prompt in [Prompt::new("x"), raw] {
        for (url, asked) in [
            ("https://api.mistral.ai/v1", false),
            ("https://api.deepseek.com", true),
        ] {
            let model = client(url).model("m").with_streaming(Streaming::new());
            let body: Value = serde_json::from_slice(&model.request_body(&prompt).unwrap()).unwrap();
            assert_eq!(body["stream"], true);
            assert_eq!(body.get("stream_options").is_some(), asked, "{url}");
        }
    }
}

#[tokio::test]
async fn a_server_without_json_schema_is_told_the_schema() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let prompt = Prompt::new("x").with_output_schema(schema.clone());
    for prompt in [prompt.clone(), prompt.clone().with_system("Be brief.")] {
        let system = prompt.system().map(str::to_owned);
        let body = sent("deepseek:m", "", prompt).await.json();
        assert_eq!(body["response_format"], json!({"type": "json_object"}));
        let text = body["messages"][0]["content"].as_str().unwrap();
        assert_eq!(body["messages"][0]["role"], "system");
        assert!(
            text.contains("JSON") && text.contains(&schema.to_string()),
            "{text}"
        );
        assert!(text.starts_with(system.as_deref().unwrap_or("Answer")), "{text}");
        assert_eq!(body["messages"][1], json!({"role": "user", "content": "x"}));
    }
    let body = sent("groq:m", "", prompt).await.json();
    assert_eq!(body["response_format"]["type"], "json_schema");
    assert_eq!(body["messages"], json!([{"role": "user", "content": "x"}]));
}

#[tokio::test]
async fn a_rate_limit_of_deepseek_is_one_of_calls_at_the_same_time() {
    let server =
        Server::start(|_| Reply::new(429, &[], r#"{"error":{"message":"Too many requests"}}"#)).await;
    for (name, dimension) in [
        ("deepseek:m", Some(QuotaDimension::Concurrency)),
        ("vllm:m", None),
    ] {
        let builder = Model::builder(name)
            .base_url(format!("http://{}", server.address))
            .api_key("x");
        let request = LlmRequest::new("x".into());
        let error = builder.build().unwrap().oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RateLimit);
        assert_eq!(
            error.quota().and_then(|quota| quota.dimension),
            dimension,
            "{name}"
        );
    }
}

#[test]
fn hosted_providers_need_a_key_and_local_servers_none() {
    for (prefix, variable) in [
        ("openai", "OPENAI"),
        ("openai-chat", "OPENAI"),
        ("openai-responses", "OPENAI"),
        ("openrouter", "OPENROUTER"),
        ("deepseek", "DEEPSEEK"),
        ("groq", "GROQ"),
        ("mistral", "MISTRAL"),
        ("xai", "XAI"),
    ] {
        let name = format!("{prefix}:m");
        let (key, base_url) = (format!("{variable}_API_KEY"), format!("{variable}_BASE_URL"));
        let text = describe_in(&name, &[]);
        assert!(text.contains("error:") && text.contains(&key), "{prefix}: {text}");
        assert!(describe_in(&name, &[(&key, "sk-1")]).contains("ok:"), "{prefix}");
        // A server of one's own in its place may need none.
        assert!(
            describe_in(&name, &[(&base_url, "http://gpu.example/v1")]).contains("ok:"),
            "{prefix}"
        );
        let text = describe_in(&name, &[(&key, "sk-1"), (&base_url, "nonsense")]);
        assert!(
            text.contains("error:") && text.contains("base URL"),
            "{prefix}: {text}"
        );
    }
    for (prefix, variable) in [
        ("ollama", "OLLAMA"),
        ("vllm", "VLLM"),
        ("llamacpp", "LLAMACPP"),
        ("lmstudio", "LMSTUDIO"),
    ] {
        let name = format!("{prefix}:m");
        assert!(describe_in(&name, &[]).contains("ok:"), "{prefix}");
        let base_url = format!("{variable}_BASE_URL");
        assert!(
            describe_in(&name, &[(&base_url, "nonsense")]).contains("base URL"),
            "{prefix}"
        );
    }
    let endpoint = ("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com");
    assert!(describe_in("azure:m", &[]).contains("AZURE_OPENAI_ENDPOINT"));
    assert!(describe_in("azure:m", &[endpoint]).contains("AZURE_OPENAI_API_KEY"));
    assert!(describe_in("azure:m", &[endpoint, ("AZURE_OPENAI_API_KEY", "k")]).contains("ok:"));
}

#[test]
fn a_known_host_needs_its_key_also_of_a_client_made_by_hand() {
    for (url, variable) in [
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    ] {
        let error = OpenAi::builder().base_url(url).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(variable), "{error}");
        // A header may be the key.
        assert!(
            OpenAi::builder()
                .base_url(url)
                .header("authorization", "Bearer x")
                .build()
                .is_ok()
        );
    }
}
