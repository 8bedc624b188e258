//! `--model` and `--api-key-env`: the models that answer, and the stack around them.

use std::time::Duration;

use llm_batch::layer::rate_limiter::{LearnedLimit, RateLimiter, RateLimiterLayer, StartRamp};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::provider::Streaming;
use llm_batch::recipe::{Balance, feedback};
use llm_batch::testing::{Preset, SimulatedProvider, SimulatedServer};
use llm_batch::{
    BoxStrategy, Classify as _, Disposition, ErrorKind, Events, KindClassifier, LlmError, LlmRequest,
    LlmResponse, Model as Strategy, PriceTable, Prompt, StrategyExt as _, StructuredExt as _, Usd,
};
use serde_json::Value;
use tower::util::{Either, MapResultLayer, option_layer};
use tower::{ServiceBuilder, ServiceExt as _};

use crate::args::{self, RunArgs};
use crate::console::Console;
use crate::exit::UsageError;
use crate::learned::LearnedLimits;
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
    fn new(args: &RunArgs, text: &str, key: Option<&str>) -> Result<Self, UsageError> {
        let (prefix, name) = text.split_once(':').unwrap_or((text, ""));
        if prefix == "sim" {
            return Ok(Self::Simulated {
                preset: simulated(args, name)?,
                stream: args.provider.stream,
            });
        }
        let base_url = args.provider.base_url.as_deref();
        Ok(Self::Server {
            model: Box::new(strategy(args, text, base_url, key)?),
            bodies: Bodies::of(prefix),
        })
    }

    /// The model that replaces the one of ready request bodies.
    fn name_for_bodies(&self) -> Option<String> {
        match self {
            Self::Simulated { .. } => None,
            Self::Server { model, .. } => Some(model.name().to_owned()),
        }
    }

    /// The request bodies that are sent as they are.
    fn bodies(&self) -> Bodies {
        match self {
            Self::Simulated { .. } => Bodies::of(""),
            Self::Server { bodies, .. } => *bodies,
        }
    }

    /// The provider and the model that a prompt is sent to, for its price.
    fn asked<'a>(&'a self, prompt: &'a Prompt) -> (&'a str, &'a str) {
        match self {
            Self::Server { model, .. } => (model.provider(), prompt.model().unwrap_or(model.name())),
            Self::Simulated { .. } => SIMULATED.split_once(':').unwrap_or_default(),
        }
    }

    /// The host of the server; `None` for the simulated provider inside this program.
    pub(crate) fn host(&self) -> Option<String> {
        match self {
            Self::Simulated { .. } => None,
            Self::Server { model, .. } => Some(model.host()),
        }
    }

    /// The body that a prompt is sent as.
    fn request_body(&self, prompt: &Prompt, schema: Option<&Value>) -> Result<Vec<u8>, LlmError> {
        let model = self.client()?;
        match schema {
            Some(schema) => {
                let schema = model.clone().structured_by(schema.clone())?.schema().clone();
                model.request_body(&prompt.clone().with_output_schema(schema))
            }
            None => model.request_body(prompt),
        }
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

    /// Makes the client. The server has to be kept while the client is used.
    async fn connect(self, args: &RunArgs) -> Result<(Strategy, Option<SimulatedServer>), UsageError> {
        let preset = match self {
            Self::Server { model, .. } => return Ok((*model, None)),
            Self::Simulated { preset, .. } => preset,
        };
        let provider = SimulatedProvider::builder()
            .preset(preset)
            .build()
            .map_err(|error| UsageError::new(error.message()))?;
        let server = provider
            .serve("127.0.0.1:0")
            .await
            .map_err(|error| UsageError::new(format!("the simulated provider cannot be served: {error}")))?;
        let model = strategy(args, SIMULATED, Some(&server.base_url()), None)?;
        Ok((model, Some(server)))
    }
}

