//! Every form of input, and what is wrong with some of it.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Provider, Recorder, finish, ids, run, start};

fn dry(arguments: &[&str], stdin: &str) -> crate::support::Finished {
    let all = ["run", "--model", "sim:steady", "--dry-run"]
        .iter()
        .chain(arguments);
    run(all, stdin)
}

/// The texts that a dry run would send.
fn texts(stdout: &str) -> Vec<String> {
    let bodies = stdout.split("# request ").skip(1).map(|part| {
        let json = part.split_once('\n').unwrap().1;
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
        values.next().unwrap().unwrap()
    });
    bodies
        .map(|body| body["messages"][0]["content"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn json_lines_are_objects_or_strings() {
    let input =
        "{\"id\":\"a\",\"prompt\":\"one\"}\n\n\"two\"\r\n{\"id\":7,\"prompt\":\"three\",\"extra\":[1]}\n";
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments(["--keep", "extra"]), input);
    let rows = finished.code(0).rows();
    assert_eq!(ids(&rows).len(), 3);
    assert!(rows.iter().any(|row| row["id"] == "a"));
    let seven = rows.iter().find(|row| row["id"] == "7").unwrap();
    assert_eq!(seven["index"], 2);
    assert_eq!(seven["extra"], json!([1]));
    assert!(
        rows.iter()
            .all(|row| row["ok"] == true && row["output"].as_str().unwrap().len() > 1)
    );
}

#[test]
fn a_table_may_have_line_breaks_in_quotes() {
    let input = "\u{feff}id,question,note\r\n1,\"first\nline, \"\"quoted\"\"\",x\r\n2,\"second\",\r\n";
    let finished = dry(&["--prompt", "Q: {{question}} {note}"], input);
    finished.code(0);
    assert_eq!(
        texts(&finished.stdout),
        ["Q: first\nline, \"quoted\" {note}", "Q: second {note}"]
    );
}

#[test]
fn text_is_a_prompt_a_line_and_splits_at_line_feeds_only() {
    let finished = dry(
        &[],
        "one\u{2028}still one\u{85}\u{2029}\r\ntwo, and more\n   \nthree",
    );
    assert_eq!(
        texts(&finished.code(0).stdout),
        ["one\u{2028}still one\u{85}\u{2029}", "two, and more", "three"]
    );
}

#[test]
fn a_table_is_never_read_as_text() {
    let finished = dry(&["--prompt", "{{question}}"], "id,question\n1,why\n");
    assert_eq!(texts(&finished.code(0).stdout), ["why"]);
    let finished = dry(&["--prompt", "{{question}}"], "id\tquestion\n1\twhy\n");
    assert_eq!(texts(&finished.code(0).stdout), ["why"]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.txt");
    fs::write(&file, "id,question\n1,why\n").unwrap();
    let path = file.to_str().unwrap();
    dry(&[path], "").code(2).says("--format");
    let finished = dry(&[path, "--format", "text"], "");
    assert_eq!(texts(&finished.code(0).stdout), ["id,question", "1,why"]);
}

#[test]
fn files_of_a_folder_are_items() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    fs::create_dir_all(texts.join("deep")).unwrap();
    fs::write(texts.join("a.txt"), "first").unwrap();
    fs::write(texts.join("deep/b.txt"), "second").unwrap();
    fs::write(texts.join("c.md"), "not this").unwrap();
    fs::write(texts.join(".hidden.txt"), "nor this").unwrap();
    fs::write(texts.join("d.txt"), b"\xff\xfe\xff").unwrap();
    let provider = Provider::start(|builder| builder);
    let path = texts.to_str().unwrap();

    let finished = run(
        provider.arguments([path, "--glob", "*.txt", "--keep", "path"]),
        "",
    );
    let rows = finished.code(1).says("d.txt: is not UTF-8 text").rows();
    assert_eq!(ids(&rows), ["a.txt", "d.txt", "deep/b.txt"]);
    assert!(
        rows.iter()
            .filter(|row| row["ok"] == true)
            .all(|row| row["path"] == row["id"])
    );

    let answers = folder.path().join("answers");
    let arguments = [
        path,
        "--glob",
        "deep/*",
        "--glob",
        "a.*",
        "--output-dir",
        answers.to_str().unwrap(),
    ];
    let finished = run(provider.arguments(arguments), "");
    assert_eq!(finished.code(0).stdout, "");
    let answer = fs::read_to_string(answers.join("deep/b.txt")).unwrap();
    assert!(!answer.is_empty());
    // With the index.
    assert_eq!(fs::read_dir(&answers).unwrap().count(), 3);

    // A folder with answers is refused, gone on with, or written over.
    run(provider.arguments(arguments), "").code(2).says("--resume");
    fs::remove_file(answers.join("a.txt")).unwrap();
    let calls = provider.ledger().received;
    run(provider.arguments(arguments.into_iter().chain(["--resume"])), "").code(0);
    assert_eq!(provider.ledger().received, calls + 1);
    assert!(answers.join("a.txt").exists());
}

#[test]
fn an_unknown_field_fails_its_item_unsent() {
    let recorder = Recorder::start(200, COMPLETION);
    let input = "{\"a\":\"x\",\"list\":[1,{\"k\":\"<&\"}],\"nothing\":null}\n{\"b\":1}\n";
    let arguments = ["run", "-m", "openai-compatible:m", "--base-url", &recorder.url];
    let template = [
        "--prompt",
        "{{a}} {b} {list} {{list}} {{nothing}} {{ list | tojson }}",
    ];
    let finished = run(arguments.iter().chain(&template), input);
    let rows = finished
        .code(1)
        .says("line 2: the template names a field that the item does not have")
        .rows();
    let bodies = recorder.bodies();
    assert_eq!(bodies.len(), 1);
    let json = r#"[1,{"k":"<&"}]"#;
    assert_eq!(
        bodies[0]["messages"][0]["content"],
        format!("x {{b}} {{list}} {json} null {json}")
    );
    let failed = rows.iter().find(|row| row["ok"] == false).unwrap();
    assert_eq!(failed["index"], 1);
    assert_eq!(failed["calls"], 0);
    assert_eq!(failed["error"]["kind"], "source");
    assert!(
        failed["error"]["message"]
            .as_str()
            .unwrap()
            .contains("its fields are: b")
    );
}

#[test]
fn the_default_prompt_is_a_field_and_its_lack_is_explained() {
    dry(&[], "{\"question\":\"why\"}\n")
        .code(1)
        .says("--prompt '{{question}}'");
}

#[test]
fn malformed_lines_are_told_and_counted_and_the_rest_goes_on() {
    let input =
        "{\"prompt\":\"one\"}\n{broken\n[1,2]\n{\"prompt\":\"four\",\"id\":{}}\n{\"prompt\":\"five\"}\n";
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments(["--summary", "json"]), input);
    finished
        .code(1)
        .says("line 2: not JSON")
        .says("line 3: neither a JSON object nor a string")
        .says("line 4: field `id`");
    let rows = finished.rows();
    let bad = ids(&rows).into_iter().filter(|id| id.starts_with("malformed-"));
    assert_eq!((rows.len(), bad.count()), (5, 3));
    assert_eq!(rows.iter().filter(|row| row["ok"] == true).count(), 2);
    let summary = finished.summary();
    assert_eq!(summary["succeeded"], 2);
    assert_eq!(summary["failed"], 3);
    assert_eq!(provider.ledger().received, 2);

    // A table row of the wrong width, after a cell over two lines.
    let input = "id,prompt\n1,\"a\nb\"\n2,c,d\n3,e\n";
    let finished = run(provider.arguments([]), input);
    finished.code(1).says("line 4: the row has 3 cells, the header 2");
    assert_eq!(finished.rows().len(), 3);
}

#[test]
fn strict_checks_everything_before_the_first_call() {
    let provider = Provider::start(|builder| builder);
    let finished = run(
        provider.arguments(["--strict"]),
        "{\"prompt\":\"one\"}\n{broken\n",
    );
    finished
        .code(2)
        .says("line 2: not JSON")
        .says("nothing was called");
    assert_eq!(finished.stdout, "");
    assert_eq!(provider.ledger().received, 0);
    let finished = run(
        provider.arguments(["--strict"]),
        "{\"prompt\":\"one\"}\n{\"prompt\":\"two\"}\n",
    );
    assert_eq!(finished.code(0).rows().len(), 2);
}

#[test]
fn bodies_of_batch_lines_reach_the_wire_unchanged() {
    let recorder = Recorder::start(200, COMPLETION);
    let body = json!({
        "zeta": {"b": [1, 2.5, null], "a": "\u{2028}"}, "model": "old-model",
        "messages": [{"role": "user", "content": "hi", "name": "n"}], "max_tokens": 5, "unknown": true
    });
    let line = |id: &str, method: &str, url: &str| {
        json!({"custom_id": id, "method": method, "url": url, "body": body}).to_string()
    };
    let input = [
        line("q-1", "POST", "/v1/chat/completions"),
        line("q-2", "GET", "/v1/chat/completions"),
        line("q-3", "POST", "/v1/responses"),
    ]
    .join("\n");
    let arguments = [
        "run",
        "-m",
        "openai-compatible:new-model",
        "--base-url",
        &recorder.url,
    ];
    let finished = run(
        arguments.iter().chain(&["--output-format", "openai-batch"]),
        &input,
    );
    finished
        .code(1)
        .says("line 2: `method`")
        .says("line 3: the line is for /v1/responses");

    let mut expected = body.clone();
    expected["model"] = json!("new-model");
    assert_eq!(recorder.bodies(), [expected]);
    let rows = finished.rows();
    assert_eq!(rows.len(), 3);
    let good = rows.iter().find(|row| row["custom_id"] == "q-1").unwrap();
    assert_eq!(good["response"]["status_code"], 200);
    assert_eq!(good["error"], Value::Null);
    let sent: Value = serde_json::from_str(COMPLETION).unwrap();
    assert_eq!(good["response"]["body"].to_string(), sent.to_string());
    let bad = rows.iter().find(|row| row["custom_id"] == "q-3").unwrap();
    assert_eq!(bad["response"], Value::Null);
    assert_eq!(bad["error"]["code"], "source");

    // Options that would be silently lost are refused.
    let finished = run(
        arguments
            .iter()
            .chain(&["--format", "openai-batch", "--system", "x"]),
        &input,
    );
    finished.code(2).says("--system");
}

#[test]
fn options_shape_the_request() {
    let recorder = Recorder::start(200, COMPLETION);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:some-model",
        "--base-url",
        &recorder.url,
        "--system",
        "Be brief.",
        "--temperature",
        "0.5",
        "--max-output-tokens",
        "77",
        "--extra",
        r#"{"seed": 4, "metadata": {"k": "v"}}"#,
        "--header",
        "X-Team: search",
        "--api-key-env",
        "THE_KEY",
    ];
    let mut command = crate::support::program();
    let mut child = command
        .args(arguments)
        .env("THE_KEY", "sk-secret-1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    finish(child).code(0);
    let request = recorder.requests.lock().unwrap()[0].clone();
    assert_eq!(
        request.body,
        json!({
            "model": "some-model",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
            "temperature": 0.5, "max_tokens": 77, "seed": 4, "metadata": {"k": "v"}
        })
    );
    let head = request.head.to_ascii_lowercase();
    assert!(head.contains("x-team: search"), "{head}");
    assert!(head.contains("authorization: bearer sk-secret-1"), "{head}");
}

#[test]
fn several_inputs_keep_their_ids_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.txt"), folder.path().join("two.jsonl"));
    fs::write(&one, "a\nb\n").unwrap();
    fs::write(&two, "\"c\"\nbroken\n").unwrap();
    let provider = Provider::start(|builder| builder);
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let finished = run(provider.arguments([one, two, "-"]), "d\n");
    let rows = finished.code(1).says("two.jsonl, line 2: not JSON").rows();
    let mut found = ids(&rows);
    found.dedup();
    assert_eq!(found.len(), 5);
    let finished = run(provider.arguments([one, two, "--limit", "3"]), "");
    assert_eq!(finished.code(0).rows().len(), 3);
}

