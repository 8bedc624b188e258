//! The scenarios by name. The letter is the group.

use crate::bars::{self, Bar};
use crate::scenario::{Failures, Hint, Pool, Quota, Scenario, Tokens};

pub(crate) fn all() -> Vec<Scenario> {
    let mut main = Vec::new();
    for group in [
        buckets,
        hintless,
        windows,
        counted,
        changes,
        tokens,
        in_flight,
        outages,
        tails,
        headers,
        ramps,
        two_clients,
    ] {
        main.extend(group());
    }
    for scenario in &mut main {
        scenario.in_main_set = true;
    }
    main.extend(own_servers());
    main.extend(shared());
    main.extend(long());
    main.extend(late());
    main.extend(expected_failures());
    main.extend(known());
    main.extend(no_limits());
    main
}

fn scenario(name: &str, about: &str, bar: Bar) -> Scenario {
    let mut scenario = Scenario::new(name, about);
    scenario.bar = bar;
    scenario
}

/// 100 calls a second.
fn hundred(scenario: Scenario) -> Scenario {
    scenario.bucket(100.0, 100.0).items(10_000, 500)
}

/// 1,000 calls a second.
fn thousand(scenario: Scenario) -> Scenario {
    scenario.bucket(1_000.0, 1_000.0).items(20_000, 5_000)
}

/// Quotas that refill steadily, with hints.
fn buckets() -> Vec<Scenario> {
    let burst_of_1 = bars::BURST_OF_1;
    let (bar, many) = (bars::BUCKETS, bars::MANY_ITEMS);
    vec![
        scenario("B1", "60 RPM, burst 1", burst_of_1).bucket(1.0, 1.0),
        scenario("B2", "120 RPM, burst 1", burst_of_1).bucket(2.0, 1.0),
        scenario("B3", "600 RPM, burst 20", bar),
        hundred(scenario("B4", "6,000 RPM, burst 100, n 500", bar)),
        thousand(scenario("B5", "60,000 RPM, burst 1,000, n 5,000", many)),
        scenario("B6", "6,000 RPM, burst 6,000, n 5,000", many)
            .bucket(100.0, 6_000.0)
            .items(20_000, 5_000),
        scenario("B7", "600 RPM, burst 20, hints in whole seconds", bar).hint(Hint::WholeSeconds),
        hundred(scenario("B8", "6,000 RPM, n 500, hints in whole seconds", bar)).hint(Hint::WholeSeconds),
        thousand(scenario(
            "B9",
            "60,000 RPM, n 5,000, hints in whole seconds",
            bars::ROUNDED_HINTS,
        ))
        .hint(Hint::WholeSeconds),
        scenario("B10", "600 RPM, burst 20, hints of 0.3 of the wait", bar).hint(Hint::Scaled(0.3)),
        scenario("B11", "600 RPM, burst 100, hints of 10 s too much", bar)
            .bucket(10.0, 100.0)
            .hint(Hint::Plus(10.0)),
    ]
}

/// The same without hints.
fn hintless() -> Vec<Scenario> {
    let burst_of_1 = bars::BURST_OF_1;
    let (bar, many) = (bars::BUCKETS, bars::MANY_ITEMS);
    let scenarios = [
        scenario("C1", "60 RPM, burst 1, no hint", burst_of_1).bucket(1.0, 1.0),
        scenario("C2", "120 RPM, burst 1, no hint", burst_of_1).bucket(2.0, 1.0),
        scenario("C3", "600 RPM, burst 20, no hint", bar),
        hundred(scenario("C4", "6,000 RPM, n 500, no hint", bar)),
        thousand(scenario("C5", "60,000 RPM, n 5,000, no hint", many)),
        scenario("C6", "600 RPM, burst 20, n 5,000, no hint", many).items(3_000, 5_000),
        scenario("C7", "no limit, n 500", bar)
            .items(20_000, 500)
            .set(|s| s.quota = Quota::Unlimited),
    ];
    scenarios.map(|scenario| scenario.hint(Hint::None)).into()
}

