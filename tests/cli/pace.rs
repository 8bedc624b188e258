//! Limits that the program does not know, at a provider in another process: found in reasonable time, with few rejections.
//!
//! The bounds on time are several times what a run takes. The suite in `benches/pace` measures.
#![cfg(unix)]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use llm_batch::testing::Ledger;

use crate::support::{finish, run, signal, start};

/// Asks `items` questions, `concurrency` at a time, of `llm-batch simulate` with these options. Returns the time it takes and the
/// provider's ledger, once every item was answered once.
fn ask(items: u64, concurrency: &str, options: &[&str]) -> (Duration, Ledger) {
    let simulate = ["simulate", "--port", "0", "--seed", "5"];
    let mut simulator = start(simulate.iter().chain(options), Some(""));
    let mut line = String::new();
    // Kept open: the program writes more.
    let mut stderr = BufReader::new(simulator.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap();

    let questions: String = (0..items)
        .map(|number| format!("{{\"id\": \"{number}\", \"prompt\": \"What is {number} times 7?\"}}\n"))
        .collect();
    let begun = Instant::now();
    let finished = run(
        [
            "run",
            "-m",
            "openai-compatible:sim",
            "--base-url",
            url,
            "-c",
            concurrency,
            "-",
        ],
        &questions,
    );
    let time = begun.elapsed();
    finished.code(0);
    signal(&simulator, "INT");
    let simulator = finish(simulator);
    simulator.code(0);

    let rows = finished.rows();
    let ids: HashSet<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!((rows.len() as u64, ids.len() as u64), (items, items));
    assert!(rows.iter().all(|row| row["ok"] == true), "{}", finished.stdout);
    let ledger: Ledger = serde_json::from_str(&simulator.stdout).unwrap();
    assert_eq!(ledger.answered, items);
    println!("{time:?}, {} rejections", ledger.rejections());
    (time, ledger)
}

/// 4 s at least: 80 calls at 20 a second, after a burst of 20.
#[test]
fn an_unknown_rate_with_hints_in_whole_seconds() {
    let options = ["--rpm", "1200", "--hint", "retry-after", "--latency", "50ms"];
    let (time, ledger) = ask(100, "30", &options);
    assert!(time < Duration::from_secs(20), "{time:?}");
    assert!(ledger.rejections() <= 25, "{ledger:?}");
}

#[test]
fn an_unknown_rate_without_hints() {
    let options = ["--rpm", "1200", "--hint", "none", "--latency", "50ms"];
    let (time, ledger) = ask(100, "30", &options);
    assert!(time < Duration::from_secs(20), "{time:?}");
    assert!(ledger.rejections() <= 25, "{ledger:?}");
}

/// 3 s at least: 15 times 8 calls of 0.2 s.
#[test]
fn a_limit_on_calls_in_flight() {
    let options = ["--concurrency", "8", "--hint", "none", "--latency", "200ms"];
    let (time, ledger) = ask(120, "40", &options);
    assert!(time < Duration::from_secs(20), "{time:?}");
    assert!(ledger.rejections() <= 60, "{ledger:?}");
}

/// No limit, but one call in 20 is rejected: 0.5 s at least.
#[test]
fn rejections_at_random() {
    let options = ["--status", "429=0.05", "--hint", "none", "--latency", "50ms"];
    let (time, ledger) = ask(400, "50", &options);
    assert!(time < Duration::from_secs(20), "{time:?}");
    // 20 are expected.
    assert!((5..=50).contains(&ledger.rejections()), "{ledger:?}");
}