#[test]
fn an_endless_input_is_read_as_it_is_needed() {
    let provider = Provider::start(|builder| builder);
    let mut child = start(provider.arguments(["--limit", "40", "-c", "4"]), None);
    let mut pipe = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let line = format!("{}\n", "word ".repeat(200));
        let mut written = 0;
        while pipe.write_all(line.as_bytes()).is_ok() {
            written += line.len();
        }
        written
    });
    assert_eq!(finish(child).code(0).rows().len(), 40);
    // 40 items, those read ahead, and what pipes and buffers hold.
    assert!(writer.join().unwrap() < 2_000_000);
}

/// The most memory the program ever had, in KiB.
#[cfg(target_os = "linux")]
fn peak_memory(child: &std::process::Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_input_takes_no_memory() {
    let mut child = start(
        [
            "run",
            "-m",
            "sim:steady",
            "-o",
            "/dev/null",
            "-q",
            "--format",
            "jsonl",
        ],
        None,
    );
    let mut pipe = child.stdin.take().unwrap();
    let (one_mebibyte, mut peak) = (format!("{}\n", "x".repeat((1 << 20) - 1)), 0);
    for _ in 0..200 {
        pipe.write_all(one_mebibyte.as_bytes()).unwrap();
        peak = peak.max(peak_memory(&child).unwrap_or(0));
    }
    drop(pipe);
    finish(child).code(1);
    // 32 items are read ahead and 10 are worked on: what matters is that it is not 200 MiB.
    assert!(peak > 1_000 && peak < 120_000, "{peak} KiB");
}

/// A quote that is never closed takes the rest of the table into one cell: that is an error, and no prompt.
#[test]
fn an_open_quote_in_a_table_is_an_error_that_names_its_row() {
    let input = "id,prompt\n1,ok\n2,\"oops\n3,row\n4,row\n";
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments(["--format", "csv"]), input);
    finished
        .code(1)
        .says("line 3: a quote is opened in this row and never closed");
    let rows = finished.rows();
    assert_eq!(rows.iter().filter(|row| row["ok"] == true).count(), 1);
    assert_eq!(rows.len(), 2);
    let strict = run(provider.arguments(["--format", "csv", "--strict"]), input);
    strict.code(2).says("line 3");
    for (input, code) in [
        ("", 0),
        ("id,prompt\n", 0),
        ("id,prompt\n1,\"a\nb\"", 0),
        ("id,\"prompt\n1,x\n", 3),
    ] {
        run(provider.arguments(["--format", "csv"]), input).code(code);
    }
}