/// 6,000 calls a minute, of which the first has 40 s left.
fn large_window(scenario: Scenario) -> Scenario {
    scenario.items(20_000, 500).set(|s| {
        s.quota = Quota::Window {
            limit: 6_000,
            seconds: 60.0,
            first: 40.0,
        };
    })
}

/// Fixed windows; the hint is their end.
fn windows() -> Vec<Scenario> {
    let bar = bars::WINDOWS;
    let small = |scenario: Scenario| scenario.window(600, 60.0).items(6_000, 64);
    vec![
        small(scenario("D1", "600 in 60 s", bar)),
        large_window(scenario("D2", "6,000 in 60 s, n 500", bar)),
        small(scenario("D3", "600 in 60 s, no hint", bar)).hint(Hint::None),
        large_window(scenario("D4", "6,000 in 60 s, n 500, no hint", bar)).hint(Hint::None),
        scenario("D5", "10 in 1 s, no hint", bar)
            .window(10, 1.0)
            .hint(Hint::None),
    ]
}

/// Rejected calls take from the quota.
fn counted() -> Vec<Scenario> {
    let bar = bars::COUNTED;
    let scenarios = [
        scenario("E1", "600 RPM, counted", bar),
        scenario("E2", "600 RPM, counted, no hint", bar).hint(Hint::None),
        // Inside a full window it makes no difference.
        large_window(scenario("E3", "6,000 in 60 s, n 500, counted", bar)),
        hundred(scenario("E4", "6,000 RPM, n 500, counted, no hint", bar)).hint(Hint::None),
    ];
    scenarios
        .map(|scenario| scenario.set(|s| s.counted = true))
        .into()
}

/// Quotas that change and come back.
fn changes() -> Vec<Scenario> {
    let bar = bars::CHANGES;
    let half = |from, to| move |s: &mut Scenario| s.changes = vec![(from, 0.5), (to, 1.0)];
    vec![
        scenario("F1", "600 RPM, half of it in 100-200 s", bar).set(half(100.0, 200.0)),
        scenario("F2", "600 RPM, half of it in 100-200 s, no hint", bar)
            .hint(Hint::None)
            .set(half(100.0, 200.0)),
        hundred(scenario("F3", "6,000 RPM, n 500, half of it in 30-70 s", bar)).set(half(30.0, 70.0)),
        scenario("F4", "600 RPM, a tenth of it in 100-200 s, no hint", bar)
            .hint(Hint::None)
            .set(|s| s.changes = vec![(100.0, 0.1), (200.0, 1.0)]),
    ]
}

/// Quotas of tokens.
fn tokens() -> Vec<Scenario> {
    let bar = bars::TOKENS;
    let tokens =
        |sigma, error, named| move |s: &mut Scenario| s.tokens = Some(Tokens { sigma, error, named });
    vec![
        scenario("G1", "600,000 TPM, named, hints", bar)
            .bucket(10_000.0, 60_000.0)
            .set(tokens(1.0, 0.1, true)),
        scenario("G2", "600,000 TPM, neither", bar)
            .bucket(10_000.0, 60_000.0)
            .hint(Hint::None)
            .set(tokens(1.0, 0.1, false)),
        scenario("G3", "6,000,000 TPM, n 500, named, hints", bar)
            .bucket(100_000.0, 1_000_000.0)
            .items(10_000, 500)
            .set(tokens(1.5, 0.2, true)),
    ]
}

