//! The crate's own clients against the simulator: the same prompts, the same answers, accounts that agree.

use futures::future::join_all;
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::provider::anthropic::{Anthropic, CacheTtl};
use llm_batch::provider::gemini::Gemini;
use llm_batch::provider::openai::OpenAi;
use llm_batch::provider::{Model, Streaming};
use llm_batch::testing::{Ledger, Quota, SimulatedProvider, SimulatedServer};
use llm_batch::{Delivery, ErrorKind, LlmRequest, Prompt};
use tower::{ServiceBuilder, ServiceExt};

use super::support::{ms, serve};

pub(crate) const CLIENTS: [fn(&SimulatedServer) -> Model; 4] = [chat, responses, anthropic, gemini];

fn chat(server: &SimulatedServer) -> Model {
    let client = OpenAi::builder().base_url(server.base_url()).api_key("key");
    client.build().unwrap().chat("m")
}

fn responses(server: &SimulatedServer) -> Model {
    let client = OpenAi::builder().base_url(server.base_url()).api_key("key");
    client.build().unwrap().responses("m")
}

fn anthropic(server: &SimulatedServer) -> Model {
    let client = Anthropic::builder().base_url(server.origin()).api_key("key");
    client.build().unwrap().model("m")
}

fn gemini(server: &SimulatedServer) -> Model {
    let client = Gemini::builder().base_url(server.origin()).api_key("key");
    client.build().unwrap().model("m")
}

pub(crate) fn streaming(model: Model, streamed: bool) -> Model {
    if streamed {
        model.with_streaming(Streaming::new())
    } else {
        model
    }
}

