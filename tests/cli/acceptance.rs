//! The main job, with a provider in another process that throttles, cuts connections and fails.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::support::{Provider, finish, rows, run, signal, start};

/// The number of pauses, and of calls that started while the gate was closed.
fn starts_while_closed(events: &Path) -> (usize, usize) {
    let mut events = rows(&fs::read_to_string(events).unwrap());
    events.sort_by(|a, b| a["at"].as_f64().unwrap().total_cmp(&b["at"].as_f64().unwrap()));
    let (mut closed, mut pauses, mut wrong) = (false, 0, 0);
    for event in events {
        match event["event"].as_str().unwrap() {
            "cooldown_started" => {
                closed = true;
                pauses += 1;
            }
            "cooldown_ended" => closed = false,
            "call_started" => wrong += usize::from(closed),
            "events_lost" => panic!("{event}"),
            _ => {}
        }
    }
    (pauses, wrong)
}

#[cfg(unix)]
#[test]
fn every_answer_and_an_account_of_every_token() {
    let options = [
        "simulate",
        "--port",
        "0",
        "--rpm",
        "3000",
        "--hint",
        "retry-after-ms",
        "--latency",
        "20ms~100ms",
        "--reset-rate",
        "0.05",
        "--status",
        "503=0.02",
        "--seed",
        "11",
    ];
    let mut simulator = start(options, Some(""));
    let mut line = String::new();
    let mut stderr = BufReader::new(simulator.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap();
    let mut bases = String::new();
    for _ in 0..2 {
        stderr.read_line(&mut bases).unwrap();
    }
    let origin = url.strip_suffix("/v1").unwrap();
    assert!(bases.contains(&format!("Responses): {url}\n")), "{bases}");
    assert!(
        bases.contains(&format!("Anthropic and Gemini: {origin}\n")),
        "{bases}"
    );

    let folder = tempfile::tempdir().unwrap();
    let (out, events) = (
        folder.path().join("answers.jsonl"),
        folder.path().join("events.jsonl"),
    );
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gsm8k-200.jsonl");
    let arguments = [
        "run",
        "--max-attempts",
        "8",
        "--model",
        "openai-compatible:sim",
        "--base-url",
        url,
        "--prompt",
        "Question: {{question}}",
        "--keep",
        "answer",
        "-c",
        "40",
        "--events",
        events.to_str().unwrap(),
        "--summary",
        "json",
        "-o",
        out.to_str().unwrap(),
        questions,
    ];
    let finished = run(arguments, "");
    finished.code(0);
    signal(&simulator, "INT");
    let simulator = finish(simulator);
    simulator.code(0);
    let ledger: Value = serde_json::from_str(&simulator.stdout).unwrap();

    let answers = rows(&fs::read_to_string(&out).unwrap());
    let ids: HashSet<_> = answers.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!((answers.len(), ids.len()), (200, 200));
    assert!(
        answers
            .iter()
            .all(|row| row["ok"] == true && row["answer"].is_string())
    );
    let sum = |class: &str| {
        answers
            .iter()
            .map(|row| row["usage"][class].as_u64().unwrap())
            .sum::<u64>()
    };
    for class in ["input", "output"] {
        assert_eq!(ledger["billed_answered"][class], sum(class));
        assert_eq!(finished.summary()["usage"][class], sum(class));
    }
    let unknown: u64 = answers
        .iter()
        .filter_map(|row| row["unknown_usage_calls"].as_u64())
        .sum();
    assert_eq!(ledger["cut"], unknown);
    assert_eq!(finished.summary()["unknown_usage_calls"], unknown);
    assert!(unknown > 0);
    let calls: u64 = answers.iter().map(|row| row["calls"].as_u64().unwrap()).sum();
    assert_eq!(ledger["received"], calls);

    let (pauses, wrong) = starts_while_closed(&events);
    assert_eq!(wrong, 0);
    assert!(pauses > 0, "the quota was never reached");
}

#[test]
fn the_simulated_providers_need_nothing() {
    let input: String = (0..60)
        .map(|number| format!("What is {number} and {number}?\n"))
        .collect();
    for preset in ["steady", "throttled"] {
        let model = format!("sim:{preset}");
        let finished = run(
            ["run", "--model", &model, "--max-attempts", "8", "-c", "30"],
            &input,
        );
        assert_eq!(finished.code(0).says("60 items: 60 succeeded").rows().len(), 60);
    }
}

#[test]
fn quotas_given_by_hand_are_kept() {
    let provider = Provider::start(|builder| builder.requests_per_minute(1200));
    let input: String = (0..60).map(|number| format!("prompt {number}\n")).collect();
    let options = [
        "--rpm",
        "1100",
        "--burst",
        "1s",
        "-c",
        "60",
        "--max-in-flight",
        "8",
        "--summary",
        "json",
    ];
    let finished = run(provider.arguments(options), &input);
    assert_eq!(finished.code(0).rows().len(), 60);
    let ledger = provider.shutdown();
    assert_eq!(ledger.throttled, 0);
    assert!(ledger.most_in_flight <= 8);
    assert!(finished.summary()["waits"]["requests"].as_f64().unwrap() > 1.0);
}
