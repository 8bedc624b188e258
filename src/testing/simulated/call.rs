//! One call at the provider, from its arrival to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::call_seed;
use super::answer::{Answer, Question, Variant};
use super::fault::{Chance, Fate};
use super::hint::Hint;
use super::ledger::End;
use super::quota::Meter;
use super::{Clock, Inner, SimulatedProvider, State, TokenCharge};
use crate::classify::{QuotaDimension, ReportedQuota};
use crate::error::ErrorKind;
use crate::usage::TokenUsage;

/// A call that was received. Dropped without an [`end`](Self::end), its client has left.
pub(super) struct Call {
    provider: Arc<Inner>,
    number: u64,
    chance: Chance,
    latency: Duration,
    rejection_latency: Duration,
    generated: Option<TokenUsage>,
    ended: bool,
}

/// What an accepted call will get.
pub(super) struct Work {
    pub(super) model: String,
    /// Until the head of the response.
    pub(super) delay: Duration,
    /// From the head to the end of the body.
    pub(super) body_time: Duration,
    pub(super) fate: Fate,
    pub(super) answer: Answer,
    /// What rate-limit headers say.
    pub(super) quota: Option<ReportedQuota>,
}

/// What a rejected call gets.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) end: End,
    pub(super) delay: Duration,
    pub(super) status: u16,
    pub(super) kind: ErrorKind,
    /// `type` and `code` of OpenAI's error body.
    pub(super) error_type: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) message: String,
    /// The form of the hint, the exact wait, and the time until the quota is full again.
    pub(super) hint: Option<(Hint, Duration, Duration)>,
    pub(super) quota: Option<ReportedQuota>,
}

impl Rejection {
    fn new(status: u16, kind: ErrorKind, error_type: &'static str, message: impl Into<String>) -> Self {
        Self {
            end: End::Rejected(status),
            delay: Duration::ZERO,
            status,
            kind,
            error_type,
            code: None,
            message: message.into(),
            hint: None,
            quota: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, ErrorKind::InvalidRequest, "invalid_request_error", message)
    }

    pub(super) fn wrong_key() -> Self {
        let mut rejection = Self::new(
            401,
            ErrorKind::Authentication,
            "invalid_request_error",
            "Incorrect API key provided.",
        );
        rejection.code = Some("invalid_api_key");
        rejection
    }

    fn no_money() -> Self {
        let message = "You exceeded your current quota, please check your plan and billing details.";
        let mut rejection = Self::new(429, ErrorKind::InsufficientBalance, "insufficient_quota", message);
        rejection.code = Some("insufficient_quota");
        rejection
    }

    fn failure(status: u16, overload_hint: Option<Duration>) -> Self {
        let (kind, message) = match status {
            429 => (ErrorKind::RateLimit, "Too many requests."),
            503 | 529 => (
                ErrorKind::Overloaded,
                "The engine is currently overloaded, please try again later.",
            ),
            408 | 504 | 524 => (ErrorKind::Timeout, "The upstream server took too long."),
            401 => return Self::wrong_key(),
            403 => (ErrorKind::PermissionDenied, "You may not do this."),
            404 => (ErrorKind::NotFound, "The model does not exist."),
            409 | 425 => (ErrorKind::Conflict, "The request collided with another one."),
            402 => (ErrorKind::InsufficientBalance, "Insufficient balance."),
            400..500 => {
                return Self {
                    status,
                    end: End::Rejected(status),
                    ..Self::invalid("The request is wrong.")
                };
            }
            _ => (
                ErrorKind::ServerError,
                "The server had an error while processing your request.",
            ),
        };
        let mut rejection = Self::new(status, kind, "server_error", message);
        rejection.hint = overload_hint
            .filter(|_| kind == ErrorKind::Overloaded)
            .map(|wait| (Hint::RetryAfterSeconds, wait, wait));
        rejection
    }

    fn too_large(cost: u64, limit: u64) -> Self {
        let message = format!("Request too large for tokens per min (TPM): Limit {limit}, Requested {cost}.");
        let mut rejection = Self::new(429, ErrorKind::InvalidRequest, "tokens", message);
        rejection.code = Some("rate_limit_exceeded");
        rejection
    }

    fn throttled(dimension: QuotaDimension, what: &str, limit: u64) -> Self {
        let error_type = match dimension {
            QuotaDimension::Tokens => "tokens",
            QuotaDimension::Requests | QuotaDimension::Concurrency => "requests",
        };
        let message = format!("Rate limit reached on {what}: Limit {limit}.");
        let mut rejection = Self::new(429, ErrorKind::RateLimit, error_type, message);
        rejection.end = End::Throttled;
        rejection.code = Some("rate_limit_exceeded");
        rejection.quota = Some(ReportedQuota {
            dimension: Some(dimension),
            ..ReportedQuota::default()
        });
        rejection
    }
}

impl SimulatedProvider {
    /// A call arrives. From here on it counts.
    pub(super) fn receive(&self) -> Call {
        let config = &self.inner.config;
        let now = Instant::now();
        let mut state = self.inner.state();
        state.ledger.start();
        let number = state.ledger.received;
        state.clock.get_or_insert_with(|| Clock {
            first_call: now,
            requests: config.requests.map(|quota| Meter::new(quota, now)),
            tokens: config.tokens.map(|quota| Meter::new(quota, now)),
        });
        drop(state);
        let mut rng = fastrand::Rng::with_seed(call_seed(config.seed, number));
        Call {
            chance: config.faults.draw(&mut rng),
            latency: config.latency.sample(&mut rng),
            rejection_latency: config.rejection_latency.sample(&mut rng),
            provider: Arc::clone(&self.inner),
            number,
            generated: None,
            ended: false,
        }
    }
}

