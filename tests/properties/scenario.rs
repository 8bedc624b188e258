//! The scenarios: a provider, a client, a consumer, and interference through the handle.

use std::fmt::Debug;
use std::time::Duration;

use llm_batch::testing::{Hint, Latency, Quota, SimulatedProvider};
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) items: u64,
    pub(crate) concurrency: usize,
    pub(crate) provider: Provider,
    pub(crate) client: Client,
    pub(crate) consumer: Consumer,
    pub(crate) acts: Vec<(u64, Act)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) requests_per_second: Option<u64>,
    pub(crate) fixed_window: bool,
    pub(crate) tokens_per_second: Option<u64>,
    pub(crate) concurrency: Option<u64>,
    pub(crate) count_rejected: bool,
    pub(crate) hint: Hint,
    pub(crate) overload_hint: bool,
    pub(crate) latency: (u64, u64),
    pub(crate) rejection_latency: u64,
    pub(crate) faults: Faults,
    pub(crate) outage: Option<(u64, u64, u16)>,
    pub(crate) balance_lasts_for: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) reset_unread: f64,
    pub(crate) reset: f64,
    pub(crate) garbled: f64,
    pub(crate) refusal: f64,
    pub(crate) overloaded: f64,
    pub(crate) broken: f64,
    pub(crate) gateway: f64,
    pub(crate) stall: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) attempts: u32,
    pub(crate) throttles: u32,
    pub(crate) call_timeout: Option<u64>,
    pub(crate) item_timeout: Option<u64>,
    pub(crate) requests_per_minute: Option<u32>,
    pub(crate) tokens_per_minute: Option<u32>,
    pub(crate) max_in_flight: Option<usize>,
    pub(crate) ramp: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    /// The milliseconds that it spends on an outcome.
    pub(crate) pause: u64,
    pub(crate) in_order: Option<usize>,
    /// Drops the stream after this number of outcomes.
    pub(crate) leaves_after: Option<usize>,
    pub(crate) cancel_on_stop: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    SetConcurrency(usize),
    Pause,
    Resume,
    Stop,
    Cancel,
}

impl Scenario {
    pub(crate) fn simulate(&self) -> SimulatedProvider {
        let ms = Duration::from_millis;
        let provider = &self.provider;
        let faults = &provider.faults;
        let (median, spread) = provider.latency;
        let mut sim = SimulatedProvider::builder()
            .seed(self.seed)
            .hint(provider.hint)
            .count_rejected(provider.count_rejected)
            .latency(Latency::log_normal(ms(median), ms(median * spread)))
            .rejection_latency(ms(provider.rejection_latency))
            .reset_before_rate(faults.reset_unread)
            .reset_rate(faults.reset)
            .truncated_rate(faults.garbled)
            .refusal_rate(faults.refusal)
            .status_rate(503, faults.overloaded)
            .status_rate(500, faults.broken)
            .status_rate(502, faults.gateway)
            .stall(faults.stall, ms(3_000))
            .slow_body(0.1, ms(200))
            .cached_share(0.25);
        if let Some(rate) = provider.requests_per_second {
            let quota = Quota::per_second(rate);
            sim = sim.request_quota(if provider.fixed_window {
                quota.fixed_window()
            } else {
                quota
            });
        }
        if let Some(rate) = provider.tokens_per_second {
            sim = sim.token_quota(Quota::new(rate * 10, Duration::from_secs(10)).with_burst(rate));
        }
        if let Some(calls) = provider.concurrency {
            sim = sim.concurrency(calls);
        }
        if provider.overload_hint {
            sim = sim.overload_hint(ms(700));
        }
        if let Some((from, length, status)) = provider.outage {
            sim = sim.outage(ms(from), ms(length), status);
        }
        if let Some(calls) = provider.balance_lasts_for {
            sim = sim.balance_lasts_for(calls);
        }
        sim.build().unwrap()
    }
}

/// `None` in most cases.
fn rare<T: Clone + Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![3 => Just(None), 1 => some.prop_map(Some)]
}

