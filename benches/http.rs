//! Over loopback HTTP: the whole crate compared with a bare `reqwest` loop that reads `serde_json::Value`s.
//!
//! `cargo bench --bench http` (Linux: CPU time is read from `/proc/self/stat`). The server runs in its own
//! process. Both sides run in turn; every figure is the median of the paired rounds.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use llm_batch::provider::openai::OpenAi;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{LlmStreamExt, Prompt, RateLimiter, StandardLayer};
use serde_json::{Value, json};
use tower::Layer;

const ROUNDS: usize = 15;

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| {
        after_name
            .split_whitespace()
            .nth(field)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // Fields 14 and 15 of proc(5), counted after the name; the kernel reports hundredths of a second.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

async fn bare(client: &reqwest::Client, base: &str, items: u64, n: usize) -> u64 {
    let url = format!("{base}/chat/completions");
    let calls = stream::iter(0..items).map(|number| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            let body = json!({ "model": "sim", "messages": [{ "role": "user", "content": format!("question {number}") }] });
            let request = client.post(url).bearer_auth("key").header("content-type", "application/json");
            let reply = request.body(body.to_string()).send().await.ok()?.bytes().await.ok()?;
            let reply: Value = serde_json::from_slice(&reply).ok()?;
            reply["choices"][0]["message"]["content"].as_str().map(str::len)
        })
    });
    let answered = calls
        .buffer_unordered(n)
        .filter(|joined| std::future::ready(matches!(joined, Ok(Some(_)))));
    answered.count().await as u64
}

async fn whole(provider: &OpenAi, items: u64, n: usize) -> u64 {
    let limiter = RateLimiter::builder()
        .without_start_ramp()
        .build()
        .expect("the numbers are valid");
    let strategy = StandardLayer::new()
        .with_limiter(limiter)
        .layer(provider.model("sim"));
    let prompts = stream::iter(0..items).map(|number| Prompt::new(format!("question {number}")));
    let results = prompts.with_strategy(strategy).llm_batch(n);
    results
        .filter(|outcome| std::future::ready(outcome.result.is_ok()))
        .count()
        .await as u64
}

async fn measure(items: u64, run: impl Future<Output = u64>) -> (f64, f64) {
    let (start, cpu_before) = (Instant::now(), cpu());
    assert_eq!(run.await, items);
    let rate = items as f64 / start.elapsed().as_secs_f64();
    (rate, (cpu() - cpu_before).as_micros() as f64 / items as f64)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn compare(base: &str) {
    println!("| concurrency | bare reqwest | llm-batch | ratio | CPU a call, bare | CPU a call, llm-batch |");
    println!("|---|---|---|---|---|---|");
    for n in [10, 100, 1_000] {
        let items = if n == 10 { 4_000 } else { 8_000 };
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let provider = OpenAi::builder()
            .base_url(base)
            .api_key("key")
            .build()
            .expect("a valid set-up");
        let (mut bares, mut wholes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut bare_cpu, mut whole_cpu) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let a = measure(items, bare(&client, base, items, n)).await;
            let b = measure(items, whole(&provider, items, n)).await;
            // The first round opens the connections.
            if round > 0 {
                bares.push(a.0);
                wholes.push(b.0);
                ratios.push(b.0 / a.0);
                bare_cpu.push(a.1);
                whole_cpu.push(b.1);
            }
        }
        println!(
            "| {n} | {:.0}/s | {:.0}/s | {:.3} | {:.0} us | {:.0} us |",
            median(&mut bares),
            median(&mut wholes),
            median(&mut ratios),
            median(&mut bare_cpu),
            median(&mut whole_cpu)
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments
        .iter()
        .any(|argument| argument == "--test" || argument == "--list")
    {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    if arguments.iter().any(|argument| argument == "--serve") {
        runtime.block_on(async {
            let server = SimulatedProvider::builder()
                .seed(1)
                .build()
                .expect("the numbers are valid")
                .serve("127.0.0.1:0")
                .await
                .expect("a free port");
            println!("{}", server.base_url());
            std::future::pending::<()>().await;
        });
        return;
    }
    let program = std::env::current_exe().expect("the path of this program");
    let mut server = Command::new(program)
        .arg("--serve")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut base = String::new();
    let output = server.stdout.take().expect("its output is piped");
    BufReader::new(output)
        .read_line(&mut base)
        .expect("it prints its address");
    let base = base.trim().to_owned();
    runtime.block_on(async {
        tokio::spawn(async move { compare(&base).await })
            .await
            .expect("no panic")
    });
    let _ = server.kill();
    let _ = server.wait();
}
