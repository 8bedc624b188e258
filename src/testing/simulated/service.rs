//! The tower service.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::time::sleep;
use tower_service::Service;

use super::SimulatedProvider;
use super::answer::Question;
use super::call::{Call, Work};
use super::fault::Fate;
use super::ledger::End;
use super::rejection::Rejection;
use super::wire::{Asked, call_id, openai};
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::request::LlmRequest;
use crate::response::{LlmResponse, ResponseMetadata};
use crate::testing::function_call;

/// A [`SimulatedProvider`] as a strategy, for virtual time.
///
/// The call counts as received when `call` runs, and as cut when its future is dropped before the end. It is always
/// ready, like a client with enough connections. Information from HTTP headers is in the error, or in the item's
/// record for the gate.
#[derive(Clone, Debug)]
pub struct SimulatedService {
    provider: SimulatedProvider,
}

impl SimulatedService {
    pub(super) fn new(provider: SimulatedProvider) -> Self {
        Self { provider }
    }
}

impl Service<LlmRequest> for SimulatedService {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = BoxFuture<'static, Result<LlmResponse, LlmError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest) -> Self::Future {
        let guard = match request.begin_call() {
            Ok(guard) => guard,
            Err(refused) => return Box::pin(std::future::ready(Err(refused.into()))),
        };
        let mut call = self.provider.receive();
        let admitted = if call.is_reset_unread() {
            None
        } else {
            Some(call.admit(Asked {
                question: Question::from_prompt(request.input()),
                ..Asked::default()
            }))
        };
        Box::pin(async move {
            let result = match admitted {
                None => {
                    sleep(call.rejection_latency()).await;
                    call.end(End::ResetUnread);
                    Err(reset("before the request was read"))
                }
                Some(Err(rejection)) => {
                    sleep(call.rejection_latency()).await;
                    call.end(rejection.end(rejection.status));
                    Err(rejection.into_error())
                }
                Some(Ok(work)) => {
                    if let Some(quota) = work.quota {
                        guard.set_quota(quota);
                    }
                    work.run(call).await
                }
            };
            // Layers outside observe the usage; without any, this guard is the outermost.
            if guard.is_outermost() {
                guard.observe(match &result {
                    Ok(response) => response.usage,
                    Err(error) => error.usage(),
                });
            }
            result
        })
    }
}

fn reset(when: &str) -> LlmError {
    LlmError::new(ErrorKind::Connection, format!("connection reset {when}"))
        .with_delivery(Delivery::MaybeBilled)
}

impl Rejection {
    fn into_error(self) -> LlmError {
        // For these it is unknown whether the provider continued with the call.
        let delivery = match self.status {
            408 | 502 | 504 | 524 => Delivery::MaybeBilled,
            _ => Delivery::Rejected,
        };
        let code = openai::kind_and_code(&self).1;
        let mut error = LlmError::new(self.kind, self.message)
            .with_status(self.status)
            .with_delivery(delivery);
        if let Some(code) = code {
            error = error.with_code(code);
        }
        if let Some(quota) = self.quota {
            error = error.with_quota(quota);
        }
        match self
            .hint
            .and_then(|hint| hint.form.rounded(hint.wait, hint.until_full))
        {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }
}

impl Work {
    async fn run(self, call: Call) -> Result<LlmResponse, LlmError> {
        sleep(self.delay).await;
        if self.fate == Fate::ResetBeforeHead {
            call.end(End::CutBeforeHead);
            return Err(reset("before the response"));
        }
        if self.fate == Fate::ResetInBody {
            sleep(self.body_time / 2).await;
            call.end(End::CutInBody);
            return Err(reset("in the response's body").with_status(200));
        }
        sleep(self.body_time).await;
        if matches!(self.fate, Fate::Truncated | Fate::Garbage) {
            call.end(End::Garbled);
            return Err(LlmError::new(ErrorKind::ServerError, "the response is no JSON")
                .with_status(200)
                .with_delivery(Delivery::MaybeBilled));
        }
        let called = self.answer.called;
        let is_call = called.is_some();
        let metadata = ResponseMetadata {
            provider: Some("sim".to_owned()),
            model: Some(self.model),
            response_id: Some(format!("chatcmpl-sim-{}", call.number())),
            finish_reason: Some(self.answer.finish),
            tool_calls: called
                .map(|name| function_call(&call_id(call.number()), &name, &self.answer.text))
                .into_iter()
                .collect(),
            ..ResponseMetadata::default()
        };
        call.end(End::Answered);
        if self.answer.refused {
            return Err(
                LlmError::new(ErrorKind::ContentFilter, self.answer.text).with_usage(self.answer.usage)
            );
        }
        // The arguments stand in the call.
        let output = if is_call { String::new() } else { self.answer.text };
        Ok(LlmResponse::new(output)
            .with_usage(self.answer.usage)
            .with_metadata(metadata))
    }
}
