//! Numbers that make no sense are refused before anything runs.

use std::time::Duration;

use llm_batch::layer::rate_limiter::{Cooldown, RateLimiter, RateLimiterBuilder, StartRamp};
use llm_batch::{ErrorKind, LlmError};

use crate::support::*;

#[test]
fn nonsense_is_refused_by_name() {
    let cooldown = |cooldown: Cooldown| RateLimiter::builder().cooldown(cooldown);
    let cases: Vec<(&str, RateLimiterBuilder)> = vec![
        (
            "requests_per_minute",
            RateLimiter::builder().requests_per_minute(0),
        ),
        ("tokens_per_minute", RateLimiter::builder().tokens_per_minute(0)),
        ("max_in_flight", RateLimiter::builder().max_in_flight(0)),
        ("burst", RateLimiter::builder().burst(Duration::ZERO)),
        ("burst", RateLimiter::builder().burst(secs(61))),
        (
            "in_flight_ramp",
            RateLimiter::builder().in_flight_ramp(0, 1, secs(1)),
        ),
        (
            "in_flight_ramp",
            RateLimiter::builder().in_flight_ramp(1, 0, secs(1)),
        ),
        (
            "in_flight_ramp",
            RateLimiter::builder().in_flight_ramp(1, 1, Duration::ZERO),
        ),
        (
            "in_flight_ramp",
            RateLimiter::builder()
                .max_in_flight(4)
                .in_flight_ramp(5, 1, secs(1)),
        ),
        (
            "start_ramp",
            RateLimiter::builder().start_ramp(StartRamp::new(1, f64::NAN)),
        ),
        (
            "start_ramp",
            RateLimiter::builder().start_ramp(StartRamp::new(1, 0.0)),
        ),
        (
            "start_ramp",
            RateLimiter::builder().start_ramp(StartRamp::new(1, f64::INFINITY)),
        ),
        (
            "start_ramp",
            RateLimiter::builder().start_ramp(StartRamp::new(1, 1.0).doubling_every(Duration::ZERO)),
        ),
        (
            "cooldown.base",
            cooldown(Cooldown::default().with_base(Duration::ZERO)),
        ),
        ("cooldown.base", cooldown(Cooldown::default().with_base(secs(9)))),
        (
            "cooldown.multiplier",
            cooldown(Cooldown::default().with_multiplier(f64::NAN)),
        ),
        (
            "cooldown.multiplier",
            cooldown(Cooldown::default().with_multiplier(0.9)),
        ),
        (
            "cooldown.cap",
            cooldown(Cooldown::default().with_cap(Duration::ZERO)),
        ),
        (
            "cooldown.hint_cap",
            cooldown(Cooldown::default().with_hint_cap(Duration::MAX)),
        ),
        (
            "cooldown.jitter",
            cooldown(Cooldown::default().with_jitter(f64::NAN)),
        ),
        ("cooldown.jitter", cooldown(Cooldown::default().with_jitter(-0.1))),
    ];
    for (field, builder) in cases {
        let error = builder.build().unwrap_err();
        assert_eq!(error.field(), field, "{error}");
        assert!(error.to_string().contains(field));
        assert_eq!(LlmError::from(error).kind(), ErrorKind::Configuration);
    }
}

#[test]
fn a_gate_can_be_made_outside_a_runtime() {
    let limiter = RateLimiter::builder()
        .name("mine")
        .requests_per_minute(60)
        .build()
        .unwrap();
    assert_eq!(limiter.name(), "mine");
    assert!(format!("{limiter:?}").contains("mine"));
    assert_eq!(limiter.snapshot().requests_available, Some(1.0));
}

#[test]
fn a_snapshot_survives_json() {
    let limiter = plain()
        .requests_per_minute(60)
        .tokens_per_minute(600)
        .build()
        .unwrap();
    call_now(&limiter, 4)
        .unwrap()
        .settle(&throttled_for(secs(3)), None);
    let snapshot = limiter.snapshot();
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(
        serde_json::from_str::<llm_batch::layer::rate_limiter::RateLimiterSnapshot>(&text).unwrap(),
        snapshot
    );
}