/// Limits on calls in flight, without hints.
fn in_flight() -> Vec<Scenario> {
    let slots = |name, about, slots| {
        scenario(name, about, bars::IN_FLIGHT)
            .hint(Hint::None)
            .set(|s| (s.quota, s.slots) = (Quota::Unlimited, Some(slots)))
    };
    vec![
        slots("H1", "64 in flight, n 500", 64).items(6_000, 500),
        slots("H2", "8 in flight, n 64", 8),
        slots("H3", "500 in flight, n 5,000, 1 % of items 100 s", 500)
            .items(20_000, 5_000)
            .set(|s| s.latency.tail = Some(100.0)),
        slots("H4", "64 in flight and 1,800 RPM, n 500", 64)
            .bucket(30.0, 60.0)
            .items(6_000, 500),
    ]
}

/// Outages; the 503s have no hints.
fn outages() -> Vec<Scenario> {
    let bar = bars::STEADY;
    vec![
        scenario("I1", "600 RPM, 503s in 100-160 s", bar).set(|s| s.outage = Some((100.0, 160.0))),
        hundred(scenario("I2", "6,000 RPM, n 500, 503s in 30-105 s, no hint", bar))
            .hint(Hint::None)
            .set(|s| s.outage = Some((30.0, 105.0))),
    ]
}

/// Calls of very different lengths.
fn tails() -> Vec<Scenario> {
    let bar = bars::STEADY;
    let tail = |s: &mut Scenario| s.latency.tail = Some(100.0);
    vec![
        scenario("J1", "600 RPM, 1 % of items 100 s", bar).set(tail),
        hundred(scenario("J2", "6,000 RPM, n 500, 1 % of items 100 s", bar)).set(tail),
        scenario("J3", "600 RPM, calls of 20 s, n 500, no hint", bar)
            .items(3_000, 500)
            .latency(20.0, 1.0)
            .hint(Hint::None),
    ]
}

/// Providers that report the quota in headers.
fn headers() -> Vec<Scenario> {
    let bar = bars::STEADY;
    vec![
        scenario("K1", "600 RPM, headers", bar)
            .bucket(10.0, 600.0)
            .set(|s| s.headers = Some(600)),
        scenario("K2", "600 RPM, headers of 600, a burst of 20", bar).set(|s| s.headers = Some(600)),
        scenario("K3", "600 in 60 s, headers", bar)
            .window(600, 60.0)
            .items(6_000, 64)
            .set(|s| s.headers = Some(600)),
        scenario(
            "K4",
            "60 RPM, headers of 60, a burst of 1, n 500, no hint",
            bars::BURST_OF_1,
        )
        .bucket(1.0, 1.0)
        .items(3_000, 500)
        .hint(Hint::None)
        .set(|s| s.headers = Some(60)),
    ]
}

/// Providers that grant more to those who use what they have.
fn ramps() -> Vec<Scenario> {
    let ramp = |name, about, per_second, growth| {
        scenario(name, about, bars::RAMPS).items(10_000, 500).set(|s| {
            s.quota = Quota::Ramp {
                per_second,
                burst: 50.0,
                growth,
            };
        })
    };
    vec![
        ramp("L1", "10,000 RPM, doubling, n 500", 10_000.0 / 60.0, 2.0),
        ramp("L2", "6,000 RPM, times 1.5, n 500, no hint", 100.0, 1.5).hint(Hint::None),
    ]
}

/// Two clients of ours, of half the items each.
fn two_clients() -> Vec<Scenario> {
    let bar = bars::TWO_CLIENTS;
    vec![
        scenario("M1", "two clients, 600 RPM", bar).clients(2),
        scenario("M2", "two clients, 600 RPM, no hint", bar)
            .clients(2)
            .hint(Hint::None),
        hundred(scenario("M3", "two clients, 6,000 RPM, n 500", bar)).clients(2),
        hundred(scenario("M4", "two clients, 6,000 RPM, n 500, no hint", bar))
            .clients(2)
            .hint(Hint::None),
    ]
}

