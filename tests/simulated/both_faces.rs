//! The crate's own HTTP client gets the same results from the HTTP server as a caller of the tower service.

use std::time::Duration;

use llm_batch::provider::openai::OpenAi;
use llm_batch::testing::{Hint, Quota, SimulatedProvider, SimulatedProviderBuilder};
use llm_batch::{Disposition, ErrorKind, LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage};
use tower::ServiceExt;

type Answer = Result<LlmResponse, LlmError>;

/// Sends the same prompts one after the other to both interfaces of two equal providers.
async fn ask_both(
    set: impl Fn(SimulatedProviderBuilder) -> SimulatedProviderBuilder,
    prompts: &[Prompt],
) -> Vec<[Answer; 2]> {
    let make = || set(SimulatedProvider::builder()).build().unwrap();
    let (virtually, really) = (make(), make());
    let server = really.serve("127.0.0.1:0").await.unwrap();
    let client = OpenAi::builder()
        .base_url(server.base_url())
        .build()
        .unwrap()
        .model("sim");
    let mut answers = Vec::new();
    for prompt in prompts {
        let request = || LlmRequest::new(prompt.clone());
        answers.push([
            virtually.service().oneshot(request()).await,
            client.clone().oneshot(request()).await,
        ]);
    }
    assert_eq!(virtually.ledger(), server.shutdown().await);
    answers
}

fn error(answer: &Answer) -> (ErrorKind, Option<u16>, Disposition, Option<TokenUsage>) {
    let error = answer.as_ref().unwrap_err();
    (error.kind(), error.status(), error.disposition(), error.usage())
}

#[tokio::test]
async fn answers_are_the_same() {
    let schema = serde_json::json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let prompts = [
        Prompt::from("What is 2 + 3?"),
        Prompt::from("What is 2 + 3?")
            .with_system("Be brief.")
            .with_max_output_tokens(4),
        Prompt::from("What is 2 + 3?").with_output_schema(schema),
    ];
    for [virtually, really] in ask_both(|sim| sim.cached_share(0.5), &prompts).await {
        let (virtually, really) = (virtually.unwrap(), really.unwrap());
        assert_eq!(virtually.output, really.output);
        assert_eq!(virtually.usage, really.usage);
        assert_eq!(virtually.metadata.finish_reason, really.metadata.finish_reason);
        assert_eq!(virtually.metadata.response_id, really.metadata.response_id);
        assert_eq!(virtually.metadata.model, really.metadata.model);
    }
}

#[tokio::test]
async fn failures_are_of_the_same_kind_and_cost_the_same() {
    let ask = [Prompt::from("hi")];
    for status in [400, 401, 402, 403, 404, 408, 409, 500, 502, 503, 504, 529] {
        for [virtually, really] in ask_both(|sim| sim.status_rate(status, 1.0), &ask).await {
            assert_eq!(error(&virtually), error(&really), "{status}");
        }
    }
    type Set = fn(SimulatedProviderBuilder) -> SimulatedProviderBuilder;
    let faults: [Set; 7] = [
        |sim| sim.reset_before_rate(1.0),
        |sim| sim.reset_before_head_rate(1.0),
        |sim| sim.reset_in_body_rate(1.0),
        |sim| sim.truncated_rate(1.0),
        |sim| sim.garbage_rate(1.0),
        |sim| sim.refusal_rate(1.0),
        |sim| sim.balance_lasts_for(0),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        for [virtually, really] in ask_both(fault, &ask).await {
            assert_eq!(error(&virtually), error(&really), "{number}");
        }
    }
    let too_large = [Prompt::from("hi").with_max_output_tokens(11)];
    for [virtually, really] in ask_both(|sim| sim.token_quota(Quota::per_minute(10)), &too_large).await {
        assert_eq!(error(&virtually), error(&really));
    }
}

#[tokio::test]
async fn hints_are_read_from_the_wire() {
    let ask = [Prompt::from("hi"), Prompt::from("hi")];
    for hint in Hint::ALL {
        let quota = Quota::new(1, Duration::from_secs(200));
        let answers = ask_both(|sim| sim.request_quota(quota).hint(hint), &ask).await;
        let [virtually, really] = &answers[1];
        assert_eq!(error(virtually), error(really), "{hint}");
        let waits = [virtually, really].map(|answer| answer.as_ref().unwrap_err().retry_after());
        match waits {
            [None, None] => assert_eq!(hint, Hint::None),
            // The clock advanced between the two.
            [Some(virtually), Some(really)] => {
                assert!(
                    virtually.abs_diff(really) < Duration::from_secs(60),
                    "{hint}: {waits:?}"
                );
            }
            _ => panic!("{hint}: {waits:?}"),
        }
    }
}
