//! Going on after a run that ended too early.

use std::fs;
use std::path::Path;

use llm_batch::testing::Latency;
use serde_json::{Value, json};

use crate::support::{
    COMPLETION, Provider, Recorder, finish, ids, lines_of, rows, run, signal, start, wait_until,
};

fn read(path: &Path) -> Vec<Value> {
    rows(&fs::read_to_string(path).unwrap())
}

fn numbers(count: u64) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let provider = Provider::start(|builder| {
        builder
            .latency("5ms..50ms".parse::<Latency>().unwrap())
            .status_rate(400, 0.1)
            .seed(5)
    });
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let line = |number| {
        format!(
            "{}\n",
            json!({"id": number, "prompt": format!("prompt {number}")})
        )
    };
    fs::write(&input, (1..=150).map(line).collect::<String>()).unwrap();
    let arguments = || {
        let more = [
            input.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
            "--resume",
            "-c",
            "5",
        ];
        provider.arguments(more)
    };

    for rows in [20, 60] {
        let mut child = start(arguments(), Some(""));
        wait_until("rows", || lines_of(&out) >= rows);
        signal(&child, "KILL");
        child.wait().unwrap();
        // What a kill in the middle of a write would leave.
        let mut torn = fs::read(&out).unwrap();
        if torn.last() == Some(&b'\n') {
            torn.extend_from_slice(br#"{"id":"149","index":148,"ok":true,"outp"#);
            fs::write(&out, torn).unwrap();
        }
    }
    let kept: Vec<_> = {
        let text = fs::read_to_string(&out).unwrap();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        whole
            .filter(|line| line.contains(r#""ok":true"#))
            .map(str::to_owned)
            .collect()
    };
    assert!(kept.len() > 40);

    // Items that fail now and then have their answers in the end.
    let mut last = run(arguments(), "");
    let mut turns = 0;
    while last.status.code() == Some(1) && turns < 20 {
        last = run(arguments(), "");
        turns += 1;
    }
    last.code(0);
    let found = read(&out);
    assert_eq!(ids(&found), numbers(150));
    assert!(found.iter().all(|row| row["ok"] == true));
    let text = fs::read_to_string(&out).unwrap();
    assert!(
        kept.iter().all(|row| text.contains(row)),
        "an answer was not kept as it was"
    );

    // Nothing is left to do.
    let calls = provider.ledger().received;
    run(arguments(), "")
        .code(0)
        .says("150 answered by an earlier run were kept");
    assert_eq!(provider.ledger().received, calls);
    assert_eq!(fs::read_to_string(&out).unwrap(), text);
    // No temporary file stays behind.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn tables_and_results_of_openai_are_resumed_too() {
    let recorder = Recorder::start(200, COMPLETION);
    let folder = tempfile::tempdir().unwrap();
    for format in ["csv", "openai-batch"] {
        let out = folder.path().join(format);
        let arguments = |more: &'static str| {
            let text = [
                "run",
                "-m",
                "openai-compatible:m",
                "--base-url",
                &recorder.url,
                "--output-format",
                format,
                "-o",
            ];
            let mut all = text.map(str::to_owned).to_vec();
            all.push(out.to_str().unwrap().to_owned());
            all.extend(more.split_whitespace().map(str::to_owned));
            all
        };
        run(
            arguments(""),
            "{\"id\":1,\"prompt\":\"one\"}\n{broken\n{\"id\":3,\"prompt\":\"three\"}\n",
        )
        .code(1);
        let before = fs::read_to_string(&out).unwrap();
        // Torn in the last row, behind the line break inside the answer.
        let torn = before.trim_end().len() - 3;
        fs::write(&out, &before[..torn]).unwrap();
        let calls = recorder.bodies().len();
        let input =
            "{\"id\":1,\"prompt\":\"one\"}\n{\"id\":2,\"prompt\":\"two\"}\n{\"id\":3,\"prompt\":\"three\"}\n";
        run(arguments("--resume"), input).code(0);
        let after = fs::read_to_string(&out).unwrap();
        if format == "csv" {
            assert_eq!(after.matches("id,index,ok").count(), 1);
            let mut found: Vec<String> = csv_rows(&after).into_iter().map(|row| row[0].clone()).collect();
            found.sort();
            assert_eq!(found, numbers(3));
        } else {
            let mut found: Vec<_> = rows(&after)
                .iter()
                .map(|row| row["custom_id"].as_str().unwrap().to_owned())
                .collect();
            found.sort();
            assert_eq!(found, numbers(3));
        }
        assert!(recorder.bodies().len() - calls <= 2);
    }
}

/// Enough of a reader for rows of this program.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    for character in text.chars() {
        match (character, quoted) {
            ('"', _) => quoted = !quoted,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            _ => cell.push(character),
        }
    }
    rows.remove(0);
    rows
}

