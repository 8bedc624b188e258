//! The strategy: a prompt in, an answer out, over any wire.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use reqwest::Url;
use serde_json::{Map, Value};
use tower_service::Service;

use super::http::Reply;
use super::idempotency::number_key;
use super::request::{check, refuse};
use super::streaming::Streaming;
use super::wire;
use super::wire_format::{Ask, WireFormat};
use crate::error::{Delivery, Disposition, ErrorKind, LlmError, ReportedQuota};
use crate::item::{CallContext, CallGuard};
use crate::prompt::{IDEMPOTENCY_KEY, Prompt};
use crate::request::LlmRequest;
use crate::response::LlmResponse;
use crate::telemetry;
use crate::usd::Usd;

/// The result of a question, and the quotas that rate-limit headers reported.
type Answer = (Result<LlmResponse, LlmError>, Option<ReportedQuota>);

/// A question as it is sent: its body and the headers of its own.
type Question = (Bytes, HeaderMap);

/// The number of times an answer may be continued: enough for the longest, and an end for a server that never finishes.
const MAX_CONTINUATIONS: usize = 8;

/// Fields by which a ready request body chooses at an aggregator or a proxy who answers it.
const ROUTE_FIELDS: [&str; 4] = ["fallbacks", "models", "provider", "route"];

/// Fields by which it chooses at a proxy (LiteLLM) whose account is used.
const ACCOUNT_FIELDS: [&str; 4] = ["api_base", "api_key", "base_url", "user_config"];

/// A strategy that asks one model of a provider. Made by a client's `model` or by [`Model::builder`]; cheap to clone.
///
/// One call is one HTTP request, or one for each part of an answer that the provider gives in parts: retry, waits and time
/// limits are for layers. It is always ready. Every call,
/// failed ones too, notes its usage and the quotas of the reply's headers in the item's record.
///
/// ```
/// use llm_batch::provider::openai::OpenAi;
///
/// let client = OpenAi::builder().base_url("http://localhost:8000/v1").build()?;
/// let model = client.model("qwen3-8b");
/// assert_eq!(model.name(), "qwen3-8b");
/// # Ok::<(), llm_batch::LlmError>(())
/// ```
///
/// # Cancel safety
/// A dropped call closes its connection. If the request had been sent, the provider may go on and bill it; the item's
/// record counts the call as of unknown usage.
#[derive(Clone)]
pub struct Model {
    wire: Arc<dyn WireFormat>,
    provider: Arc<str>,
    name: Arc<str>,
    defaults: Prompt,
    streaming: Option<Streaming>,
}

impl Model {
    pub(crate) fn new(wire: Arc<dyn WireFormat>, name: impl Into<String>) -> Self {
        Self {
            provider: wire.provider().into(),
            wire,
            name: name.into().into(),
            defaults: Prompt::default(),
            streaming: None,
        }
    }

    /// Takes system text, tools, sampling parameters, reasoning effort, output schema, headers and extra fields from `defaults`
    /// wherever a prompt does not set its own. Messages and model of `defaults` are not used, and nothing of it in a [raw](Prompt::raw) prompt.
    ///
    /// ```
    /// use llm_batch::Prompt;
    /// use llm_batch::provider::openai::OpenAi;
    ///
    /// let client = OpenAi::builder().base_url("http://localhost:8000/v1").build()?;
    /// let defaults = Prompt::default().with_system("Answer in one word.").with_temperature(0.0);
    /// let model = client.model("qwen3-8b").with_defaults(defaults);
    /// # let _ = model;
    /// # Ok::<(), llm_batch::LlmError>(())
    /// ```
    #[must_use]
    pub fn with_defaults(mut self, defaults: Prompt) -> Self {
        self.defaults = defaults;
        self
    }

    /// Streams answers, which gives the time to the first token and an idle timeout. Off by default.
    #[must_use]
    pub fn with_streaming(mut self, streaming: Streaming) -> Self {
        self.streaming = Some(streaming);
        self
    }

