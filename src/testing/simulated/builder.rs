//! The builder of a simulated provider.

use std::time::Duration;

use super::super::latency::Latency;
use super::fault::{Faults, Outage};
use super::hint::Hint;
use super::quota::Quota;
use super::{SimulatedProvider, TokenCharge};
use crate::error::{ErrorKind, LlmError};

/// The smallest prompt that Gemini and most of Anthropic's models cache.
const CACHE_MINIMUM: u64 = 1_024;

/// Configures a [`SimulatedProvider`].
///
/// Without any setting it answers every call immediately. Rates are shares of calls from 0 to 1, selected by the seed and
/// the call's ordinal number only.
#[derive(Clone, Debug)]
#[must_use = "call build"]
pub struct SimulatedProviderBuilder {
    pub(super) config: Config,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) seed: u64,
    pub(super) model: String,
    pub(super) api_key: Option<String>,
    pub(super) latency: Latency,
    pub(super) rejection_latency: Latency,
    pub(super) requests: Option<Quota>,
    pub(super) tokens: Option<Quota>,
    pub(super) token_charge: TokenCharge,
    pub(super) concurrency: Option<u64>,
    pub(super) count_rejected: bool,
    pub(super) hint: Hint,
    pub(super) overload_hint: Option<Duration>,
    pub(super) rate_limit_headers: bool,
    pub(super) cached_share: f64,
    pub(super) cache_minimum: u64,
    pub(super) reasoning_tokens: u64,
    pub(super) keep_alive: Option<Duration>,
    pub(super) faults: Faults,
    pub(super) key_expires_after: Option<u64>,
    pub(super) balance_lasts_for: Option<u64>,
}

