//! Rows in every format, and what becomes of files that are there already.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{COMPLETION, Provider, Recorder, rows, run};

#[test]
fn a_row_has_the_documented_shape() {
    let recorder = Recorder::start(200, COMPLETION);
    let arguments = ["run", "-m", "openai-compatible:m", "--base-url", &recorder.url];
    let finished = run(arguments, "{\"id\":\"a\",\"prompt\":\"hi\"}\n");
    let mut row = finished.code(0).rows().remove(0);
    assert!(row["latency_ms"].as_u64().is_some());
    row["latency_ms"] = json!(0);
    assert_is_time(&row["time"]);
    row["time"] = json!("T");
    let expected = r#"{"id":"a","index":0,"ok":true,"output":"line one\nline \"two\"","usage":{"input":9,"output":4,"cached_input":3,"cache_write":0,"cache_write_long":0,"reasoning":0},"attempts":1,"calls":1,"latency_ms":0,"model":"a-model-2026","response_id":"chatcmpl-1","finish_reason":"stop","time":"T"}"#;
    assert_eq!(row.to_string(), expected);

    let refusal = r#"{"error":{"message":"no such parameter","type":"invalid_request_error"}}"#;
    let recorder = Recorder::start(400, refusal);
    let arguments = ["run", "-m", "openai-compatible:m", "--base-url", &recorder.url];
    let finished = run(arguments, "{\"id\":\"a\",\"prompt\":\"hi\"}\n");
    let mut row = finished.code(1).rows().remove(0);
    assert_is_time(&row["time"]);
    row["time"] = json!("T");
    let expected = r#"{"id":"a","index":0,"ok":false,"error":{"kind":"invalid_request","message":"invalid request: no such parameter (HTTP 400)","status":400},"usage":{"input":0,"output":0,"cached_input":0,"cache_write":0,"cache_write_long":0,"reasoning":0},"attempts":1,"calls":1,"time":"T"}"#;
    assert_eq!(row.to_string(), expected);
}

/// A time as RFC 3339 has it, in UTC, to the millisecond.
#[track_caller]
fn assert_is_time(value: &Value) {
    let text = value.as_str().unwrap();
    let form: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{text}");
}

/// `run` against a server.
fn against<'a>(server: &'a Recorder, more: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let fixed = ["run", "-m", "openai-compatible:m", "--base-url", &server.url];
    fixed.into_iter().chain(more).collect()
}

/// A completion with these fields over those of a usual one.
fn completion(choice: &Value) -> String {
    let mut body: Value = serde_json::from_str(COMPLETION).unwrap();
    for (name, value) in choice.as_object().unwrap() {
        body["choices"][0][name] = value.clone();
    }
    body.to_string()
}

#[test]
fn a_table_has_one_header_and_quotes_what_needs_it() {
    let recorder = Recorder::start(200, COMPLETION);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.csv");
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--output-format",
        "csv",
        "--keep",
        "note,x",
        "-o",
        file.to_str().unwrap(),
    ];
    run(
        arguments,
        "{\"id\":1,\"prompt\":\"one\",\"note\":\"a, b\"}\n{broken\n",
    )
    .code(1);
    let text = fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("id,index,ok,note,x,output,error_kind,")
    );
    assert!(
        text.contains("1,0,true,\"a, b\",,\"line one\nline \"\"two\"\"\",,,,9,4,3,0,0,1,1,"),
        "{text}"
    );
    assert!(
        text.contains("\nmalformed-") && text.contains(",1,false,,,,source,"),
        "{text}"
    );
    assert_eq!(text.matches("error_kind").count(), 1);
}