    /// The model that is asked unless a prompt names another.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The provider, by its OpenTelemetry name (`openai`, `anthropic`, `gcp.gemini`, ...).
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The host that is called, with the port where it is not the usual one of the scheme, such as `api.openai.com` or
    /// `localhost:8000`.
    pub fn host(&self) -> String {
        let url = &self.wire.client().base_url;
        let host = url.host_str().unwrap_or_default();
        match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// The request body that `prompt` would be sent as, for dry runs and tests. Headers and address are checked, too, so that
    /// a prompt fails here as it would fail unsent in a call.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the prompt cannot be sent by this strategy.
    pub fn request_body(&self, prompt: &Prompt) -> Result<Vec<u8>, LlmError> {
        let ask = self.asked(prompt);
        self.question(&ask).map(|(body, _)| body.into())
    }

    /// The model that a prompt is sent to: a field of its body has the last word.
    fn model_of<'a>(&'a self, prompt: &'a Prompt) -> &'a str {
        let field = |fields: &'a Map<String, Value>| fields.get("model")?.as_str();
        let own = field(prompt.extra());
        match prompt.raw_body() {
            Some(raw) => own.or_else(|| prompt.model()).or_else(|| field(raw)),
            None => own
                .or_else(|| field(self.defaults.extra()))
                .or_else(|| prompt.model()),
        }
        .unwrap_or(&self.name)
    }

    /// Returns `true` if a failure of `kind` says nothing about other prompts: this one asked for another model, by
    /// another route or for another account than the strategy's.
    fn concerns_alone(&self, prompt: &Prompt, kind: ErrorKind) -> bool {
        let names_own = |fields: &[&str]| {
            prompt.raw_body().is_some_and(|body| {
                let mut own = fields.iter().filter(|field| body.contains_key(**field));
                own.any(|field| !prompt.extra().contains_key(*field))
            })
        };
        match kind {
            ErrorKind::NotFound | ErrorKind::QuotaExhausted => {
                self.model_of(prompt) != &*self.name || names_own(&ROUTE_FIELDS) || names_own(&ACCOUNT_FIELDS)
            }
            ErrorKind::Authentication | ErrorKind::InsufficientBalance => names_own(&ACCOUNT_FIELDS),
            _ => false,
        }
    }

    fn asked<'a>(&'a self, prompt: &'a Prompt) -> Ask<'a> {
        Ask {
            model: self.model_of(prompt),
            prompt,
            defaults: &self.defaults,
            streamed: self.streaming.is_some(),
            context_cache: None,
            throttled_before: false,
        }
    }

    fn body(&self, ask: &Ask<'_>) -> Result<Vec<u8>, LlmError> {
        let streamed = |fields: &Map<String, Value>| fields.get("stream") == Some(&Value::Bool(true));
        let below = ask.prompt.raw_body().unwrap_or(ask.defaults.extra());
        if !ask.streamed && (streamed(ask.prompt.extra()) || streamed(below)) {
            let message =
                "`stream` is set, but replies are read whole; remove it, or use `Model::with_streaming`";
            return Err(refuse(message));
        }
        if ask.streamed && asks_for_several(ask) {
            let message = "several answers are asked for (`n`, `candidateCount`), and a stream is read for one; ask for one, or do not stream";
            return Err(refuse(message));
        }
        check(ask)?;
        self.wire.body(ask)
    }

    /// Writes the question, or refuses a prompt that cannot be asked.
    fn question(&self, ask: &Ask<'_>) -> Result<Question, LlmError> {
        self.wire.endpoint(ask)?;
        Ok((self.body(ask)?.into(), self.headers(ask)?))
    }

    async fn ask(&self, prompt: &Prompt, question: Question, call: &CallGuard) -> Answer {
        let ask = Ask {
            throttled_before: call.item().signals().was_throttled(),
            ..self.asked(prompt)
        };
        match self.wire.context_cache(None) {
            None => self.exchange(&ask, question, call).await,
            // Boxed, so that every call's future is not as large as this rare one's.
            Some(making) => Box::pin(self.ask_with_context_cache(&ask, making, call)).await,
        }
    }

    async fn ask_with_context_cache(
        &self,
        ask: &Ask<'_>,
        making: BoxFuture<'_, Result<Arc<str>, LlmError>>,
        call: &CallGuard,
    ) -> Answer {
        let name = match making.await {
            Ok(name) => name,
            Err(error) => return (Err(error), None),
        };
        let with_cache = |name| Ask {
            context_cache: Some(name),
            ..*ask
        };
        let answer = self.exchange_anew(&with_cache(&name), call).await;
        let Err(missing) = &answer.0 else { return answer };
        if missing.kind() != ErrorKind::CacheMissing {
            return answer;
        }
        let Some(making) = self.wire.context_cache(Some(Arc::clone(&name))) else {
            return answer;
        };
        // The question is asked once more. What was refused stands in the item's record as a call of its own, so that the
        // open one can take the usage of the repeat.
        match CallContext::new(Arc::clone(call.item())).begin_call() {
            Ok(refused) => {
                refused.observe(missing.usage());
            }
            // The batch is stopping, so there is no repeat.
            Err(_) => return answer,
        }
        match making.await {
            Ok(name) => self.exchange_anew(&with_cache(&name), call).await,
            Err(error) => (Err(error), None),
        }
    }

    async fn exchange_anew(&self, ask: &Ask<'_>, call: &CallGuard) -> Answer {
        match self.question(ask) {
            Ok(question) => self.exchange(ask, question, call).await,
            Err(error) => (Err(error), None),
        }
    }

    /// Asks, and asks on while the provider has only said a part.
    async fn exchange(&self, ask: &Ask<'_>, question: Question, call: &CallGuard) -> Answer {
        let url = match self.wire.endpoint(ask) {
            Ok(url) => url,
            Err(error) => return (Err(error), None),
        };
        let (mut body, mut headers) = question;
        number_key(&mut headers, &url, &body, call.item());
        let mut before: Option<Reply> = None;
        let mut continuations = 0;
        loop {
            let mut reply = match self.post(&url, body.clone(), call, &headers).await {
                Ok(reply) => reply,
                Err(error) => return (Err(self.after(before.as_ref(), error, ask)), None),
            };
            let quota = wire::reported_quota(&reply.headers);
            let next = self.wire.continuation(&body, &reply);
            if let Some(first) = &before
                && !self.wire.join(first, &mut reply)
            {
                let result = self.read(&reply, ask);
                return (result.map_err(|error| self.after(Some(first), error, ask)), quota);
            }
            match next {
                Some(next) if continuations < MAX_CONTINUATIONS => {
                    body = next.into();
                    before = Some(reply);
                    continuations += 1;
                    // The next part is another request.
                    headers.remove(IDEMPOTENCY_KEY);
                }
                _ => return (self.read(&reply, ask), quota),
            }
        }
    }

    fn read(&self, reply: &Reply, ask: &Ask<'_>) -> Result<LlmResponse, LlmError> {
        let mut result = self.wire.read(reply, ask);
        let repaired = if result.is_err() { reply.repaired() } else { None };
        let reply = repaired.as_ref().unwrap_or(reply);
        if repaired.is_some() {
            result = self.wire.read(reply, ask);
        }
        let redacted = if result.is_err() { reply.redacted() } else { None };
        let reply = redacted.as_ref().unwrap_or(reply);
        if redacted.is_some() {
            result = self.wire.read(reply, ask);
        }
        if self.wire.client().keep_raw_body {
            result = result.map_err(|error| match serde_json::from_slice(wire::trim(&reply.body)) {
                Ok(body) => error.with_raw_body(body),
                Err(_) => error,
            });
        }
        if reply.streamed {
            // An error inside a stream may come after tokens that are billed.
            result = result.map_err(|error| error.with_delivery(Delivery::MaybeBilled));
        }
        result
    }

    /// The error of a later part of an answer, with what the parts before it are known to have used.
    fn after(&self, before: Option<&Reply>, error: LlmError, ask: &Ask<'_>) -> LlmError {
        let spent = before.and_then(|reply| match self.wire.read(reply, ask) {
            Ok(response) => response.usage,
            Err(error) => error.usage(),
        });
        match spent {
            Some(spent) => {
                let usage = error.usage().map_or(spent, |usage| usage + spent);
                error.with_usage(usage).with_delivery(Delivery::MaybeBilled)
            }
            None => error,
        }
    }

    /// The headers of the prompt, and those of the defaults that it does not set. A raw body has no defaults.
    fn headers(&self, ask: &Ask<'_>) -> Result<HeaderMap, LlmError> {
        let defaults = ask.defaults.headers().iter();
        let defaults = defaults.filter(|_| ask.prompt.raw_body().is_none());
        self.wire
            .client()
            .http
            .own_headers(defaults.chain(ask.prompt.headers().iter()))
    }

    async fn post(
        &self,
        url: &Url,
        body: Bytes,
        call: &CallGuard,
        headers: &HeaderMap,
    ) -> Result<Reply, LlmError> {
        let http = &self.wire.client().http;
        match &self.streaming {
            None => http.post(url, body, headers).await,
            Some(streaming) => {
                let assembler = self.wire.assembler();
                // Boxed for the same reason.
                Box::pin(http.post_streamed(url, body, streaming, assembler, call, headers)).await
            }
        }
    }
}

/// For the fuzz targets.
#[cfg(fuzzing)]
impl Model {
    /// Reads a reply as it came.
    pub(crate) fn read_for_fuzzing(&self, status: u16, body: &[u8]) {
        let prompt = Prompt::new("question").with_output_schema(serde_json::json!({ "type": "object" }));
        let reply = Reply::for_test(status, body.to_vec());
        let _ = self.wire.continuation(b"{}", &reply);
        let _ = self.read(&reply, &self.asked(&prompt));
    }

