//! The shortest possible run: one client that has all items, sends them in order, and knows when the provider will
//! accept each of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::draws::Draws;
use crate::scenario::{Pool, Scenario};
use crate::server::pool::Batch;
use crate::server::quota::QuotaState;

/// Seconds of each way: the mean.
const WAY: f64 = 0.035;

/// Its length in seconds.
pub(crate) fn ideal(scenario: &Scenario, draws: &Draws) -> f64 {
    if let Some(pool) = scenario.pool {
        return full_batch(pool, draws);
    }
    let slots = scenario.slots.unwrap_or(usize::MAX).min(scenario.active());
    let mut quota = QuotaState::new(scenario);
    // In nanoseconds.
    let mut ends = BinaryHeap::new();
    let (mut last_arrival, mut last_end) = (0.0_f64, 0.0_f64);
    for (latency, cost) in draws.latency.iter().zip(&draws.cost) {
        let mut free = 0.0;
        if ends.len() >= slots
            && let Some(Reverse(end)) = ends.pop()
        {
            free = end as f64 / 1e9;
        }
        let mut arrival = last_arrival.max(free + WAY);
        loop {
            if let Some((from, to)) = scenario.outage
                && from <= arrival
                && arrival < to
            {
                arrival = to;
            }
            let allowed = quota.earliest(arrival, *cost);
            if allowed <= arrival {
                break;
            }
            arrival = allowed;
        }
        quota.take(*cost);
        last_arrival = arrival;
        let end = arrival + latency + WAY;
        last_end = last_end.max(end);
        ends.push(Reverse((end * 1e9) as u64));
    }
    last_end
}

/// A server of one's own, kept full: its throughput is the highest then.
fn full_batch(pool: Pool, draws: &Draws) -> f64 {
    let pool = Pool { queue: 0, ..pool };
    let mut batch = Batch::new(pool);
    let mut now = WAY;
    for (call, seconds) in draws.latency.iter().enumerate() {
        while !batch.take(now, *seconds, call as u64) {
            now = batch.next_end().unwrap_or(now);
            batch.end_next(now);
        }
    }
    while let Some(end) = batch.next_end() {
        now = end;
        batch.end_next(now);
    }
    now + WAY
}
