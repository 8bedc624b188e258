//! The draws for the items of a run: the same for every policy.

use crate::scenario::Scenario;

/// The most tokens of an item, in multiples of the mean.
const LARGEST: f64 = 40.0;
const MEAN_TOKENS: f64 = 1_000.0;
/// No call takes longer. By default a call is cut after 600 s, which has nothing to do with the pace.
const LONGEST_CALL: f64 = 500.0;

/// By the item's index.
pub(crate) struct Draws {
    /// Seconds at the provider.
    pub(crate) latency: Vec<f64>,
    /// From the quota.
    pub(crate) cost: Vec<f64>,
    /// Of tokens.
    pub(crate) estimate: Vec<u64>,
}

impl Draws {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x6472_6177_7321);
        let mut draws = Self {
            latency: Vec::new(),
            cost: Vec::new(),
            estimate: Vec::new(),
        };
        for _ in 0..scenario.items {
            let latency = scenario.latency;
            let usual = latency.median * lognormal(&mut rng, latency.sigma);
            draws.latency.push(match latency.tail {
                Some(tail) if rng.f64() < 0.01 => tail,
                _ => usual.min(LONGEST_CALL),
            });
            let (cost, estimate) = match scenario.tokens {
                Some(tokens) => {
                    // Of mean 1.
                    let share = lognormal(&mut rng, tokens.sigma) * (-tokens.sigma.powi(2) / 2.0).exp();
                    let cost = MEAN_TOKENS * share.min(LARGEST);
                    (cost, cost * lognormal(&mut rng, tokens.error))
                }
                None => (1.0, MEAN_TOKENS),
            };
            draws.cost.push(cost);
            draws.estimate.push((estimate as u64).max(1));
        }
        draws
    }
}

/// Of median 1.
fn lognormal(rng: &mut fastrand::Rng, sigma: f64) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    (sigma * radius * (std::f64::consts::TAU * rng.f64()).cos()).exp()
}