    /// Puts a stream together, and reads what comes of it.
    pub(crate) async fn read_events_for_fuzzing(&self, body: &[u8]) {
        const LARGEST: usize = 1 << 20;
        let response = http::Response::new(reqwest::Body::from(body.to_vec())).into();
        let call = LlmRequest::new("question")
            .begin_call()
            .expect("nothing stops it");
        let assembler = self.wire.assembler();
        if let Ok((body, _)) = super::http::assemble(response, LARGEST, None, assembler, &call).await {
            self.read_for_fuzzing(200, &body);
        }
    }
}

/// Returns `true` if the request asks for more than one answer.
fn asks_for_several<'a>(ask: &Ask<'a>) -> bool {
    let (raw, extra) = (ask.prompt.raw_body(), ask.prompt.extra());
    let below = raw.unwrap_or(ask.defaults.extra());
    let chat = || {
        let mut fields = ask.chat_fields().filter(|_| raw.is_none());
        fields.find_map(|(name, value)| (name == "n").then_some(value))
    };
    let of_config = |fields: &'a Map<String, Value>| {
        fields
            .get("generationConfig")
            .map(|config| config.get("candidateCount"))
    };
    let candidates = match (of_config(extra), of_config(below)) {
        // The extra field replaces that of a raw body, and is laid over that of the defaults.
        (Some(own), Some(below)) if raw.is_none() => own.or(below),
        (own, below) => own.or(below).flatten(),
    };
    let counts = [
        extra.get("n").or_else(|| below.get("n")).or_else(chat),
        candidates,
    ];
    let is_several = |count: &Value| count.as_f64().is_some_and(|count| count > 1.0);
    counts.into_iter().flatten().any(is_several)
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("wire", &self.wire)
            .field("name", &self.name)
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}

