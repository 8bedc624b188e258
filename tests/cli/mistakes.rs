//! Commands that would lose answers or mix them up.

use std::fs;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Finished, Recorder, program, rows, run};

fn to(server: &Recorder, more: &[&str], stdin: &str) -> Finished {
    let fixed = ["run", "-m", "openai-compatible:m", "--base-url", &server.url];
    run(fixed.iter().chain(more), stdin)
}

/// Answers with the prompt.
fn echo() -> Recorder {
    Recorder::answering(|body| {
        let prompt = &body["messages"][0]["content"];
        let answer = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": prompt}, "finish_reason": "stop"}],
                            "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
        (200, answer.to_string())
    })
}

#[test]
fn repeated_ids_of_openai_results_are_told_apart_by_position() {
    let server = echo();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let line = |text: &str| {
        let body = json!({"messages": [{"role": "user", "content": text}]});
        let line = json!({"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body});
        format!("{line}\n")
    };
    let input = ["A", "B", "C"].map(line).concat();
    let more = [
        "--output-format",
        "openai-batch",
        "-o",
        out.to_str().unwrap(),
        "--resume",
    ];
    to(&server, &more, &input).code(0);
    for lost in ["A", "B", "C"] {
        let text = fs::read_to_string(&out).unwrap();
        let kept = text
            .lines()
            .filter(|line| !line.contains(&format!("\"content\":\"{lost}\"")));
        fs::write(&out, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        let calls = server.bodies().len();
        to(&server, &more, &input).code(0);
        assert_eq!(server.bodies()[calls..].len(), 1, "{lost}");
        let text = fs::read_to_string(&out).unwrap();
        for answer in ["A", "B", "C"] {
            assert_eq!(
                text.matches(&format!("\"content\":\"{answer}\"")).count(),
                1,
                "{answer} of {text}"
            );
        }
    }
}

#[test]
fn answers_that_are_asked_again_are_not_lost_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let cut = json!({"id": "a", "index": 0, "ok": true, "output": "half of", "finish_reason": "length"});
    fs::write(&out, format!("{cut}\n")).unwrap();
    let server = Recorder::start(401, r#"{"error":{"message":"bad key"}}"#);
    let more = ["-o", out.to_str().unwrap(), "--resume", "--require-complete"];
    to(&server, &more, "{\"id\":\"a\",\"prompt\":\"x\"}\n")
        .code(3)
        .says("out.jsonl.bad: 1 answer that is requested again\n");
    let aside = fs::read_to_string(folder.path().join("out.jsonl.bad")).unwrap();
    assert_eq!(rows(&aside), [cut]);
}

/// `>>` would feed the answers to the run that writes them.
#[cfg(unix)]
#[test]
fn standard_output_is_not_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.jsonl");
    let text = "{\"id\":\"1\",\"prompt\":\"x\"}\n";
    fs::write(&file, text).unwrap();
    for by_name in [true, false] {
        let mut command = program();
        command.args(["run", "-m", "sim:steady"]);
        if by_name {
            command.arg(&file);
        } else {
            command.stdin(fs::File::open(&file).unwrap());
        }
        let out = fs::File::options().append(true).open(&file).unwrap();
        let output = command
            .stdout(out)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

/// The answers of `>>` in a folder, and the file for foreign lines, are not prompts.
#[cfg(unix)]
#[test]
fn outputs_without_a_name_of_their_own_are_not_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    fs::create_dir(&texts).unwrap();
    fs::write(texts.join("a.txt"), "one").unwrap();
    let out = fs::File::create(texts.join("out.txt")).unwrap();
    let output = program()
        .args(["run", "-m", "sim:steady", texts.to_str().unwrap()])
        .stdout(out)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let answers = rows(&fs::read_to_string(texts.join("out.txt")).unwrap());
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["id"], "a.txt");

    let (out, bad) = (folder.path().join("o.jsonl"), folder.path().join("o.jsonl.bad"));
    fs::write(&bad, "{\"prompt\":\"x\"}").unwrap();
    run(
        [
            "run",
            "-m",
            "sim:steady",
            bad.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
        ],
        "",
    )
    .code(2)
    .says("is an input and would be overwritten");
    assert_eq!(fs::read_to_string(&bad).unwrap(), "{\"prompt\":\"x\"}");
}

#[test]
fn an_output_is_replaced_when_there_is_something_to_replace_it_with() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["out.jsonl", "out.csv"] {
        let out = folder.path().join(name);
        let arguments = [
            "run",
            "-m",
            "sim:steady",
            "-o",
            out.to_str().unwrap(),
            "--overwrite",
        ];
        run(arguments, "one\ntwo\n").code(0);
        let answers = fs::read_to_string(&out).unwrap();
        run(arguments, "").code(0).says("the input has no items");
        assert_eq!(fs::read_to_string(&out).unwrap(), answers);
        run(arguments, "three\n").code(0);
        assert_ne!(fs::read_to_string(&out).unwrap(), answers);
    }
    // The format follows from the name.
    let table = fs::read_to_string(folder.path().join("out.csv")).unwrap();
    assert!(table.starts_with("id,index,ok,"), "{table}");
}

#[test]
fn options_that_mix_answers_up_are_refused() {
    let server = Recorder::start(200, COMPLETION);
    for (more, message) in [
        (vec!["--shuffle", "--output-format", "text"], "add --include id"),
        (
            vec!["--sample", "1", "--output-format", "text"],
            "add --include id",
        ),
        (
            vec!["--extra", r#"{"messages":[]}"#],
            "would replace every prompt",
        ),
        (vec!["--header", "X-Key: env:NOWHERE"], "Name=env:VARIABLE"),
    ] {
        to(&server, &more, "one\ntwo\n").code(2).says(message);
    }
    assert_eq!(server.bodies().len(), 0);
    to(
        &server,
        &["--shuffle", "--output-format", "text", "--include", "id"],
        "one\ntwo\n",
    )
    .code(0);
}

/// The fields of a chat completion are sent; a column of one's own is not.
#[test]
fn fields_beside_messages_are_sent_as_they_are() {
    let server = Recorder::start(200, COMPLETION);
    let line = r#"{"messages":[{"role":"user","content":"x"}],"frequency_penalty":1,"service_tier":"flex","user":"me","note":"mine","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object","properties":{"n":{"maximum":340282366920938463463374607431768211455}}}}}}"#;
    to(&server, &[], &format!("{line}\n")).code(0);
    let body = server.bodies().remove(0);
    assert_eq!(
        (&body["frequency_penalty"], &body["service_tier"]),
        (&json!(1), &json!("flex"))
    );
    assert_eq!((&body["user"], body.get("note")), (&json!("me"), None));
    let maximum = &body["response_format"]["json_schema"]["schema"]["properties"]["n"]["maximum"];
    assert!(matches!(maximum, Value::Number(_)), "{body}");
    let several = line.replace("\"note\"", "\"n\":2,\"note\"");
    to(&server, &["--output-format", "text"], &format!("{several}\n"))
        .code(1)
        .says("several answers are asked for");
}
