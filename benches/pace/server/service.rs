//! The provider as a tower service.

use std::sync::Arc;
use std::time::Duration;

use llm_batch::{BoxStrategy, LlmError, LlmRequest, LlmResponse, StrategyExt, TokenUsage};
use llm_batch::{Delivery, ErrorKind, ReportedQuota};
use tokio::time::sleep;
use tower::service_fn;

use super::{Decision, Rejection, Server};

/// The input of an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) item: u32,
    /// Of the tokens that it will take.
    pub(crate) estimate: u64,
}

pub(crate) type Answer = LlmResponse<()>;

/// The connection of one client to the provider.
pub(crate) fn service(server: &Arc<Server>) -> BoxStrategy<Job, ()> {
    let server = Arc::clone(server);
    service_fn(move |request| call(Arc::clone(&server), request)).boxed_strategy()
}

async fn call(server: Arc<Server>, mut request: LlmRequest<Job>) -> Result<Answer, LlmError> {
    let item = request.input().item as usize;
    // Headers go to the layers outside by the record of the call.
    let guard = match server.scenario.headers {
        Some(_) => Some(request.begin_call()?),
        None => None,
    };
    server.travel().await;
    let decision = server.arrive(item);
    let reported = guard.as_ref().and_then(|_| server.reported());
    match decision {
        Decision::Answered(seconds) => sleep(Duration::from_secs_f64(seconds + server.way())).await,
        Decision::InBatch(answered) => {
            if answered.await.is_err() {
                return Err(LlmError::fatal("the server's task has ended"));
            }
            server.travel().await;
        }
        Decision::Reset(seconds) => {
            sleep(Duration::from_secs_f64(seconds + server.way())).await;
            return Err(LlmError::new(
                ErrorKind::Connection,
                "connection reset before the response was complete",
            )
            .with_delivery(Delivery::MaybeBilled));
        }
        Decision::Rejected(rejection) => {
            let seconds = server.scenario.rejection_time + server.way();
            sleep(Duration::from_secs_f64(seconds)).await;
            return Err(rejection.into_error(reported));
        }
    }
    if let (Some(guard), Some(reported)) = (&guard, reported) {
        guard.set_quota(reported);
    }
    let tokens = server.draws.cost[item] as u64;
    Ok(LlmResponse::new(()).with_usage(TokenUsage::new(tokens, 0)))
}

impl Rejection {
    fn into_error(self, reported: Option<ReportedQuota>) -> LlmError {
        let mut error = match self.status {
            503 => LlmError::new(ErrorKind::Overloaded, "the server is overloaded"),
            _ => LlmError::rate_limit("too many requests", None),
        }
        .with_status(self.status);
        if let Some(seconds) = self.hint {
            error = error.with_retry_after(Duration::from_secs_f64(seconds));
        }
        if reported.is_some() || self.dimension.is_some() {
            let mut quota = reported.unwrap_or_default();
            quota.dimension = self.dimension;
            error = error.with_quota(quota);
        }
        error
    }
}
