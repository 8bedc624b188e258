//! The closing account: calls, answers and the end.

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

/// `>&-` and the like: an answer that is written nowhere is not paid for.
#[cfg(unix)]
#[test]
fn a_standard_output_that_cannot_be_written_is_refused_before_any_call() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    fs::write(&input, "one\ntwo\n").unwrap();
    let shell = |redirect: &str, more: &[&str]| {
        let mut arguments = provider.arguments([input.to_str().unwrap()]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let output = std::process::Command::new("sh")
            .args(["-c", &format!(r#"exec "$@" {redirect}"#), "sh"])
            .arg(env!("CARGO_BIN_EXE_llm-batch"))
            .args(arguments)
            .env("XDG_CACHE_HOME", crate::support::unused_folder())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let readable = format!("1< {}", input.display());
    for (redirect, message) in [
        (">&-", "standard output is closed"),
        (">&- <&-", "standard output is closed"),
        ("1<> /dev/null", "standard output is closed"),
        (&*readable, "standard output is not open for writing"),
    ] {
        for more in [
            &[][..],
            &["-o", "-"],
            &["--output-format", "csv"],
            &["-o", "/dev/stdout"],
        ] {
            let (code, stderr) = shell(redirect, more);
            assert_eq!(code, Some(2), "{redirect} {more:?}: {stderr}");
            assert!(stderr.contains(message), "{redirect}: {stderr}");
        }
    }
    assert_eq!(provider.ledger().received, 0);
    // Thrown away on purpose, or written elsewhere.
    for (redirect, more) in [
        ("> /dev/null", &[][..]),
        (">&-", &["-o", "/dev/null"]),
        (">&-", &["-o", out.to_str().unwrap()]),
        (">&-", &["--dry-run"]),
    ] {
        let (code, stderr) = shell(redirect, more);
        assert_eq!(code, Some(0), "{redirect} {more:?}: {stderr}");
    }
    assert_eq!(provider.ledger().received, 6);
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 2);
}

/// The advice of the summary names an option, and the option has that effect.
#[test]
fn the_start_ramp_has_an_option_that_the_summary_names() {
    let provider = Provider::start(|builder| builder.latency(Duration::from_millis(20)));
    let input = "prompt\n".repeat(500);
    let arguments =
        |more: &[&'static str]| provider.arguments(["-c", "50"].into_iter().chain(more.iter().copied()));
    let pace = |finished: &Finished| finished.summary()["waits"]["pace"].as_f64().unwrap();
    let ramped = run(arguments(&["--summary", "json"]), &input);
    assert!(pace(ramped.code(0)) > 0.0);
    let at_once = run(arguments(&["--summary", "json", "--start-ramp", "off"]), &input);
    assert!(pace(at_once.code(0)) == 0.0, "{}", at_once.stderr);
    let slow = run(arguments(&["--limit", "40", "--start-ramp", "5"]), &input);
    slow.code(0).says("start faster by --start-ramp off, or a rate");
    for wrong in ["0", "-1", "on", "inf"] {
        let argument = format!("--start-ramp={wrong}");
        run(["run", "-m", "sim:steady", &argument], "x\n")
            .code(2)
            .says("must be `off`, or a number of calls a second above 0");
    }
}
