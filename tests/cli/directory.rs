//! A file for each answer, and the index of the folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Provider, Recorder, lines_of, rows, run, signal, start, wait_until};

/// A server that answers with the prompt, and fails where it begins with `bad`.
fn echo() -> Recorder {
    Recorder::answering(|body| {
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        if prompt.starts_with("bad") {
            return (400, r#"{"error":{"message":"no"}}"#.to_owned());
        }
        let mut answer: Value = serde_json::from_str(COMPLETION).unwrap();
        answer["choices"][0]["message"]["content"] = prompt.into();
        (200, answer.to_string())
    })
}

fn arguments<'a>(server: &'a Recorder, folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &server.url,
        "--output-dir",
        folder.to_str().unwrap(),
    ];
    fixed.into_iter().chain(more.iter().copied()).collect()
}

fn index(folder: &Path) -> Vec<Value> {
    rows(&fs::read_to_string(folder.join("index.jsonl")).unwrap())
}

/// Each row's file holds the prompt of the row's position.
#[track_caller]
fn assert_own_answers(folder: &Path, prompts: &[&str]) {
    let rows = index(folder);
    let files: BTreeSet<_> = rows.iter().map(|row| row["file"].as_str().unwrap()).collect();
    assert_eq!(
        (rows.len(), files.len()),
        (prompts.len(), prompts.len()),
        "{rows:?}"
    );
    for row in &rows {
        let text = fs::read_to_string(folder.join(row["file"].as_str().unwrap())).unwrap();
        let index = usize::try_from(row["index"].as_u64().unwrap()).unwrap();
        assert_eq!(text, prompts[index], "{row}");
    }
}

#[test]
fn every_item_has_a_file_of_its_own_also_when_resumed() {
    let server = echo();
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let ids = [
        "a:b",
        "a_b",
        "x",
        "x.txt",
        "x",
        "X",
        "https://ex.com/a",
        "https://ex.com",
        "..",
        "",
        "index.jsonl",
        "nul",
        &"long ".repeat(60),
    ];
    let prompts: Vec<_> = (0..ids.len()).map(|number| format!("prompt {number}")).collect();
    let prompts: Vec<_> = prompts.iter().map(String::as_str).collect();
    let input: String = ids
        .iter()
        .zip(&prompts)
        .map(|(id, prompt)| format!("{}\n", json!({"id": id, "prompt": prompt})))
        .collect();
    let file = folder.path().join("in.jsonl");
    fs::write(&file, input).unwrap();
    let file = file.to_str().unwrap();
    run(arguments(&server, &answers, &[file, "--limit", "1"]), "").code(0);
    run(
        arguments(&server, &answers, &[file, "--limit", "4", "--resume"]),
        "",
    )
    .code(0);
    run(arguments(&server, &answers, &[file, "--resume"]), "").code(0);
    assert_own_answers(&answers, &prompts);
    assert_eq!(server.bodies().len(), ids.len());
    for name in [
        "a%3Ab.txt",
        "a_b.txt",
        "x.txt",
        "x.txt.txt",
        "https%3A%2F%2Fex.com.txt",
    ] {
        assert!(answers.join(name).is_file(), "{name}");
    }
}

#[test]
fn the_index_has_every_item_and_resuming_asks_what_failed_or_is_gone() {
    let server = echo();
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let input = "{\"id\":1,\"prompt\":\"one\",\"n\":1}\n{\"id\":2,\"prompt\":\"bad\"}\n{broken\n{\"id\":4,\"prompt\":\"four\"}\n";
    run(arguments(&server, &answers, &["--keep", "n"]), input).code(1);
    let mut rows = index(&answers);
    rows.sort_by_key(|row| row["index"].as_u64());
    assert_eq!(rows.len(), 4);
    assert_eq!(
        (&rows[0]["file"], &rows[0]["n"], &rows[0]["ok"]),
        (&json!("1.txt"), &json!(1), &json!(true))
    );
    assert_eq!(rows[0]["finish_reason"], "stop");
    assert_eq!(rows[0]["usage"]["input"], 9);
    assert_eq!(rows[0].get("output"), None);
    assert_eq!(
        (&rows[1]["error"]["kind"], rows[1].get("file")),
        (&json!("invalid_request"), None)
    );
    assert_eq!(rows[2]["error"]["kind"], "source");

    fs::remove_file(answers.join("4.txt")).unwrap();
    let calls = server.bodies().len();
    let input = "{\"id\":1,\"prompt\":\"one\"}\n{\"id\":2,\"prompt\":\"good\"}\n{\"id\":3,\"prompt\":\"three\"}\n{\"id\":4,\"prompt\":\"four\"}\n";
    run(arguments(&server, &answers, &["--resume"]), input)
        .code(0)
        .says("1 answered by an earlier run were kept");
    assert_eq!(server.bodies().len(), calls + 3);
    assert_own_answers(&answers, &["one", "good", "three", "four"]);
}

