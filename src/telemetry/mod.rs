//! The names that this crate exposes to monitoring: metrics, spans, fields and histogram buckets.
//!
//! # Metrics
//! With the feature `metrics` the crate records through the [`metrics`](https://docs.rs/metrics) facade; without
//! it nothing is recorded. The crate never installs a recorder. Install yours before the first call: handles are
//! looked up once per layer or stream and kept. Call [`describe_metrics`] once to pass descriptions and units to
//! it.
//!
//! | name | kind | labels besides `batch` |
//! |---|---|---|
//! | [`ITEMS`] | counter | `outcome`: `success`, `failure`, `aborted` |
//! | [`CALLS`] | counter | `outcome`: `success`, `failure`, `cancelled`; `error_type`: an [`ErrorKind`]'s name, or empty |
//! | [`TOKENS`] | counter | `type`: `input`, `output`, `cached_input`, `cache_write`, `reasoning` |
//! | [`UNKNOWN_USAGE_CALLS`] | counter | |
//! | [`CALL_DURATION`] | histogram, seconds | |
//! | [`ITEM_DURATION`] | histogram, seconds | |
//! | [`WAIT`] | histogram, seconds | `reason`: a [`WaitReason`]'s name |
//! | [`IN_FLIGHT`] | gauge | |
//! | [`COOLDOWNS`] | counter | |
//! | [`COOLDOWN_DURATION`] | histogram, seconds | |
//!
//! The label `batch` distinguishes instances; it is `default` unless a name was set. Labels never take a value from an
//! item, a prompt or an error's text, so the number of series is bounded. `cached_input` and `cache_write` are
//! parts of `input`, `reasoning` is a part of `output`: do not add them up.
//!
//! Exporters need bucket bounds for histograms: [`SECONDS_BUCKETS`] fits all of them. With
//! `metrics-exporter-prometheus`:
//! `builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)`.
//!
//! # Spans
//! One span `llm.item` per item and one span `chat` per physical call, both at level `INFO` with the target
//! `llm_batch`. The fields of the call span follow OpenTelemetry's conventions for generative AI, which are still
//! changing: the `gen_ai.*` names are not covered by this crate's semantic versioning. Prompts and answers are never
//! recorded.

use tracing::Span;
use tracing::field::Empty;

use crate::error::ErrorKind;
#[cfg(doc)]
use crate::item::WaitReason;
use crate::item::{CallGuard, Item};
use crate::response::ResponseMetadata;
use crate::usage::TokenUsage;

mod meter;

pub(crate) use meter::Meter;

/// The target of all spans and log events of this crate.
pub const TARGET: &str = "llm_batch";

/// Counter: items that have their outcome.
pub const ITEMS: &str = "llm_batch_items_total";
/// Counter: physical calls that have ended.
pub const CALLS: &str = "llm_batch_calls_total";
/// Counter: tokens of known usage, including failed calls.
pub const TOKENS: &str = "llm_batch_tokens_total";
/// Counter: calls whose usage is unknown.
pub const UNKNOWN_USAGE_CALLS: &str = "llm_batch_unknown_usage_calls_total";
/// Histogram: time in one physical call, without any wait.
pub const CALL_DURATION: &str = "llm_batch_call_duration_seconds";
/// Histogram: time from an item's pick-up to its outcome, with every call and wait.
pub const ITEM_DURATION: &str = "llm_batch_item_duration_seconds";
/// Histogram: one wait of one item, by reason. It shows which setting to change.
pub const WAIT: &str = "llm_batch_wait_seconds";
/// Gauge: items picked up and not yet done.
pub const IN_FLIGHT: &str = "llm_batch_in_flight";
/// Counter: the pauses of a gate.
pub const COOLDOWNS: &str = "llm_batch_cooldowns_total";
/// Histogram: the planned length of those pauses when they began.
pub const COOLDOWN_DURATION: &str = "llm_batch_cooldown_seconds";

/// Label: the instance.
pub const LABEL_BATCH: &str = "batch";
/// Label: the outcome of the item or call.
pub const LABEL_OUTCOME: &str = "outcome";
/// Label: the [`ErrorKind`] of a failure; empty for a success or an unknown kind.
pub const LABEL_ERROR_TYPE: &str = "error_type";
/// Label: the class of tokens.
pub const LABEL_TOKEN_TYPE: &str = "type";
/// Label: the reason for the wait.
pub const LABEL_REASON: &str = "reason";
/// The default value of [`LABEL_BATCH`].
pub const DEFAULT_BATCH: &str = "default";

/// Bucket bounds in seconds for every histogram of this crate: OpenTelemetry's for the duration of a generative
/// AI call (0.01 doubling to 81.92), extended to one hour for items.
pub const SECONDS_BUCKETS: [f64; 20] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
    655.36, 1310.72, 2621.44, 5242.88,
];

/// Name of an item's span.
pub const ITEM_SPAN: &str = "llm.item";
/// Name of a call's span; OpenTelemetry's name for it, `chat {model}`, is in [`OTEL_NAME`].
pub const CALL_SPAN: &str = "chat";