/// The models that answer: one for each `--model` with each `--api-key-env`, of equal worth.
#[derive(Debug)]
pub(crate) struct Models {
    first: Member,
    others: Vec<Member>,
}

/// A model with its key.
#[derive(Debug)]
struct Member {
    /// As it was given.
    text: String,
    /// The variable of its key.
    key: Option<String>,
    model: Model,
}

/// The totals of one model with its key.
#[derive(Clone, Debug)]
pub(crate) struct AccountTotals {
    pub(crate) model: String,
    /// The variable of its key.
    pub(crate) api_key_env: Option<String>,
    pub(crate) ledger: TokenLedger,
}

impl AccountTotals {
    pub(crate) fn json(&self) -> Value {
        let totals = self.ledger.snapshot();
        let mut value = serde_json::to_value(totals).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            if totals.cost == Usd::ZERO && totals.unknown_cost_calls > 0 {
                // Unknown, not nothing.
                fields.insert("cost".to_owned(), Value::Null);
            }
            fields.insert("model".to_owned(), self.model.as_str().into());
            fields.insert("api_key_env".to_owned(), self.api_key_env.as_deref().into());
        }
        value
    }
}

/// The stack around all models.
pub(crate) struct Connected {
    pub(crate) strategy: BoxStrategy<Prompt, Value>,
    /// To be kept while the strategy is used.
    pub(crate) servers: Vec<SimulatedServer>,
    pub(crate) totals: Vec<AccountTotals>,
    pub(crate) learned: Vec<Learning>,
}

/// A gate, and the place where its limit is kept.
pub(crate) struct Learning {
    limits: LearnedLimits,
    gate: RateLimiter,
    /// The limit that it started with.
    given: Option<LearnedLimit>,
}

impl Learning {
    /// The limit that the gate started with.
    pub(crate) const fn given(&self) -> Option<&LearnedLimit> {
        self.given.as_ref()
    }

    /// Keeps what the run has found.
    pub(crate) fn keep(&self, args: &RunArgs, console: &Console) {
        if let Some(found) = self.gate.learned()
            && self.given != Some(found)
        {
            self.limits.write(found, args, console);
        }
    }
}

impl Models {
    /// Reads `--model` and the options of the provider, without a call.
    pub(crate) fn new(args: &RunArgs) -> Result<Self, UsageError> {
        let keys = &args.provider.api_key_env;
        check_names("--model", &args.model)?;
        check_names("--api-key-env", keys)?;
        if !args.dry_run {
            check_keys(keys)?;
        }
        let mut members = Vec::new();
        for text in &args.model {
            let keys: Vec<_> = match keys.is_empty() {
                true => vec![None],
                false => keys.iter().map(|key| Some(key.as_str())).collect(),
            };
            for key in keys {
                members.push(Member {
                    text: text.clone(),
                    key: key.map(str::to_owned),
                    model: Model::new(args, text, key)?,
                });
            }
        }
        let mut members = members.into_iter();
        let Some(first) = members.next() else {
            return Err(UsageError::new("--model is missing"));
        };
        let models = Self {
            first,
            others: members.collect(),
        };
        models.check_provider(args)?;
        Ok(models)
    }