#[test]
fn an_id_is_found_again_in_a_changed_input() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let line = |id: &str| format!("{}\n", json!({"id": id, "prompt": format!("prompt {id}")}));
    let arguments = || provider.arguments([input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--resume"]);
    fs::write(&input, line("a") + &line("b")).unwrap();
    run(arguments(), "").code(0);
    fs::write(&input, line("new") + &line("b") + &line("a")).unwrap();
    run(arguments(), "").code(0);
    assert_eq!(provider.ledger().received, 3);
    assert_eq!(ids(&read(&out)), ["a", "b", "new"]);
}

/// Without ids of their own, too: a line on top, another order and another file before it change no item's identity.
#[test]
fn an_item_without_an_id_is_found_again_in_a_changed_input() {
    let recorder = Recorder::answering(|body| {
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        (200, COMPLETION.replace("line one", &format!("to {prompt}:")))
    });
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [
        ("in.txt", (|text: &str| format!("{text}\n")) as fn(&str) -> String),
        ("in.jsonl", |text| format!("{}\n", json!({"prompt": text}))),
        ("in.csv", |text| {
            if text == "prompt" {
                "prompt,n\n".to_owned()
            } else {
                format!("{text},1\n")
            }
        }),
    ] {
        let head = if name == "in.csv" {
            format("prompt")
        } else {
            String::new()
        };
        let (input, other) = (folder.path().join(name), folder.path().join(format!("0-{name}")));
        let out = folder.path().join(format!("{name}.out"));
        let run_with = |inputs: &[&Path]| {
            let mut arguments = [
                "run",
                "-m",
                "openai-compatible:m",
                "--base-url",
                &recorder.url,
                "--resume",
                "-o",
            ]
            .map(str::to_owned)
            .to_vec();
            arguments.push(out.to_str().unwrap().to_owned());
            arguments.extend(inputs.iter().map(|path| path.to_str().unwrap().to_owned()));
            let before = recorder.bodies().len();
            run(arguments, "").code(0);
            recorder.bodies().len() - before
        };
        fs::write(
            &input,
            head.clone() + &format("alpha") + &format("beta") + &format("alpha"),
        )
        .unwrap();
        assert_eq!(run_with(&[&input]), 3, "{name}");
        let changed = head.clone() + &format("NEW") + &format("alpha") + &format("alpha") + &format("beta");
        fs::write(&input, changed).unwrap();
        assert_eq!(run_with(&[&input]), 1, "{name}");
        fs::write(&other, head + &format("gamma") + &format("beta")).unwrap();
        // The second `beta` is an item of its own.
        assert_eq!(run_with(&[&other, &input]), 2, "{name}");
        let rows = read(&out);
        let ids: std::collections::HashSet<_> = rows.iter().map(|row| row["id"].to_string()).collect();
        assert_eq!((rows.len(), ids.len()), (6, 6), "{name}");
        let of = |text: &str| {
            let rows = rows.iter().filter(|row| {
                row["output"]
                    .as_str()
                    .unwrap()
                    .starts_with(&format!("to {text}:"))
            });
            rows.map(|row| row["id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for (text, count) in [("alpha", 2), ("beta", 2), ("gamma", 1), ("NEW", 1)] {
            let ids = of(text);
            assert_eq!(ids.len(), count, "{name} {text}");
            // Equal rows share the hash, and no others do.
            assert!(ids.iter().all(|id| id[..16] == ids[0][..16]), "{ids:?}");
        }
    }
}

#[test]
fn items_that_share_an_id_are_distinguished() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let lines: String = (0..4)
        .map(|number| format!("{}\n", json!({"id": "x", "prompt": format!("prompt {number}")})))
        .collect();
    fs::write(&input, lines).unwrap();
    // An earlier run answered the third of them.
    let row = json!({"id": "x", "index": 2, "ok": true, "output": "kept"});
    fs::write(&out, format!("{row}\n")).unwrap();
    run(
        provider.arguments([input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--resume"]),
        "",
    )
    .code(0);
    let mut indexes: Vec<_> = read(&out)
        .iter()
        .map(|row| row["index"].as_u64().unwrap())
        .collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2, 3]);
    assert_eq!(provider.ledger().received, 3);
}

#[test]
fn a_foreign_file_is_left_alone() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("notes.txt");
    fs::write(&out, "my notes\nthat I need\n").unwrap();
    for format in ["jsonl", "csv", "text", "openai-batch"] {
        let arguments = ["-o", out.to_str().unwrap(), "--resume", "--output-format", format];
        run(provider.arguments(arguments), "one\n")
            .code(2)
            .says("cannot be resumed");
        assert_eq!(fs::read_to_string(&out).unwrap(), "my notes\nthat I need\n");
    }
    assert_eq!(provider.ledger().received, 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_resumed_run_that_is_killed_at_once_loses_nothing() {
    let provider = Provider::start(|builder| builder.latency(std::time::Duration::from_millis(200)));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let row = |id: u64, ok: bool| {
        format!(
            "{}\n",
            json!({"id": id.to_string(), "index": id - 1, "ok": ok, "output": "x"})
        )
    };
    fs::write(&out, row(1, true) + &row(2, false) + &row(3, true)).unwrap();
    let input = "{\"id\":1,\"prompt\":\"a\"}\n{\"id\":2,\"prompt\":\"b\"}\n{\"id\":3,\"prompt\":\"c\"}\n{\"id\":4,\"prompt\":\"d\"}\n";
    let mut child = start(
        provider.arguments(["-o", out.to_str().unwrap(), "--resume"]),
        Some(input),
    );
    wait_until("a call", || provider.ledger().received > 0);
    signal(&child, "KILL");
    child.wait().unwrap();
    assert_eq!(ids(&read(&out)), ["1", "3"]);
    finish(start(
        provider.arguments(["-o", out.to_str().unwrap(), "--resume"]),
        Some(input),
    ))
    .code(0);
    assert_eq!(ids(&read(&out)), numbers(4));
}

fn row(id: &str, ok: bool) -> String {
    json!({"id": id, "index": 0, "ok": ok, "output": format!("answer {id}")}).to_string()
}

/// As an editor, a spreadsheet or a disk that was full may leave it.
#[test]
fn an_output_that_was_touched_is_resumed_and_loses_nothing() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let bad = folder.path().join("out.jsonl.bad");
    let line = |id: &str| format!("{}\n", json!({"id": id, "prompt": format!("prompt {id}")}));
    fs::write(&input, ["a", "b", "c", "d"].map(line).concat()).unwrap();
    let arguments = || provider.arguments([input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--resume"]);
    let (a, b, c) = (row("a", true), row("b", true), row("c", false));
    for (name, text, asked, aside) in [
        (
            "a mark, blank lines, CRLF",
            format!("\u{feff}\r\n{a}\r\n\n  \n{b}\r\n\r\n"),
            2,
            "",
        ),
        ("no line break at the end", format!("{a}\n{b}"), 2, ""),
        (
            "a torn row at the end",
            format!("{a}\n{b}\n{{\"id\":\"c\",\"ind"),
            2,
            "",
        ),
        ("a failed row before others", format!("{c}\n{a}\n{b}\n"), 2, ""),
        (
            "a foreign line",
            format!("{a}\nkilled by signal 9\n{b}\n"),
            2,
            "killed by signal 9\n",
        ),
        (
            "a torn row in the middle",
            format!("{a}\n{{\"id\":\"b\",\"ind{b}\n"),
            3,
            "{\"id\":\"b\",\"ind",
        ),
        ("invalid UTF-8", format!("{a}\n\u{1}\n{b}\n"), 2, "\u{1}\n"),
    ] {
        fs::write(&out, &text).unwrap();
        let _ = fs::remove_file(&bad);
        let before = provider.ledger().received;
        let finished = run(arguments(), "");
        assert_eq!(finished.status.code(), Some(0), "{name}: {}", finished.stderr);
        assert_eq!(provider.ledger().received - before, asked, "{name}");
        let written = fs::read_to_string(&out).unwrap();
        let whole: Vec<Value> = written
            .trim_start_matches('\u{feff}')
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(ids(&whole), ["a", "b", "c", "d"], "{name}");
        assert!(written.contains(&a), "{name}: an answer was not kept as it was");
        match aside {
            "" => assert!(!bad.exists(), "{name}"),
            text => {
                assert!(fs::read_to_string(&bad).unwrap().starts_with(text), "{name}");
                finished.says("out.jsonl.bad: 1 line that is not a row\n");
            }
        }
    }
}

/// Another program's file is not taken for a damaged output.
#[test]
fn a_file_of_other_lines_is_not_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let text = format!("{}\n{{\"prompt\":1}}\n{{\"prompt\":2}}\n", row("a", true));
    fs::write(&out, &text).unwrap();
    run(
        ["run", "-m", "sim:steady", "-o", out.to_str().unwrap(), "--resume"],
        "x\n",
    )
    .code(2)
    .says("most of its lines are not rows");
    assert_eq!(fs::read_to_string(&out).unwrap(), text);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Where nothing in its middle is replaced, rows are appended to the file itself: no copy, and no disk for one.
#[cfg(unix)]
#[test]
fn an_output_is_not_copied_for_a_torn_end() {
    use std::os::unix::fs::MetadataExt as _;
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    fs::write(
        &out,
        format!("{}\n{}\n{{\"id\":\"to", row("1", true), row("2", false)),
    )
    .unwrap();
    let file = fs::metadata(&out).unwrap().ino();
    run(
        provider.arguments(["-o", out.to_str().unwrap(), "--resume"]),
        "{\"id\":\"1\",\"prompt\":\"x\"}\n{\"id\":\"2\",\"prompt\":\"y\"}\n",
    )
    .code(0);
    assert_eq!(fs::metadata(&out).unwrap().ino(), file);
    assert_eq!(ids(&read(&out)), ["1", "2"]);
}

/// A table that a spreadsheet has saved: a mark, other line ends.
#[test]
fn a_table_that_was_saved_elsewhere_is_resumed() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.csv");
    let arguments = || {
        let more = ["-o", out.to_str().unwrap(), "--output-format", "csv", "--resume"];
        provider.arguments(more)
    };
    let input = |ids: &[&str]| -> String {
        ids.iter()
            .map(|id| format!("{}\n", json!({"id": id, "prompt": id})))
            .collect()
    };
    run(arguments(), &input(&["a", "b"])).code(0);
    let saved = fs::read_to_string(&out).unwrap().replace('\n', "\r\n");
    fs::write(&out, format!("\u{feff}{saved}")).unwrap();
    let before = provider.ledger().received;
    run(arguments(), &input(&["a", "b", "c"])).code(0);
    assert_eq!(provider.ledger().received - before, 1);
    // A short row before others is set aside.
    let text = fs::read_to_string(&out).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.insert(1, "short,1");
    fs::write(&out, lines.join("\n") + "\n").unwrap();
    run(arguments(), &input(&["a", "b", "c"]))
        .code(0)
        .says("moved from");
    assert_eq!(
        fs::read_to_string(folder.path().join("out.csv.bad")).unwrap(),
        "short,1\n"
    );
    assert_eq!(provider.ledger().received - before, 1);
}
