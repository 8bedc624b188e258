//! Old answers, where new ones take their place: no answer that was paid for is lost.

use std::fs;
use std::path::Path;

use llm_batch::testing::Latency;
use serde_json::{Value, json};

use crate::support::{
    COMPLETION, Finished, Provider, Recorder, finish, ids, lines_of, rows, run, signal, start, wait_until,
};

fn item(id: &str) -> String {
    format!("{}\n", json!({"id": id, "prompt": format!("prompt {id}")}))
}

fn to(url: &str, more: &[&str], input: &str) -> Finished {
    let fixed = ["run", "-m", "openai-compatible:m", "--base-url", url];
    run(fixed.iter().chain(more), input)
}

fn answer(text: &str, reason: &str) -> String {
    let mut answer: Value = serde_json::from_str(COMPLETION).unwrap();
    answer["choices"][0]["message"]["content"] = text.into();
    answer["choices"][0]["finish_reason"] = reason.into();
    answer.to_string()
}

fn read(path: &Path) -> Vec<Value> {
    rows(&fs::read_to_string(path).unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_file_of_a_cut_answer_is_kept_until_and_after_a_whole_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let resume = [
        "--output-dir",
        answers.to_str().unwrap(),
        "--resume",
        "--require-complete",
    ];
    let input = item("a") + &item("b");
    let cut = Recorder::answering(|body| {
        let is_a = body["messages"][0]["content"] == "prompt a";
        (
            200,
            answer(
                if is_a { "half of a" } else { "whole b" },
                if is_a { "length" } else { "stop" },
            ),
        )
    });
    to(&cut.url, &resume[..2], &input).code(0);
    let old_row = read(&answers.join("index.jsonl"))
        .into_iter()
        .find(|row| row["id"] == "a")
        .unwrap();

    // The new answer fails: the old one stays.
    let failing = Recorder::start(400, r#"{"error":{"message":"no"}}"#);
    to(&failing.url, &resume, &input)
        .code(1)
        .says("index.jsonl.bad: 1 answer that is requested again\n");
    assert_eq!(fs::read_to_string(answers.join("a.txt")).unwrap(), "half of a");
    assert_eq!(
        read(&answers.join("index.jsonl.bad")),
        std::slice::from_ref(&old_row)
    );
    assert_eq!(failing.bodies().len(), 1);

    // Whole: it has the name, and the old one another.
    let good = Recorder::start(200, &answer("whole a", "stop"));
    to(&good.url, &resume, &input).code(0);
    let text = |name: &str| fs::read_to_string(answers.join(name)).unwrap();
    assert_eq!(
        (text("a.txt"), text("a~old.txt")),
        ("whole a".to_owned(), "half of a".to_owned())
    );
    assert_eq!(text("b.txt"), "whole b");
    assert_eq!(
        names(&answers),
        ["a.txt", "a~old.txt", "b.txt", "index.jsonl", "index.jsonl.bad"]
    );
    assert_eq!(ids(&read(&answers.join("index.jsonl"))), ["a", "b"]);
    to(&good.url, &resume, &input).code(0);
    assert_eq!(good.bodies().len(), 1);
}

/// Whose row is lost, though its file is there.
#[test]
fn a_file_without_a_row_is_not_overwritten_by_a_resumed_run() {
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let server = Recorder::start(200, &answer("new", "stop"));
    let arguments = ["--output-dir", answers.to_str().unwrap(), "--resume"];
    to(&server.url, &arguments, &item("a")).code(0);
    for (text, old) in [("first", "b~old.txt"), ("second", "b~old2.txt")] {
        fs::write(answers.join("b.txt"), text).unwrap();
        let index = fs::read_to_string(answers.join("index.jsonl")).unwrap();
        let rows = index.lines().filter(|line| !line.contains(r#""id":"b""#));
        fs::write(
            answers.join("index.jsonl"),
            rows.map(|row| format!("{row}\n")).collect::<String>(),
        )
        .unwrap();
        to(&server.url, &arguments, &(item("a") + &item("b"))).code(0);
        assert_eq!(fs::read_to_string(answers.join("b.txt")).unwrap(), "new");
        assert_eq!(fs::read_to_string(answers.join(old)).unwrap(), text);
    }
}

#[test]
fn overwrite_keeps_the_old_answers_until_every_item_has_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let good = Recorder::start(200, COMPLETION);
    let bad = Recorder::start(400, r#"{"error":{"message":"no"}}"#);
    let input = item("a") + &item("b");
    for (option, name, file) in [
        ("-o", "out.jsonl", "out.jsonl"),
        ("-o", "out.csv", "out.csv"),
        ("-o", "out.txt", "out.txt"),
        ("--output-dir", "folder", "folder/index.jsonl"),
    ] {
        let (out, file) = (folder.path().join(name), folder.path().join(file));
        let mut arguments = vec![option, out.to_str().unwrap(), "--overwrite"];
        if name == "out.txt" {
            arguments.extend(["--output-format", "text"]);
        }
        let old = |ending: &str| Path::new(&format!("{}{ending}", file.display())).to_owned();
        to(&good.url, &arguments, &input).code(0);
        let first = fs::read_to_string(&file).unwrap();
        let failed = to(&bad.url, &arguments, &input);
        failed
            .code(1)
            .says(&format!("are kept in {}\n", old(".old").display()));
        assert_eq!(fs::read_to_string(old(".old")).unwrap(), first, "{name}");
        assert!(fs::read_to_string(&file).unwrap().contains("no (HTTP 400)"));

        // Rows without an answer are not worth keeping, and what is kept stays.
        to(&bad.url, &arguments, &input).code(1);
        assert_eq!(fs::read_to_string(old(".old")).unwrap(), first, "{name}");
        // A text is not known to have none.
        assert_eq!(old(".old.2").exists(), name == "out.txt");

        // Answers that a run replaces whole are not kept.
        let last = to(&good.url, &arguments, &input);
        last.code(0);
        assert!(!last.stderr.contains("kept in"), "{}", last.stderr);
        let second = to(&good.url, &arguments, &input);
        second.code(0);
        assert_eq!(fs::read_to_string(old(".old")).unwrap(), first, "{name}");
        assert!(!old(".old.3").exists());
        let rows = fs::read_to_string(&file).unwrap();
        assert!(!rows.contains("HTTP 400"), "{rows}");
    }
    // The answers of a folder stay where the new ones fail.
    let arguments = [
        "--output-dir",
        folder.path().join("folder").to_str().unwrap(),
        "--overwrite",
    ]
    .map(str::to_owned);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    to(&bad.url, &arguments, &input).code(1);
    let text = fs::read_to_string(folder.path().join("folder/a.txt")).unwrap();
    assert_eq!(text, "line one\nline \"two\"");
}

#[cfg(unix)]
#[test]
fn a_kill_or_an_interrupt_while_overwriting_loses_no_old_answer() {
    let provider = Provider::start(|builder| builder.latency("20ms".parse::<Latency>().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let arguments = provider.arguments(["-o", out.to_str().unwrap(), "--overwrite", "-c", "2"]);
    let input: String = (0..300).map(|number| item(&number.to_string())).collect();
    for (name, ending) in [("KILL", "old"), ("INT", "old.2")] {
        fs::write(
            &out,
            format!("{}\n", json!({"id": "x", "index": 0, "ok": true, "output": name})),
        )
        .unwrap();
        let before = fs::read(&out).unwrap();
        let child = start(&arguments, Some(&input));
        wait_until("rows", || lines_of(&out) >= 5);
        signal(&child, name);
        finish(child);
        assert_eq!(
            fs::read(folder.path().join(format!("out.jsonl.{ending}"))).unwrap(),
            before
        );
        assert!(!fs::read_to_string(&out).unwrap().contains(r#""id":"x""#));
    }
}

#[test]
fn damaged_lines_and_answers_that_are_requested_again_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let row = |id: &str, reason: &str| {
        format!(
            "{}\n",
            json!({"id": id, "index": 0, "ok": true, "output": "x", "finish_reason": reason})
        )
    };
    let text =
        row("a", "length") + "damaged\n" + &row("b", "length") + &row("c", "stop") + &row("d", "length");
    fs::write(&out, text).unwrap();
    let server = Recorder::start(200, COMPLETION);
    let input: String = ["a", "b", "c", "d"].map(item).concat();
    let arguments = ["-o", out.to_str().unwrap(), "--resume", "--require-complete"];
    to(&server.url, &arguments, &input)
        .code(0)
        .says("out.jsonl.bad: 1 line that is not a row and 3 answers that are requested again\n");
    assert_eq!(server.bodies().len(), 3);
    assert_eq!(lines_of(&folder.path().join("out.jsonl.bad")), 4);
    // Quiet runs set them aside without a word.
    fs::write(&out, row("c", "stop") + "damaged\n").unwrap();
    let quiet = arguments.iter().chain(&["-q"]).copied().collect::<Vec<_>>();
    let finished = to(&server.url, &quiet, &item("c"));
    assert_eq!(finished.code(0).stderr, "");
    assert_eq!(lines_of(&folder.path().join("out.jsonl.bad")), 5);
}

/// The output of a run, and what stands beside it, by whichever name.
#[cfg(unix)]
#[test]
fn an_output_behind_a_link_is_not_an_input() {
    use std::os::unix::fs::symlink;
    let server = Recorder::start(200, COMPLETION);
    let folder = tempfile::tempdir().unwrap();
    let (inputs, other) = (folder.path().join("in"), folder.path().join("other"));
    fs::create_dir(&inputs).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(inputs.join("prompt.txt"), "a prompt").unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    symlink("../other/not-yet.jsonl", inputs.join("to-come.jsonl")).unwrap();
    symlink("../other/events.jsonl", inputs.join("events.jsonl")).unwrap();
    symlink("in/there.jsonl", folder.path().join("link.jsonl")).unwrap();
    symlink("in/answers", folder.path().join("link")).unwrap();
    symlink("../other", inputs.join("also")).unwrap();
    let (out, events) = (path("other/not-yet.jsonl"), path("other/events.jsonl"));
    let calls = |more: &[&str], code: i32| {
        let before = server.bodies().len();
        let inputs = path("in");
        let more: Vec<_> = more.iter().copied().chain([inputs.as_str()]).collect();
        let finished = to(&server.url, &more, "");
        assert_eq!(
            finished.status.code(),
            Some(code),
            "{more:?}: {}",
            finished.stderr
        );
        server.bodies().len() - before
    };
    // The link leads to nowhere at first, and then to the answers.
    assert_eq!(calls(&["-o", &out, "--events", &events], 0), 1);
    assert_eq!(calls(&["-o", &out, "--overwrite", "--events", &events], 0), 1);
    fs::write(&out, "damaged\n".to_owned() + &fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(calls(&["-o", &out, "--resume", "--events", &events], 0), 0);
    assert!(Path::new(&path("other/not-yet.jsonl.bad")).exists());
    assert_eq!(calls(&["-o", &out, "--resume", "--events", &events], 0), 0);
    for name in ["other/not-yet.jsonl.old", "other/not-yet.jsonl.old.7"] {
        fs::write(path(name), "an old answer").unwrap();
    }
    assert_eq!(calls(&["-o", &out, "--overwrite", "--events", &events], 0), 1);

    // A link outside that leads inside.
    fs::remove_dir_all(&other).unwrap();
    fs::create_dir(&other).unwrap();
    for name in ["to-come.jsonl", "events.jsonl"] {
        fs::remove_file(inputs.join(name)).unwrap();
    }
    let link = path("link.jsonl");
    assert_eq!(calls(&["-o", &link], 0), 1);
    let there = path("in/there.jsonl");
    fs::write(
        &there,
        "damaged\n".to_owned() + &fs::read_to_string(&there).unwrap(),
    )
    .unwrap();
    assert_eq!(calls(&["-o", &link, "--resume"], 0), 0);
    assert!(Path::new(&path("in/there.jsonl.bad")).exists());
    assert_eq!(calls(&["-o", &link, "--resume"], 0), 0);
    assert_eq!(calls(&["-o", &link, "--overwrite"], 0), 1);
    for name in ["there.jsonl", "there.jsonl.bad"] {
        fs::remove_file(inputs.join(name)).unwrap();
    }
    fs::create_dir(inputs.join("answers")).unwrap();
    assert_eq!(calls(&["--output-dir", &path("link")], 0), 1);
    assert_eq!(calls(&["--output-dir", &path("link"), "--resume"], 0), 0);
}
