//! Setting up clients, and where keys must never show.

use llm_batch::provider::Model;
use llm_batch::provider::gemini::{ContextCache, Gemini, GeminiBuilder};
use llm_batch::{ErrorKind, LlmRequest, Prompt};
use tower::ServiceExt;

use super::{KEY, ask, builder, model, reply};
use crate::in_process::describe_in;
use crate::server::{Reply, Server};

#[test]
fn the_environment_sets_up_a_client() {
    for name in ["gemini_from_env", "gemini:gemini-2.5-flash"] {
        let text = describe_in(name, &[]);
        assert!(
            text.contains("error:") && text.contains("GEMINI_API_KEY") && text.contains("GOOGLE_API_KEY"),
            "{text}"
        );
        for variable in ["GEMINI_API_KEY", "GOOGLE_API_KEY"] {
            let text = describe_in(name, &[(variable, "AIza-in-the-environment")]);
            assert!(text.contains("ok:") && !text.contains("AIza-in-the"), "{text}");
        }
        let text = describe_in(name, &[("GEMINI_BASE_URL", "nonsense")]);
        assert!(text.contains("base URL"), "{text}");
    }
    let text = describe_in("gemini_from_env", &[("GEMINI_API_KEY", "k")]);
    assert!(text.contains("generativelanguage.googleapis.com"), "{text}");
    let text = describe_in(
        "gemini_from_env",
        &[("GEMINI_BASE_URL", "http://gateway.example/v1beta")],
    );
    assert!(text.contains("ok:") && text.contains("gateway.example"), "{text}");
    assert!(describe_in("gemini:", &[("GEMINI_API_KEY", "k")]).contains("names no model"));
}

#[test]
fn malformed_settings_are_refused_with_what_to_do() {
    let error = |builder: GeminiBuilder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    assert!(error(Gemini::builder()).contains("GEMINI_API_KEY"));
    let variable = "LLM_BATCH_TEST_NO_SUCH_KEY";
    assert!(error(Gemini::builder().api_key_env(variable)).contains(variable));
    assert!(error(Gemini::builder().api_key("k").base_url("ftp://x")).contains("base URL"));
    assert!(Gemini::builder().base_url("http://localhost:1").build().is_ok());
}

#[tokio::test]
async fn a_named_strategy_asks_the_given_server() {
    let server = Server::start(|_| reply("ok")).await;
    let named = Model::builder("gemini:models/gemini-2.5-flash")
        .base_url(format!("http://{}/v1beta", server.address))
        .api_key(KEY)
        .build()
        .unwrap();
    assert_eq!(ask(&named, "x").await.unwrap().output, "ok");
    assert_eq!(
        server.received()[0].path,
        "/v1beta/models/gemini-2.5-flash:generateContent"
    );
}

#[tokio::test]
async fn no_text_shows_a_key() {
    let clean = |text: String| assert!(!text.contains(KEY) && !text.contains("hidden"), "{text}");
    let builder_with_key = Gemini::builder()
        .base_url("https://host.example/v1?key=hidden")
        .api_key(KEY);
    clean(format!("{builder_with_key:?}"));
    let client = builder_with_key.build().unwrap();
    let cache = client
        .context_cache("m", Prompt::default().with_system("hidden"))
        .unwrap();
    clean(format!(
        "{client:?} {:?} {cache:?} {:?}",
        client.model("m"),
        cache.model()
    ));

    // Neither when the server echoes it, nor in an address.
    for (status, body) in [
        (
            400,
            format!(r#"{{"error":{{"message":"API key {KEY} not valid","status":"{KEY}"}}}}"#),
        ),
        (500, format!("x-goog-api-key: {KEY}")),
        (200, format!("<html>{KEY}</html>")),
        (
            200,
            format!(
                r#"{{"candidates":[{{"finishReason":"SAFETY","content":{{"parts":[{{"text":"{KEY}"}}]}}}}]}}"#
            ),
        ),
    ] {
        let server = Server::start(move |_| Reply::new(status, &[], &body)).await;
        let error = ask(&model(&server), "x").await.unwrap_err();
        clean(format!(
            "{error} {error:?} {}",
            serde_json::to_string(&error).unwrap()
        ));
        assert!(!server.received()[0].path.contains(KEY));
        // Nor in the errors of a cache.
        let cache = builder(&server)
            .build()
            .unwrap()
            .context_cache("m", Prompt::default().with_system("s"))
            .unwrap();
        if let Err(error) = cache.prepare().await {
            clean(format!(
                "{error} {error:?} {:?}",
                std::error::Error::source(&error)
            ));
        }
        assert!(server.received().iter().all(|sent| !sent.path.contains(KEY)));
    }

    // A redirect to another place gets nothing.
    let other = Server::start(|_| reply("stolen")).await;
    let target = format!("http://{}/v1?x={KEY}", other.address);
    let server = Server::start(move |_| Reply::new(307, &[("location", &target)], "")).await;
    let error = ask(&model(&server), "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    clean(format!("{error} {error:?}"));
    assert_eq!(other.accepted(), 0);

    let unreachable = Gemini::builder()
        .base_url(format!("http://127.0.0.1:1/v1?key={KEY}"))
        .api_key(KEY)
        .build()
        .unwrap();
    let error = unreachable
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    clean(format!("{error} {error:?}"));
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Gemini>();
    crosses::<GeminiBuilder>();
    crosses::<ContextCache>();
}
