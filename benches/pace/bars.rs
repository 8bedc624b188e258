//! The bars that the default pace has to reach.

/// The bar of a group of scenarios, which is a row of the table. An infinite value means none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    /// The row.
    pub(crate) row: &'static str,
    /// The mean over the scenarios and seeds.
    pub(crate) ratio: f64,
    /// Each scenario with each seed.
    pub(crate) worst_seed: f64,
    /// Rejected calls per 100 accepted ones, in the mean.
    pub(crate) throttled: f64,
    /// Share of the items that may fail. A run that loses items is shorter, so its ratio means little.
    pub(crate) lost: f64,
}

/// Nothing is asked.
pub(crate) const FREE: Bar = Bar {
    row: "expected failures",
    ratio: f64::INFINITY,
    worst_seed: f64::INFINITY,
    throttled: f64::INFINITY,
    lost: f64::INFINITY,
};

const fn bar(row: &'static str, ratio: f64, worst_seed: f64, throttled: f64) -> Bar {
    Bar {
        row,
        ratio,
        worst_seed,
        throttled,
        lost: 0.0,
    }
}

const ANY: f64 = f64::INFINITY;

pub(crate) const BUCKETS: Bar = bar("B, C buckets", 1.05, ANY, 2.0);
/// With 5,000 active items one early burst is a large part of the run.
pub(crate) const MANY_ITEMS: Bar = bar("B, C buckets, n 5,000", 1.05, ANY, 5.0);
/// A second for nothing is a twentieth of this run.
pub(crate) const ROUNDED_HINTS: Bar = bar("B9 whole seconds, n 5,000", 1.11, 1.13, 5.0);
pub(crate) const BURST_OF_1: Bar = bar("burst 1, one client", 1.09, 1.10, 4.5);
pub(crate) const WINDOWS: Bar = bar("D, X4, X5 windows", 1.13, 1.20, 5.0);
pub(crate) const COUNTED: Bar = bar("E counted", 1.07, 1.10, 3.5);
pub(crate) const CHANGES: Bar = bar("F, X7 changes", 1.10, 1.16, 3.0);
pub(crate) const TOKENS: Bar = bar("G tokens", 1.04, 1.06, 2.7);
pub(crate) const IN_FLIGHT: Bar = bar("H, V4, X2 in flight", 1.10, 1.15, 2.2);
pub(crate) const STEADY: Bar = bar("I outage, J tail, K headers", 1.05, ANY, 1.5);
pub(crate) const RAMPS: Bar = bar("L ramp", 1.07, 1.12, 1.5);
pub(crate) const TWO_CLIENTS: Bar = bar("M two clients", 1.12, 1.45, 4.0);
pub(crate) const FULL_SERVER: Bar = Bar {
    lost: 0.001,
    ..bar("V3, V5, V7 503 when full", 1.20, 1.30, 8.0)
};
pub(crate) const SHARED: Bar = bar("W1-W4 shared", 1.45, 1.9, 18.0);
pub(crate) const FOREIGN: Bar = bar("W5 foreign tenant", 2.1, ANY, 5.0);
pub(crate) const JOINED: Bar = bar("W7 second joins", 1.15, ANY, 5.0);
pub(crate) const LONG_HINT: Bar = bar("X1 hint of 60 s", 2.2, ANY, ANY);
pub(crate) const LONG_QUEUE: Bar = bar("X8 long queue", 1.03, ANY, ANY);
pub(crate) const LONG_CALLS: Bar = bar("X9 long calls", 1.10, ANY, ANY);
pub(crate) const LONG_COUNTED: Bar = bar("X10 long, counted", 1.06, ANY, ANY);
pub(crate) const LATE_429: Bar = bar("Y late 429", 1.03, ANY, 12.0);
pub(crate) const RANDOM_429: Bar = bar("Z1 429 at random, 5 %", 1.5, ANY, ANY);
pub(crate) const MANY_RANDOM_429: Bar = bar("Z2 429 at random, 20 %", 3.0, ANY, ANY);
pub(crate) const EARLY_429: Bar = bar("Z3 one early 429", 1.1, ANY, ANY);
pub(crate) const KNOWN: Bar = bar("T known quota", 1.03, ANY, 0.1);
/// An item whose three attempts all break is lost: one in 8,000.
pub(crate) const FAILURES: Bar = Bar {
    lost: 0.001,
    ..bar("R1 failures that are no limit", 1.7, ANY, ANY)
};
pub(crate) const SHORT_RUN: Bar = bar("R2 429 at random, short run", 3.0, ANY, ANY);

/// The main set as a whole.
pub(crate) const MAIN_MEAN: f64 = 1.03;
pub(crate) const MAIN_P90: f64 = 1.08;
pub(crate) const MAIN_THROTTLED: f64 = 1.8;
pub(crate) const MAIN_WORST_ITEM: u32 = 10;

/// Quantiles of the ratios of random scenarios, with their bars.
pub(crate) const RANDOM: [(f64, f64); 4] = [(0.50, 1.03), (0.90, 1.12), (0.95, 1.22), (0.99, 2.0)];
/// The bar for the 90th percentile of their throttles.
pub(crate) const RANDOM_THROTTLED: f64 = 7.0;

/// Loose bars exceed the others by this factor.
pub(crate) const SLACK: f64 = 1.5;

impl Bar {
    /// For one seed alone.
    pub(crate) fn loose(self) -> Self {
        let ratio = match self.worst_seed.is_finite() {
            true => self.worst_seed,
            false => 1.0 + (self.ratio - 1.0) * SLACK + 0.02,
        };
        Self {
            ratio,
            worst_seed: ANY,
            throttled: self.throttled * SLACK,
            lost: self.lost * SLACK,
            ..self
        }
    }
}
