//! Context caches: their life, and who pays for what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use futures::{StreamExt, stream};
use llm_batch::provider::Streaming;
use llm_batch::provider::gemini::{ContextCache, Gemini};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    Delivery, Disposition, ErrorKind, LlmRequest, LlmStreamExt, Message, Prompt, Role, StandardLayer,
    TokenAccountingLayer, TokenLedger, TokenUsage, ToolCall,
};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};

use super::{answer, ask, builder, tokens};
use crate::server::{Received, Reply, Server};

/// The provider's side: which caches there are.
#[derive(Default)]
struct Caches {
    live: Mutex<BTreeMap<String, Value>>,
    made: AtomicUsize,
}

fn error(status: u16, name: &str, message: &str) -> Reply {
    let body = json!({"error": {"code": status, "message": message, "status": name}});
    Reply::new(status, &[], body.to_string())
}

fn missing() -> Reply {
    error(
        403,
        "PERMISSION_DENIED",
        "CachedContent not found (or permission denied)",
    )
}

fn in_seconds(seconds: i64) -> String {
    let now = SystemTime::now();
    let span = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { now - span } else { now + span };
    humantime::format_rfc3339_nanos(time).to_string()
}

impl Caches {
    fn put(&self, name: &str, display_name: &str, model: &str, seconds: i64) {
        let cache = json!({
            "name": name, "displayName": display_name, "model": model, "expireTime": in_seconds(seconds),
            "usageMetadata": {"totalTokenCount": 3512},
        });
        self.live.lock().unwrap().insert(name.to_owned(), cache);
    }

    fn forget(&self, name: &str) {
        self.live.lock().unwrap().remove(name);
    }

    fn names(&self) -> Vec<String> {
        self.live.lock().unwrap().keys().cloned().collect()
    }

    fn handle(&self, request: &Received) -> Reply {
        let path = request.path.strip_prefix("/v1/").unwrap();
        let path = path.split('?').next().unwrap();
        let ttl = || -> i64 {
            request.json()["ttl"]
                .as_str()
                .unwrap()
                .trim_end_matches('s')
                .parse()
                .unwrap()
        };
        match request.method.as_str() {
            "POST" if path == "cachedContents" => {
                let body = request.json();
                let name = format!("cachedContents/c{}", self.made.fetch_add(1, Ordering::SeqCst) + 1);
                let text = |field: &str| body[field].as_str().unwrap().to_owned();
                self.put(&name, &text("displayName"), &text("model"), ttl());
                Reply::json(&self.live.lock().unwrap()[&name])
            }
            "POST" => {
                let name = request.json()["cachedContent"].as_str().unwrap().to_owned();
                if !self.live.lock().unwrap().contains_key(&name) {
                    return missing();
                }
                let mut reply = answer("Paris.");
                reply["usageMetadata"] = json!({"promptTokenCount": 3520, "cachedContentTokenCount": 3512, "candidatesTokenCount": 2});
                Reply::json(&reply)
            }
            "GET" => {
                let caches: Vec<_> = self.live.lock().unwrap().values().cloned().collect();
                Reply::json(&json!({ "cachedContents": caches }))
            }
            "PATCH" => match self.live.lock().unwrap().get_mut(path) {
                Some(cache) => {
                    cache["expireTime"] = in_seconds(ttl()).into();
                    Reply::json(cache)
                }
                None => missing(),
            },
            "DELETE" => match self.live.lock().unwrap().remove(path) {
                Some(_) => Reply::json(&json!({})),
                None => missing(),
            },
            other => panic!("{other} {path}"),
        }
    }
}

/// A provider that answers as [`Caches`] does, unless `first` has an answer.
async fn provider(
    first: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Caches>) {
    let caches = Arc::new(Caches::default());
    let state = Arc::clone(&caches);
    let server =
        Server::start(move |request| first(&request).unwrap_or_else(|| state.handle(&request))).await;
    (server, caches)
}

fn content() -> Prompt {
    Prompt::default()
        .with_system("Be brief.")
        .with_message(Message::user("long shared prefix"))
}

fn cache(server: &Server) -> ContextCache {
    builder(server)
        .build()
        .unwrap()
        .context_cache("gemini-2.5-flash", content())
        .unwrap()
}