#[test]
fn text_is_a_line_an_item_in_the_order_of_the_input() {
    let asked = AtomicBool::new(false);
    let server = Recorder::answering(move |body| {
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        match prompt {
            "bad" => (400, r#"{"error":{"message":"no\nway"}}"#.to_owned()),
            // Retried after a backoff, so that the others are answered before it.
            "slow" if !asked.swap(true, Ordering::Relaxed) => {
                (500, r#"{"error":{"message":"again"}}"#.to_owned())
            }
            "slow" => (200, completion(&json!({"message": {"content": "last?"}}))),
            _ => (200, completion(&json!({"message": {"content": prompt}}))),
        }
    });
    let input = "{\"prompt\":\"slow\"}\n{\"prompt\":\"one\\ntwo\\r\\\\n\"}\n{\"prompt\":\"bad\"}\n{broken\n\
                 {\"prompt\":\"\\\\error not one\"}\n";
    let finished = run(against(&server, ["--output-format", "text"]), input);
    let lines: Vec<_> = finished.code(1).stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(
        lines[..3],
        [
            "last?",
            r"one\ntwo\r\\n",
            r"\error invalid request: no way (HTTP 400)"
        ]
    );
    assert!(lines[3].starts_with(r"\error source: "), "{}", lines[3]);
    assert_eq!(lines[4], r"\\error not one");

    let named = "{\"id\":\"a\\tb\",\"prompt\":\"x\"}\n";
    let finished = run(
        against(&server, ["--output-format", "text", "--include", "id"]),
        named,
    );
    assert_eq!(finished.code(0).stdout, "a\\tb\tx\n");
    run(
        against(&server, ["--output-format", "text", "--include", "raw"]),
        named,
    )
    .code(2)
    .says("--include raw has no place in --output-format text");
}

#[test]
fn failures_in_openai_results_are_as_the_provider_sent_them() {
    let body =
        r#"{"error":{"message":"nope","type":"invalid_request_error","param":"messages","code":"bad"}}"#;
    let server = Recorder::start(400, body);
    let arguments = || against(&server, ["--output-format", "openai-batch"]);
    let row = run(arguments(), "{\"id\":1,\"prompt\":\"hi\"}\n")
        .code(1)
        .rows()
        .remove(0);
    assert_eq!(row["custom_id"], "1");
    assert_eq!(row["response"]["status_code"], 400);
    assert_eq!(row["response"]["body"].to_string(), body);
    assert_eq!(row["error"], Value::Null);

    // A body that is not JSON is put into the form.
    let server = Recorder::start(400, "<html>no</html>");
    let row = run(
        against(&server, ["--output-format", "openai-batch"]),
        "{\"id\":1,\"prompt\":\"hi\"}\n",
    )
    .code(1)
    .rows()
    .remove(0);
    let expected = json!({"message": "a web page", "type": "invalid_request", "param": null, "code": null});
    assert_eq!(row["response"]["body"]["error"], expected);

    // Behind these stands no reply.
    let row = run(arguments(), "{\"x\":1}\n").code(1).rows().remove(0);
    assert_eq!(row["response"], Value::Null);
    assert_eq!(row["error"]["code"], "source");
    let provider = Provider::start(|builder| builder.latency(std::time::Duration::from_secs(30)));
    let limits = [
        "--timeout",
        "100ms",
        "--max-attempts",
        "1",
        "--output-format",
        "openai-batch",
    ];
    let row = run(provider.arguments(limits), "{\"id\":1,\"prompt\":\"hi\"}\n")
        .code(1)
        .rows()
        .remove(0);
    assert_eq!(
        (&row["response"], &row["error"]["code"]),
        (&Value::Null, &json!("request_timeout"))
    );
}

#[test]
fn further_choices_are_in_the_row_or_refused() {
    let mut body: Value = serde_json::from_str(COMPLETION).unwrap();
    let second = json!({"index": 1, "message": {"content": "another"}, "finish_reason": "stop"});
    body["choices"].as_array_mut().unwrap().push(second.clone());
    let server = Recorder::start(200, &body.to_string());
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let answers = answers.to_str().unwrap();

    let row = run(against(&server, ["--extra", r#"{"n":2}"#]), "hi\n")
        .code(0)
        .rows()
        .remove(0);
    assert_eq!(row["choices"], json!([second]));
    run(
        against(&server, ["--extra", r#"{"n":2}"#, "--output-dir", answers]),
        "hi\n",
    )
    .code(0);
    let index = fs::read_to_string(folder.path().join("answers/index.jsonl")).unwrap();
    assert_eq!(rows(&index)[0]["choices"], json!([second]));

    let line = json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "m", "n": 2, "messages": [{"role": "user", "content": "hi"}]}});
    let line = format!("{line}\n");
    let row = run(against(&server, ["--output-format", "openai-batch"]), &line)
        .code(0)
        .rows()
        .remove(0);
    assert_eq!(row["response"]["body"], body);
    assert_eq!(
        run(against(&server, []), &line).code(0).rows()[0]["choices"],
        json!([second])
    );

    let calls = server.bodies().len();
    for more in [
        &["--output-format", "csv"][..],
        &["--output-format", "text"],
        &["--stream"],
    ] {
        let refused = run(against(&server, more.iter().copied()), &line);
        assert!(
            refused.code(1).stdout.contains("several answers"),
            "{}",
            refused.stdout
        );
    }
    assert_eq!(server.bodies().len(), calls);
}

#[test]
fn reasoning_and_invalid_output_are_written_where_they_are_asked_for() {
    let message = json!({"message": {"content": "{\"a\": 1}", "reasoning_content": "let me think"}});
    let server = Recorder::start(200, &completion(&message));
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    let schema = schema.to_str().unwrap();
    fs::write(
        schema,
        r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#,
    )
    .unwrap();
    let strict = ["--schema", schema, "--max-attempts", "1"];
    let both = ["--include", "reasoning,raw"];

    let row = run(against(&server, []), "{\"id\":1,\"prompt\":\"hi\"}\n")
        .code(0)
        .rows()
        .remove(0);
    assert_eq!((row.get("reasoning"), row.get("raw_output")), (None, None));
    let row = run(against(&server, both), "{\"id\":1,\"prompt\":\"hi\"}\n")
        .code(0)
        .rows()
        .remove(0);
    assert_eq!(
        (&row["reasoning"], row.get("raw_output")),
        (&json!("let me think"), None)
    );
    let row = run(against(&server, strict), "{\"id\":1,\"prompt\":\"hi\"}\n")
        .code(1)
        .rows()
        .remove(0);
    assert_eq!(row.get("raw_output"), None);
    let row = run(
        against(&server, strict.into_iter().chain(both)),
        "{\"id\":1,\"prompt\":\"hi\"}\n",
    )
    .code(1)
    .rows()
    .remove(0);
    assert_eq!(row["raw_output"], "{\"a\": 1}");
    let csv = both.into_iter().chain(["--output-format", "csv"]);
    let finished = run(against(&server, csv), "{\"id\":1,\"prompt\":\"hi\"}\n");
    let table = &finished.code(0).stdout;
    assert!(
        table.starts_with("id,index,ok,reasoning,raw_output,output,"),
        "{table}"
    );
    assert!(table.contains("1,0,true,let me think,,"), "{table}");
}

#[test]
fn rows_come_as_items_finish_or_in_order() {
    // The first item's call is cut, so that it comes last unless order is asked for.
    let input = (0..60)
        .map(|number| format!("prompt {number}\n"))
        .collect::<String>();
    let provider = || {
        Provider::start(|builder| {
            builder
                .seed(3)
                .latency("1ms..60ms".parse::<llm_batch::testing::Latency>().unwrap())
        })
    };
    let order = |text: &str| {
        rows(text)
            .iter()
            .map(|row| row["index"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    let finished = run(provider().arguments(["-c", "20"]), &input);
    let found = order(&finished.code(0).stdout);
    assert!(!found.is_sorted(), "{found:?}");
    let finished = run(provider().arguments(["-c", "20", "--in-order"]), &input);
    assert_eq!(order(&finished.code(0).stdout), (0..60).collect::<Vec<_>>());
    // Rows that wait have the time of their outcome.
    let times: Vec<_> = finished
        .rows()
        .iter()
        .map(|row| row["time"].to_string())
        .collect();
    assert!(!times.is_sorted(), "{times:?}");
}

#[test]
fn a_file_that_is_not_empty_is_refused_or_replaced() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.jsonl");
    let out = file.to_str().unwrap();
    fs::write(&file, "").unwrap();
    run(provider.arguments(["-o", out]), "one\n").code(0);
    let before = fs::read_to_string(&file).unwrap();
    let finished = run(provider.arguments(["-o", out]), "two\nthree\n");
    finished
        .code(2)
        .says("is not empty")
        .says("--resume")
        .says("--overwrite");
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    assert_eq!(provider.ledger().received, 1);
    run(provider.arguments(["-o", out, "--overwrite"]), "two\nthree\n").code(0);
    assert_eq!(rows(&fs::read_to_string(&file).unwrap()).len(), 2);
    // Not even with --overwrite does an output replace an input.
    let finished = run(provider.arguments([out, "-o", out, "--overwrite"]), "");
    finished.code(2).says("is an input");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
}

#[test]
fn reports_are_chosen_by_options() {
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments(["--progress", "always"]), "one\ntwo\n");
    finished
        .code(0)
        .says("2 items: 2 succeeded, 0 failed")
        .says("items (");
    let finished = run(provider.arguments([]), "one\n");
    assert!(
        !finished.code(0).stderr.contains("items ("),
        "{}",
        finished.stderr
    );
    let finished = run(provider.arguments(["--summary", "json"]), "one\n");
    let summary = finished.code(0).summary();
    assert_eq!(summary["succeeded"], 1);
    assert_eq!(summary["termination"], "completed");
    let finished = run(
        provider.arguments(["--quiet", "--progress", "always"]),
        "one\n{\n",
    );
    assert_eq!(finished.code(0).stderr, "");
}

#[test]
fn streamed_answers_are_the_same_and_tell_the_time_to_the_first_token() {
    let provider = Provider::start(|builder| builder);
    let input = "one\ntwo\n";
    let whole = run(provider.arguments(["--in-order"]), input).code(0).rows();
    let streamed = run(provider.arguments(["--in-order", "--stream"]), input);
    let streamed = streamed.code(0).rows();
    assert_eq!((whole.len(), streamed.len()), (2, 2));
    for (whole, streamed) in whole.iter().zip(&streamed) {
        assert!(whole.get("first_token_ms").is_none(), "{whole}");
        assert!(streamed["first_token_ms"].as_u64() <= streamed["latency_ms"].as_u64());
        assert!(streamed["first_token_ms"].is_u64(), "{streamed}");
        for field in ["output", "usage", "finish_reason"] {
            assert_eq!(whole[field], streamed[field], "{field}");
        }
    }
    // It is the stream that is cut.
    let provider = Provider::start(|builder| builder.stream_cut_rate(1.0));
    run(provider.arguments([]), "one\n").code(0);
    let cut = run(provider.arguments(["--stream", "--max-attempts", "1"]), "one\n");
    assert_eq!(cut.code(1).rows()[0]["unknown_usage_calls"], 1);
    for model in ["sim:steady", "openai:gpt-4o-mini", "anthropic:m"] {
        let dry = run(["run", "-m", model, "--stream", "--dry-run"], "one\n");
        assert!(dry.code(0).stdout.contains("\"stream\": true"), "{}", dry.stdout);
    }
}

#[test]
fn cut_and_empty_answers_are_counted_and_can_be_failures() {
    let answers = |body: &Value| {
        let choice = match body["messages"][0]["content"].as_str().unwrap() {
            "cut" => json!({"finish_reason": "length"}),
            "empty" => json!({"message": {"content": " \n"}}),
            _ => json!({}),
        };
        (200, completion(&choice))
    };
    let server = Recorder::answering(answers);
    let input = "{\"id\":\"c1\",\"prompt\":\"cut\"}\n{\"id\":\"c2\",\"prompt\":\"cut\"}\n\
                 {\"id\":\"e\",\"prompt\":\"empty\"}\n{\"id\":\"w\",\"prompt\":\"whole\"}\n";
    let finished = run(against(&server, ["-c", "1"]), input);
    finished
        .code(0)
        .says(
            "cut        2 answers reached the output token limit, such as item c1; raise --max-output-tokens",
        )
        .says("empty      1 answer with nothing in it, such as item e");
    let finished = run(against(&server, ["-c", "1", "--summary", "json"]), input);
    let summary = finished.code(0).summary();
    assert_eq!(summary["cut"], json!({"count": 2, "example_id": "c1"}));
    assert_eq!(summary["empty"], json!({"count": 1, "example_id": "e"}));

    let strict = ["--require-complete", "--max-attempts", "2", "--include", "raw"];
    let calls = server.bodies().len();
    let finished = run(against(&server, strict), input);
    let rows = finished.code(1).rows();
    // One that is cut would be cut again; one that is empty is asked for again.
    assert_eq!(server.bodies().len() - calls, 5);
    let kind = |id: &str| {
        let row = rows.iter().find(|row| row["id"] == id).unwrap();
        (
            row["ok"].as_bool().unwrap(),
            row["error"]["kind"].as_str().unwrap_or("").to_owned(),
        )
    };
    assert_eq!(kind("c1"), (false, "truncated".to_owned()));
    assert_eq!(kind("e"), (false, "model_fault".to_owned()));
    assert!(kind("w").0);
    let cut = rows.iter().find(|row| row["id"] == "c1").unwrap();
    assert_eq!(cut["raw_output"], "line one\nline \"two\"");
    assert_eq!(
        (&cut["usage"]["output"], cut.get("unknown_usage_calls")),
        (&json!(4), None)
    );

    // Answers of an earlier run that are not complete are requested again, in every format.
    let folder = tempfile::tempdir().unwrap();
    for format in ["jsonl", "csv", "openai-batch", "folder"] {
        let place = folder.path().join(format);
        let place = place.to_str().unwrap();
        let output = match format {
            "folder" => vec!["--output-dir", place],
            format => vec!["--output-format", format, "-o", place],
        };
        run(against(&server, output.clone()), input).code(0);
        let calls = server.bodies().len();
        run(
            against(&server, output.iter().copied().chain(["--resume"])),
            input,
        )
        .code(0);
        assert_eq!(server.bodies().len(), calls, "{format}");
        let again = ["--resume", "--require-complete", "--max-attempts", "1"];
        run(against(&server, output.iter().copied().chain(again)), input)
            .code(1)
            .says("1 answered by an earlier run were kept");
        assert_eq!(server.bodies().len(), calls + 3, "{format}");
    }
}

#[test]
fn the_summary_names_the_most_frequent_errors() {
    let server = Recorder::answering(|body| {
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        match prompt.split_once(' ') {
            Some(("file", id)) => (
                400,
                json!({"error": {"message": format!("no such file {id}")}}).to_string(),
            ),
            _ => (400, json!({"error": {"message": "too odd"}}).to_string()),
        }
    });
    let input = "{\"id\":1,\"prompt\":\"file f-01\"}\n{\"id\":2,\"prompt\":\"file f-02\"}\n{\"id\":3,\"prompt\":\"odd\"}\n{\"id\":4,\"prompt\":\"file f-03\"}\n";
    let finished = run(against(&server, ["-c", "1"]), input);
    finished
        .code(1)
        .says("error      3 x invalid request: no such file f-01 (HTTP 400), such as item 1\n")
        .says("error      1 x invalid request: too odd (HTTP 400), such as item 3\n");
    let finished = run(against(&server, ["-c", "1", "--summary", "json"]), input);
    let summary = finished.code(1).summary();
    let expected = json!([
        {"kind": "invalid_request", "message": "invalid request: no such file f-01 (HTTP 400)", "count": 3, "example_id": "1"},
        {"kind": "invalid_request", "message": "invalid request: too odd (HTTP 400)", "count": 1, "example_id": "3"},
    ]);
    assert_eq!(
        (&summary["errors"], &summary["other_errors"]),
        (&expected, &json!(0))
    );
    // The rejected calls cost nothing, which is known.
    assert_eq!(summary["cost"], 0.0);
}

#[test]
fn a_cost_that_is_not_known_is_not_zero() {
    let server = Recorder::start(200, COMPLETION);
    let finished = run(against(&server, ["--summary", "json"]), "hi\n");
    assert_eq!(finished.code(0).rows()[0].get("cost"), None);
    let summary = finished.summary();
    assert_eq!(
        (&summary["cost"], &summary["unknown_cost_calls"]),
        (&Value::Null, &json!(1))
    );
    let finished = run(against(&server, []), "hi\n");
    assert!(!finished.code(0).stderr.contains('$'), "{}", finished.stderr);
}

/// `script` runs the program in a terminal of its own.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_has_text_to_read() {
    use std::process::{Command, Stdio};
    let probe = Command::new("script")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        return;
    }
    let server = Recorder::start(200, COMPLETION);
    let shown = |more: &str, no_color: bool| {
        let program = env!("CARGO_BIN_EXE_llm-batch");
        let command = format!(
            "echo '{{\"id\":1,\"prompt\":\"hi\"}}' | {program} run -q -m openai-compatible:m --base-url {} {more}",
            server.url
        );
        let mut script = Command::new("script");
        script
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env("XDG_CACHE_HOME", crate::support::unused_folder())
            .stdin(Stdio::null());
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            script.env_remove(name);
        }
        if no_color {
            script.env("NO_COLOR", "1");
        }
        let output = script.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
    };
    assert_eq!(shown("", true), "1\nline one\nline \"two\"\n\n");
    let coloured = shown("", false);
    assert!(
        coloured.contains("\u{1b}[") && coloured.contains("line one\nline \"two\""),
        "{coloured:?}"
    );
    assert!(shown("--output-format jsonl", false).starts_with("{\"id\":\"1\""));
    assert!(shown("| cat", false).starts_with("{\"id\":\"1\""));
}
