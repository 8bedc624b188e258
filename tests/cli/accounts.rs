//! The closing account: what counts as a call, as an answer and as the end.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Finished, Provider, Recorder, rows, run, start};

/// A line whose settings no request of these wires has a place for.
#[test]
fn an_item_that_is_refused_before_it_is_sent_is_no_call() {
    let server = Recorder::start(200, COMPLETION);
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let line = |more: Value| {
        let mut line = json!({"messages": [{"role": "user", "content": "hi"}]});
        line.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        format!("{line}\n")
    };
    let refused = line(json!({"id": "refused", "logit_bias": {"1": 2}}));
    let tool = line(json!({"id": "tool", "tool_choice": {"type": "function", "function": {"name": "none"}}}));
    let sent = line(json!({"id": "sent"}));
    for (model, more) in [
        ("anthropic:m", "--keep-going"),
        ("gemini:m", "--keep-going"),
        ("openai-responses:m", "--keep-going"),
        ("openai-responses:m", "--stream"),
    ] {
        let _ = fs::remove_file(&events);
        let before = server.bodies().len();
        let arguments = [
            "run",
            "-m",
            model,
            "--base-url",
            &server.url,
            "--api-key-env",
            "PATH",
            "--summary",
            "json",
            "--max-attempts",
            "1",
            "--events",
            events.to_str().unwrap(),
            more,
        ];
        let finished = run(arguments, &(refused.clone() + &sent + &tool + &refused));
        finished.code(1);
        let rows = finished.rows();
        let row = rows.iter().find(|row| row["id"] == "refused").unwrap();
        assert_eq!(
            (
                &row["error"]["kind"],
                &row["calls"],
                row.get("unknown_usage_calls")
            ),
            (&json!("invalid_request"), &json!(0), None),
            "{model}"
        );
        let calls = finished.summary()["calls"].as_u64().unwrap();
        assert_eq!(calls, (server.bodies().len() - before) as u64, "{model}");
        let text = fs::read_to_string(&events).unwrap();
        for event in ["call_started", "call_failed"] {
            assert_eq!(
                text.matches(&format!("\"{event}\"")).count() as u64,
                calls,
                "{model} {event}"
            );
        }
    }
}

#[test]
fn an_answer_that_could_not_be_written_is_not_a_success() {
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let provider = Provider::start(|builder| builder);
    let input = "prompt\n".repeat(4);
    let arguments =
        |more: &'static str| provider.arguments(["-o", "/dev/full", "-c", "4", "--summary", more]);
    let finished = run(arguments("json"), &input);
    let summary = finished.code(3).summary();
    assert_eq!(summary["succeeded"], 0);
    let answered = summary["unwritten"].as_u64().unwrap();
    assert_eq!(
        answered + summary["failed"].as_u64().unwrap(),
        summary["accepted"].as_u64().unwrap()
    );
    assert!(answered >= 1);
    run(arguments("text"), &input)
        .code(3)
        .says(" 0 succeeded")
        .says("came and could not be written to the output");
}

#[test]
fn answers_behind_a_closed_output_are_not_counted_as_written() {
    let provider = Provider::start(|builder| builder.latency(Duration::from_millis(5)));
    let arguments = provider.arguments(["-c", "4", "--summary", "json"]);
    let mut child = start(arguments, Some(&"prompt\n".repeat(500)));
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    drop(out);
    assert_eq!(rows(&first).len(), 1);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let finished = Finished {
        status: child.wait().unwrap(),
        stdout: String::new(),
        stderr,
    };
    let summary = finished.code(3).summary();
    let answered = provider.shutdown().answered;
    assert!(summary["unwritten"].as_u64().unwrap() >= 1, "{summary}");
    assert!(summary["succeeded"].as_u64().unwrap() + summary["unwritten"].as_u64().unwrap() <= answered);
}

/// The time limit passes while the last item is answered: it left nothing out.
#[test]
fn a_batch_timeout_that_leaves_nothing_out_is_a_success() {
    let provider = Provider::start(|builder| builder.latency(Duration::from_secs(2)));
    let limited = ["--batch-timeout", "1s", "--summary", "json"];
    let finished = run(provider.arguments(limited), "one\ntwo\n");
    let summary = finished.code(0).summary();
    assert_eq!(
        (&summary["succeeded"], &summary["termination"]),
        (&json!(2), &json!("completed"))
    );
    // One that waits for its turn is left out.
    let finished = run(
        provider.arguments(limited.into_iter().chain(["-c", "1"])),
        "one\ntwo\n",
    );
    assert_eq!(finished.code(3).summary()["termination"], "batch_timeout");
    // So is one that is between two attempts, and one that may still come.
    let failing = Provider::start(|builder| builder.status_rate(500, 1.0));
    let attempts = limited.into_iter().chain(["--max-attempts", "50"]);
    let finished = run(failing.arguments(attempts), "one\n");
    assert_eq!(finished.code(3).summary()["failed"], 1);
    let mut child = start(provider.arguments(limited), None);
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, b"one\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    drop(pipe);
}
