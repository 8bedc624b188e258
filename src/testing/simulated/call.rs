//! One call at the provider, from its arrival to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::call_seed;
use super::answer::{Answer, Question, Variant, join};
use super::fault::{Chance, Fate};
use super::hint::Hint;
use super::ledger::End;
use super::quota::Meter;
use super::rejection::{GivenHint, Rejection};
use super::wire::Asked;
use super::{Clock, Inner, SimulatedProvider, State, TokenCharge};
use crate::error::{QuotaDimension, ReportedQuota};
use crate::usage::TokenUsage;

/// A received call. If it is dropped without an [`end`](Self::end), its client has disconnected.
pub(super) struct Call {
    provider: Arc<Inner>,
    number: u64,
    chance: Chance,
    latency: Duration,
    rejection_latency: Duration,
    generated: Option<TokenUsage>,
    ended: bool,
}

/// The result that an accepted call will get.
pub(super) struct Work {
    pub(super) asked: Asked,
    pub(super) model: String,
    /// The time until the head of the response.
    pub(super) delay: Duration,
    /// The time from the head to the end of the body.
    pub(super) body_time: Duration,
    pub(super) fate: Fate,
    /// A pause in the middle of a stream.
    pub(super) stall: Duration,
    pub(super) answer: Answer,
    /// The quotas that rate-limit headers report.
    pub(super) quota: Option<ReportedQuota>,
}

impl SimulatedProvider {
    /// Receives a call, which counts from here on.
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
        let mut stream_rng = fastrand::Rng::with_seed(call_seed(!config.seed, number));
        Call {
            chance: config.faults.draw(&mut rng, &mut stream_rng),
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

    /// Returns `true` if its connection is reset before the request is read.
    pub(super) fn is_reset_unread(&self) -> bool {
        self.chance.reset_unread
    }

    pub(super) fn rejection_latency(&self) -> Duration {
        self.rejection_latency
    }

    /// Decides, once the request was read, whether it is accepted.
    pub(super) fn admit(&mut self, mut asked: Asked) -> Result<Work, Box<Rejection>> {
        let provider = Arc::clone(&self.provider);
        let config = &provider.config;
        let model = asked
            .question
            .model
            .clone()
            .unwrap_or_else(|| config.model.clone());
        let cached_content = match &asked.cached_content {
            Some(name) => Some(provider.state().use_content(name, &model, &mut asked.question)?),
            None => None,
        };
        let fate = match self.chance.fate {
            Fate::Answer if asked.streamed => self.chance.stream_fate,
            fate => fate,
        };
        let variant = match fate {
            Fate::Refusal if asked.refuses_without_words => Variant::Block,
            Fate::Refusal => Variant::Refusal,
            Fate::InvalidJson => Variant::InvalidJson,
            _ => Variant::Proper,
        };
        let mut answer = Answer::new(&asked.question, config, variant);
        let mut state = provider.state();
        // The same instant for the decision and for the headers.
        let now = Instant::now();
        self.judge(&mut state, &asked.question, &answer, now)?;
        state.active += 1;
        let prefixes = state.prefixes.apply(&asked.marks, config.cache_minimum);
        let usage = &mut answer.usage;
        let read = prefixes.read.max(cached_content.unwrap_or(0));
        usage.cached_input = usage.cached_input.max(read).min(usage.input);
        usage.cache_write = prefixes.written.min(usage.input - usage.cached_input);
        answer.long_cache_write = prefixes.written_long.min(usage.cache_write);
        self.generated = Some(answer.usage);
        let quota = config.rate_limit_headers.then(|| state.reported(now)).flatten();
        let streamed = asked.streamed;
        Ok(Work {
            asked,
            model,
            delay: self.latency.saturating_add(self.chance.stall),
            body_time: self.chance.body_time,
            fate,
            stall: if streamed {
                self.chance.stream_stall
            } else {
                Duration::ZERO
            },
            answer,
            quota,
        })
    }

    fn judge(
        &self,
        state: &mut State,
        question: &Question,
        answer: &Answer,
        now: Instant,
    ) -> Result<(), Box<Rejection>> {
        let config = &self.provider.config;
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
            let rejection = Rejection::throttled(QuotaDimension::Concurrency, limit, Duration::ZERO);
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
            (clock.requests.as_mut(), 1, QuotaDimension::Requests),
            (clock.tokens.as_mut(), cost, QuotaDimension::Tokens),
        ];
        let lacking = waits.into_iter().filter_map(|(meter, cost, dimension)| {
            let meter = meter?;
            let wait = meter.wait(cost, now)?;
            let hint = GivenHint {
                form: config.hint,
                wait,
                until_full: meter.until_full(now),
            };
            Some((hint, dimension, meter.limit(), meter.period()))
        });
        if let Some((hint, dimension, limit, period)) = lacking.max_by_key(|(hint, ..)| hint.wait) {
            let mut rejection = Rejection::throttled(dimension, limit, period);
            rejection.hint = Some(hint);
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

    /// Ends the call.
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
    /// Prepends a context cache to the question, and returns the tokens in it.
    fn use_content(
        &mut self,
        name: &str,
        model: &str,
        question: &mut Question,
    ) -> Result<u64, Box<Rejection>> {
        let content = self.contents.get(name).ok_or_else(Rejection::no_cache)?;
        if content.model != model {
            let message = format!(
                "Model used by GenerateContent request (models/{model}) and CachedContent (models/{}) has to be the same.",
                content.model
            );
            return Err(Rejection::invalid(message).into());
        }
        question.text = join([content.text.as_str(), question.text.as_str()].into_iter());
        Ok(content.tokens)
    }

    /// Returns the quotas that rate-limit headers report now; nothing without a quota.
    fn reported(&mut self, now: Instant) -> Option<ReportedQuota> {
        let clock = self.clock.as_mut()?;
        (clock.requests.is_some() || clock.tokens.is_some()).then(|| clock.reported(now))
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
