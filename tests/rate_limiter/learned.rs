//! The provider's limit as a value: what a gate shows of it, and a gate that starts with it.

use std::time::{Duration, SystemTime};

use llm_batch::layer::rate_limiter::{
    Cooldown, LearnedLimit, LimitKind, Pace, Pacing, RateLimiter, RateLimiterSnapshot, SlowStart, StartedCall,
};
use llm_batch::{EventKind, Events, QuotaDimension, ReportedQuota, Verdict};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::bucket_fit::{Provider, Server, UNLIMITED, run};
use crate::support::*;

const BUCKET: Provider = Provider {
    per_second: 10.0,
    burst: 20.0,
    call: 0.1,
    ..UNLIMITED
};

fn gate() -> RateLimiter {
    RateLimiter::builder().build().unwrap()
}

fn gate_with(limit: LearnedLimit) -> RateLimiter {
    RateLimiter::builder().learned(limit).build().unwrap()
}

/// A limit as it was kept: found just now, unless these fields say something else.
fn limit(fields: Value) -> LearnedLimit {
    let mut kept = json!({
        "kind": "rate",
        "rejections": 5,
        "at": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
    });
    let Value::Object(fields) = fields else { panic!() };
    kept.as_object_mut().unwrap().extend(fields);
    serde_json::from_value(kept).unwrap()
}

fn rate(starts_per_second: f64) -> LearnedLimit {
    limit(json!({"starts_per_second": starts_per_second}))
}