/// Servers of one's own, which slow down as they fill. Without a quota and hints.
fn own_servers() -> Vec<Scenario> {
    let server = |name, about, bar, pool| {
        scenario(name, about, bar)
            .items(3_000, 500)
            .hint(Hint::None)
            .set(|s| (s.quota, s.pool) = (Quota::Unlimited, Some(pool)))
    };
    let pool = |batch, queue, status| Pool {
        half_speed: 64.0,
        batch,
        queue,
        status,
    };
    let full = bars::FULL_SERVER;
    vec![
        server("V3", "64 at once, 503 above, n 500", full, pool(64, 0, 503)),
        server(
            "V4",
            "64 at once, 429 above, n 500",
            bars::IN_FLIGHT,
            pool(64, 0, 429),
        ),
        server(
            "V5",
            "16 at once, 100 queued, 503 above, n 500",
            full,
            pool(16, 100, 503),
        ),
        server(
            "V7",
            "32 at once, 503 above, calls of 20 s, n 200",
            full,
            pool(32, 0, 503),
        )
        .items(1_500, 200)
        .latency(20.0, 0.5),
    ]
}

/// Quotas that others use too.
fn shared() -> Vec<Scenario> {
    let bar = bars::SHARED;
    let many = |scenario: Scenario, clients: usize, n| {
        scenario
            .items(1_000 * clients as u32, n)
            .clients(clients)
            .set(|s| s.hint = Hint::None)
    };
    vec![
        many(
            scenario("W1", "two clients, 60 RPM, burst 1", bar).bucket(1.0, 1.0),
            2,
            10,
        )
        .hint(Hint::Exact),
        many(
            scenario("W2", "two clients, 60 RPM, burst 1, no hint", bar).bucket(1.0, 1.0),
            2,
            10,
        ),
        many(
            scenario("W3", "two clients, 300 RPM, burst 2, no hint", bar).bucket(5.0, 2.0),
            2,
            64,
        ),
        many(scenario("W4", "four clients, 600 RPM, no hint", bar), 4, 64),
        // The ideal has the quota for itself, so the ratio is 2 at best.
        scenario(
            "W5",
            "a foreign tenant takes half of 600 RPM, no hint",
            bars::FOREIGN,
        )
        .hint(Hint::None)
        .set(|s| s.foreign = Some(5.0)),
        scenario("W7", "a second client joins after 60 s", bars::JOINED)
            .clients(2)
            .set(|s| s.join_after = 60.0),
    ]
}

/// Without bars: the docs list them.
fn expected_failures() -> Vec<Scenario> {
    vec![
        // No pace helps against calls that take each refill as it comes.
        scenario(
            "W6",
            "a foreign tenant takes half of 60 RPM, burst 1, no hint",
            bars::FREE,
        )
        .bucket(1.0, 1.0)
        .items(1_000, 10)
        .hint(Hint::None)
        .set(|s| s.foreign = Some(0.5)),
        // A nearly empty bucket has room for small items, and rejects the largest again and again.
        scenario(
            "G4",
            "600,000 TPM, items of 40 times the mean, no hint",
            bars::FREE,
        )
        .bucket(10_000.0, 60_000.0)
        .hint(Hint::None)
        .set(|s| {
            s.tokens = Some(Tokens {
                sigma: 1.5,
                error: 0.1,
                named: false,
            });
        }),
    ]
}