#[tokio::test]
async fn the_same_prompts_get_the_same_answers_and_accounts() {
    let schema = serde_json::json!({"type": "object", "required": ["n", "s"], "additionalProperties": false,
        "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}});
    let prompts = [
        Prompt::from("What is 2 + 3?"),
        Prompt::from("What is 2 + 4?").with_system("Be brief."),
        Prompt::from("What is 2 + 5? é日本").with_output_schema(schema),
    ];
    let setup = serve(|sim| sim.api_key("key").reasoning_tokens(9).cached_share(0.25)).await;
    for prompt in prompts {
        let mut answers = Vec::new();
        for client in CLIENTS {
            for streamed in [false, true] {
                let model = streaming(client(&setup.server), streamed);
                let answer = model.oneshot(LlmRequest::new(prompt.clone())).await.unwrap();
                assert_eq!(answer.output, setup.provider.answer_to(&prompt));
                answers.push((
                    answer.output,
                    answer.usage.unwrap(),
                    answer.metadata.finish_reason,
                ));
            }
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
        assert_eq!(answers[0].1.reasoning, 9);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_agree_with_the_providers_ledger_whatever_goes_wrong() {
    for client in CLIENTS {
        for streamed in [false, true] {
            let (ours, theirs) = under_faults(client, streamed).await;
            let faults = [
                theirs.throttled,
                theirs.cut,
                theirs.garbled,
                theirs.billed_answered.cached_input,
            ];
            assert!(faults.iter().all(|count| *count > 0), "{theirs:?}");
            assert_eq!(theirs.error_events > 0, streamed);
            let snapshot = ours.snapshot();
            assert_eq!(snapshot.calls, theirs.received);
            assert_eq!(snapshot.usage, theirs.billed_answered, "{theirs:?}");
            assert_eq!(
                snapshot.unknown_usage_calls,
                theirs.cut + theirs.garbled,
                "{theirs:?}"
            );
        }
    }
}

async fn under_faults(client: fn(&SimulatedServer) -> Model, streamed: bool) -> (TokenLedger, Ledger) {
    let provider = SimulatedProvider::builder()
        .seed(5)
        .request_quota(Quota::new(350, ms(3_600_000)))
        .latency(ms(20))
        .slow_body(0.1, ms(40))
        .reset_rate(0.1)
        .status_rate(503, 0.05)
        .truncated_rate(0.05)
        .cached_share(0.5)
        .stream_cut_rate(0.1)
        .stream_error_rate(0.1)
        .reasoning_tokens(5)
        .keep_alive(ms(7))
        .build()
        .unwrap();
    let server = provider.serve("127.0.0.1:0").await.unwrap();
    let ledger = TokenLedger::new();
    let model = ServiceBuilder::new()
        .layer(TokenAccountingLayer::new(ledger.clone()))
        .service(streaming(client(&server), streamed));
    join_all((0..400).map(|index| {
        let request = LlmRequest::new(Prompt::from(format!("question {index}")));
        model.clone().oneshot(request)
    }))
    .await;
    (ledger, server.shutdown().await)
}

#[tokio::test]
async fn failures_are_of_the_same_kind_on_every_wire() {
    let kinds = [
        (401, ErrorKind::Authentication),
        (402, ErrorKind::InsufficientBalance),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::NotFound),
        (409, ErrorKind::Conflict),
        (429, ErrorKind::RateLimit),
        (500, ErrorKind::ServerError),
        (502, ErrorKind::ServerError),
        (503, ErrorKind::Overloaded),
        (504, ErrorKind::Timeout),
        (529, ErrorKind::Overloaded),
    ];
    for (status, kind) in kinds {
        let setup = serve(|sim| sim.status_rate(status, 1.0)).await;
        for client in CLIENTS {
            let error = client(&setup.server)
                .oneshot(LlmRequest::new("hi".into()))
                .await
                .unwrap_err();
            assert_eq!((error.kind(), error.status()), (kind, Some(status)), "{error}");
        }
    }
    let setup = serve(|sim| sim.refusal_rate(1.0)).await;
    for client in CLIENTS {
        for streamed in [false, true] {
            let model = streaming(client(&setup.server), streamed);
            let error = model.oneshot(LlmRequest::new("hi".into())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ContentFilter, "{error}");
        }
    }
    let setup = serve(|sim| sim.api_key("another")).await;
    for client in CLIENTS {
        let error = client(&setup.server)
            .oneshot(LlmRequest::new("hi".into()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error}");
    }
    let setup = serve(|sim| sim.balance_lasts_for(0)).await;
    for client in CLIENTS {
        let error = client(&setup.server)
            .oneshot(LlmRequest::new("hi".into()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InsufficientBalance, "{error}");
    }
    let throttles = [
        serve(|sim| sim.request_quota(Quota::new(1, ms(200_000)))).await,
        serve(|sim| {
            sim.token_quota(Quota::new(20, ms(200_000)))
                .hint(llm_batch::testing::Hint::RetryInfo)
        })
        .await,
    ];
    for setup in throttles {
        setup
            .ask(
                super::support::Wire::Chat,
                &super::support::Ask::new("x".repeat(60)),
            )
            .await
            .unwrap();
        for client in CLIENTS {
            let prompt = Prompt::from("x".repeat(60)).with_max_output_tokens(15);
            let error = client(&setup.server)
                .oneshot(LlmRequest::new(prompt))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::RateLimit, "{error}");
            assert!(
                error.retry_after().is_some_and(|wait| wait > ms(50_000)),
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_shared_prefix_is_written_once_and_read_by_every_other_call() {
    let setup = serve(|sim| sim).await;
    let context = "A long shared context. ".repeat(300);
    let anthropic = Anthropic::builder()
        .base_url(setup.server.origin())
        .api_key("key");
    let anthropic = anthropic
        .cache_system(CacheTtl::FiveMinutes)
        .build()
        .unwrap()
        .model("m");
    let gemini = Gemini::builder()
        .base_url(setup.server.origin())
        .api_key("key")
        .build()
        .unwrap();
    let content = Prompt::default().with_system(context.as_str());
    let cached = gemini.context_cache("m", content).unwrap();
    for number in 0..5 {
        let prompt = Prompt::from(format!("What is {number} + 3?"));
        let whole = prompt.clone().with_system(context.as_str());
        let expected = setup.provider.answer_to(&whole);
        let answer = anthropic.clone().oneshot(LlmRequest::new(whole)).await.unwrap();
        let usage = answer.usage.unwrap();
        assert_eq!(
            (&answer.output, usage.cache_write > 0, usage.cached_input > 0),
            (&expected, number == 0, number > 0)
        );
        let answer = cached.model().oneshot(LlmRequest::new(prompt)).await.unwrap();
        assert_eq!(
            (&answer.output, answer.usage.unwrap().cached_input),
            (&expected, cached.tokens().unwrap())
        );
    }
    let ledger = setup.server.shutdown().await;
    assert_eq!((ledger.caches_created, ledger.answered), (1, 10));
}

#[tokio::test]
async fn a_stream_that_stands_still_times_out_and_may_have_been_billed() {
    let setup = serve(|sim| sim.stream_stall(1.0, ms(3_600_000))).await;
    for client in CLIENTS {
        let idle = Streaming::new().with_idle_timeout(ms(150));
        let model = client(&setup.server).with_streaming(idle);
        let error = model
            .oneshot(LlmRequest::new("What is 2 + 3?".into()))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.usage()),
            (ErrorKind::TimedOut, None),
            "{error}"
        );
        assert_eq!(error.delivery(), Delivery::MaybeBilled);
    }
    let ledger = setup.server.shutdown().await;
    assert_eq!((ledger.cut, ledger.disconnected, ledger.answered), (4, 4, 0));
}