/// What was asked of the caches, in order, without the questions.
fn asked(server: &Server) -> Vec<String> {
    let received = server.received().into_iter();
    let caches = received.filter(|sent| sent.path.contains("/cachedContents"));
    caches
        .map(|sent| {
            let path = sent
                .path
                .split('?')
                .next()
                .unwrap()
                .replace("/v1/cachedContents", "");
            format!("{}{path}", sent.method)
        })
        .collect()
}

fn questions(server: &Server) -> Vec<Value> {
    let received = server.received().into_iter();
    received
        .filter(|sent| sent.path.contains(":generateContent"))
        .map(|sent| sent.json())
        .collect()
}

#[tokio::test]
async fn a_cache_is_made_and_used_as_by_googles_client() {
    let (server, _) = provider(|_| None).await;
    let cache = cache(&server);
    assert_eq!((cache.name(), cache.tokens()), (None, None));
    let answer = ask(&cache.model(), "hi").await.unwrap();
    assert_eq!(tokens(answer.usage), Some((3520, 2, 3512, 0)));
    assert_eq!(asked(&server), ["GET", "POST"]);
    let sent = server.received();
    assert_eq!(sent[0].path, "/v1/cachedContents?pageSize=1000");
    assert_eq!(sent[0].header("content-length"), None);
    let mut made = sent[1].json();
    let name = made["displayName"].take();
    let name = name.as_str().unwrap();
    assert!(
        name.starts_with("llm-batch ") && name.ends_with(" models/gemini-2.5-flash") && name.len() <= 128
    );
    assert_eq!(
        made,
        json!({
            "model": "models/gemini-2.5-flash", "ttl": "3600s", "displayName": null,
            "contents": [{"parts": [{"text": "long shared prefix"}], "role": "user"}],
            "systemInstruction": {"parts": [{"text": "Be brief."}], "role": "user"},
        })
    );
    // The question repeats nothing of it.
    assert_eq!(
        sent[2].json(),
        json!({"contents": [{"parts": [{"text": "hi"}], "role": "user"}], "cachedContent": "cachedContents/c1"})
    );
    assert_eq!(sent[2].path, "/v1/models/gemini-2.5-flash:generateContent");
    assert_eq!(
        (cache.name().as_deref(), cache.tokens()),
        (Some("cachedContents/c1"), Some(3512))
    );
}

#[tokio::test]
async fn the_messages_of_a_cache_keep_their_digits_and_are_checked() {
    const BIG: &str = r#"{"order":340282366920938463463374607431768211455}"#;
    let (server, _) = provider(|_| None).await;
    let client = builder(&server).build().unwrap();
    let with = |message| content().with_message(message);
    let called = with(Message::tool_calls([ToolCall::new("c1", "cancel", BIG)]))
        .with_message(Message::tool_result("c1", BIG));
    let cache = client.context_cache("gemini-2.5-flash", called).unwrap();
    ask(&cache.model(), "x").await.unwrap();
    let requests = server.received();
    let made = requests
        .iter()
        .find(|request| request.body.contains("displayName"));
    let made = &made.unwrap().body;
    for part in [r#""args":"#, r#""response":"#] {
        assert!(made.contains(&format!("{part}{BIG}")), "{made}");
    }

    let misplaced = with(Message::new(Role::User, Message::tool_result("c1", "x").content));
    let error = client.context_cache("gemini-2.5-flash", misplaced).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.message().contains("another role"), "{error}");
}

