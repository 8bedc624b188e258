//! The simulated provider's HTTP server, over real sockets.

use std::time::{Duration, SystemTime};

use futures::future::join_all;
use llm_batch::Prompt;
use llm_batch::testing::{Hint, Ledger, Quota, SimulatedProvider, SimulatedProviderBuilder, SimulatedServer};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Setup {
    provider: SimulatedProvider,
    server: SimulatedServer,
    client: Client,
}

async fn serve(set: impl FnOnce(SimulatedProviderBuilder) -> SimulatedProviderBuilder) -> Setup {
    let provider = set(SimulatedProvider::builder()).build().unwrap();
    let server = provider.serve("127.0.0.1:0").await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    Setup {
        provider,
        server,
        client,
    }
}

impl Setup {
    async fn post(&self, path: &str, body: String) -> reqwest::Result<Response> {
        self.client
            .post(format!("{}{path}", self.server.base_url()))
            .body(body)
            .send()
            .await
    }

    async fn ask(&self, text: &str) -> reqwest::Result<Response> {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        self.post("/chat/completions", body.to_string()).await
    }
}

async fn json(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

fn header(response: &Response, name: &str) -> String {
    response
        .headers()
        .get(name)
        .map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

/// Returns `true` if the chain of sources has an `io::Error` of a reset.
fn is_reset(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset)
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[tokio::test]
async fn it_speaks_chat_completions() {
    let setup = serve(|sim| sim.requests_per_minute(6_000).cached_share(0.5)).await;
    let response = setup.ask("What is 2 + 3?").await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(header(&response, "x-ratelimit-limit-requests"), "6000");
    assert_eq!(header(&response, "x-ratelimit-remaining-requests"), "99");
    assert_eq!(header(&response, "x-ratelimit-reset-requests"), "10ms");
    let body = json(response).await;
    let answer = setup.provider.answer_to(&Prompt::from("What is 2 + 3?"));
    assert_eq!(body["choices"][0]["message"]["content"], answer.as_str());
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["model"], "m");
    let usage = &body["usage"];
    let billed = setup.provider.ledger().billed_answered;
    assert_eq!(usage["prompt_tokens"], billed.input);
    assert_eq!(usage["completion_tokens"], billed.output);
    assert_eq!(usage["total_tokens"], billed.total());
    assert_eq!(
        usage["prompt_tokens_details"]["cached_tokens"],
        billed.cached_input
    );
    assert_eq!(billed.cached_input, 2);

    let root = setup.server.base_url().replace("/v1", "");
    let ledger = setup
        .client
        .get(format!("{root}/_sim/ledger"))
        .send()
        .await
        .unwrap();
    let ledger: Ledger = serde_json::from_str(&ledger.text().await.unwrap()).unwrap();
    assert_eq!(ledger, setup.server.shutdown().await);
}

#[tokio::test]
async fn it_rejects_as_openai_does() {
    let setup = serve(|sim| sim.api_key("sk-right")).await;
    let response = setup.ask("hi").await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(json(response).await["error"]["code"], "invalid_api_key");
    let url = format!("{}/chat/completions", setup.server.base_url());
    let authorised = async |body: &'static str| {
        setup
            .client
            .post(&url)
            .bearer_auth("sk-right")
            .body(body)
            .send()
            .await
            .unwrap()
    };
    for wrong in ["{", "[]", "{}", r#"{"messages": [], "model": "m"}"#] {
        let response = authorised(wrong).await;
        assert_eq!(response.status(), 400, "{wrong}");
        assert_eq!(json(response).await["error"]["type"], "invalid_request_error");
    }
    assert_eq!(
        authorised(r#"{"messages": [{"role": "user", "content": "hi"}]}"#)
            .await
            .status(),
        200
    );
    let lost = setup.post("/embeddings", String::new()).await.unwrap();
    assert_eq!(lost.status(), 404);
    let models = setup
        .client
        .get(format!("{}/models", setup.server.base_url()))
        .bearer_auth("sk-right")
        .send()
        .await
        .unwrap();
    assert_eq!(json(models).await["data"][0]["id"], "sim");
    let ledger = setup.server.shutdown().await;
    assert_eq!(
        (ledger.rejected[&401], ledger.rejected[&400], ledger.answered),
        (1, 4, 1)
    );
    assert!(ledger.is_balanced());
}

#[tokio::test]
async fn each_form_of_hint_is_on_the_wire() {
    for hint in Hint::ALL {
        let quota = Quota::new(1, Duration::from_secs(3_000));
        let setup = serve(|sim| sim.request_quota(quota).hint(hint)).await;
        assert_eq!(setup.ask("hi").await.unwrap().status(), 200);
        let response = setup.ask("hi").await.unwrap();
        assert_eq!(response.status(), 429);
        let (ms, seconds) = (
            header(&response, "retry-after-ms"),
            header(&response, "retry-after"),
        );
        let reset = header(&response, "x-ratelimit-reset-requests");
        let error = json(response).await["error"].clone();
        assert_eq!(error["code"], "rate_limit_exceeded");
        assert_eq!(error["type"], "requests");
        let message = error["message"].as_str().unwrap();
        let said = message
            .split_once("try again in ")
            .map_or("", |(_, rest)| rest.trim_end_matches('.'));
        let details = &error["details"][0]["retryDelay"];
        let given = [
            !ms.is_empty(),
            !seconds.is_empty(),
            !said.is_empty(),
            !reset.is_empty(),
            !details.is_null(),
        ];
        let place = match hint {
            Hint::None => None,
            Hint::RetryAfterMs => Some(0),
            Hint::RetryAfterSeconds | Hint::HttpDate => Some(1),
            Hint::Message => Some(2),
            Hint::ResetHeaders => Some(3),
            Hint::RetryInfo => Some(4),
            _ => unreachable!(),
        };
        assert_eq!(
            given,
            [0, 1, 2, 3, 4].map(|form| Some(form) == place),
            "{hint}: {message}"
        );
        // All but a few seconds of the 3,000 are left, in each form's own format.
        match hint {
            Hint::RetryAfterMs => assert!(ms.parse::<u64>().unwrap() > 2_900_000, "{ms}"),
            Hint::RetryAfterSeconds => assert!(seconds.parse::<u64>().unwrap() > 2_900, "{seconds}"),
            Hint::HttpDate => {
                let date = httpdate::parse_http_date(&seconds).unwrap();
                assert!(date.duration_since(SystemTime::now()).unwrap() > Duration::from_secs(2_900));
            }
            // Rounded up to a millisecond, it may be all of them.
            Hint::Message => assert!(said.starts_with("49m") || said == "50m0s", "{said}"),
            Hint::ResetHeaders => assert!(reset.starts_with("49m") || reset == "50m0s", "{reset}"),
            Hint::RetryInfo => assert!(details.as_str().unwrap().starts_with("29"), "{details}"),
            _ => {}
        }
        assert_eq!(setup.server.shutdown().await.throttled, 1);
    }
}

#[tokio::test]
async fn resets_are_real_and_the_ledger_tells_them_apart() {
    let unread = serve(|sim| sim.reset_before_rate(1.0)).await;
    assert!(is_reset(&unread.ask("hi").await.unwrap_err()));
    let ledger = unread.server.shutdown().await;
    assert_eq!((ledger.reset_unread, ledger.billed_cut.total()), (1, 0));

    let before_head = serve(|sim| sim.reset_before_head_rate(1.0)).await;
    assert!(is_reset(&before_head.ask("hi").await.unwrap_err()));
    let ledger = before_head.server.shutdown().await;
    assert_eq!((ledger.cut, ledger.cut_before_head, ledger.answered), (1, 1, 0));
    assert!(ledger.billed_cut.total() > 0);

    let in_body = serve(|sim| sim.reset_in_body_rate(1.0)).await;
    let response = in_body.ask("hi").await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.is_err());
    let ledger = in_body.server.shutdown().await;
    assert_eq!((ledger.cut, ledger.cut_in_body, ledger.answered), (1, 1, 0));
}

