//! Runs that end before their input does.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::{Duration, Instant};

use llm_batch::testing::Latency;
use serde_json::{Value, json};

use crate::support::{
    COMPLETION, Finished, Provider, Recorder, finish, lines_of, rows, run, signal, start, wait_until,
};

fn prompts(count: usize) -> String {
    (0..count).map(|number| format!("prompt {number}\n")).collect()
}

#[cfg(unix)]
#[test]
fn the_first_interrupt_lets_running_calls_finish() {
    let provider = Provider::start(|builder| builder.latency(Duration::from_millis(400)));
    let child = start(provider.arguments(["-c", "6"]), Some(&prompts(500)));
    wait_until("six calls", || provider.ledger().received >= 6);
    signal(&child, "INT");
    let finished = finish(child);
    finished
        .code(130)
        .says("interrupted")
        .says("the batch was stopped");
    let rows = finished.rows();
    let ledger = provider.shutdown();
    assert_eq!(ledger.answered, ledger.received, "a running call was cut");
    assert_eq!(
        rows.iter().filter(|row| row["ok"] == true).count() as u64,
        ledger.answered
    );
    assert!(rows.len() < 20, "{}", rows.len());
}

#[cfg(unix)]
#[test]
fn the_second_interrupt_stops_at_once() {
    for name in ["INT", "TERM"] {
        let provider = Provider::start(|builder| builder.latency(Duration::from_secs(60)));
        let mut child = start(provider.arguments(["-c", "6"]), Some(&prompts(500)));
        wait_until("six calls", || provider.ledger().received >= 6);
        let begun = Instant::now();
        // Signals that arrive before the first is seen count as one, so it goes on until the second was seen too.
        wait_until("the end", || {
            signal(&child, name);
            child.try_wait().unwrap().is_some()
        });
        let finished = finish(child);
        finished.code(130);
        assert!(begun.elapsed() < Duration::from_secs(20));
        let rows = finished.rows();
        assert!(
            rows.iter().all(|row| row["error"]["kind"] == "aborted"),
            "{rows:?}"
        );
        // They may have been billed, and the rows say so.
        assert_eq!(
            rows.iter().filter(|row| row["unknown_usage_calls"] == 1).count(),
            6
        );
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_run_whose_input_does_not_come() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let child = start(provider.arguments(["--events", events.to_str().unwrap()]), None);
    // Opened once the signals are listened for.
    wait_until("the event log", || events.exists());
    signal(&child, "INT");
    // Standard input is still open: it is ours.
    let mut child = child;
    let pipe = child.stdin.take();
    wait_until("the end", || child.try_wait().unwrap().is_some());
    finish(child).code(130);
    drop(pipe);
}

#[test]
fn a_closed_output_stops_the_run() {
    let provider = Provider::start(|builder| builder.latency("1ms..20ms".parse::<Latency>().unwrap()));
    let mut child = start(provider.arguments(["-c", "4"]), Some(&prompts(2_000)));
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
    finished.code(3).says("the reader of the output has gone");
    assert!(provider.ledger().received < 200);
}

#[test]
fn a_full_disk_is_reported() {
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let provider = Provider::start(|builder| builder);
    run(provider.arguments(["-o", "/dev/full"]), &prompts(50))
        .code(3)
        .says("the output cannot be written");
}

#[test]
fn a_bad_key_stops_the_run_without_keep_going() {
    let provider = Provider::start(|builder| {
        builder
            .api_key("the right one")
            .latency(Duration::from_millis(30))
    });
    let finished = run(provider.arguments(["-c", "3"]), &prompts(200));
    finished
        .code(3)
        .says("authentication")
        .says("--keep-going")
        .says("check the API key");
    let calls = provider.ledger().received;
    assert!(calls <= 6, "{calls} calls");
    assert!(finished.rows().iter().all(|row| row["ok"] == false));

    let finished = run(provider.arguments(["--keep-going", "-c", "50"]), &prompts(100));
    assert_eq!(finished.code(1).rows().len(), 100);
    assert_eq!(provider.ledger().received - calls, 100);
}

/// Batch lines whose bodies have these fields besides a message.
fn batch_lines(bodies: impl IntoIterator<Item = Value>) -> String {
    let lines = bodies.into_iter().zip(0..).map(|(mut body, number)| {
        body["model"] = json!("ignored");
        body["messages"] = json!([{"role": "user", "content": "hi"}]);
        let id = format!("line-{number}");
        json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
            + "\n"
    });
    lines.collect()
}

fn error_body(message: &str, code: &str) -> String {
    json!({"error": {"message": message, "type": "invalid_request_error", "code": code}}).to_string()
}

/// Answers as a proxy does that lets a request choose its route and its key.
fn proxy(body: &Value) -> (u16, String) {
    if body["model"] == "unknown" || body["models"][0] == "unknown" {
        (
            404,
            error_body("The model `unknown` does not exist", "model_not_found"),
        )
    } else if body["api_key"] == "wrong" {
        (401, error_body("Incorrect API key provided", "invalid_api_key"))
    } else {
        (200, COMPLETION.to_owned())
    }
}

#[test]
fn a_line_with_a_route_or_a_key_of_its_own_fails_alone() {
    for (own, kind) in [
        (json!({"models": ["unknown"]}), "not_found"),
        (json!({"api_key": "wrong"}), "authentication"),
    ] {
        let server = Recorder::answering(proxy);
        let bodies = (0..20).map(|number| if number == 1 { own.clone() } else { json!({}) });
        let arguments = [
            "run",
            "-m",
            "openai-compatible:m",
            "--base-url",
            &server.url,
            "-c",
            "1",
        ];
        let finished = run(arguments, &batch_lines(bodies));
        let rows = finished.code(1).rows();
        assert_eq!(rows.len(), 20);
        assert_eq!(server.bodies().len(), 20);
        let failed: Vec<_> = rows.iter().filter(|row| row["ok"] == false).collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0]["id"], "line-1");
        assert_eq!(failed[0]["error"]["kind"], kind);
    }
}