#[tokio::test]
async fn a_hundred_callers_make_one_cache() {
    let (server, _) = provider(|request| {
        (request.method == "GET").then(|| Reply::json(&json!({})).wait(Duration::from_millis(20)))
    })
    .await;
    let cache = cache(&server);
    let model = cache.model();
    let answers = join_all((0..100).map(|_| ask(&model, "hi"))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(asked(&server), ["GET", "POST"]);
    assert_eq!(questions(&server).len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_items_under_the_whole_stack_share_one_cache() {
    let (server, caches) = provider(|_| None).await;
    let cache = cache(&server);
    let layer = StandardLayer::new();
    let ledger = layer.ledger().clone();
    let prompts = (0..1_000).map(|number| format!("question {number}"));
    let mut results = stream::iter(prompts)
        .with_strategy(layer.layer(cache.model()))
        .llm_batch(200);
    let mut answered = 0;
    while let Some(outcome) = results.next().await {
        outcome.result.unwrap();
        answered += 1;
        if answered == 500 {
            // Somebody else removes it.
            caches.forget("cachedContents/c1");
        }
    }
    assert_eq!(answered, 1_000);
    assert_eq!(asked(&server).iter().filter(|call| *call == "POST").count(), 2);
    let usage = ledger.snapshot().usage;
    assert_eq!((usage.input, usage.cached_input), (3_520_000, 3_512_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_those_of_the_simulated_provider_though_the_cache_goes_away() {
    for streamed in [false, true] {
        let provider = SimulatedProvider::builder().build().unwrap();
        let server = provider.serve("127.0.0.1:0").await.unwrap();
        let client = Gemini::builder().base_url(server.origin()).build().unwrap();
        let content =
            Prompt::default().with_message(Message::user("All cats are grey at night. ".repeat(200)));
        let cache = || client.context_cache("gemini-2.5-flash", content.clone()).unwrap();
        let mut model = cache().model();
        if streamed {
            model = model.with_streaming(Streaming::new());
        }
        let layer = StandardLayer::new();
        let ours = layer.ledger().clone();
        let prompts = (0..400).map(|number| format!("question {number}"));
        let mut results = stream::iter(prompts)
            .with_strategy(layer.layer(model))
            .llm_batch(50);
        let (mut answered, mut calls, mut usage) = (0, 0, TokenUsage::ZERO);
        while let Some(outcome) = results.next().await {
            outcome.result.unwrap();
            assert_eq!(
                (outcome.report.attempts, outcome.report.unknown_usage_calls),
                (1, 0)
            );
            calls += u64::from(outcome.report.calls);
            usage += outcome.report.usage;
            answered += 1;
            if answered == 200 {
                // Another process adopts it, and removes it.
                let other = cache();
                other.prepare().await.unwrap();
                other.delete().await.unwrap();
            }
        }
        let theirs = server.shutdown().await;
        assert_eq!((answered, theirs.answered, theirs.caches_created), (400, 400, 2));
        assert_eq!(theirs.billed_answered, usage);
        assert_eq!(ours.snapshot().usage, usage);
        // Every item met the removal at most once.
        let refused = theirs.rejected.get(&403).copied().unwrap_or_default();
        assert!((1..=100).contains(&refused), "{refused}");
        assert_eq!(calls, 400 + refused);
        assert_eq!(usage.cached_input, 400 * theirs.cache_creation_tokens / 2);
    }
}

#[tokio::test]
async fn a_live_cache_of_the_same_identity_is_adopted() {
    let (server, caches) = provider(|request| {
        // On the second page.
        let first_page = request.method == "GET" && !request.path.contains("pageToken");
        first_page.then(|| Reply::json(&json!({"cachedContents": [{"name": 7}, {}], "nextPageToken": "p 2"})))
    })
    .await;
    // Learn the name from one that is made.
    ask(&cache(&server).model(), "hi").await.unwrap();
    let made = server.received()[2].json();
    let name = made["displayName"].as_str().unwrap();
    caches.forget("cachedContents/c1");
    caches.put(
        "cachedContents/other-name",
        "llm-batch x",
        "models/gemini-2.5-flash",
        5_000,
    );
    caches.put("cachedContents/other-model", name, "models/gemini-2.5-pro", 5_000);
    caches.put("cachedContents/expired", name, "models/gemini-2.5-flash", -5);
    caches.put("cachedContents/short", name, "models/gemini-2.5-flash", 400);
    caches.put("cachedContents/long", name, "models/gemini-2.5-flash", 800);

    let before = asked(&server).len();
    let adopted = cache(&server);
    ask(&adopted.model(), "hi").await.unwrap();
    assert_eq!(adopted.name().as_deref(), Some("cachedContents/long"));
    assert_eq!(asked(&server)[before..], ["GET", "GET"]);
    let second_page = server
        .received()
        .into_iter()
        .rfind(|sent| sent.method == "GET")
        .unwrap();
    assert_eq!(second_page.path, "/v1/cachedContents?pageSize=1000&pageToken=p+2");
    // Another content has another identity.
    let other = builder(&server).build().unwrap();
    let other = other
        .context_cache("gemini-2.5-flash", content().with_system("Be long."))
        .unwrap();
    other.prepare().await.unwrap();
    assert_eq!(caches.made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_adopted_cache_near_its_end_is_renewed_once_by_all() {
    let (server, caches) = provider(|_| None).await;
    ask(&cache(&server).model(), "hi").await.unwrap();
    let name = server.received()[1].json()["displayName"]
        .as_str()
        .unwrap()
        .to_owned();
    caches.put("cachedContents/c1", &name, "models/gemini-2.5-flash", 200);

    let before = asked(&server).len();
    let adopted = cache(&server).with_time_to_live(Duration::from_millis(1_799_500));
    let model = adopted.model();
    for answer in join_all((0..50).map(|_| ask(&model, "hi"))).await {
        answer.unwrap();
    }
    ask(&model, "hi").await.unwrap();
    assert_eq!(asked(&server)[before..], ["GET", "PATCH/c1"]);
    let renewal = server
        .received()
        .into_iter()
        .find(|sent| sent.method == "PATCH")
        .unwrap();
    assert_eq!(renewal.json(), json!({"ttl": "1800s"}));
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_cache_in_use_unless_it_is_gone() {
    for (status, later) in [(503, vec![]), (403, vec!["POST"]), (404, vec!["POST"])] {
        let (server, caches) =
            provider(move |request| (request.method == "PATCH").then(|| error(status, "X", "no"))).await;
        ask(&cache(&server).model(), "hi").await.unwrap();
        let name = server.received()[1].json()["displayName"]
            .as_str()
            .unwrap()
            .to_owned();
        caches.put("cachedContents/c1", &name, "models/gemini-2.5-flash", 100);
        let before = asked(&server).len();
        let model = cache(&server).model();
        for _ in 0..3 {
            ask(&model, "hi").await.unwrap();
        }
        let mut expected = vec!["GET", "PATCH/c1"];
        expected.extend(later);
        assert_eq!(asked(&server)[before..], expected, "{status}");
    }
}

#[tokio::test]
async fn a_list_that_fails_is_no_reason_not_to_make_one() {
    let (server, _) =
        provider(|request| (request.method == "GET").then(|| error(500, "INTERNAL", "no"))).await;
    ask(&cache(&server).model(), "hi").await.unwrap();
    assert_eq!(asked(&server), ["GET", "POST"]);
}

#[tokio::test]
async fn an_expired_cache_is_replaced_before_it_is_used() {
    // The first one is born dead.
    let (server, _) = provider(|request| {
        let first = request.method == "POST" && request.number == 1;
        first.then(|| Reply::json(&json!({"name": "cachedContents/dead", "expireTime": in_seconds(-1)})))
    })
    .await;
    let cache = cache(&server);
    cache.prepare().await.unwrap();
    assert_eq!(ask(&cache.model(), "hi").await.unwrap().output, "Paris.");
    assert_eq!(asked(&server), ["GET", "POST", "GET", "POST"]);
    assert_eq!(cache.name().as_deref(), Some("cachedContents/c1"));
}

#[tokio::test]
async fn a_cache_that_is_gone_is_replaced_once_and_the_question_repeated_once() {
    // The list still shows the old one.
    let stale = Arc::new(Mutex::new(None));
    let shown = Arc::clone(&stale);
    let (server, caches) = provider(move |request| {
        let shown = shown
            .lock()
            .unwrap()
            .clone()
            .filter(|_| request.method == "GET")?;
        Some(Reply::json(&json!({ "cachedContents": [shown] })))
    })
    .await;
    let cache = cache(&server);
    cache.prepare().await.unwrap();
    *stale.lock().unwrap() = Some(caches.live.lock().unwrap()["cachedContents/c1"].clone());
    caches.forget("cachedContents/c1");

    let ledger = TokenLedger::new();
    let model = TokenAccountingLayer::new(ledger.clone()).layer(cache.model());
    let calls = (0..20).map(|_| {
        let request = LlmRequest::new(Prompt::new("hi"));
        let item = Arc::clone(request.item());
        let call = model.clone().oneshot(request);
        async move { (call.await, item) }
    });
    for (answer, item) in join_all(calls).await {
        assert_eq!(tokens(answer.unwrap().usage), Some((3520, 2, 3512, 0)));
        let report = item.report();
        // The refused question is a call of its own, which cost nothing.
        assert_eq!(
            (report.calls, report.attempts, report.unknown_usage_calls),
            (2, 1, 0)
        );
        assert_eq!((report.usage.input, report.usage.output), (3520, 2));
    }
    assert_eq!(asked(&server), ["GET", "POST", "GET", "POST"]);
    assert_eq!(questions(&server).len(), 40);
    assert_eq!(ledger.snapshot().usage.input, 20 * 3520);
    assert_eq!(caches.names(), ["cachedContents/c2"]);
}

#[tokio::test]
async fn what_names_the_cache_is_about_the_cache() {
    // 404, in words of its own.
    let (server, caches) = provider(|request| {
        let question =
            request.path.contains(":generateContent") && request.body.contains("cachedContents/c1");
        question.then(|| {
            error(
                404,
                "NOT_FOUND",
                "Requested entity cachedContents/c1 was not found.",
            )
        })
    })
    .await;
    let cache = cache(&server);
    ask(&cache.model(), "hi").await.unwrap();
    assert_eq!(caches.made.load(Ordering::SeqCst), 2);
    // Any other 403 is not.
    let (server, caches) = provider(|request| {
        let question = request.path.contains(":generateContent");
        question.then(|| error(403, "PERMISSION_DENIED", "The caller does not have permission"))
    })
    .await;
    let refused = ask(&self::cache(&server).model(), "hi").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert_eq!(caches.made.load(Ordering::SeqCst), 1);
    // One that is gone again and again is the caller's to retry.
    let (server, _) = provider(|request| request.path.contains(":generateContent").then(missing)).await;
    let gone = ask(&self::cache(&server).model(), "hi").await.unwrap_err();
    assert_eq!(
        (gone.kind(), gone.disposition()),
        (ErrorKind::CacheMissing, Disposition::Backoff)
    );
    assert_eq!(questions(&server).len(), 2);
}

#[tokio::test]
async fn content_that_is_refused_fails_all_and_is_sent_once() {
    let (server, _) = provider(|request| {
        (request.method == "POST").then(|| {
            let message = "Cached content is too small. total_token_count=97, min_total_token_count=1024";
            error(400, "INVALID_ARGUMENT", message)
        })
    })
    .await;
    let model = cache(&server).model();
    for _ in 0..2 {
        for refused in join_all((0..10).map(|_| ask(&model, "hi"))).await {
            let refused = refused.unwrap_err();
            assert_eq!(
                (
                    refused.kind(),
                    refused.disposition(),
                    refused.delivery(),
                    refused.status()
                ),
                (
                    ErrorKind::InvalidRequest,
                    Disposition::ScopeFatal,
                    Delivery::NotSent,
                    Some(400)
                )
            );
            let text = refused.to_string();
            assert!(
                text.contains("total_token_count=97") && text.contains("without a cache"),
                "{text}"
            );
        }
    }
    assert_eq!(asked(&server), ["GET", "POST"]);
}

#[tokio::test]
async fn a_making_that_fails_is_shared_and_tried_again_by_the_next() {
    let (server, _) = provider(|request| {
        let first = request.method == "POST" && request.number == 1;
        first.then(|| {
            Reply::new(
                503,
                &[("retry-after", "3")],
                r#"{"error":{"code":503,"message":"full","status":"UNAVAILABLE"}}"#,
            )
            .wait(Duration::from_millis(20))
        })
    })
    .await;
    let model = cache(&server).model();
    for failed in join_all((0..10).map(|_| ask(&model, "hi"))).await {
        let failed = failed.unwrap_err();
        assert_eq!(
            (failed.kind(), failed.delivery(), failed.retry_after()),
            (
                ErrorKind::Overloaded,
                Delivery::NotSent,
                Some(Duration::from_secs(3))
            )
        );
    }
    ask(&model, "hi").await.unwrap();
    assert_eq!(asked(&server), ["GET", "POST", "GET", "POST"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_making_to_the_others() {
    let (server, _) = provider(|request| {
        (request.method == "GET").then(|| Reply::json(&json!({})).wait(Duration::from_millis(50)))
    })
    .await;
    let model = cache(&server).model();
    let first = tokio::spawn({
        let model = model.clone();
        async move { ask(&model, "hi").await }
    });
    while server.received().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let model = model.clone();
        async move { ask(&model, "hi").await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    second.await.unwrap().unwrap();
    assert_eq!(asked(&server), ["GET", "POST"]);
}

#[tokio::test]
async fn it_is_deleted_once_and_then_ends() {
    let refuse = Arc::new(AtomicUsize::new(1));
    let (server, caches) = provider(move |request| {
        let refused = request.method == "DELETE" && refuse.swap(0, Ordering::SeqCst) == 1;
        refused.then(|| error(500, "INTERNAL", "no"))
    })
    .await;
    let kept = cache(&server);
    ask(&kept.model(), "hi").await.unwrap();
    drop(kept);
    assert_eq!(caches.names(), ["cachedContents/c1"]);

    let used = cache(&server);
    let model = used.model();
    ask(&model, "hi").await.unwrap();
    assert_eq!(used.delete().await.unwrap_err().kind(), ErrorKind::ServerError);
    for deleted in join_all((0..5).map(|_| used.delete())).await {
        deleted.unwrap();
    }
    used.clone().delete().await.unwrap();
    assert!(caches.names().is_empty());
    assert_eq!(asked(&server), ["GET", "POST", "GET", "DELETE/c1", "DELETE/c1"]);
    let ended = ask(&model, "hi").await.unwrap_err();
    assert_eq!(
        (ended.kind(), ended.delivery()),
        (ErrorKind::Configuration, Delivery::NotSent)
    );

    // Nothing was made, or it is gone already: nothing to do.
    cache(&server).delete().await.unwrap();
    assert_eq!(asked(&server).len(), 5);
    let gone = cache(&server);
    gone.prepare().await.unwrap();
    caches.forget(&gone.name().unwrap());
    gone.delete().await.unwrap();
}

#[tokio::test]
async fn a_prompt_that_contradicts_the_cache_is_not_sent() {
    let (server, _) = provider(|_| None).await;
    let tools = json!([{"functionDeclarations": [{"name": "f"}]}]);
    let client = builder(&server).build().unwrap();
    let cache = client
        .context_cache(
            "models/gemini-2.5-flash",
            content().with_extra("tools", tools.clone()),
        )
        .unwrap();
    let model = cache.model();
    for prompt in [
        Prompt::new("x").with_system("Be long."),
        Prompt::new("x").with_message(Message::system("Be long.")),
        Prompt::new("x").with_model("gemini-2.5-pro"),
        Prompt::new("x").with_extra("tools", json!([])),
        Prompt::new("x").with_extra("toolConfig", json!({})),
    ] {
        let error = ask(&model, prompt).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (ErrorKind::InvalidRequest, Delivery::NotSent)
        );
        assert!(error.to_string().contains("context cache"), "{error}");
    }
    assert!(questions(&server).is_empty());
    // What says the same is left out.
    let same = Prompt::new("x")
        .with_model("gemini-2.5-flash")
        .with_system("Be brief.")
        .with_extra("tools", tools.clone())
        .with_temperature(0.5);
    ask(&model, same).await.unwrap();
    let raw = json!({"contents": [{"parts": [{"text": "raw"}]}]});
    ask(&model, Prompt::raw(raw.as_object().unwrap().clone()))
        .await
        .unwrap();
    let name = "cachedContents/c1";
    assert_eq!(
        questions(&server),
        [
            json!({"contents": [{"parts": [{"text": "x"}], "role": "user"}], "cachedContent": name,
                   "generationConfig": {"temperature": 0.5}}),
            json!({"contents": [{"parts": [{"text": "raw"}]}], "cachedContent": name}),
        ]
    );
    assert_eq!(server.received()[1].json()["tools"], tools);
    let nothing = client.context_cache("m", Prompt::default()).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::InvalidRequest);
}