/// `None` in half of the cases.
fn maybe<T: Clone + Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![Just(None), some.prop_map(Some)]
}

fn share(most: f64) -> impl Strategy<Value = f64> {
    prop_oneof![2 => Just(0.0), 1 => 0.0..most]
}

fn faults() -> impl Strategy<Value = Faults> {
    let shares = (
        share(0.1),
        share(0.4),
        share(0.2),
        share(0.1),
        share(0.3),
        share(0.2),
        share(0.1),
        share(0.2),
    );
    shares.prop_map(
        |(reset_unread, reset, garbled, refusal, overloaded, broken, gateway, stall)| Faults {
            reset_unread,
            reset,
            garbled,
            refusal,
            overloaded,
            broken,
            gateway,
            stall,
        },
    )
}

fn provider() -> impl Strategy<Value = Provider> {
    let quotas = (
        maybe(1_u64..40),
        any::<bool>(),
        rare(100_u64..2_000),
        rare(1_u64..12),
        any::<bool>(),
    );
    let hint = prop_oneof![Just(Hint::None), prop::sample::select(&Hint::ALL[..])];
    let answers = (
        hint,
        prop::bool::weighted(0.2),
        (1_u64..400, 1_u64..20),
        0_u64..50,
    );
    let outage = (
        0_u64..5_000,
        1_u64..20_000,
        prop::sample::select(&[503_u16, 500, 529, 429][..]),
    );
    (quotas, answers, faults(), rare(outage), rare(1_u64..100)).prop_map(
        |(quotas, answers, faults, outage, balance_lasts_for)| {
            let (requests_per_second, fixed_window, tokens_per_second, concurrency, count_rejected) = quotas;
            let (hint, overload_hint, latency, rejection_latency) = answers;
            Provider {
                requests_per_second,
                fixed_window,
                tokens_per_second,
                concurrency,
                count_rejected,
                hint,
                overload_hint,
                latency,
                rejection_latency,
                faults,
                outage,
                balance_lasts_for,
            }
        },
    )
}

fn client() -> impl Strategy<Value = Client> {
    let budgets = (1_u32..8, 0_u32..40, rare(50_u64..2_000), rare(500_u64..30_000));
    let limits = (
        rare(30_u32..3_000),
        rare(2_000_u32..100_000),
        rare(1_usize..10),
        any::<bool>(),
    );
    (budgets, limits).prop_map(|(budgets, limits)| {
        let (attempts, throttles, call_timeout, item_timeout) = budgets;
        let (requests_per_minute, tokens_per_minute, max_in_flight, ramp) = limits;
        Client {
            attempts,
            throttles,
            call_timeout,
            item_timeout,
            requests_per_minute,
            tokens_per_minute,
            max_in_flight,
            ramp,
        }
    })
}

fn consumer() -> impl Strategy<Value = Consumer> {
    let pause = prop_oneof![2 => Just(0_u64), 1 => 1_u64..500];
    (pause, rare(0_usize..10), rare(0_usize..30), any::<bool>()).prop_map(
        |(pause, in_order, leaves_after, cancel_on_stop)| Consumer {
            pause,
            in_order,
            leaves_after,
            cancel_on_stop,
        },
    )
}

fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let act = prop_oneof![
        6 => (1_usize..30).prop_map(Act::SetConcurrency),
        2 => Just(Act::Pause),
        3 => Just(Act::Resume),
        1 => Just(Act::Stop),
        1 => Just(Act::Cancel),
    ];
    prop_oneof![Just(Vec::new()), prop::collection::vec((0_u64..6_000, act), 1..6)]
}

pub(crate) fn scenario() -> impl Strategy<Value = Scenario> {
    (
        any::<u64>(),
        0_u64..80,
        1_usize..25,
        provider(),
        client(),
        consumer(),
        acts(),
    )
        .prop_map(
            |(seed, items, concurrency, provider, client, consumer, acts)| Scenario {
                seed,
                items,
                concurrency,
                provider,
                client,
                consumer,
                acts,
            },
        )
}