fn hours_from_now(hours: i64) -> String {
    let time = Duration::from_secs(3_600 * hours.unsigned_abs());
    let now = SystemTime::now();
    let at = if hours < 0 { now - time } else { now + time };
    humantime::format_rfc3339_seconds(at).to_string()
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_visible_and_the_next_gate_starts_at_it() {
    let server = Server::new(BUCKET);
    let first = gate();
    assert_eq!(first.learned(), None);
    run(&first, &server, 3_000, 64).await;
    let learned = first.learned().unwrap();
    assert_eq!(learned.kind, LimitKind::Rate);
    let found = learned.starts_per_second.unwrap();
    assert!((9.0..11.0).contains(&found), "{found}");
    let burst = learned.burst.unwrap();
    assert!((5.0..60.0).contains(&burst), "{burst}");
    assert_eq!(learned.max_in_flight, None);
    assert_eq!(learned.rejections as usize, server.counts().1);
    assert_eq!(first.snapshot().learned, Some(learned));

    let kept = serde_json::to_string(&learned).unwrap();
    let second = gate_with(serde_json::from_str(&kept).unwrap());
    assert_eq!(second.learned(), Some(learned));
    // At once, and without the rush of a start.
    let pace = second.snapshot().starts_per_second.unwrap();
    assert!((0.9 * found..found).contains(&pace), "{pace}");
    let server = Server::new(BUCKET);
    // The climb after seconds is not reached.
    run(&second, &server, 50, 64).await;
    assert_eq!(server.counts(), (50, 0));
    assert_eq!(second.learned(), Some(learned));

    let server = Server::new(BUCKET);
    let took = run(&second, &server, 3_000, 64).await;
    assert!(took < 1.05 * 298.0, "{took}");
    assert!(server.counts().1 < 110, "{:?}", server.counts());
    let again = second.learned().unwrap();
    assert_eq!(again.rejections as usize, server.counts().1);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_of_a_minute_and_an_empty_one_do_not_mislead_the_next_gate() {
    for (burst, level) in [(600.0, 600.0), (20.0, 0.0)] {
        let server = Server::new(Provider { burst, ..BUCKET });
        server.set_level(level);
        let limiter = gate_with(limit(json!({"starts_per_second": 10.0, "burst": burst})));
        let took = run(&limiter, &server, 3_000, 200).await;
        assert!(took < 1.06 * (3_000.0 - level) / 10.0, "{burst}: {took}");
        assert!(server.counts().1 < 130, "{:?}", server.counts());
        let found = limiter.learned().unwrap().starts_per_second.unwrap();
        assert!((8.5..12.0).contains(&found), "{burst}: {found}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_rate_recovers() {
    for burst in [None, Some(20.0)] {
        for (wrong, most) in [
            (0.001, 1.6),
            (0.1, 1.4),
            (2.0, 1.25),
            (50.0, 1.1),
            (1_000.0, 1.1),
            (1e12, 1.1),
        ] {
            let server = Server::new(BUCKET);
            let limiter = gate_with(limit(json!({"starts_per_second": wrong, "burst": burst})));
            let took = run(&limiter, &server, 3_000, 64).await;
            assert!(took < most * 298.0, "{wrong} {burst:?}: {took}");
            assert!(
                server.counts().1 < 160,
                "{wrong} {burst:?}: {:?}",
                server.counts()
            );
            let found = limiter.learned().unwrap().starts_per_second.unwrap();
            assert!((8.5..12.0).contains(&found), "{wrong} {burst:?}: {found}");
        }
    }
}

/// At ten calls a second of one second each ten are in flight, as with a cap.
#[tokio::test(start_paused = true)]
async fn a_rate_is_not_taken_for_a_cap() {
    for (burst, dimension) in [(20.0, None), (30.0, None), (10.0, Some(QuotaDimension::Requests))] {
        let server = Server::new(Provider {
            burst,
            dimension,
            call: 1.0,
            ..BUCKET
        });
        let limiter = gate();
        run(&limiter, &server, 3_000, 64).await;
        let learned = limiter.learned().unwrap();
        assert_eq!(learned.kind, LimitKind::Rate, "{learned:?}");
        let found = learned.starts_per_second.unwrap();
        assert!((8.5..11.5).contains(&found), "{found}");
        assert_eq!(learned.dimension, dimension);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cap_is_kept_too_and_a_wrong_one_recovers() {
    let provider = Provider {
        in_flight: 20,
        ..UNLIMITED
    };
    let server = Server::new(provider);
    let first = gate();
    run(&first, &server, 3_000, 100).await;
    let learned = first.learned().unwrap();
    assert_eq!(
        (learned.kind, learned.starts_per_second),
        (LimitKind::InFlight, None)
    );
    assert!((18..=24).contains(&learned.max_in_flight.unwrap()), "{learned:?}");

    let server = Server::new(provider);
    let second = gate_with(limit(json!({"kind": "in_flight", "max_in_flight": 20})));
    assert_eq!(second.snapshot().max_in_flight, Some(20));
    let took = run(&second, &server, 3_000, 100).await;
    assert!(took < 1.1 * 159.0, "{took}");
    assert!(server.counts().1 < 60, "{:?}", server.counts());

    for (wrong, most) in [(1, 1.3), (5, 1.2), (60, 1.2), (usize::MAX, 1.2)] {
        let server = Server::new(provider);
        let limiter = gate_with(limit(json!({"kind": "in_flight", "max_in_flight": wrong})));
        let took = run(&limiter, &server, 3_000, 100).await;
        assert!(took < most * 159.0, "{wrong}: {took}");
        let found = limiter.learned().unwrap().max_in_flight.unwrap();
        assert!((18..=24).contains(&found), "{wrong}: {found}");
    }
}

#[tokio::test(start_paused = true)]
async fn tolerated_rejections_are_no_limit() {
    let provider = Provider {
        stray: 0.2,
        call: 0.05,
        way: 0.001,
        ..UNLIMITED
    };
    let server = Server::new(provider);
    let first = gate();
    run(&first, &server, 5_000, 50).await;
    let learned = first.learned().unwrap();
    assert_eq!(learned.kind, LimitKind::Stray);
    assert_eq!((learned.starts_per_second, learned.max_in_flight), (None, None));

    let server = Server::new(provider);
    let second = gate_with(learned);
    let took = run(&second, &server, 5_000, 50).await;
    assert!(took < 1.5 * 5_000.0 / 0.8 * 0.052 / 50.0, "{took}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_ignored() {
    let mut not_a_number = rate(1.0);
    not_a_number.starts_per_second = Some(f64::NAN);
    let mut infinite = rate(1.0);
    infinite.starts_per_second = Some(f64::INFINITY);
    let ignored = [
        limit(json!({"starts_per_second": 5.0, "at": hours_from_now(-25)})),
        limit(json!({"starts_per_second": 5.0, "at": hours_from_now(1)})),
        limit(json!({"kind": "in_flight", "max_in_flight": 0})),
        limit(json!({"kind": "in_flight", "starts_per_second": 5.0})),
        limit(json!({"max_in_flight": 5})),
        rate(-5.0),
        rate(0.0),
        not_a_number,
        infinite,
    ];
    for limit in ignored {
        let limiter = gate_with(limit);
        assert_eq!(limiter.learned(), None, "{limit:?}");
        let snapshot = limiter.snapshot();
        assert_eq!(
            (snapshot.starts_per_second, snapshot.max_in_flight),
            (None, None),
            "{limit:?}"
        );
    }
    let yesterday = limit(json!({"starts_per_second": 5.0, "at": hours_from_now(-23)}));
    assert_eq!(gate_with(yesterday).learned(), Some(yesterday));

    // A size that cannot be is not used.
    for burst in [f64::NAN, f64::INFINITY, -3.0] {
        let mut limit = rate(5.0);
        limit.burst = Some(burst);
        assert_eq!(gate_with(limit).learned(), Some(rate(5.0)));
    }
    // One call a day would never find that it is wrong.
    let slow = gate_with(rate(1.0 / 86_400.0)).learned().unwrap();
    assert_eq!(slow.starts_per_second, Some(0.1));
}

#[test]
fn other_policies_refuse_it() {
    struct Fixed;
    impl Pace for Fixed {
        fn on_start(&mut self, _: &StartedCall) -> Pacing {
            Pacing::UNLIMITED
        }
        fn on_end(&mut self, _: &StartedCall, _: &llm_batch::layer::rate_limiter::EndedCall) -> Pacing {
            Pacing::UNLIMITED
        }
    }
    let with = || RateLimiter::builder().learned(rate(5.0));
    for builder in [
        with().pace(Fixed),
        with().pace(SlowStart::default()),
        with().cooldown(Cooldown::classic()),
    ] {
        assert_eq!(builder.build().unwrap_err().field(), "learned");
    }
    let limiter = RateLimiter::builder().pace(Fixed).build().unwrap();
    assert_eq!((limiter.learned(), limiter.snapshot().learned), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_new_limit_is_an_event_once_in_a_generation() {
    let events = Events::with_capacity(1 << 20);
    let mut received = events.subscribe();
    let limiter = RateLimiter::builder().events(&events).build().unwrap();
    let server = Server::new(BUCKET);
    run(&limiter, &server, 2_000, 64).await;
    let (mut pauses, mut rates, mut fresh) = (0, Vec::<f64>::new(), true);
    while let Ok(Some(event)) = received.try_recv() {
        match event.kind {
            EventKind::CooldownStarted { .. } => {
                pauses += 1;
                fresh = true;
            }
            EventKind::LimitLearned {
                kind,
                starts_per_second,
                max_in_flight,
                rejections,
            } => {
                assert!(std::mem::take(&mut fresh), "twice between two pauses");
                assert_eq!((kind, max_in_flight), (LimitKind::Rate, None));
                assert!(rejections > 0);
                let rate = starts_per_second.unwrap();
                assert!(
                    rates.last().is_none_or(|old| (rate / old - 1.0).abs() > 0.15),
                    "{rates:?} {rate}"
                );
                rates.push(rate);
            }
            _ => {}
        }
    }
    assert!(!rates.is_empty() && rates.len() < pauses, "{rates:?} {pauses}");
}

#[tokio::test(start_paused = true)]
async fn it_has_the_quota_that_the_provider_named_and_comes_back_from_json() {
    let limiter = gate();
    let mut quota = ReportedQuota::default();
    quota.dimension = Some(QuotaDimension::Tokens);
    for _ in 0..2 {
        let mut calls = Vec::new();
        for _ in 0..20 {
            calls.push(call(&limiter, 1).await.unwrap());
            sleep(millis(100)).await;
        }
        let last = calls.pop().unwrap();
        for call in calls {
            call.settle(&Verdict::SUCCESS, Some(1));
        }
        last.settle(&throttled().with_quota(quota), Some(0));
        call(&limiter, 1)
            .await
            .unwrap()
            .settle(&Verdict::SUCCESS, Some(1));
    }
    let learned = limiter.learned().unwrap();
    assert_eq!(learned.dimension, Some(QuotaDimension::Tokens));
    let json = serde_json::to_string(&learned).unwrap();
    assert_eq!(serde_json::from_str::<LearnedLimit>(&json).unwrap(), learned);
    let snapshot = limiter.snapshot();
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(
        serde_json::from_str::<RateLimiterSnapshot>(&json).unwrap(),
        snapshot
    );

    let mut ancient = learned;
    ancient.at = SystemTime::UNIX_EPOCH - secs(1);
    assert!(serde_json::to_string(&ancient).is_err());
}