impl Call {
    /// Its ordinal number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether its connection is reset before the request is read.
    pub(super) fn is_reset_unread(&self) -> bool {
        self.chance.reset_unread
    }

    pub(super) fn rejection_latency(&self) -> Duration {
        self.rejection_latency
    }

    /// The request was read: accept it, or not.
    pub(super) fn admit(&mut self, question: &Question) -> Result<Work, Box<Rejection>> {
        let provider = Arc::clone(&self.provider);
        let config = &provider.config;
        let variant = match self.chance.fate {
            Fate::Refusal => Variant::Refusal,
            Fate::InvalidJson => Variant::InvalidJson,
            Fate::Answer | Fate::ResetBeforeHead | Fate::ResetInBody | Fate::Truncated | Fate::Garbage => {
                Variant::Proper
            }
        };
        let answer = Answer::new(question, config.cached_share, variant);
        let mut state = provider.state();
        match self.judge(&mut state, question, &answer) {
            Ok(()) => {
                state.active += 1;
                self.generated = Some(answer.usage);
                let quota = config.rate_limit_headers.then(|| state.reported()).flatten();
                Ok(Work {
                    model: question.model.clone().unwrap_or_else(|| config.model.clone()),
                    delay: self.latency + self.chance.stall,
                    body_time: self.chance.body_time,
                    fate: self.chance.fate,
                    answer,
                    quota,
                })
            }
            Err(mut rejection) => {
                rejection.delay = self.rejection_latency;
                Err(rejection)
            }
        }
    }

    fn judge(&self, state: &mut State, question: &Question, answer: &Answer) -> Result<(), Box<Rejection>> {
        let config = &self.provider.config;
        let now = Instant::now();
        let State { clock, active, .. } = state;
        let Some(clock) = clock else { return Ok(()) };
        if config.key_expires_after.is_some_and(|calls| self.number > calls) {
            return Err(Rejection::wrong_key().into());
        }
        if config.balance_lasts_for.is_some_and(|calls| self.number > calls) {
            return Err(Rejection::no_money().into());
        }
        if let Some(status) = config.faults.outage(now - clock.first_call) {
            return Err(Rejection::failure(status, config.overload_hint).into());
        }
        if let Some(limit) = config.concurrency.filter(|limit| *active >= *limit) {
            let rejection = Rejection::throttled(QuotaDimension::Concurrency, "concurrent requests", limit);
            return Err(rejection.into());
        }
        let cost = match config.token_charge {
            TokenCharge::Reservation => question.prompt_tokens().max(question.max_tokens.unwrap_or(0)),
            TokenCharge::Actual => answer.usage.total(),
        };
        if let Some(tokens) = clock.tokens.as_ref().filter(|tokens| cost > tokens.limit()) {
            return Err(Rejection::too_large(cost, tokens.limit()).into());
        }
        let waits = [
            (clock.requests.as_mut(), 1, QuotaDimension::Requests, "requests"),
            (clock.tokens.as_mut(), cost, QuotaDimension::Tokens, "tokens"),
        ];
        let lacking = waits.into_iter().filter_map(|(meter, cost, dimension, what)| {
            let meter = meter?;
            let wait = meter.wait(cost, now)?;
            Some((wait, meter.until_full(now), dimension, what, meter.limit()))
        });
        if let Some((wait, until_full, dimension, what, limit)) = lacking.max_by_key(|&(wait, ..)| wait) {
            let mut rejection = Rejection::throttled(dimension, what, limit);
            rejection.hint = Some((config.hint, wait, until_full));
            if config.count_rejected
                && let Some(meter) = &mut clock.requests
            {
                meter.charge_rejected(1, now);
            }
            if config.hint == Hint::ResetHeaders {
                let windows = clock.reported(now);
                rejection.quota = Some(ReportedQuota {
                    dimension: Some(dimension),
                    ..windows
                });
            }
            return Err(rejection.into());
        }
        for (meter, cost) in [(&mut clock.requests, 1), (&mut clock.tokens, cost)] {
            if let Some(meter) = meter {
                meter.take(cost, now);
            }
        }
        match self.chance.status {
            Some(status) => Err(Rejection::failure(status, config.overload_hint).into()),
            None => Ok(()),
        }
    }

    /// The call is over.
    pub(super) fn end(mut self, end: End) {
        self.close(end);
    }

    fn close(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let generated = self.generated.take();
        let mut state = self.provider.state();
        state.active -= u64::from(generated.is_some());
        state.ledger.end(end, generated);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.close(End::Disconnected);
    }
}

impl State {
    /// What rate-limit headers say now; nothing without a quota.
    fn reported(&mut self) -> Option<ReportedQuota> {
        let clock = self.clock.as_mut()?;
        (clock.requests.is_some() || clock.tokens.is_some()).then(|| clock.reported(Instant::now()))
    }
}

impl Clock {
    fn reported(&mut self, now: Instant) -> ReportedQuota {
        let window = |meter: &mut Option<Meter>| {
            meter
                .as_mut()
                .map(|meter| meter.reported(now))
                .unwrap_or_default()
        };
        ReportedQuota {
            dimension: None,
            requests: window(&mut self.requests),
            tokens: window(&mut self.tokens),
        }
    }
}
