//! `--quota` and `--wait-for-reset`: quotas that are used up stop the run with a status of their own, or are waited for.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::support::{COMPLETION, Finished, Provider, Recorder, run};

fn prompts(count: usize) -> String {
    (0..count).map(|number| format!("prompt {number}\n")).collect()
}

fn answered(finished: &Finished) -> usize {
    finished.rows().iter().filter(|row| row["ok"] == true).count()
}

/// An answer when the requests of a day are used up, with a wait that would be short for it.
fn used_up(wait: &str) -> (u16, String) {
    let message = format!("The requests of today are used up. Please try again in {wait}.");
    (
        429,
        json!({"error": {"message": message, "code": "quota_per_day"}}).to_string(),
    )
}

fn to(server: &Recorder, more: &[&str]) -> Vec<String> {
    let fixed = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &server.url,
        "-c",
        "1",
    ];
    fixed
        .iter()
        .chain(more)
        .map(|argument| (*argument).to_owned())
        .collect()
}

#[test]
fn a_quota_of_a_day_that_is_used_up_stops_the_run() {
    let provider = Provider::start(|builder| builder);
    let quota = ["--quota", "5 requests per day", "-c", "1"];
    let finished = run(provider.arguments(quota), &prompts(20));
    finished
        .code(4)
        .says("stopped early, as a quota is used up, which resets at 20")
        .says("5 requests per day")
        .says("--wait-for-reset waits");
    assert_eq!((answered(&finished), finished.rows().len()), (5, 6));
    assert_eq!(finished.rows()[5]["error"]["kind"], "quota_exhausted");
    assert_eq!(provider.ledger().received, 5);

    // It is said to those who are quiet, and also where no item is left out.
    for count in [6, 20] {
        run(
            provider.arguments(quota.into_iter().chain(["-q"])),
            &prompts(count),
        )
        .code(4)
        .says("resets at");
    }
    let finished = run(
        provider.arguments(quota.into_iter().chain(["--keep-going"])),
        &prompts(20),
    );
    assert_eq!((answered(finished.code(1)), finished.rows().len()), (5, 20));
}

#[test]
fn a_window_that_is_used_up_is_waited_for() {
    let provider = Provider::start(|builder| builder);
    let arguments = [
        "--quota",
        "5 requests per 2s resetting at 00:00",
        "--quota",
        "1_000_000 tokens per minute",
        "--wait-for-reset",
    ];
    let finished = run(provider.arguments(arguments), &prompts(12));
    assert_eq!(answered(finished.code(0)), 12);
}

#[test]
fn a_quota_of_the_provider_stops_the_run_or_is_waited_for() {
    let server = Recorder::answering(|_| used_up("7m12s"));
    let finished = run(to(&server, &[]), &prompts(50));
    finished
        .code(4)
        .says("stopped early, as a quota is used up, which resets at 20")
        .says("--wait-for-reset waits");
    assert_eq!(server.bodies().len(), 1);

    for keep_going in [&[][..], &["--keep-going"]] {
        let calls = AtomicU32::new(0);
        let server = Recorder::answering(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
            3 => used_up("1s"),
            _ => (200, COMPLETION.to_owned()),
        });
        let waits = ["--wait-for-reset", "--max-attempts", "1", "--max-throttles", "0"];
        let finished = run(to(&server, &[&waits[..], keep_going].concat()), &prompts(10));
        assert_eq!(answered(finished.code(0)), 10);
        assert_eq!(server.bodies().len(), 11);
    }
}

#[test]
fn a_quota_that_does_not_come_back_ends_the_wait() {
    let server = Recorder::answering(|_| used_up("100ms"));
    let finished = run(to(&server, &["--wait-for-reset"]), &prompts(50));
    finished.code(4).says("a quota is used up");
    assert_eq!(server.bodies().len(), 4);
}

#[test]
fn a_quota_that_is_not_understood_is_wrong_usage() {
    let provider = Provider::start(|builder| builder);
    for (text, problem) in [
        ("5", "requests, tokens, input tokens or output tokens"),
        (
            "5 prompts per minute",
            "requests, tokens, input tokens or output tokens",
        ),
        ("5 requests per month", "per second, minute, hour, day"),
        ("0 requests per minute", "must be at least 1"),
        ("5 requests per 7s resetting at 00:00", "divides a day evenly"),
        ("5 requests per day resetting at midnight", "such as 08:00"),
    ] {
        run(provider.arguments(["--quota", text]), "one\n")
            .code(2)
            .says("--quota")
            .says(problem);
    }
    assert_eq!(provider.ledger().received, 0);
}
