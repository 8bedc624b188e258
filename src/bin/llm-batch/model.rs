//! `--model`: the model that answers, and the stack around it.

use std::time::Duration;

use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer, StartRamp};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::provider::Streaming;
use llm_batch::recipe::feedback;
use llm_batch::testing::{Preset, SimulatedProvider, SimulatedServer};
use llm_batch::{
    BoxStrategy, Classify as _, Disposition, ErrorKind, Events, KindClassifier, LlmError, LlmResponse,
    Model as Strategy, PriceTable, Prompt, StrategyExt as _, StructuredExt as _,
};
use serde_json::Value;
use tower::util::{Either, MapResultLayer, option_layer};
use tower::{ServiceBuilder, ServiceExt as _};

use crate::args::{self, RunArgs};
use crate::exit::UsageError;
use crate::tally::require_complete;

/// The strategy where the provider is simulated.
const SIMULATED: &str = "openai-compatible:sim";

/// The calls that start at once with any rate of --start-ramp, as by default.
const AT_ONCE: u64 = 16;

/// The time limit of a call where nothing was set.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);

/// The request bodies of OpenAI's that a model is sent as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bodies {
    pub(crate) chat: bool,
    pub(crate) responses: bool,
}

impl Bodies {
    /// By the provider of `--model`.
    fn of(prefix: &str) -> Self {
        let responses = matches!(prefix, "openai" | "openai-responses");
        let chat = !matches!(prefix, "openai-responses" | "anthropic" | "gemini");
        Self { chat, responses }
    }
}

/// The model that answers.
#[derive(Debug)]
pub(crate) enum Model {
    /// A simulated provider inside this program, behind a port of its own.
    Simulated {
        preset: Preset,
        /// `true` if answers are streamed.
        stream: bool,
    },
    /// A server.
    Server { model: Box<Strategy>, bodies: Bodies },
}

impl Model {
    /// Reads `--model` and the options of the provider, without a call.
    pub(crate) fn new(args: &RunArgs) -> Result<Self, UsageError> {
        let text = &args.model;
        let (prefix, name) = text.split_once(':').unwrap_or((text, ""));
        if prefix == "sim" {
            return Ok(Self::Simulated {
                preset: simulated(args, name)?,
                stream: args.provider.stream,
            });
        }
        let base_url = args.provider.base_url.as_deref();
        Ok(Self::Server {
            model: Box::new(strategy(args, text, base_url)?),
            bodies: Bodies::of(prefix),
        })
    }

    /// The model that replaces the one of ready request bodies.
    pub(crate) fn name_for_bodies(&self) -> Option<String> {
        match self {
            Self::Simulated { .. } => None,
            Self::Server { model, .. } => Some(model.name().to_owned()),
        }
    }

    /// The request bodies that are sent as they are.
    pub(crate) fn bodies(&self) -> Bodies {
        match self {
            Self::Simulated { .. } => Bodies::of(""),
            Self::Server { bodies, .. } => *bodies,
        }
    }

    /// The provider and the model that a prompt is sent to, for its price.
    pub(crate) fn asked<'a>(&'a self, prompt: &'a Prompt) -> (&'a str, &'a str) {
        match self {
            Self::Server { model, .. } => (model.provider(), prompt.model().unwrap_or(model.name())),
            Self::Simulated { .. } => SIMULATED.split_once(':').unwrap_or_default(),
        }
    }

    /// The body that a prompt is sent as.
    pub(crate) fn request_body(&self, prompt: &Prompt, schema: Option<&Value>) -> Result<Vec<u8>, LlmError> {
        let model = self.client()?;
        match schema {
            Some(schema) => {
                let schema = model.clone().structured_by(schema.clone())?.schema().clone();
                model.request_body(&prompt.clone().with_output_schema(schema))
            }
            None => model.request_body(prompt),
        }
    }

    /// Rejects an invalid schema, and one that the provider does not take.
    pub(crate) fn check_schema(&self, schema: &Value) -> Result<(), LlmError> {
        self.request_body(&Prompt::new(""), Some(schema)).map(drop)
    }

    /// A client that is not used for calls.
    fn client(&self) -> Result<Strategy, LlmError> {
        match self {
            Self::Server { model, .. } => Ok((**model).clone()),
            Self::Simulated { stream, .. } => Strategy::builder(SIMULATED)
                .base_url("http://127.0.0.1/v1")
                .build()
                .map(|model| streamed(model, *stream)),
        }
    }

    /// Makes the strategy, with every layer around it. The server has to be kept while the strategy is used.
    pub(crate) async fn strategy(
        self,
        args: &RunArgs,
        schema: Option<Value>,
        prices: Option<PriceTable>,
        events: &Events,
    ) -> Result<(BoxStrategy<Prompt, Value>, Option<SimulatedServer>), UsageError> {
        let wrong = |error: LlmError| UsageError::new(error.message());
        match self {
            Self::Server { model, .. } => Ok((stack(*model, schema, args, prices, events)?, None)),
            Self::Simulated { preset, .. } => {
                let provider = SimulatedProvider::builder()
                    .preset(preset)
                    .build()
                    .map_err(wrong)?;
                let server = provider.serve("127.0.0.1:0").await.map_err(|error| {
                    UsageError::new(format!("the simulated provider cannot be served: {error}"))
                })?;
                let model = strategy(args, SIMULATED, Some(&server.base_url()))?;
                let strategy = stack(model, schema, args, prices, events)?;
                Ok((strategy, Some(server)))
            }
        }
    }
}