impl Service<LlmRequest<Prompt>> for Model {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest<Prompt>) -> ResponseFuture {
        let strategy = self.clone();
        // Before the call begins: a prompt that is refused is not a call.
        let question = match strategy.question(&strategy.asked(request.input())) {
            Ok(question) => question,
            Err(error) => {
                let hold = request.context_mut().hold();
                return ResponseFuture {
                    inner: Box::pin(async move {
                        drop(hold);
                        Err(error)
                    }),
                };
            }
        };
        ResponseFuture {
            inner: Box::pin(async move {
                let call = request.begin_call()?;
                if strategy.wire.client().is_local {
                    call.item().signals().set_local_server();
                }
                let model = strategy.model_of(request.input());
                telemetry::record_request(strategy.provider(), model);
                let asked = if model == &*strategy.name {
                    Arc::clone(&strategy.name)
                } else {
                    model.into()
                };
                call.set_model(Arc::clone(&strategy.provider), asked);
                let (result, quota) = strategy.ask(request.input(), question, &call).await;
                let result = result.map_err(|error| {
                    if strategy.concerns_alone(request.input(), error.kind()) {
                        error.with_disposition(Disposition::Fatal)
                    } else {
                        error
                    }
                });
                match &result {
                    Ok(response) => {
                        call.observe(response.usage);
                        if let Some(cost) = response.metadata.cost.and_then(Usd::from_dollars) {
                            call.observe_cost(cost);
                        }
                    }
                    Err(error) => {
                        call.observe(error.usage());
                        if error.disposition() == Disposition::Throttled {
                            call.set_throttled();
                        }
                    }
                }
                let quota = result.as_ref().err().and_then(LlmError::quota).copied().or(quota);
                if let Some(quota) = quota {
                    call.set_quota(quota);
                }
                result
            }),
        }
    }
}

/// The future of a [`Model`]'s call.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    inner: BoxFuture<'static, Result<LlmResponse, LlmError>>,
}

impl Future for ResponseFuture {
    type Output = Result<LlmResponse, LlmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