/// Long hints, long queues, long calls.
fn long() -> Vec<Scenario> {
    vec![
        scenario("X1", "600 RPM, hints of 60 s", bars::LONG_HINT).hint(Hint::Fixed(60.0)),
        // As H1, with hints.
        scenario("X2", "64 in flight, n 500, hints of 1 s", bars::IN_FLIGHT)
            .items(6_000, 500)
            .hint(Hint::Fixed(1.0))
            .set(|s| (s.quota, s.slots) = (Quota::Unlimited, Some(64))),
        scenario("X4", "100 in 10 s, no hint", bars::WINDOWS)
            .window(100, 10.0)
            .hint(Hint::None),
        // 500 active items, since 600 calls of 20 s in a minute are 200 at once.
        scenario("X5", "600 in 60 s, calls of 20 s, n 500", bars::WINDOWS)
            .window(600, 60.0)
            .items(6_000, 500)
            .latency(20.0, 0.5),
        scenario("X7", "600 RPM, five times as many after 100 s", bars::CHANGES)
            .set(|s| s.changes = vec![(100.0, 5.0)]),
        scenario("X8", "60 RPM, burst 60, n 1,000", bars::LONG_QUEUE)
            .bucket(1.0, 60.0)
            .items(3_000, 1_000),
        scenario("X9", "600 in 60 s, calls of 90 s, n 2,000", bars::LONG_CALLS)
            .window(600, 60.0)
            .items(6_000, 2_000)
            .latency(90.0, 0.5),
        scenario(
            "X10",
            "600 RPM, burst 10, calls of 90 s, counted, n 1,500",
            bars::LONG_COUNTED,
        )
        .bucket(10.0, 10.0)
        .items(3_000, 1_500)
        .latency(90.0, 0.5)
        .set(|s| s.counted = true),
    ]
}

/// 429s that come 3 s after the call.
fn late() -> Vec<Scenario> {
    let bar = bars::LATE_429;
    vec![
        scenario("Y1", "600 RPM, 429 after 3 s, no hint", bar)
            .hint(Hint::None)
            .set(|s| s.rejection_time = 3.0),
        hundred(scenario("Y2", "6,000 RPM, 429 after 3 s, n 500", bar)).set(|s| s.rejection_time = 3.0),
    ]
}

/// Quotas that are set in the client.
fn known() -> Vec<Scenario> {
    let known = |name, about| scenario(name, about, bars::KNOWN).hint(Hint::None);
    vec![
        known("T1", "600 RPM, set in the client").set(|s| s.per_minute = Some(600)),
        known("T2", "600,000 TPM, set in the client")
            .bucket(10_000.0, 60_000.0)
            .set(|s| {
                s.tokens = Some(Tokens {
                    sigma: 1.0,
                    error: 0.1,
                    named: false,
                });
                s.per_minute = Some(600_000);
            }),
    ]
}

/// Failures that have nothing to do with the rate of calls. Calls are of one length.
fn no_limits() -> Vec<Scenario> {
    let random = |throttled| {
        move |s: &mut Scenario| {
            s.quota = Quota::Unlimited;
            s.failures.throttled = throttled;
        }
    };
    let quick = |name, about, bar| {
        scenario(name, about, bar)
            .items(3_000, 50)
            .latency(0.05, 0.0)
            .hint(Hint::None)
    };
    vec![
        quick("Z1", "5 % of calls 429, calls of 50 ms, n 50", bars::RANDOM_429).set(random(0.05)),
        quick(
            "Z2",
            "20 % of calls 429, calls of 50 ms, n 50",
            bars::MANY_RANDOM_429,
        )
        .set(random(0.2)),
        scenario(
            "Z3",
            "one 429 at call 2 with a hint of 20 ms, calls of 1 s, n 50",
            bars::EARLY_429,
        )
        .items(1_000, 50)
        .latency(1.0, 0.0)
        .hint(Hint::Fixed(0.02))
        .set(|s| {
            s.quota = Quota::Unlimited;
            s.failures.throttled_call = Some(2);
        }),
        scenario(
            "R1",
            "5 % of calls reset, 2 % 503, calls of 200 ms, n 64",
            bars::FAILURES,
        )
        .items(1_000, 64)
        .latency(0.2, 0.0)
        .hint(Hint::None)
        .set(|s| {
            s.quota = Quota::Unlimited;
            s.failures = Failures {
                reset: 0.05,
                overloaded: 0.02,
                ..Failures::default()
            };
        }),
        quick(
            "R2",
            "5 % of calls 429, against the same run without, n 50",
            bars::SHORT_RUN,
        )
        .items(400, 50)
        .set(random(0.05))
        .set(|s| s.against_itself = true),
    ]
}