    /// A key, an address and a header are those of one provider, and go to no other.
    fn check_provider(&self, args: &RunArgs) -> Result<(), UsageError> {
        let given = [
            ("--api-key-env", !args.provider.api_key_env.is_empty()),
            ("--base-url", args.provider.base_url.is_some()),
            ("--header", !args.provider.header.is_empty()),
        ];
        let Some((option, _)) = given.into_iter().find(|(_, is_given)| *is_given) else {
            return Ok(());
        };
        let provider = |member: &Member| {
            member
                .text
                .split_once(':')
                .map_or(String::new(), |(prefix, _)| prefix.to_owned())
        };
        let first = provider(&self.first);
        match self.others.iter().find(|other| provider(other) != first) {
            None => Ok(()),
            Some(other) => Err(UsageError::new(format!(
                "{option} would go to different providers, of --model {} and --model {}; name models of one provider, or leave it out",
                self.first.text, other.text
            ))),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The model that replaces the one of ready request bodies, for the first one.
    pub(crate) fn name_for_bodies(&self) -> Option<String> {
        self.first.model.name_for_bodies()
    }

    /// The request bodies that every model is sent as they are.
    pub(crate) fn bodies(&self) -> Bodies {
        self.all().map(|member| member.model.bodies()).fold(
            Bodies {
                chat: true,
                responses: true,
            },
            |all, bodies| Bodies {
                chat: all.chat && bodies.chat,
                responses: all.responses && bodies.responses,
            },
        )
    }

    /// The provider and the model that a prompt is sent to, for its price: of the first one.
    pub(crate) fn asked<'a>(&'a self, prompt: &'a Prompt) -> (&'a str, &'a str) {
        self.first.model.asked(prompt)
    }

    /// The body that a prompt is sent as to the first one.
    pub(crate) fn request_body(&self, prompt: &Prompt, schema: Option<&Value>) -> Result<Vec<u8>, LlmError> {
        self.first.model.request_body(prompt, schema)
    }

    /// The first one, if there are others.
    pub(crate) fn first_of_several(&self) -> Option<&str> {
        (!self.others.is_empty()).then_some(&self.first.text)
    }

    /// Rejects what one of the providers does not take.
    pub(crate) fn check(&self, prompt: &Prompt, schema: Option<&Value>) -> Result<(), LlmError> {
        self.all()
            .try_for_each(|member| member.model.request_body(prompt, schema).map(drop))
    }

    /// Makes the strategy, with every layer around it.
    pub(crate) async fn connect(
        self,
        args: &RunArgs,
        schema: Option<&Value>,
        prices: Option<&PriceTable>,
        events: &Events,
        console: &Console,
    ) -> Result<Connected, UsageError> {
        let has_several_models = args.model.len() > 1;
        let (mut members, mut servers, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        let mut learned = Vec::new();
        for member in std::iter::once(self.first).chain(self.others) {
            let name = match &member.key {
                // The variable's name, never the key.
                Some(key) if args.provider.api_key_env.len() > 1 => format!("{} ({key})", member.text),
                _ => member.text.clone(),
            };
            let for_bodies = member.model.name_for_bodies().filter(|_| has_several_models);
            let mut limits = LearnedLimits::of(args, &member.text, member.key.as_deref(), &member.model);
            let earlier = limits.as_mut().and_then(|limits| limits.read(args, console));
            let (model, server) = member.model.connect(args).await?;
            servers.extend(server);
            let account = AccountTotals {
                model: member.text,
                api_key_env: member.key,
                ledger: TokenLedger::new(),
            };
            let gate = limiter_of(args, &name, earlier, events)?;
            if let Some(limits) = limits {
                learned.push(Learning {
                    limits,
                    given: gate.learned(),
                    gate: gate.clone(),
                });
            }
            let strategy = gated(
                model,
                schema.cloned(),
                args,
                &gate,
                &account.ledger,
                prices,
                events,
            )?;
            let strategy = strategy.map_request(move |mut request: LlmRequest| {
                if let (Some(model), Some(_)) = (&for_bodies, request.input().model()) {
                    let prompt = request.input_mut();
                    *prompt = std::mem::take(prompt).with_model(model.as_str());
                }
                request
            });
            members.push((gate, strategy.boxed_strategy()));
            totals.push(account);
        }
        Ok(Connected {
            strategy: stack(Balance::new(members), args, events),
            servers,
            totals,
            learned,
        })
    }
}

/// Rejects a name that an option has twice.
fn check_names(option: &str, names: &[String]) -> Result<(), UsageError> {
    let twice = names
        .iter()
        .enumerate()
        .find(|(place, name)| names[..*place].contains(name));
    twice.map_or(Ok(()), |(_, name)| {
        Err(UsageError::new(format!("{option} {name} is given twice")))
    })
}

/// Rejects two variables with the same key: they are one account, with one limit.
fn check_keys(variables: &[String]) -> Result<(), UsageError> {
    let keys: Vec<_> = variables.iter().map(std::env::var_os).collect();
    for (place, key) in keys.iter().enumerate() {
        let same = keys[..place]
            .iter()
            .position(|other| key.is_some() && other == key);
        if let Some(same) = same {
            return Err(UsageError::new(format!(
                "--api-key-env {} and --api-key-env {} hold the same key; name each key once",
                variables[same], variables[place]
            )));
        }
    }
    Ok(())
}

fn simulated(args: &RunArgs, name: &str) -> Result<Preset, UsageError> {
    let provider = &args.provider;
    if provider.base_url.is_some() || !provider.api_key_env.is_empty() {
        return Err(UsageError::new(
            "--base-url and --api-key-env do not apply to a simulated provider, which runs inside this program",
        ));
    }
    name.parse().map_err(|_| {
        let names = Preset::ALL.map(|preset| format!("sim:{preset}"));
        UsageError::new(format!("--model sim:{name}: there are {}", names.join(", ")))
    })
}

fn strategy(
    args: &RunArgs,
    name: &str,
    base_url: Option<&str>,
    key: Option<&str>,
) -> Result<Strategy, UsageError> {
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
    } else if let Some(variable) = key {
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

/// One model behind its gate, with its own account.
fn gated(
    model: Strategy,
    schema: Option<Value>,
    args: &RunArgs,
    gate: &RateLimiter,
    ledger: &TokenLedger,
    prices: Option<&PriceTable>,
    events: &Events,
) -> Result<BoxStrategy<Prompt, Value>, UsageError> {
    let as_text: fn(LlmResponse) -> LlmResponse<Value> = |response| response.map(Value::String);
    let model = match schema {
        Some(schema) => {
            let typed = model.structured_by(schema);
            Either::Left(typed.map_err(|error| UsageError::new(error.message()))?)
        }
        None => Either::Right(model.map_response(as_text)),
    };
    let (keep_going, waits) = (args.limits.keep_going, args.limits.wait_for_reset);
    let gate = RateLimiterLayer::new(gate.clone()).classify_with(
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
    let mut accounting = TokenAccountingLayer::new(ledger.clone()).events(events);
    if let Some(prices) = prices {
        accounting = accounting.prices(prices.clone());
    }
    let strategy = ServiceBuilder::new()
        .layer(gate)
        .layer(accounting)
        .layer(CallTimeoutLayer::new(args.limits.timeout.unwrap_or(CALL_TIMEOUT)))
        .service(model);
    Ok(strategy.boxed_strategy())
}

/// The layers around all models.
fn stack(
    models: Balance<BoxStrategy<Prompt, Value>>,
    args: &RunArgs,
    events: &Events,
) -> BoxStrategy<Prompt, Value> {
    let limits = &args.limits;
    let retry = RetryPolicy::new(limits.max_attempts)
        .max_throttles(limits.max_throttles)
        .max_billed_repeats(limits.max_billed_repeats)
        .events(events)
        .on_error(feedback);
    let strategy = ServiceBuilder::new()
        .layer(option_layer(limits.item_timeout.map(ItemTimeoutLayer::new)))
        .layer(RetryLayer::new(retry))
        .layer(option_layer(
            args.output
                .require_complete
                .then(|| MapResultLayer::new(require_complete)),
        ))
        .service(models);
    strategy.boxed_strategy()
}

/// A gate, which starts with the limit that an earlier run has found, if that may be used.
fn limiter_of(
    args: &RunArgs,
    name: &str,
    learned: Option<LearnedLimit>,
    events: &Events,
) -> Result<RateLimiter, UsageError> {
    let limits = &args.limits;
    let mut builder = RateLimiter::builder().name(name);
    if let Some(limit) = learned {
        builder = builder.learned(limit);
    }
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