impl SimulatedProviderBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: Config {
                seed: 0,
                model: "sim".to_owned(),
                api_key: None,
                latency: Latency::ZERO,
                rejection_latency: Latency::ZERO,
                requests: None,
                tokens: None,
                token_charge: TokenCharge::Reservation,
                concurrency: None,
                count_rejected: false,
                hint: Hint::default(),
                overload_hint: None,
                rate_limit_headers: true,
                cached_share: 0.0,
                cache_minimum: CACHE_MINIMUM,
                reasoning_tokens: 0,
                keep_alive: None,
                faults: Faults::default(),
                key_expires_after: None,
                balance_lasts_for: None,
            },
        }
    }

    /// Sets the seed of all random decisions; 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Sets the name of its only model; `sim` by default. Calls for any model are answered, under the requested name.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.config.model = model.into();
        self
    }

    /// Sets the key that the HTTP server requires, in the place of each provider: `Authorization: Bearer` (OpenAI,
    /// Anthropic), `x-api-key` (Anthropic), `x-goog-api-key` or `?key=` (Gemini). Any other key is rejected with 401, or Gemini's 400.
    /// By default no key is required.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.config.api_key = Some(key.into());
        self
    }

    /// Sets the time from the end of the request to the first byte of an answer; zero by default.
    pub fn latency(mut self, latency: impl Into<Latency>) -> Self {
        self.config.latency = latency.into();
        self
    }

    /// Sets the latency of rejections of any kind; zero by default.
    pub fn rejection_latency(mut self, latency: impl Into<Latency>) -> Self {
        self.config.rejection_latency = latency.into();
        self
    }

    /// Sets the request quota.
    pub fn request_quota(mut self, quota: Quota) -> Self {
        self.config.requests = Some(quota);
        self
    }

    /// Sets a quota of requests per minute, as a bucket that holds one second's quota (at least 1).
    pub fn requests_per_minute(self, limit: u64) -> Self {
        self.request_quota(Quota::per_minute(limit).with_burst((limit / 60).max(1)))
    }

    /// Sets the token quota. [`token_charge`](Self::token_charge) sets the charge per call.
    pub fn token_quota(mut self, quota: Quota) -> Self {
        self.config.tokens = Some(quota);
        self
    }

    /// Sets a quota of tokens per minute, as a bucket that holds one second's quota (at least 1).
    pub fn tokens_per_minute(self, limit: u64) -> Self {
        self.token_quota(Quota::per_minute(limit).with_burst((limit / 60).max(1)))
    }

    /// Sets the tokens that a call takes from the token quota; [`TokenCharge::Reservation`] by default.
    pub fn token_charge(mut self, charge: TokenCharge) -> Self {
        self.config.token_charge = charge;
        self
    }

    /// Sets the number of accepted calls that may be in flight at the same time. The throttle reply has no wait hint, as
    /// the time is unknown.
    pub fn concurrency(mut self, calls: u64) -> Self {
        self.config.concurrency = Some(calls);
        self
    }

    /// Sets whether a throttled call also counts against the request quota, as at OpenAI; it does not by default.
    /// It may empty a bucket, but leaves no debt.
    pub fn count_rejected(mut self, count: bool) -> Self {
        self.config.count_rejected = count;
        self
    }

    /// Sets the form of the wait hint in throttle replies; [`Hint::RetryAfterSeconds`] by default.
    pub fn hint(mut self, hint: Hint) -> Self {
        self.config.hint = hint;
        self
    }

    /// Sets a `Retry-After` on 503 and 529 replies (whole seconds on the wire, rounded up); none by default.
    pub fn overload_hint(mut self, wait: Duration) -> Self {
        self.config.overload_hint = Some(wait);
        self
    }

    /// Sets whether answers carry `x-ratelimit-*` headers for the configured quotas; they do by default. Throttle replies
    /// carry them only with [`Hint::ResetHeaders`].
    pub fn rate_limit_headers(mut self, send: bool) -> Self {
        self.config.rate_limit_headers = send;
        self
    }

    /// Sets the share of input tokens that is reported and billed as read from the cache; 0 by default. If Anthropic's
    /// `cache_control` marks or Gemini's `cachedContent` lead to more cached tokens, that larger number is used.
    pub fn cached_share(mut self, share: f64) -> Self {
        self.config.cached_share = share;
        self
    }

    /// Sets the smallest number of tokens that is cached; 1,024 by default, as at Gemini and most of Anthropic's
    /// models. Fewer tokens are an error when a Gemini cache is created, and are not cached when marked with Anthropic's
    /// `cache_control`.
    pub fn cache_minimum(mut self, tokens: u64) -> Self {
        self.config.cache_minimum = tokens;
        self
    }

    /// Sets the number of reasoning tokens before each answer; 0 by default. They are billed as output and
    /// count toward the output token limit. Anthropic's and Gemini's wire formats return the thoughts themselves if the request
    /// includes them.
    pub fn reasoning_tokens(mut self, tokens: u64) -> Self {
        self.config.reasoning_tokens = tokens;
        self
    }

    /// Keeps streams alive: a stream that is silent for `interval` sends a comment, for Anthropic a
    /// `ping` event, for Gemini nothing, as its clients do not support it. The head of the response is then sent immediately,
    /// before the latency. Stalls stay silent. Off by default.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.config.keep_alive = Some(interval);
        self
    }

    /// Sets the share of calls whose connection is reset after the request was read: half of them before the head of the
    /// response, half in the middle of its body.
    pub fn reset_rate(self, rate: f64) -> Self {
        self.reset_before_head_rate(rate / 2.0)
            .reset_in_body_rate(rate / 2.0)
    }

    /// Sets the share of calls whose connection is reset before the request was read.
    pub fn reset_before_rate(mut self, rate: f64) -> Self {
        self.config.faults.reset_unread = rate;
        self
    }

    /// Sets the share of calls whose connection is reset after the request was read, before the head of the response.
    pub fn reset_before_head_rate(mut self, rate: f64) -> Self {
        self.config.faults.reset_before_head = rate;
        self
    }

    /// Sets the share of calls whose connection is reset in the middle of the response's body, streamed or not.
    pub fn reset_in_body_rate(mut self, rate: f64) -> Self {
        self.config.faults.reset_in_body = rate;
        self
    }

    /// Sets the share of calls answered with truncated JSON, in a response that is complete for HTTP; a stream
    /// ends in the middle of an event.
    pub fn truncated_rate(mut self, rate: f64) -> Self {
        self.config.faults.truncated = rate;
        self
    }

    /// Sets the share of calls answered with a 200 whose body is an HTML page.
    pub fn garbage_rate(mut self, rate: f64) -> Self {
        self.config.faults.garbage = rate;
        self
    }

    /// Sets the share of calls that the model refuses to answer.
    pub fn refusal_rate(mut self, rate: f64) -> Self {
        self.config.faults.refusal = rate;
        self
    }

    /// Sets the share of calls whose answer's **text** is broken JSON.
    pub fn invalid_json_rate(mut self, rate: f64) -> Self {
        self.config.faults.invalid_json = rate;
        self
    }

    /// Sets the share of calls rejected with a status, such as 503. May be set for several statuses. These calls have
    /// passed the quotas and count.
    pub fn status_rate(mut self, status: u16, rate: f64) -> Self {
        self.config.faults.statuses.push((status, rate));
        self
    }

    /// Sets the share of calls whose body is sent in small pieces over `time`, a stream event by event.
    pub fn slow_body(mut self, rate: f64, time: Duration) -> Self {
        self.config.faults.slow_body = (rate, time);
        self
    }

    /// Sets the share of calls that stall for `time` on top of their latency.
    pub fn stall(mut self, rate: f64, time: Duration) -> Self {
        self.config.faults.stall = (rate, time);
        self
    }

    /// Sets the share of **streamed** calls whose stream ends early but cleanly: between two events, without the last one.
    pub fn stream_cut_rate(mut self, rate: f64) -> Self {
        self.config.faults.stream_cut = rate;
        self
    }

    /// Sets the share of **streamed** calls whose stream ends with an error event, in the provider's own form.
    pub fn stream_error_rate(mut self, rate: f64) -> Self {
        self.config.faults.stream_error = rate;
        self
    }

    /// Sets the share of **streamed** calls that stall for `time` in the middle of the stream.
    pub fn stream_stall(mut self, rate: f64, time: Duration) -> Self {
        self.config.faults.stream_stall = (rate, time);
        self
    }

    /// Adds a period, counted from the first call, in which every call is rejected with `status`. May be used several times.
    pub fn outage(mut self, from: Duration, length: Duration, status: u16) -> Self {
        self.config.faults.outages.push(Outage { from, length, status });
        self
    }

    /// After that many calls every further call is rejected with 401.
    pub fn key_expires_after(mut self, calls: u64) -> Self {
        self.config.key_expires_after = Some(calls);
        self
    }

    /// After that many calls every further call is rejected with 429 and `insufficient_quota`, for Anthropic with
    /// `enforced_spend_limit_reached`, for Gemini with 402.
    pub fn balance_lasts_for(mut self, calls: u64) -> Self {
        self.config.balance_lasts_for = Some(calls);
        self
    }

    /// Builds the provider.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if a rate is not a share from 0 to 1, if rates that exclude each other sum to more than
    /// 1, if a quota, the concurrency or the keep-alive interval is 0, or if a status is not an error status (400 to 599).
    pub fn build(self) -> Result<SimulatedProvider, LlmError> {
        let config = self.config;
        let mut shares = config.faults.groups().to_vec();
        shares.push(vec![("cached_share", config.cached_share)]);
        for group in shares {
            for &(name, rate) in &group {
                if !(0.0..=1.0).contains(&rate) {
                    return refuse(format!("{name} is {rate}; it must be a share from 0 to 1"));
                }
            }
            let sum: f64 = group.iter().map(|(_, rate)| rate).sum();
            if sum > 1.0 + f64::EPSILON {
                let names: Vec<_> = group.iter().map(|(name, _)| *name).collect();
                return refuse(format!(
                    "{} sum to {sum}; together they must not be above 1",
                    names.join(", ")
                ));
            }
        }
        for (name, quota) in [("request", config.requests), ("token", config.tokens)] {
            if quota.is_some_and(|quota| quota.is_empty()) {
                return refuse(format!(
                    "the {name} quota does not allow any call; its limit, period and burst must be above 0"
                ));
            }
        }
        if config.concurrency == Some(0) {
            return refuse("the concurrency quota does not allow any call; it must be above 0".to_owned());
        }
        if config.keep_alive == Some(Duration::ZERO) {
            return refuse("the keep-alive interval must be above 0".to_owned());
        }
        let statuses = config.faults.statuses.iter().map(|&(status, _)| status);
        let outages = config.faults.outages.iter().map(|outage| outage.status);
        if let Some(status) = statuses
            .chain(outages)
            .find(|status| !(400..600).contains(status))
        {
            return refuse(format!("{status} is no error status; it must be from 400 to 599"));
        }
        Ok(SimulatedProvider::from_config(config))
    }
}

fn refuse(message: String) -> Result<SimulatedProvider, LlmError> {
    Err(LlmError::new(ErrorKind::Configuration, message))
}