#[test]
fn an_unknown_model_of_the_run_stops_it_whatever_the_lines_name() {
    let server = Recorder::answering(proxy);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:unknown",
        "--base-url",
        &server.url,
        "-c",
        "1",
    ];
    let finished = run(arguments, &batch_lines(vec![json!({}); 20]));
    finished.code(3).says("not found").says("--keep-going");
    assert_eq!(server.bodies().len(), 1);
}

#[test]
fn the_batch_timeout_ends_it_early() {
    let provider = Provider::start(|builder| builder.latency(Duration::from_millis(200)));
    let finished = run(
        provider.arguments(["--batch-timeout", "500ms", "-c", "2"]),
        &prompts(500),
    );
    finished.code(3).says("the batch timeout passed");
    assert!(finished.rows().iter().filter(|row| row["ok"] == true).count() >= 2);
}

#[test]
fn an_input_that_breaks_off_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("open.csv");
    // A quote that is never closed, in a file that never seems to end.
    let mut text = "id,prompt\n1,fine\n2,\"".to_owned();
    text.push_str(&"x".repeat(70 << 20));
    fs::write(&file, text).unwrap();
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments([file.to_str().unwrap()]), "");
    finished.code(3).says("is a quote left open?");
    assert_eq!(finished.rows().len(), 1);
}

#[test]
fn time_limits_fail_their_items() {
    let provider = Provider::start(|builder| builder.latency(Duration::from_secs(30)));
    let arguments = ["--timeout", "200ms", "--max-attempts", "1"];
    let row = run(provider.arguments(arguments), "one\n")
        .code(1)
        .rows()
        .remove(0);
    assert_eq!(row["error"]["kind"], "timed_out");
    assert_eq!(row["unknown_usage_calls"], 1);
    let row = run(provider.arguments(["--item-timeout", "200ms"]), "one\n")
        .code(1)
        .rows()
        .remove(0);
    assert!(row["error"]["message"].as_str().unwrap().contains("item timeout"));
}