#[test]
fn long_ids_keep_their_digits() {
    let input = "{\"id\":12345678901234567890123,\"prompt\":\"x\"}\n{\"id\":12345678901234567890124,\"prompt\":\"y\"}\n";
    let provider = Provider::start(|builder| builder);
    let rows = run(provider.arguments([]), input).code(0).rows();
    assert_eq!(ids(&rows), ["12345678901234567890123", "12345678901234567890124"]);
}

#[test]
fn an_id_that_several_items_have_is_told_of() {
    let input = "{\"id\":\"r1\",\"prompt\":\"x\"}\n{\"id\":\"r1\",\"prompt\":\"y\"}\n";
    let provider = Provider::start(|builder| builder);
    run(provider.arguments([]), input)
        .code(0)
        .says("several items have the same id, such as `r1`");
    run(provider.arguments(["--strict"]), input)
        .code(2)
        .says("another item has the id `r1`, too");
}

/// A link to nowhere in a folder is one failed item.
#[cfg(unix)]
#[test]
fn a_file_that_is_not_there_ends_no_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("1.txt"), "one").unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("2.txt")).unwrap();
    // Hidden ones are not looked at.
    std::os::unix::fs::symlink("nowhere", folder.path().join(".#1.txt")).unwrap();
    fs::write(folder.path().join("3.txt"), "three").unwrap();
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments([folder.path().to_str().unwrap()]), "");
    let rows = finished.code(1).rows();
    let answered = rows.iter().filter(|row| row["ok"] == true).count();
    assert_eq!((rows.len(), answered), (3, 2));
    finished.says("2.txt: cannot be read");
}

/// The same file by another name is still an input.
#[cfg(unix)]
#[test]
fn a_hard_link_to_an_input_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    fs::write(&input, "one\n").unwrap();
    fs::hard_link(&input, &output).unwrap();
    let provider = Provider::start(|builder| builder);
    let paths = [
        input.to_str().unwrap(),
        "-o",
        output.to_str().unwrap(),
        "--overwrite",
    ];
    run(provider.arguments(paths), "")
        .code(2)
        .says("is an input and would be overwritten");
    assert_eq!(fs::read_to_string(&input).unwrap(), "one\n");
}
