//! The data types: serialisation round trips, and the texts of errors.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::LimitKind;
use llm_batch::{
    BatchSummary, BoxError, Classify, Delivery, Disposition, ErrorKind, Event, EventKind, Events,
    FinishReason, ItemId, ItemReport, KindClassifier, LlmError, LlmRequest, LlmResponse, LlmStreamExt,
    Outcome, QuotaDimension, ReportedQuota, ResponseMetadata, Termination, TokenUsage, Usd, Verdict,
    WaitReason,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

const KINDS: &[ErrorKind] = ErrorKind::ALL;

fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn kind() -> impl Strategy<Value = ErrorKind> {
    proptest::sample::select(KINDS.to_vec())
}

fn usage() -> impl Strategy<Value = TokenUsage> {
    any::<[u64; 6]>().prop_map(|[input, output, cached_input, cache_write, long, reasoning]| {
        let mut usage = TokenUsage::new(input, output);
        (usage.cached_input, usage.cache_write, usage.reasoning) = (cached_input, cache_write, reasoning);
        usage.cache_write_long = long;
        usage
    })
}

/// Durations that an `f64` of seconds represents to the nanosecond: up to 2^52 ns.
fn duration() -> impl Strategy<Value = Duration> {
    (0_u64..1 << 52).prop_map(Duration::from_nanos)
}

/// Amounts that an `f64` of dollars represents to the billionth.
fn usd() -> impl Strategy<Value = Usd> {
    (0_u64..1 << 51).prop_map(Usd::from_nanos)
}

fn report() -> impl Strategy<Value = ItemReport> {
    let counts = any::<[u32; 5]>();
    let times = proptest::collection::vec(duration(), 8);
    (counts, usage(), usd(), times).prop_map(|(counts, usage, cost, times)| {
        let mut report = ItemReport::default();
        [
            report.attempts,
            report.calls,
            report.throttled_calls,
            report.unknown_usage_calls,
            report.unknown_cost_calls,
        ] = counts;
        (report.usage, report.cost) = (usage, cost);
        for (reason, time) in WaitReason::ALL.into_iter().zip(&times) {
            report.waits.add(reason, *time);
        }
        (report.call_time, report.total_time) = (times[6], times[7]);
        report
    })
}

fn quota() -> impl Strategy<Value = ReportedQuota> {
    let value = || proptest::option::of(any::<u64>());
    let dimension = proptest::option::of(proptest::sample::select(vec![
        QuotaDimension::Requests,
        QuotaDimension::Tokens,
        QuotaDimension::Concurrency,
    ]));
    (dimension, value(), value(), proptest::option::of(duration())).prop_map(
        |(dimension, limit, left, reset)| {
            let mut quota = ReportedQuota::default();
            quota.dimension = dimension;
            (quota.requests.limit, quota.tokens.remaining, quota.tokens.reset) = (limit, left, reset);
            quota
        },
    )
}

fn error() -> impl Strategy<Value = LlmError> {
    let delivery =
        proptest::sample::select(vec![Delivery::NotSent, Delivery::Rejected, Delivery::MaybeBilled]);
    let options = (
        proptest::option::of(100_u16..600),
        proptest::option::of(any::<String>()),
        proptest::option::of(duration()),
        proptest::option::of(usage()),
        proptest::option::of(quota()),
        proptest::option::of(any::<String>()),
        proptest::option::of(kind().prop_map(ErrorKind::disposition)),
    );
    (kind(), any::<String>(), delivery, options).prop_map(|(kind, message, delivery, options)| {
        let (status, code, wait, usage, quota, output, disposition) = options;
        let mut error = LlmError::new(kind, message).with_delivery(delivery);
        if let Some(status) = status {
            error = error.with_status(status);
        }
        if let Some(code) = code {
            error = error.with_code(code);
        }
        if let Some(wait) = wait {
            error = error.with_retry_after(wait);
        }
        if let Some(usage) = usage {
            error = error.with_usage(usage);
        }
        if let Some(quota) = quota {
            error = error.with_quota(quota);
        }
        if let Some(output) = output {
            error = error.with_raw_output(output);
        }
        if let Some(disposition) = disposition {
            error = error.with_disposition(disposition);
        }
        error
    })
}

fn response() -> impl Strategy<Value = LlmResponse> {
    let text = || proptest::option::of(any::<String>());
    let metadata = (text(), text(), text(), text(), proptest::option::of(any::<u32>()));
    (any::<String>(), proptest::option::of(usage()), metadata).prop_map(|(output, usage, options)| {
        let mut metadata = ResponseMetadata::default();
        let (provider, model, id, reason, cents) = options;
        metadata.finish_reason = reason.map(|reason| FinishReason::from(&*reason));
        (metadata.provider, metadata.model, metadata.response_id) = (provider, model, id);
        metadata.cost = cents.map(|cents| f64::from(cents) / 100.0);
        metadata.tool_calls = vec![serde_json::json!({"name": output, "arguments": [1, null]})];
        metadata.raw_body = serde_json::value::to_raw_value(&output).ok();
        let mut response = LlmResponse::new(output).with_metadata(metadata);
        response.usage = usage;
        response
    })
}

fn event_kind() -> impl Strategy<Value = EventKind> {
    let (call, attempt) = (any::<u32>(), any::<u32>());
    prop_oneof![
        proptest::option::of(any::<u64>()).prop_map(|expected| EventKind::BatchStarted { expected }),
        Just(EventKind::BatchCompleted),
        any::<String>().prop_map(|reason| EventKind::BatchAborted { reason }),
        Just(EventKind::ItemStarted),
        report().prop_map(|report| EventKind::ItemCompleted { report }),
        (kind(), any::<String>(), report()).prop_map(|(kind, message, report)| EventKind::ItemFailed {
            kind,
            message,
            report
        }),
        (call, attempt).prop_map(|(call, attempt)| EventKind::CallStarted { call, attempt }),
        (any::<u32>(), duration(), proptest::option::of(usage())).prop_map(|(call, duration, usage)| {
            EventKind::CallCompleted {
                call,
                duration,
                usage,
            }
        }),
        (
            any::<u32>(),
            proptest::option::of(kind()),
            duration(),
            proptest::option::of(usage())
        )
            .prop_map(|(call, kind, duration, usage)| EventKind::CallFailed {
                call,
                kind,
                duration,
                usage,
            }),
        (any::<u32>(), duration()).prop_map(|(attempt, wait)| EventKind::RetryScheduled { attempt, wait }),
        (proptest::option::of(duration()), any::<bool>()).prop_map(|(retry_after, current)| {
            EventKind::Throttled {
                retry_after,
                dimension: Some(QuotaDimension::Tokens),
                current,
            }
        }),
        (any::<u64>(), duration(), kind()).prop_map(|(generation, pause, kind)| EventKind::CooldownStarted {
            generation,
            pause,
            kind,
        }),
        any::<u64>().prop_map(|generation| EventKind::CooldownEnded { generation }),
        kind().prop_map(|kind| EventKind::Latched { kind }),
        (any::<u32>(), 0.0..1e6_f64).prop_map(|(rejections, rate)| EventKind::LimitLearned {
            kind: LimitKind::Rate,
            starts_per_second: Some(rate),
            max_in_flight: None,
            rejections: rejections.into(),
        }),
        Just(EventKind::Reopened),
        any::<u64>().prop_map(|estimate| EventKind::QuotaAdmitted { estimate }),
        (any::<u64>(), proptest::option::of(any::<u64>()))
            .prop_map(|(estimate, used)| EventKind::QuotaSettled { estimate, used }),
    ]
}

/// Any outcome: only a batch can create one.
fn an_outcome() -> Outcome<LlmResponse, LlmError, String> {
    let strategy =
        tower::service_fn(|_: LlmRequest| std::future::ready(Ok::<_, LlmError>(LlmResponse::default())));
    let items = stream::iter([("id", "hi", String::new())]).with_strategy(strategy);
    tokio_test::block_on(items.llm_batch(1).next()).unwrap()
}

proptest! {
    #[test]
    fn usage_comes_back(usage in usage()) {
        prop_assert_eq!(round_trip(&usage), usage);
    }

    #[test]
    fn usage_adds_up_class_by_class(some in proptest::collection::vec(usage(), 0..5)) {
        let total: TokenUsage = some.iter().sum();
        let inputs = some.iter().fold(0_u64, |sum, usage| sum.saturating_add(usage.input));
        prop_assert_eq!(total.input, inputs);
        prop_assert!(total.effective_input(0.5) <= total.input);
        prop_assert_eq!(total.effective_input(1.0), total.input);
        prop_assert!((0.0..=1.0).contains(&total.cache_hit_rate()));
    }

    #[test]
    fn reports_come_back(report in report()) {
        prop_assert_eq!(round_trip(&report), report);
    }

    #[test]
    fn responses_come_back(response in response()) {
        prop_assert_eq!(round_trip(&response), response);
    }

    #[test]
    fn errors_come_back_but_for_their_source(error in error()) {
        let back = round_trip(&error);
        prop_assert_eq!(format!("{back:?}"), format!("{error:?}"));
        prop_assert_eq!(Verdict::from(&back), Verdict::from(&error));
    }

    #[test]
    fn events_come_back(kind in event_kind(), index in proptest::option::of(any::<u64>()), id in any::<String>()) {
        // An event can only be made by its handle.
        let item = index.map(|index| llm_batch::Item::new(ItemId::from(id.as_str()), index));
        let events = Events::new();
        let mut receiver = events.subscribe();
        events.emit(item.as_deref(), || kind.clone());
        let event: Event = receiver.try_recv().unwrap().unwrap();
        prop_assert_eq!(&event.kind, &kind);
        prop_assert_eq!(event.index, index);
        prop_assert_eq!(round_trip(&event), event);
    }

    #[test]
    fn outcomes_come_back(
        index in any::<u64>(),
        id in any::<String>(),
        context in any::<String>(),
        result in prop_oneof![response().prop_map(Ok), error().prop_map(Err)],
        report in report(),
    ) {
        let mut outcome = an_outcome();
        (outcome.index, outcome.id, outcome.context) = (index, ItemId::from(id), context);
        (outcome.result, outcome.report) = (result, report);
        let back = round_trip(&outcome);
        prop_assert_eq!(format!("{back:?}"), format!("{outcome:?}"));
    }

    #[test]
    fn summaries_come_back(
        counts in any::<[u64; 9]>(),
        usage in usage(),
        report in report(),
        rate in 0.0..1e12_f64,
        expected in proptest::option::of(any::<u64>()),
    ) {
        let mut summary = BatchSummary::default();
        summary.termination = Some(Termination::Completed);
        summary.expected = expected;
        [
            summary.accepted,
            summary.succeeded,
            summary.failed,
            summary.in_flight,
            summary.attempts,
            summary.calls,
            summary.throttled_calls,
            summary.unknown_usage_calls,
            summary.unknown_cost_calls,
        ] = counts;
        summary.cost = report.cost;
        (summary.usage, summary.waits, summary.items_per_second) = (usage, report.waits, rate);
        (summary.elapsed, summary.call_time) = (report.total_time, report.call_time);
        prop_assert_eq!(round_trip(&summary), summary);
    }

    #[test]
    fn an_error_is_one_short_line(error in error()) {
        let line = error.to_string();
        prop_assert!(!line.chars().any(|character| character.is_control()), "{line:?}");
        prop_assert!(line.chars().count() < 650, "{}", line.len());
        prop_assert!(line.starts_with(&error.kind().to_string()));
    }
}

#[test]
fn kinds_come_back_and_unknown_ones_are_other() {
    for &kind in KINDS {
        assert_eq!(round_trip(&kind), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    let later: ErrorKind = serde_json::from_str("\"invented_later\"").unwrap();
    assert_eq!(later, ErrorKind::Other);
}

#[test]
fn a_message_is_cut_at_500_characters() {
    let long = LlmError::new(ErrorKind::ServerError, "ä".repeat(501)).with_status(500);
    assert_eq!(
        long.to_string(),
        format!("server error: {}... (HTTP 500)", "ä".repeat(500))
    );
    assert_eq!(long.message().chars().count(), 501, "whole where it is asked for");
    let fits = LlmError::new(ErrorKind::ServerError, "x".repeat(500));
    assert_eq!(fits.to_string(), format!("server error: {}", "x".repeat(500)));
    let lines = LlmError::new(ErrorKind::ServerError, " two\r\n\tlines\u{7}\n");
    assert_eq!(lines.to_string(), "server error: two lines ");
}

#[test]
fn a_402_says_what_to_do() {
    let error = LlmError::new(ErrorKind::InsufficientBalance, "Insufficient Balance").with_status(402);
    assert_eq!(
        error.to_string(),
        "insufficient balance: Insufficient Balance (HTTP 402); top up the account, raise its spend limit or use \
         another key"
    );
}

#[test]
fn what_a_failed_call_used_is_known_where_it_was_not_done() {
    let usage = |delivery| {
        LlmError::new(ErrorKind::Other, "")
            .with_delivery(delivery)
            .usage()
    };
    assert_eq!(usage(Delivery::NotSent), Some(TokenUsage::ZERO));
    assert_eq!(usage(Delivery::Rejected), Some(TokenUsage::ZERO));
    assert_eq!(usage(Delivery::MaybeBilled), None);
}

#[test]
fn the_default_classifier_looks_into_boxes() {
    #[derive(Debug, thiserror::Error)]
    #[error("around")]
    struct Around(#[source] LlmError);

    let inner = LlmError::rate_limit("slow down", Some(Duration::from_secs(3)));
    let boxed: BoxError = Box::new(Around(inner));
    let verdict = KindClassifier.classify(Err::<&(), _>(&boxed));
    assert_eq!(verdict.disposition, Disposition::Throttled);
    assert_eq!(verdict.retry_after, Some(Duration::from_secs(3)));
    let unknown: BoxError = "what?".into();
    assert_eq!(
        KindClassifier.classify(Err::<&(), _>(&unknown)).disposition,
        Disposition::Backoff
    );
    assert_eq!(KindClassifier.classify(Ok::<_, &LlmError>(&())), Verdict::SUCCESS);
}

#[test]
fn an_error_shows_what_is_set() {
    let error = LlmError::new(ErrorKind::RateLimit, "slow down");
    assert_eq!(
        format!("{error:?}"),
        r#"LlmError { kind: RateLimit, message: "slow down", delivery: Rejected }"#
    );
    let error = error
        .with_status(429)
        .with_retry_after(Duration::from_secs(2))
        .with_source("below");
    assert_eq!(
        format!("{error:?}"),
        r#"LlmError { kind: RateLimit, message: "slow down", delivery: Rejected, status: 429, retry_after: 2s, source: "below" }"#
    );
}