#[tokio::test]
async fn truncated_and_garbage_bodies_are_whole_by_the_rules_of_http() {
    let truncated = serve(|sim| sim.truncated_rate(1.0)).await;
    let text = truncated.ask("hi").await.unwrap().text().await.unwrap();
    assert!(text.starts_with("{\"id\"") && serde_json::from_str::<Value>(&text).is_err());
    let garbage = serve(|sim| sim.garbage_rate(1.0)).await;
    let response = garbage.ask("hi").await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "content-type").as_str()
        ),
        (200, "text/html")
    );
    assert_eq!(garbage.server.shutdown().await.garbled, 1);
    assert_eq!(truncated.server.shutdown().await.garbled, 1);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_cut() {
    // One disconnects before the head, one in the middle of a slow body.
    let slow_head = serve(|sim| sim.latency(Duration::from_secs(3_600))).await;
    let slow_body = serve(|sim| sim.slow_body(1.0, Duration::from_secs(3_600))).await;
    for setup in [slow_head, slow_body] {
        let impatient = Client::builder()
            .no_proxy()
            .timeout(Duration::from_millis(100))
            .build()
            .unwrap();
        let impatient = Setup {
            client: impatient,
            ..setup
        };
        let left = match impatient.ask("hi").await {
            Ok(response) => response.text().await.is_err(),
            Err(error) => error.is_timeout(),
        };
        assert!(left);
        // The server notices it on its socket; only then can it stop.
        let ledger = impatient.server.shutdown().await;
        assert_eq!(
            (ledger.received, ledger.cut, ledger.disconnected, ledger.answered),
            (1, 1, 1, 0)
        );
        assert!(ledger.billed_cut.total() > 0 && ledger.is_balanced());
    }
}

