//! Setting up clients by hand, by name and by the environment.

use llm_batch::provider::Model;
use llm_batch::{ErrorKind, LlmError, LlmRequest, OpenAi, strategy};
use tower::ServiceExt;

use crate::in_process::describe_in;
use crate::server::{Reply, Server};

#[test]
fn malformed_settings_are_refused_with_what_to_do() {
    let error = |builder: llm_batch::provider::openai::OpenAiBuilder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    assert!(error(OpenAi::builder()).contains("OPENAI_API_KEY"));
    assert!(
        error(OpenAi::builder().api_key_env("LLM_BATCH_TEST_NO_SUCH_KEY"))
            .contains("LLM_BATCH_TEST_NO_SUCH_KEY")
    );
    for url in [
        "localhost:8000",
        "",
        "ftp://host/v1",
        "http://",
        "/v1",
        "http://user:pw123@host/v1",
    ] {
        let text = error(OpenAi::builder().base_url(url));
        assert!(
            text.contains("base URL") && !text.contains("pw123"),
            "{url}: {text}"
        );
    }
    let local = || OpenAi::builder().base_url("http://localhost/v1");
    assert!(error(local().header("bad name", "x")).contains("bad name"));
    let text = error(local().header("x-key", "line\nbreak"));
    assert!(text.contains("x-key") && !text.contains("break"), "{text}");
}

/// What is wrong has a code, so that a program need not read the message.
#[test]
fn what_is_wrong_has_a_code() {
    let code = |error: LlmError| {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.code().unwrap().to_owned()
    };
    let named = |name: &str| code(strategy(name).unwrap_err());
    assert_eq!(named("gpt-4o"), "unknown_provider");
    assert_eq!(named("openia:gpt-4o"), "unknown_provider");
    assert_eq!(named("openai:"), "missing_model");
    let built = |builder: llm_batch::provider::openai::OpenAiBuilder| code(builder.build().unwrap_err());
    assert_eq!(built(OpenAi::builder()), "missing_api_key");
    assert_eq!(
        built(OpenAi::builder().api_key_env("LLM_BATCH_TEST_NO_SUCH_KEY")),
        "missing_api_key"
    );
    let local = || OpenAi::builder().base_url("http://localhost/v1");
    assert_eq!(
        built(OpenAi::builder().base_url("nonsense")),
        "malformed_base_url"
    );
    assert_eq!(built(local().header("bad name", "x")), "malformed_header");
}

#[test]
#[should_panic(expected = "without connections")]
fn no_connections_is_refused() {
    let _ = OpenAi::builder().max_connections(0);
}

#[tokio::test]
async fn the_endpoint_stands_under_the_base_url() {
    let server = Server::start(|_| Reply::text("ok")).await;
    for (base, path) in [
        ("", "/chat/completions"),
        ("/", "/chat/completions"),
        ("/openai/v1/", "/openai/v1/chat/completions"),
        (
            "/deployments/d?api-version=2026-01-01",
            "/deployments/d/chat/completions?api-version=2026-01-01",
        ),
    ] {
        let client = OpenAi::builder()
            .base_url(format!("http://{}{base}", server.address))
            .build()
            .unwrap();
        client
            .model("m")
            .oneshot(LlmRequest::new("x".into()))
            .await
            .unwrap();
        let sent = server.received().pop().unwrap();
        assert_eq!(sent.path, path);
        assert_eq!(sent.header("authorization"), None);
    }
}

#[test]
fn names_that_are_wrong_tell_the_right_ones() {
    for name in ["gpt-4o-mini", "", "opanai:gpt-4o", "OpenAI:x", ":x"] {
        let error = strategy(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        for prefix in [
            "openai:",
            "anthropic:",
            "gemini:",
            "openai-chat:",
            "openai-responses:",
            "openai-compatible:",
            "azure:",
            "openrouter:",
            "deepseek:",
            "groq:",
            "mistral:",
            "xai:",
            "ollama:",
            "vllm:",
            "llamacpp:",
            "lmstudio:",
            "gemini:",
        ] {
            assert!(error.to_string().contains(prefix), "{name}: {error}");
        }
    }
    for name in ["openai:", "groq:", "ollama:", "vllm: "] {
        assert!(
            strategy(name).unwrap_err().to_string().contains("model"),
            "{name}"
        );
    }
    assert!(
        Model::builder("ollama:x")
            .base_url("nonsense")
            .build()
            .unwrap_err()
            .to_string()
            .contains("base URL")
    );
}

#[tokio::test]
async fn a_named_strategy_asks_the_given_server() {
    let server = Server::start(|_| Reply::text("ok")).await;
    for name in [
        "openai:org/model:tag",
        "openai-compatible:org/model:tag",
        "ollama:org/model:tag",
    ] {
        let model = Model::builder(name)
            .base_url(format!("http://{}/v1", server.address))
            .build()
            .unwrap();
        let prompt = llm_batch::Prompt::new("x").with_max_output_tokens(5);
        assert_eq!(model.oneshot(LlmRequest::new(prompt)).await.unwrap().output, "ok");
        let sent = server.received().pop().unwrap().json();
        assert_eq!(sent["model"], "org/model:tag");
        let field = if name.starts_with("openai:") {
            "max_completion_tokens"
        } else {
            "max_tokens"
        };
        assert_eq!(sent[field], 5, "{name}");
    }
}

#[test]
fn the_environment_sets_up_a_client() {
    let text = describe_in("from_env", &[]);
    assert!(
        text.contains("error:") && text.contains("OPENAI_API_KEY"),
        "{text}"
    );
    let text = describe_in("from_env", &[("OPENAI_API_KEY", "sk-in-the-environment")]);
    assert!(text.contains("ok:") && text.contains("api.openai.com"), "{text}");
    assert!(!text.contains("sk-in-the-environment"), "{text}");
    let text = describe_in("from_env", &[("OPENAI_API_KEY", "  ")]);
    assert!(text.contains("OPENAI_API_KEY is not set"), "{text}");
    let text = describe_in("from_env", &[("OPENAI_BASE_URL", "http://gpu.example:8000/v1")]);
    assert!(text.contains("ok:") && text.contains("gpu.example"), "{text}");

    assert!(describe_in("openai:gpt-4o-mini", &[]).contains("OPENAI_API_KEY"));
    assert!(describe_in("openai-compatible:x", &[]).contains("OPENAI_COMPATIBLE_BASE_URL"));
    let base = [("OPENAI_COMPATIBLE_BASE_URL", "http://gpu.example/v1")];
    assert!(describe_in("openai-compatible:x", &base).contains("ok:"));
    for name in ["ollama:x", "vllm:x", "llamacpp:x", "lmstudio:x"] {
        assert!(describe_in(name, &[]).contains("ok:"), "{name}");
    }
    assert!(describe_in("ollama:x", &[("OLLAMA_BASE_URL", "nonsense")]).contains("base URL"));
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    fn is_sent<T: Send + 'static>() {}
    crosses::<OpenAi>();
    crosses::<Model>();
    crosses::<llm_batch::provider::openai::OpenAiBuilder>();
    is_sent::<llm_batch::provider::ResponseFuture>();
}
