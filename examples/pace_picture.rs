//! The picture of `docs/how-the-gate-paces.md`: a run against a provider whose limit the gate does not know, in virtual time.
//!
//! `cargo run --example pace_picture` writes `docs/how-the-gate-paces.svg`, or the file that is given. The same program makes the same
//! file.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::{
    BoxError, EventKind, Events, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Prompt, RateLimiter,
    StandardLayer,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, service_fn};

/// Seconds of the run.
const LENGTH: usize = 150;
/// The limit: from these seconds on, so many calls a second.
const LIMITS: [(f64, f64); 2] = [(0.0, 10.0), (75.0, 20.0)];
/// The bucket's size, full at first.
const BURST: f64 = 20.0;
/// Items in flight.
const ITEMS: usize = 64;

/// Everything that is drawn.
#[derive(Default)]
struct Record {
    /// By second.
    accepted: Vec<u32>,
    rejected: Vec<u32>,
    /// Times in seconds, and calls a second where starts are spaced.
    pace: Vec<(f64, Option<f64>)>,
    /// From and until.
    pauses: Vec<(f64, f64)>,
}

/// A bucket of requests, and the record of the run.
struct Provider {
    start: Instant,
    state: Mutex<State>,
}

struct State {
    level: f64,
    at: f64,
    record: Record,
}

fn limit(at: f64) -> f64 {
    let current = LIMITS.iter().rev().find(|(from, _)| *from <= at);
    current.map_or(0.0, |(_, limit)| *limit)
}

impl Provider {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            state: Mutex::new(State {
                level: BURST,
                at: 0.0,
                record: Record {
                    accepted: vec![0; LENGTH],
                    rejected: vec![0; LENGTH],
                    ..Record::default()
                },
            }),
        }
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a call that arrives now is accepted.
    fn accepts(&self) -> bool {
        let now = self.now();
        let mut state = self.state();
        state.level = (state.level + limit(now) * (now - state.at)).min(BURST);
        state.at = now;
        let accepts = state.level >= 1.0;
        let record = &mut state.record;
        let counts = if accepts {
            &mut record.accepted
        } else {
            &mut record.rejected
        };
        if let Some(count) = counts.get_mut(now as usize) {
            *count += 1;
        }
        if accepts {
            state.level -= 1.0;
        }
        accepts
    }

    async fn answer(&self) -> Result<LlmResponse, LlmError> {
        sleep(Duration::from_millis(35)).await;
        if !self.accepts() {
            sleep(Duration::from_millis(35)).await;
            // Without a hint how long to wait.
            return Err(LlmError::rate_limit("too many requests", None));
        }
        sleep(Duration::from_millis(1_500)).await;
        Ok(LlmResponse::new("42".to_owned()))
    }
}

/// Runs a batch against the provider for the time of the picture.
async fn run() -> Result<Record, BoxError> {
    let provider = Arc::new(Provider::new());
    let events = Events::new();
    let limiter = RateLimiter::builder().events(&events).build()?;
    let record = Arc::clone(&provider);
    events.on_event(move |event| {
        if let EventKind::CooldownStarted { pause, .. } = event.kind {
            let now = record.now();
            let until = now + pause.as_secs_f64();
            record.state().record.pauses.push((now, until));
        }
    });
    let (looks, gate) = (Arc::clone(&provider), limiter.clone());
    tokio::spawn(async move {
        loop {
            let pace = gate.snapshot().starts_per_second;
            let now = looks.now();
            looks.state().record.pace.push((now, pace));
            sleep(Duration::from_millis(250)).await;
        }
    });

    let server = Arc::clone(&provider);
    let model = service_fn(move |_: LlmRequest| {
        let server = Arc::clone(&server);
        async move { server.answer().await }
    });
    let prompts = (0..1_000_000).map(|number| Prompt::new(format!("What is {number} times 7?")));
    let mut results = stream::iter(prompts)
        .with_strategy(StandardLayer::new().with_limiter(limiter).layer(model))
        .llm_batch(ITEMS);
    let all = async { while results.next().await.is_some() {} };
    // The rest of the batch is dropped.
    let _ended = timeout(Duration::from_secs(LENGTH as u64), all).await;
    let record = std::mem::take(&mut provider.state().record);
    Ok(record)
}

// --- drawing ------------------------------------------------------------------------------------------------

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 76.0;
/// The lower end of the diagram; below it are the pauses and the times.
const BOTTOM: f64 = 350.0;
/// Calls a second at the upper end.
const HIGHEST: f64 = 30.0;

