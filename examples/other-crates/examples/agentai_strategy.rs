//! An `agentai` agent as a strategy: its loop and its tools, our retries, gate and accounts.
//!
//! `cargo run -p other-crates --example agentai_strategy` (against the simulated provider)
//!
//! One run of the agent is one call here, even with several model calls; its usage is their sum. A failed run has
//! unknown usage: the agent reports the usage of its model calls only at the end.

use agentai::genai::adapter::AdapterKind;
use agentai::genai::resolver::{AuthData, Endpoint, ServiceTargetResolver};
use agentai::genai::{Client, ModelIden, ServiceTarget, resolver};
use agentai::{Agent, AgentError, AgentResult};
use futures::{StreamExt, stream};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, Classify, Delivery, ErrorKind, HttpClassifier, LlmError, LlmRequest, LlmResponse, LlmStreamExt,
    StandardLayer, TokenUsage, WorkItem,
};
use tower::{Layer, service_fn};

/// Classifies a failure: this framework keeps the status, but not the headers.
fn meaning(error: AgentError) -> LlmError {
    let kind = match &error {
        AgentError::Llm(failed) => match failed.status() {
            Some(status) => {
                let mut head = http::Response::new(());
                *head.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                let verdict = HttpClassifier.classify(Ok::<_, &LlmError>(&head));
                verdict.kind.unwrap_or(ErrorKind::Other)
            }
            None => ErrorKind::Connection,
        },
        AgentError::InvalidAnswer { .. } => ErrorKind::Validation,
        AgentError::MaxTokens { .. } => ErrorKind::Truncated,
        AgentError::MissingModel | AgentError::Schema(_) => ErrorKind::Configuration,
        _ => ErrorKind::ModelFault,
    };
    LlmError::new(kind, error.to_string())
        .with_delivery(Delivery::MaybeBilled)
        .with_source(error)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = SimulatedProvider::builder()
        .seed(7)
        .status_rate(503, 0.25)
        .build()?;
    let server = provider.serve("127.0.0.1:0").await?;
    let base_url = format!("{}/", server.base_url());
    let resolver = ServiceTargetResolver::from_resolver_fn(
        move |target: ServiceTarget| -> Result<ServiceTarget, resolver::Error> {
            Ok(ServiceTarget {
                endpoint: Endpoint::from_owned(base_url.clone()),
                auth: AuthData::from_single("none needed"),
                model: ModelIden::new(AdapterKind::OpenAI, target.model.model_name),
            })
        },
    );
    let client = Client::builder().with_service_target_resolver(resolver).build()?;
    let agent = Agent::from_client(client, "sim", "Answer with a number.");

    let strategy = service_fn(move |request: LlmRequest<String>| {
        let agent = agent.clone();
        async move {
            let done: AgentResult<String> = agent.run(request.into_input()).await.map_err(meaning)?;
            let mut usage = TokenUsage::new(done.usage.input_tokens, done.usage.output_tokens);
            usage.cached_input = done.usage.cached_input_tokens;
            usage.reasoning = done.usage.reasoning_tokens;
            Ok::<_, LlmError>(LlmResponse::new(done.answer).with_usage(usage))
        }
    });

    let standard = StandardLayer::new().with_max_attempts(8);
    let questions = (1..=40).map(|n| WorkItem::new(format!("What is {n} plus {n}?")));
    let mut results = stream::iter(questions)
        .with_strategy(standard.layer(strategy))
        .llm_batch(10);
    while let Some(outcome) = results.next().await {
        outcome.result?;
    }
    println!("{} of 40 answered", results.summary().succeeded);
    let (ours, theirs) = (standard.ledger().snapshot(), server.shutdown().await);
    println!(
        "calls: {} at the provider, {} accounted",
        theirs.received, ours.calls
    );
    println!(
        "tokens: {} billed, {} accounted",
        theirs.billed_answered.total(),
        ours.usage.total()
    );
    Ok(())
}
