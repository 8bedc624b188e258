//! Scenarios drawn at random.

use crate::bars::{Bar, FREE};
use crate::scenario::{Hint, Quota, Scenario, Tokens};

const BAR: Bar = Bar {
    row: "random",
    ..FREE
};

/// Of these seconds at least, where the quota decides.
const LENGTH: (f64, f64) = (60.0, 400.0);

pub(crate) fn is_random(scenario: &Scenario) -> bool {
    scenario.bar.row == BAR.row
}

/// The scenario of this number; always the same one.
pub(crate) fn scenario(number: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(0x70_61_63_65 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut scenario = Scenario::new(&format!("random{number}"), "");
    scenario.bar = BAR;
    let rate = log_uniform(&mut rng, 1.0, 500.0);
    let length = log_uniform(&mut rng, LENGTH.0, LENGTH.1);
    scenario.latency.median = log_uniform(&mut rng, 0.3, 20.0);
    scenario.latency.sigma = 0.2 + 0.8 * rng.f64();
    if rng.f64() < 0.1 {
        scenario.latency.tail = Some(60.0);
    }
    scenario.items = ((rate * length) as u32).clamp(500, 10_000);
    // From what can just use the quota to ten times as many.
    let needed = rate * scenario.latency.median * 1.3;
    let n = needed * log_uniform(&mut rng, 1.0, 10.0);
    scenario.n = (n as usize).clamp(8, 3_000);
    scenario.quota = match rng.u32(..10) {
        0..6 => Quota::Bucket {
            per_second: rate,
            burst: (rate * log_uniform(&mut rng, 0.1, 30.0)).max(1.0),
        },
        6 | 7 => {
            let seconds: f64 = [1.0, 10.0, 60.0][rng.usize(..3)];
            let limit = ((rate * seconds) as u64).max(2);
            let first = seconds * (0.05 + 0.95 * rng.f64());
            Quota::Window {
                limit,
                seconds,
                first,
            }
        }
        8 => {
            let mean = scenario.latency.median * (scenario.latency.sigma.powi(2) / 2.0).exp();
            scenario.slots = Some(((rate * mean) as usize).clamp(8, scenario.n));
            Quota::Unlimited
        }
        _ => {
            scenario.tokens = Some(Tokens {
                sigma: 0.3 + rng.f64(),
                error: 0.05 + 0.3 * rng.f64(),
                named: rng.bool(),
            });
            Quota::Bucket {
                per_second: rate * 1_000.0,
                burst: 1_000.0 * (rate * log_uniform(&mut rng, 1.0, 30.0)).max(60.0),
            }
        }
    };
    scenario.hint = match rng.u32(..10) {
        0..4 => Hint::None,
        4..7 => Hint::Exact,
        7 => Hint::WholeSeconds,
        8 => Hint::Scaled(0.3),
        _ => Hint::Plus(log_uniform(&mut rng, 0.5, 10.0)),
    };
    let bucket = matches!(scenario.quota, Quota::Bucket { .. });
    scenario.counted = bucket && scenario.tokens.is_none() && rng.f64() < 0.2;
    if bucket && rng.f64() < 0.25 {
        let from = length * (0.1 + 0.4 * rng.f64());
        let factor = log_uniform(&mut rng, 0.25, 3.0);
        scenario.changes = vec![(from, factor)];
        if rng.bool() {
            scenario.changes.push((from + length * 0.3 * rng.f64(), 1.0));
        }
    }
    if rng.f64() < 0.1 {
        let from = length * rng.f64();
        scenario.outage = Some((from, from + log_uniform(&mut rng, 2.0, 60.0)));
    }
    if rng.f64() < 0.1 {
        scenario.clients = 2;
        scenario.n = scenario.n.div_ceil(2);
    }
    if rng.f64() < 0.1 {
        scenario.rejection_time = rng.f64() * 2.0;
    }
    scenario.about = format!(
        "{:?}{}{}, {} items, n {} x {}, {:.1} s, {:?}{}{}{}",
        scenario.quota,
        scenario
            .slots
            .map_or(String::new(), |slots| format!(" {slots} in flight")),
        if scenario.tokens.is_some() {
            " of tokens"
        } else {
            ""
        },
        scenario.items,
        scenario.n,
        scenario.clients,
        scenario.latency.median,
        scenario.hint,
        if scenario.counted { ", counted" } else { "" },
        if scenario.changes.is_empty() {
            String::new()
        } else {
            format!(", {:?}", scenario.changes)
        },
        if let Some(outage) = scenario.outage {
            format!(", outage {outage:?}")
        } else {
            String::new()
        },
    );
    scenario
}

fn log_uniform(rng: &mut fastrand::Rng, low: f64, high: f64) -> f64 {
    low * (high / low).powf(rng.f64())
}