#[test]
fn a_folder_of_other_files_is_left_alone() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    fs::write(folder.path().join("1.txt"), "mine").unwrap();
    let arguments = |more: &'static str| provider.arguments(["--output-dir", path, more]);
    run(arguments("--resume"), "one\n")
        .code(2)
        .says("it has no index.jsonl");
    run(arguments("--in-order"), "one\n").code(2).says("is not empty");
    // A foreign index, one that leads out of the folder among them.
    let row = json!({"id": "1", "index": 0, "ok": true, "file": "../1.txt"});
    for text in [format!("{row}\n"), "notes\n".to_owned()] {
        fs::write(folder.path().join("index.jsonl"), text).unwrap();
        run(arguments("--resume"), "one\n")
            .code(2)
            .says("cannot be resumed");
    }
    assert_eq!(fs::read_to_string(folder.path().join("1.txt")).unwrap(), "mine");
    run(
        provider.arguments([path, "--output-dir", path, "--overwrite"]),
        "",
    )
    .code(2)
    .says("is an input folder");
    assert_eq!(fs::read_to_string(folder.path().join("1.txt")).unwrap(), "mine");
    assert_eq!(provider.ledger().received, 0);
    run(arguments("--overwrite"), "{\"id\":1,\"prompt\":\"one\"}\n").code(0);
    assert_ne!(fs::read_to_string(folder.path().join("1.txt")).unwrap(), "mine");
}

/// At any moment of several runs: each item has one answer in the end, its own, and none is paid for twice whose row was written.
#[cfg(unix)]
#[test]
fn a_killed_run_of_a_folder_goes_on_where_it_was() {
    let server = echo();
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let ids = |number: usize| match number % 4 {
        // Ids that share a name on some file systems, ids that come twice, and items without one.
        0 => json!(format!("Q{}", number / 8)),
        1 => json!(format!("q{}", number / 8)),
        2 => json!(format!("twice {}", number / 8)),
        _ => json!(null),
    };
    let prompts: Vec<_> = (0..240).map(|number| format!("prompt {number}")).collect();
    let prompts: Vec<_> = prompts.iter().map(String::as_str).collect();
    let input: String = prompts
        .iter()
        .enumerate()
        .map(|(number, prompt)| format!("{}\n", json!({"id": ids(number), "prompt": prompt})))
        .collect();
    let file = folder.path().join("in.jsonl");
    fs::write(&file, input).unwrap();
    let file = file.to_str().unwrap();
    let arguments = || arguments(&server, &answers, &[file, "--resume", "-c", "4"]);
    let index_file = answers.join("index.jsonl");
    let mut kept: Vec<Value> = Vec::new();
    for least in [20, 70, 71, 130, 190] {
        let mut child = start(arguments(), Some(""));
        wait_until("rows", || lines_of(&index_file) >= least);
        signal(&child, "KILL");
        child.wait().unwrap();
        let text = fs::read_to_string(&index_file).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let written = rows(&whole.collect::<String>());
        assert!(kept.iter().all(|row| written.contains(row)), "a row was lost");
        for row in &written {
            assert!(answers.join(row["file"].as_str().unwrap()).is_file(), "{row}");
        }
        kept = written;
    }
    // As a kill in the middle of a write leaves it.
    fs::write(answers.join(".llm-batch-answer-x"), "half of").unwrap();
    let calls = server.bodies().len();
    run(arguments(), "").code(0);
    assert_eq!(server.bodies().len() - calls, prompts.len() - kept.len());
    assert_own_answers(&answers, &prompts);
    let index = index(&answers);
    assert!(kept.iter().all(|row| index.contains(row)));
    let named: BTreeSet<_> = index
        .iter()
        .map(|row| row["file"].as_str().unwrap().to_owned())
        .collect();
    let left = fs::read_dir(&answers)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Other files were paid for, and their rows were never written.
    let others: Vec<_> = left
        .filter(|name| !named.contains(name) && name != "index.jsonl")
        .collect();
    assert!(others.iter().all(|name| name.contains("~old")), "{others:?}");
}