const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 16px; font-weight: 600 }
  .page { fill: #ffffff }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .accepted { fill: #8ec5ff }
  .rejected { fill: #cf222e }
  .pause { fill: #8250df }
  .pace { stroke: #0a3069; stroke-width: 2; fill: none }
  .limit { stroke: #116329; stroke-width: 2; stroke-dasharray: 7 4; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .grid { stroke: #30363d }
    .accepted { fill: #1f5a99 }
    .rejected { fill: #ff7b72 }
    .pause { fill: #bc8cff }
    .pace { stroke: #f0f6fc }
    .limit { stroke: #56d364 }
  }
";

fn x(seconds: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * seconds / LENGTH as f64
}

fn y(calls: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * calls.clamp(0.0, HIGHEST) / HIGHEST
}

fn rectangle(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    let (width, height) = (to.0 - from.0, to.1 - from.1);
    format!(
        "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\n",
        from.0, from.1
    )
}

fn line(class: &str, points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!("<polyline class=\"{class}\" points=\"{}\"/>\n", points.join(" "))
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n")
}

fn draw(record: &Record) -> String {
    let (accepted, rejected): (u32, u32) = (record.accepted.iter().sum(), record.rejected.iter().sum());
    let [(_, before), (change, after)] = LIMITS;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"title about\">\n\
         <title id=\"title\">A run against an unknown limit</title>\n\
         <desc id=\"about\">Accepted and rejected calls per second over {LENGTH} seconds, with the pace of the gate, its pauses and the \
         provider's limit, which rises from {before} to {after} calls per second after {change} seconds. {accepted} calls are accepted \
         and {rejected} rejected.</desc>\n<style>{STYLE}</style>\n",
    );
    svg += &rectangle("page", (0.0, 0.0), (WIDTH, HEIGHT));
    svg += &format!(
        "<text class=\"title\" x=\"{LEFT}\" y=\"24\">An unknown limit of {before} calls/s, from {change} s on {after}: {accepted} calls \
         accepted, {rejected} rejected</text>\n"
    );
    svg += &axes();
    for (second, (accepted, rejected)) in record.accepted.iter().zip(&record.rejected).enumerate() {
        let (left, right) = (x(second as f64), x(second as f64 + 1.0) - 0.6);
        let (low, high) = (f64::from(*accepted), f64::from(accepted + rejected));
        svg += &rectangle("accepted", (left, y(low)), (right, BOTTOM));
        if *rejected > 0 {
            svg += &rectangle("rejected", (left, y(high)), (right, y(low)));
        }
    }
    for (from, until) in &record.pauses {
        // One of milliseconds is to be seen, too.
        svg += &rectangle(
            "pause",
            (x(*from), BOTTOM + 6.0),
            (x(*until).max(x(*from) + 1.5), BOTTOM + 18.0),
        );
    }
    let limit = [
        (0.0, before),
        (change, before),
        (change, after),
        (LENGTH as f64, after),
    ];
    svg += &line("limit", &limit.map(|(at, calls)| (x(at), y(calls))));
    // It begins where starts are spaced, and ends where they are not.
    for stretch in record
        .pace
        .split(|(_, pace)| pace.is_none_or(|pace| pace > HIGHEST))
    {
        let points: Vec<(f64, f64)> = stretch
            .iter()
            .filter_map(|(at, pace)| Some((x(*at), y((*pace)?))))
            .collect();
        if points.len() > 1 {
            svg += &line("pace", &points);
        }
    }
    svg += &legend();
    svg += "</svg>\n";
    svg
}

fn axes() -> String {
    let mut svg = String::new();
    for calls in (0..=HIGHEST as u32).step_by(5) {
        let at = y(f64::from(calls));
        svg += &line("grid", &[(LEFT, at), (WIDTH - RIGHT, at)]);
        svg += &text(LEFT - 8.0, at + 4.0, "end", &calls.to_string());
    }
    for seconds in (0..=LENGTH).step_by(15) {
        svg += &text(x(seconds as f64), BOTTOM + 38.0, "middle", &seconds.to_string());
    }
    svg += &text(
        (LEFT + WIDTH - RIGHT) / 2.0,
        BOTTOM + 60.0,
        "middle",
        "time in seconds",
    );
    let middle = (TOP + BOTTOM) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"18\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {middle:.1})\">calls per second</text>"
    );
    svg
}

fn legend() -> String {
    let mut svg = String::new();
    let (upper, lower) = (42.0, 54.0);
    let mut left = LEFT;
    for (class, words) in [
        ("accepted", "accepted calls"),
        ("rejected", "rejected calls"),
        ("pause", "pauses of the gate"),
        ("pace", "the gate's pace"),
        ("limit", "the provider's limit"),
    ] {
        let middle = f64::midpoint(upper, lower);
        svg += &match class {
            "pace" | "limit" => line(class, &[(left, middle), (left + 26.0, middle)]),
            _ => rectangle(class, (left, upper), (left + 26.0, lower)),
        };
        svg += &text(left + 33.0, lower - 1.0, "start", words);
        left += 176.0;
    }
    svg
}

fn main() -> Result<(), BoxError> {
    let path = env::args()
        .nth(1)
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/docs/how-the-gate-paces.svg").to_owned());
    // The random share of pauses.
    fastrand::seed(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let record = runtime.block_on(run())?;
    fs::write(&path, draw(&record))?;
    println!("{path}");
    Ok(())
}
