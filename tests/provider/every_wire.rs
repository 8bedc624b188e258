//! The same prompts through every provider, against the simulated one: the same answers, equal accounts.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use llm_batch::provider::{Model, Streaming};
use llm_batch::testing::{Ledger, SimulatedProvider};
use llm_batch::{LlmStreamExt, Prompt, RateLimiter, StandardLayer, TokenUsage};
use serde_json::{Value, json};
use tower::Layer;

/// Every prefix that `strategy` knows, and whether its base URL has the version in it.
const PROVIDERS: &[(&str, bool)] = &[
    ("openai", true),
    ("openai-responses", true),
    ("openai-compatible", true),
    ("openrouter", true),
    ("deepseek", true),
    ("groq", true),
    ("mistral", true),
    ("xai", true),
    ("azure", true),
    ("ollama", true),
    ("vllm", true),
    ("llamacpp", true),
    ("lmstudio", true),
    ("anthropic", false),
    ("gemini", false),
];

fn prompts() -> Vec<Prompt> {
    let lines = include_str!("../data/gsm8k-200.jsonl").lines();
    lines
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            Prompt::new(row["question"].as_str().unwrap())
                .with_system("Answer with a number.")
                .with_max_output_tokens(2_000)
        })
        .collect()
}

/// The answers by position, what the items' accounts say, and the provider's ledger.
async fn run(prefix: &str, versioned: bool, streamed: bool) -> (BTreeMap<u64, String>, TokenUsage, Ledger) {
    let provider = SimulatedProvider::builder().seed(7).build().unwrap();
    let server = provider.serve("127.0.0.1:0").await.unwrap();
    let version = if versioned { "/v1" } else { "" };
    let mut model = Model::builder(format!("{prefix}:sim"))
        .base_url(format!("http://{}{version}", server.address()))
        .api_key("key")
        .build()
        .unwrap_or_else(|error| panic!("{prefix}: {error}"));
    if streamed {
        model = model.with_streaming(Streaming::new());
    }
    if prefix == "mistral" {
        // Mistral tells the usage of a stream unasked, and takes no question for it. The simulated provider wants to be asked.
        let ask = json!({ "include_usage": true });
        model = model.with_defaults(Prompt::default().with_extra("stream_options", ask));
    }
    let limiter = RateLimiter::builder().without_start_ramp().build().unwrap();
    let strategy = StandardLayer::new().with_limiter(limiter).layer(model);
    let mut results = stream::iter(prompts()).with_strategy(strategy).llm_batch(20);
    let (mut answers, mut usage) = (BTreeMap::new(), TokenUsage::ZERO);
    while let Some(outcome) = results.next().await {
        let response = outcome
            .result
            .unwrap_or_else(|error| panic!("{prefix}, streamed {streamed}: {error}"));
        assert_eq!(
            outcome.report.unknown_usage_calls, 0,
            "{prefix}, streamed {streamed}"
        );
        assert_eq!(outcome.report.time_to_first_token.is_some(), streamed, "{prefix}");
        usage += outcome.report.usage;
        answers.insert(outcome.index, response.output);
    }
    (answers, usage, server.shutdown().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_provider_gives_the_same_answers_and_accounts() {
    let provider = SimulatedProvider::builder().seed(7).build().unwrap();
    let expected: BTreeMap<u64, String> = prompts()
        .iter()
        .enumerate()
        .map(|(index, prompt)| (index as u64, provider.answer_to(prompt)))
        .collect();
    assert_eq!(expected.len(), 200);
    let mut accounts = Vec::new();
    for &(prefix, versioned) in PROVIDERS {
        for streamed in [false, true] {
            let (answers, usage, ledger) = run(prefix, versioned, streamed).await;
            assert_eq!(answers, expected, "{prefix}, streamed {streamed}");
            assert_eq!(ledger.answered, 200, "{prefix}, streamed {streamed}");
            assert_eq!(usage, ledger.billed_answered, "{prefix}, streamed {streamed}");
            accounts.push((prefix, streamed, usage));
        }
    }
    assert!(
        accounts.iter().all(|(.., usage)| *usage == accounts[0].2),
        "{accounts:?}"
    );
}
