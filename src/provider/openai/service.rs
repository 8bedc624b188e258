//! The strategy: a prompt in, a chat completion out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tower_service::Service;

use super::OpenAi;
use super::request::Body;
use super::response::{self, Wanted};
use crate::classify::{Disposition, ReportedQuota};
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::prompt::Prompt;
use crate::provider::wire;
use crate::request::LlmRequest;
use crate::response::LlmResponse;
use crate::telemetry;

/// A strategy that asks one model for chat completions. Made by [`OpenAi::model`]; cheap to clone.
///
/// One call is one HTTP request: retry, waits and time limits are for layers. It is always ready. Every call says what it
/// used in the item's record, failed ones too, and notes what rate-limit headers said.
///
/// # Cancel safety
/// A dropped call closes its connection. If the request had been sent, the provider may go on and bill it; the item's
/// record counts the call as of unknown usage.
#[derive(Clone)]
pub struct ChatCompletions {
    client: OpenAi,
    model: Arc<str>,
    defaults: Prompt,
}

impl ChatCompletions {
    pub(super) fn new(client: OpenAi, model: String) -> Self {
        Self {
            client,
            model: model.into(),
            defaults: Prompt::default(),
        }
    }

    /// Takes system text, sampling parameters, output schema and extra fields from `defaults` wherever a prompt does not
    /// set its own. Messages and model of `defaults` are not used, and nothing of it in a [raw](Prompt::raw) prompt.
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

    /// The model that is asked unless a prompt names another.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The request body that `prompt` would be sent as, for dry runs and tests.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the prompt cannot be sent by this strategy.
    pub fn request_body(&self, prompt: &Prompt) -> Result<Vec<u8>, LlmError> {
        let unsendable = |message: String| {
            LlmError::new(ErrorKind::InvalidRequest, message).with_delivery(Delivery::NotSent)
        };
        let streamed =
            |fields: &serde_json::Map<_, _>| fields.get("stream") == Some(&serde_json::Value::Bool(true));
        if prompt.raw_body().is_some_and(streamed)
            || streamed(prompt.extra())
            || streamed(self.defaults.extra())
        {
            return Err(unsendable(
                "`stream` is set, but replies are read whole; remove it".to_owned(),
            ));
        }
        let body = Body {
            model: &self.model,
            prompt,
            defaults: &self.defaults,
            token_limit: self.client.inner.token_limit,
        };
        serde_json::to_vec(&body)
            .map_err(|error| unsendable(format!("the prompt cannot be written as JSON: {error}")))
    }

    async fn ask(&self, prompt: &Prompt) -> (Result<LlmResponse, LlmError>, Option<ReportedQuota>) {
        let client = &self.client.inner;
        let body = match self.request_body(prompt) {
            Ok(body) => body,
            Err(error) => return (Err(error), None),
        };
        let reply = match client.http.post(&client.endpoint, body.into()).await {
            Ok(reply) => reply,
            Err(error) => return (Err(error), None),
        };
        let schema = prompt.output_schema().or(self.defaults.output_schema());
        let wanted = Wanted {
            provider: &client.provider,
            keep_raw_body: client.keep_raw_body,
            structured: schema.is_some() && prompt.raw_body().is_none(),
        };
        (
            response::read(&reply, wanted),
            wire::reported_quota(&reply.headers),
        )
    }
}

impl fmt::Debug for ChatCompletions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatCompletions")
            .field("client", &self.client)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Service<LlmRequest<Prompt>> for ChatCompletions {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest<Prompt>) -> ResponseFuture {
        let strategy = self.clone();
        ResponseFuture {
            inner: Box::pin(async move {
                let call = request.open_call();
                let model = request.input().model().unwrap_or(&strategy.model);
                telemetry::record_request(&strategy.client.inner.provider, model);
                let overridden = model != &*strategy.model;
                let (result, quota) = strategy.ask(request.input()).await;
                let result = result.map_err(|error| match error.kind() {
                    // This prompt's model is unknown; the strategy's own is not concerned.
                    ErrorKind::NotFound if overridden => error.with_disposition(Disposition::Fatal),
                    _ => error,
                });
                match &result {
                    Ok(response) => {
                        call.observe(response.usage);
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

/// The future of a [`ChatCompletions`] call.
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