#[tokio::test]
async fn a_slow_body_is_whole_in_the_end() {
    let setup = serve(|sim| sim.slow_body(1.0, Duration::from_millis(80))).await;
    let body = json(setup.ask("hi").await.unwrap()).await;
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(setup.server.shutdown().await.answered, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once_each_get_their_own_answer() {
    let setup = serve(|sim| sim.latency(Duration::from_millis(300)).reset_rate(0.05)).await;
    let answers = join_all((0..1_000).map(|index| {
        let setup = &setup;
        async move {
            let text = format!("question {index}");
            let body = setup.ask(&text).await.ok()?.text().await.ok()?;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                body["choices"][0]["message"]["content"],
                setup.provider.answer_to(&text.into()).as_str()
            );
            Some(body["usage"]["total_tokens"].as_u64().unwrap())
        }
    }))
    .await;
    let ledger = setup.server.shutdown().await;
    assert!(ledger.is_balanced(), "{ledger:?}");
    // A client library may repeat a call whose connection was reset before a reply arrived.
    assert_eq!(ledger.received, ledger.answered + ledger.cut);
    assert_eq!(answers.iter().flatten().count() as u64, ledger.answered);
    assert_eq!(
        answers.iter().flatten().sum::<u64>(),
        ledger.billed_answered.total()
    );
    assert!(ledger.cut > 10, "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_may_be_open_before_the_first_request() {
    let setup = serve(|sim| sim).await;
    let address = setup.server.address();
    let connections = join_all((0..1_000).map(|_| TcpStream::connect(address))).await;
    let request = "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: 48\r\n\r\n\
        {\"messages\": [{\"role\": \"user\", \"content\": \"?\"}]}";
    let replies = join_all(connections.into_iter().map(|connection| async {
        let mut connection = connection?;
        connection.write_all(request.as_bytes()).await?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await?;
        std::io::Result::Ok(reply)
    }));
    assert!(
        replies
            .await
            .into_iter()
            .all(|reply| reply.unwrap().starts_with("HTTP/1.1 200"))
    );
    assert_eq!(setup.server.shutdown().await.answered, 1_000);
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let setup = serve(|sim| sim).await;
    let taken = setup.server.address().to_string();
    assert!(setup.provider.serve(&taken).await.is_err());
    assert!(setup.provider.serve("nowhere").await.is_err());
}
