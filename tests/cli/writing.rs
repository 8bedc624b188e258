//! The files that a run writes: who else may write them, and what stays in them.

use std::fs;

use llm_batch::testing::Latency;
use serde_json::Value;

use crate::support::{Provider, finish, lines_of, rows, run, signal, start, wait_until};

fn slow() -> Provider {
    Provider::start(|builder| builder.latency("100ms".parse::<Latency>().unwrap()))
}

fn prompts(count: usize) -> String {
    (0..count).map(|number| format!("prompt {number}\n")).collect()
}

/// Two runs of one output would pay for every answer twice and tear each other's rows.
#[test]
fn a_second_run_of_an_output_is_refused_while_the_first_goes_on() {
    let provider = slow();
    let folder = tempfile::tempdir().unwrap();
    let (out, events) = (
        folder.path().join("out.jsonl"),
        folder.path().join("events.jsonl"),
    );
    let name = out.to_str().unwrap();
    let events_name = events.to_str().unwrap();
    let first = start(
        provider.arguments(["-o", name, "--events", events_name, "-c", "4"]),
        Some(&prompts(400)),
    );
    wait_until("rows", || lines_of(&out) >= 8);
    let begun = provider.ledger().received;
    for more in ["--resume", "--overwrite"] {
        run(provider.arguments(["-o", name, more]), &prompts(400))
            .code(2)
            .says("out.jsonl is being written by another process");
    }
    let other = folder.path().join("other.jsonl");
    run(
        provider.arguments(["-o", other.to_str().unwrap(), "--events", events_name]),
        &prompts(3),
    )
    .code(2)
    .says("events.jsonl is being written by another process");
    assert!(lines_of(&out) >= 8, "the output was changed");
    signal(&first, "KILL");
    finish(first);
    assert!(provider.ledger().received >= begun);

    // The lock ends with its process. What was torn is dropped, the rest is kept.
    let input = prompts(60);
    let second = run(provider.arguments(["-o", name, "--resume", "-c", "20"]), &input);
    second.code(0);
    assert!(rows(&fs::read_to_string(&out).unwrap()).len() >= 60);
}

/// As a scheduler starts them: at the same moment, for an output that is not there yet.
#[test]
fn of_several_runs_that_begin_at_once_one_writes() {
    let provider = slow();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let out = folder.path().join(format!("out-{round}.jsonl"));
        let name = out.to_str().unwrap();
        let before = provider.ledger().received;
        let children: Vec<_> = (0..4)
            .map(|_| start(provider.arguments(["-o", name, "-c", "20"]), Some(&prompts(20))))
            .collect();
        let codes: Vec<_> = children
            .into_iter()
            .map(|child| finish(child).status.code())
            .collect();
        let written = codes.iter().filter(|code| **code == Some(0)).count();
        let refused = codes.iter().filter(|code| **code == Some(2)).count();
        assert_eq!((written, refused), (1, 3), "{codes:?}");
        assert_eq!(rows(&fs::read_to_string(&out).unwrap()).len(), 20);
        assert_eq!(provider.ledger().received - before, 20);
    }
}

#[test]
fn events_of_several_runs_stand_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let arguments = |limit: &str| {
        let fixed = [
            "run",
            "-m",
            "sim:steady",
            "--events",
            events.to_str().unwrap(),
            "--limit",
            limit,
        ];
        fixed.map(str::to_owned)
    };
    run(arguments("2"), &prompts(5)).code(0);
    let first = lines_of(&events);
    assert!(first > 2);
    // What a kill in the middle of a line leaves spoils that line alone.
    fs::write(
        &events,
        fs::read_to_string(&events).unwrap() + r#"{"event":"torn"#,
    )
    .unwrap();
    run(arguments("2"), &prompts(5)).code(0);
    let text = fs::read_to_string(&events).unwrap();
    let whole = text
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_ok())
        .count();
    assert_eq!(text.lines().count(), whole + 1);
    assert!(whole >= 2 * first - 2, "{whole} of {first} a run");
}

/// `llm-batch run < all.jsonl -o all.jsonl` would empty its own input.
#[cfg(unix)]
#[test]
fn standard_input_is_not_overwritten_either() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.jsonl");
    fs::write(&file, "{\"prompt\":\"one\"}\n").unwrap();
    for more in ["--overwrite", "--resume"] {
        let output = crate::support::program()
            .args(["run", "-m", "sim:steady", "-o", file.to_str().unwrap(), more])
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"prompt\":\"one\"}\n");
    }
}