/// Field of the item span: its id.
pub const ITEM_ID: &str = "llm_batch.item.id";
/// Field of the item span: its index.
pub const ITEM_INDEX: &str = "llm_batch.item.index";
/// Field of the call span: the number of the call within its item, from 1.
pub const CALL_NUMBER: &str = "llm_batch.call";
/// Field of the call span: the attempt, from 1.
pub const CALL_ATTEMPT: &str = "llm_batch.attempt";
/// Field: the span's name for OpenTelemetry.
pub const OTEL_NAME: &str = "otel.name";
/// Field: the span's kind for OpenTelemetry; `client`.
pub const OTEL_KIND: &str = "otel.kind";
/// Field: `ERROR` if the call failed.
pub const OTEL_STATUS: &str = "otel.status_code";
/// Field: the [`ErrorKind`] of a failed call, or `cancelled`.
pub const ERROR_TYPE: &str = "error.type";
/// Field: `chat`.
pub const OPERATION: &str = "gen_ai.operation.name";
/// Field: the provider.
pub const PROVIDER: &str = "gen_ai.provider.name";
/// Field: the requested model.
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
/// Field: the model that answered.
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
/// Field: the provider's id of the answer.
pub const RESPONSE_ID: &str = "gen_ai.response.id";
/// Field: the reason why the model stopped.
pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Field: [`TokenUsage::input`].
pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Field: [`TokenUsage::output`].
pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// Field: [`TokenUsage::cached_input`].
pub const CACHE_READ_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
/// Field: [`TokenUsage::cache_write`].
pub const CACHE_WRITE_TOKENS: &str = "gen_ai.usage.cache_creation.input_tokens";
/// Field: [`TokenUsage::reasoning`].
pub const REASONING_TOKENS: &str = "gen_ai.usage.reasoning.output_tokens";

/// Passes the description and unit of every metric to the installed recorder. Without the feature `metrics` it does
/// nothing.
pub fn describe_metrics() {
    meter::describe();
}

/// The end of an item, for [`Meter::item_ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemEnd {
    Success,
    Failure,
    Aborted,
}

/// The end of a call, for [`Meter::call_ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEnd {
    Success,
    Failure(Option<ErrorKind>),
    /// The call was dropped before its end: a time limit, an abort, a panic.
    Cancelled,
}

/// The span of one item.
pub(crate) fn item_span(item: &Item) -> Span {
    tracing::info_span!(
        target: TARGET,
        ITEM_SPAN,
        { ITEM_ID } = %item.id(),
        { ITEM_INDEX } = item.index(),
    )
}

/// The span of one physical call. The strategy fills in the request's fields with [`record_request`].
pub(crate) fn call_span(call: Option<&CallGuard>) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        CALL_SPAN,
        { OTEL_NAME } = Empty,
        { OTEL_KIND } = "client",
        { OTEL_STATUS } = Empty,
        { OPERATION } = "chat",
        { PROVIDER } = Empty,
        { REQUEST_MODEL } = Empty,
        { RESPONSE_MODEL } = Empty,
        { RESPONSE_ID } = Empty,
        { FINISH_REASONS } = Empty,
        { INPUT_TOKENS } = Empty,
        { OUTPUT_TOKENS } = Empty,
        { CACHE_READ_TOKENS } = Empty,
        { CACHE_WRITE_TOKENS } = Empty,
        { REASONING_TOKENS } = Empty,
        { ERROR_TYPE } = Empty,
        { CALL_NUMBER } = Empty,
        { CALL_ATTEMPT } = Empty,
    );
    if let (false, Some(call)) = (span.is_disabled(), call) {
        span.record(CALL_NUMBER, call.number());
        span.record(CALL_ATTEMPT, call.item().attempt());
    }
    span
}

/// For providers: records the provider and the model in the current call span. Does nothing if the
/// current span is another one.
#[cfg(feature = "reqwest")]
pub(crate) fn record_request(provider: &str, model: &str) {
    let span = Span::current();
    let is_call =
        |metadata: &tracing::Metadata<'_>| metadata.target() == TARGET && metadata.name() == CALL_SPAN;
    if !span.metadata().is_some_and(is_call) {
        return;
    }
    span.record(PROVIDER, provider);
    span.record(REQUEST_MODEL, model);
    span.record(OTEL_NAME, format_args!("chat {model}"));
}

/// Records the answer of a call in its span.
pub(crate) fn record_response(span: &Span, metadata: Option<&ResponseMetadata>, usage: Option<TokenUsage>) {
    if span.is_disabled() {
        return;
    }
    if let Some(metadata) = metadata {
        if let Some(model) = &metadata.model {
            span.record(RESPONSE_MODEL, model.as_str());
        }
        if let Some(id) = &metadata.response_id {
            span.record(RESPONSE_ID, id.as_str());
        }
        if let Some(reason) = &metadata.finish_reason {
            span.record(FINISH_REASONS, reason.as_str());
        }
    }
    if let Some(usage) = usage {
        span.record(INPUT_TOKENS, usage.input);
        span.record(OUTPUT_TOKENS, usage.output);
        for (field, tokens) in [
            (CACHE_READ_TOKENS, usage.cached_input),
            (CACHE_WRITE_TOKENS, usage.cache_write),
            (REASONING_TOKENS, usage.reasoning),
        ] {
            if tokens > 0 {
                span.record(field, tokens);
            }
        }
    }
}

/// Records the failure of a call in its span.
pub(crate) fn record_failure(span: &Span, error_type: &str) {
    if span.is_disabled() {
        return;
    }
    span.record(OTEL_STATUS, "ERROR");
    span.record(ERROR_TYPE, error_type);
}