fn simulated(args: &RunArgs, name: &str) -> Result<Preset, UsageError> {
    let provider = &args.provider;
    if provider.base_url.is_some() || provider.api_key_env.is_some() {
        return Err(UsageError::new(
            "--base-url and --api-key-env do not apply to a simulated provider, which runs inside this program",
        ));
    }
    name.parse().map_err(|_| {
        let names = Preset::ALL.map(|preset| format!("sim:{preset}"));
        UsageError::new(format!("--model sim:{name}: there are {}", names.join(", ")))
    })
}

fn strategy(args: &RunArgs, name: &str, base_url: Option<&str>) -> Result<Strategy, UsageError> {
    let keep_raw_body = args.output.format().facts().needs_raw_body;
    let mut builder = Strategy::builder(name).keep_raw_body(keep_raw_body);
    if let Some(url) = base_url {
        builder = builder.base_url(url);
    }
    for header in &args.provider.header {
        let (name, value) = header.parse()?;
        // Like the key, what is in the environment is not needed where nothing is called.
        if !(args.dry_run && value.is_variable()) {
            builder = builder.header(name, value.read(name)?);
        }
    }
    if args.dry_run {
        // No provider is called, so no key is needed.
        builder = builder.api_key("none");
    } else if let Some(variable) = &args.provider.api_key_env {
        builder = builder.api_key_env(variable);
    }
    let model = builder.build().map_err(|error| {
        // The library knows neither the simulated provider nor this program's options.
        let also = match error.code() {
            Some("unknown_provider") => ", and sim: for a simulated one",
            Some("missing_base_url") => ", or give it by --base-url",
            _ => "",
        };
        UsageError::new(format!("--model: {}{also}", error.message()))
    })?;
    Ok(streamed(model, args.provider.stream))
}

fn streamed(model: Strategy, stream: bool) -> Strategy {
    if stream {
        model.with_streaming(Streaming::new())
    } else {
        model
    }
}

fn stack(
    model: Strategy,
    schema: Option<Value>,
    args: &RunArgs,
    prices: Option<PriceTable>,
    events: &Events,
) -> Result<BoxStrategy<Prompt, Value>, UsageError> {
    let limits = &args.limits;
    let as_text: fn(LlmResponse) -> LlmResponse<Value> = |response| response.map(Value::String);
    let model = match schema {
        Some(schema) => {
            let typed = model.structured_by(schema);
            Either::Left(typed.map_err(|error| UsageError::new(error.message()))?)
        }
        None => Either::Right(model.map_response(as_text)),
    };
    let retry = RetryPolicy::new(limits.max_attempts)
        .max_throttles(limits.max_throttles)
        .max_billed_repeats(limits.max_billed_repeats)
        .events(events)
        .on_error(feedback);
    let (keep_going, waits) = (limits.keep_going, limits.wait_for_reset);
    let gate = RateLimiterLayer::new(limiter_of(args, events)?).classify_with(
        move |outcome: Result<&LlmResponse<Value>, &LlmError>| {
            let mut verdict = KindClassifier.classify(outcome);
            let awaited = waits && verdict.kind == Some(ErrorKind::QuotaExhausted);
            if keep_going && !awaited && verdict.disposition == Disposition::ScopeFatal {
                // The gate does not latch: every item gets its try.
                verdict.disposition = Disposition::Fatal;
            }
            verdict
        },
    );
    let mut accounting = TokenAccountingLayer::new(TokenLedger::new()).events(events);
    if let Some(prices) = prices {
        accounting = accounting.prices(prices);
    }
    let strategy = ServiceBuilder::new()
        .layer(option_layer(limits.item_timeout.map(ItemTimeoutLayer::new)))
        .layer(RetryLayer::new(retry))
        .layer(option_layer(
            args.output
                .require_complete
                .then(|| MapResultLayer::new(require_complete)),
        ))
        .layer(gate)
        .layer(accounting)
        .layer(CallTimeoutLayer::new(limits.timeout.unwrap_or(CALL_TIMEOUT)))
        .service(model);
    Ok(strategy.boxed_strategy())
}

fn limiter_of(args: &RunArgs, events: &Events) -> Result<RateLimiter, UsageError> {
    let limits = &args.limits;
    let mut builder = RateLimiter::builder().name(args.model.as_str());
    if let Some(requests) = limits.rpm {
        builder = builder.requests_per_minute(requests);
    }
    if let Some(tokens) = limits.tpm {
        builder = builder.tokens_per_minute(tokens);
    }
    for quota in &limits.quota {
        builder = builder.quota(*quota);
    }
    if limits.wait_for_reset {
        builder = builder.wait_for_reset();
    }
    if let Some(time) = limits.burst {
        builder = builder.burst(time);
    }
    if let Some(calls) = limits.max_in_flight {
        builder = builder.max_in_flight(calls);
    }
    builder = match limits.start_ramp {
        None => builder,
        Some(args::StartRamp::Off) => builder.without_start_ramp(),
        Some(args::StartRamp::Rate(rate)) => builder.start_ramp(StartRamp::new(AT_ONCE, rate)),
    };
    builder
        .events(events)
        .build()
        .map_err(|error| UsageError::new(error.to_string()))
}