/// Items that fail alike from the first on are not tried a million times.
#[test]
fn a_run_whose_first_items_fail_alike_stops() {
    let input = "prompt\n".repeat(3_000);
    let server = Recorder::start(400, r#"{"error":{"message":"no such field: temperatur"}}"#);
    let arguments = |more: &[&str]| to_server(&server.url, more);
    let finished = run(arguments(&[]), &input);
    finished.code(3).says("the first 20 items failed alike: ");
    assert!(finished.rows().len() < 200, "{} rows", finished.rows().len());
    assert_eq!(
        run(arguments(&["--keep-going", "--limit", "50"]), &input)
            .code(1)
            .rows()
            .len(),
        50
    );
    // Nothing was left out.
    run(arguments(&["--limit", "5"]), &input).code(1);
}

/// A dead port concerns every item, but a server that is still starting is waited for.
#[test]
fn a_server_that_is_never_there_stops_the_run() {
    let input = "prompt\n".repeat(3_000);
    let url = format!("http://127.0.0.1:{}/v1", free_port());
    let patient = start(to_server(&url, &["--keep-going", "--limit", "50"]), Some(&input));
    let finished = run(to_server(&url, &[]), &input);
    finished
        .code(3)
        .says("cannot be reached; calls wait for it")
        .says("stopped early, as this concerns every item: connection: no connection")
        .says("cannot be reached since 30 s: check the address");
    assert!(finished.rows().len() < 50, "{} rows", finished.rows().len());
    assert_eq!(finish(patient).code(1).rows().len(), 50);
}

#[test]
fn a_server_that_starts_late_loses_no_item() {
    let port = free_port();
    let input = "prompt\n".repeat(200);
    for concurrency in ["1", "50"] {
        let url = format!("http://127.0.0.1:{port}/v1");
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("events.jsonl");
        let more = [
            "-c",
            concurrency,
            "--max-attempts",
            "1",
            "--events",
            events.to_str().unwrap(),
        ];
        let waiting = start(to_server(&url, &more), Some(&input));
        // More refused calls than an item has attempts.
        wait_until("refused calls", || {
            fs::read_to_string(&events).is_ok_and(|text| text.matches("\"call_failed\"").count() >= 3)
        });
        let mut server = start(["simulate", "--port", &port.to_string()], Some(""));
        let finished = finish(waiting);
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(finished.code(0).rows().len(), 200);
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn to_server(url: &str, more: &[&str]) -> Vec<String> {
    let fixed = ["run", "-m", "openai-compatible:m", "--base-url", url];
    let all = fixed.iter().chain(more);
    all.map(|argument| (*argument).to_owned()).collect()
}

/// `--max-failures` bounds what a broken run costs.
#[test]
fn a_run_with_too_many_failures_stops() {
    let input: String = (0..2_000).map(|number| format!("{number}\n")).collect();
    // Each message is another, so that they are not alike: letters, as numbers are not compared.
    let fails = |share: u64| {
        Recorder::answering(move |body| {
            let prompt = body["messages"][0]["content"].as_str().unwrap().to_owned();
            let number: u64 = prompt.parse().unwrap();
            let letters: String = prompt
                .bytes()
                .map(|digit| char::from(digit - b'0' + b'a'))
                .collect();
            match number % 100 < share {
                true => (400, format!(r#"{{"error":{{"message":"wrong in {letters}"}}}}"#)),
                false => (200, COMPLETION.to_owned()),
            }
        })
    };
    let server = fails(10);
    let failed = |finished: &Finished| finished.rows().iter().filter(|row| row["ok"] == false).count();

    let few = run(to_server(&server.url, &["--max-failures", "30"]), &input);
    few.code(3).says("items failed, more than --max-failures allows");
    let count = failed(&few);
    assert!((31..=31 + 10).contains(&count), "{count}");

    let share = run(to_server(&server.url, &["--max-failures", "5%"]), &input);
    share.code(3).says("raise --max-failures");
    assert!((100..400).contains(&share.rows().len()), "{}", share.rows().len());

    let enough = ["--max-failures", "50%", "--limit", "300"];
    assert_eq!(
        run(to_server(&server.url, &enough), &input).code(1).rows().len(),
        300
    );

    let none = run(to_server(&server.url, &["--max-failures", "0"]), &input);
    none.code(3);
    for wrong in ["-1%", "101%", "many", "5 items", "%"] {
        let argument = format!("--max-failures={wrong}");
        run(to_server(&server.url, &[&argument]), &input)
            .code(2)
            .says("such as 5%");
    }
}

/// The terminal was closed: running calls finish and are written, as after Ctrl-C.
#[cfg(target_os = "linux")]
#[test]
fn a_hangup_ends_a_run_in_good_order_unless_it_is_ignored() {
    let provider = Provider::start(|builder| builder.latency("200ms".parse::<Latency>().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let input = "prompt\n".repeat(400);
    // These tests may themselves run under `nohup`.
    let by = |wrapper: &str, wrapped: &[&str], arguments: Vec<String>| {
        let mut command = std::process::Command::new(wrapper);
        command
            .args(wrapped)
            .arg(env!("CARGO_BIN_EXE_llm-batch"))
            .args(arguments)
            .env("XDG_CACHE_HOME", crate::support::unused_folder())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
        child
    };
    let arguments = provider.arguments(["-o", out.to_str().unwrap(), "--resume"]);
    let child = by("env", &["--default-signal=HUP"], arguments);
    wait_until("rows", || lines_of(&out) >= 10);
    signal(&child, "HUP");
    finish(child).code(130).says("with --resume");

    // As `nohup` starts it.
    let before = provider.ledger().received;
    let arguments = provider.arguments(["--limit", "60", "-q"]);
    let child = by("sh", &["-c", r#"trap '' HUP; exec "$@""#, "sh"], arguments);
    wait_until("calls", || provider.ledger().received > before);
    // The signals are watched before the first call.
    signal(&child, "HUP");
    assert_eq!(finish(child).code(0).rows().len(), 60);
}

/// A pause of ten minutes is not taken for a run that hangs.
#[cfg(unix)]
#[test]
fn a_long_pause_is_reported_once() {
    let throttled = r#"{"error":{"message":"slow down"}}"#;
    let folder = tempfile::tempdir().unwrap();
    for (headers, more, expected) in [
        ("retry-after: 600\r\n", &[][..], 1),
        ("retry-after: 600\r\n", &["-q"], 0),
        ("retry-after-ms: 300\r\n", &[], 0),
    ] {
        let server = Recorder::with_headers(headers, move |_| (429, throttled.to_owned()));
        let (events, out) = (
            folder.path().join("events.jsonl"),
            folder.path().join("out.jsonl"),
        );
        for file in [&events, &out] {
            let _ = fs::remove_file(file);
        }
        let files = ["--events", events.to_str().unwrap(), "-o", out.to_str().unwrap()];
        let arguments = to_server(&server.url, &[&files[..], more].concat());
        let child = start(arguments, Some(&prompts(40)));
        wait_until("a pause", || {
            fs::read_to_string(&events).is_ok_and(|text| text.contains("cooldown_started"))
        });
        signal(&child, "INT");
        let finished = finish(child);
        finished.code(130);
        let lines: Vec<_> = finished
            .stderr
            .lines()
            .filter(|line| {
                line.starts_with("no call begins for 9m") || line.starts_with("no call begins for 10m")
            })
            .collect();
        assert_eq!(lines.len(), expected, "{}", finished.stderr);
        assert_eq!(finished.stderr.matches("no call begins").count(), expected);
        for line in lines {
            for part in ["until 20", "throttles", "Ctrl-C", "--resume", "--batch-timeout"] {
                assert!(line.contains(part), "{line}");
            }
        }
    }
}
