//! Rows in every format, and what becomes of files that are there already.

use std::fs;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Provider, Recorder, ids, rows, run};

#[test]
fn a_row_has_the_documented_shape() {
    let recorder = Recorder::start(200, COMPLETION);
    let arguments = ["run", "-m", "openai-compatible:m", "--base-url", &recorder.url];
    let finished = run(arguments, "{\"id\":\"a\",\"prompt\":\"hi\"}\n");
    let mut row = finished.code(0).rows().remove(0);
    assert!(row["latency_ms"].as_u64().is_some());
    row["latency_ms"] = json!(0);
    let expected = r#"{"id":"a","index":0,"ok":true,"output":"line one\nline \"two\"","usage":{"input":9,"output":4,"cached_input":3,"cache_write":0,"cache_write_long":0,"reasoning":0},"attempts":1,"calls":1,"latency_ms":0,"model":"a-model-2026","finish_reason":"stop"}"#;
    assert_eq!(row.to_string(), expected);

    let refusal = r#"{"error":{"message":"no such parameter","type":"invalid_request_error"}}"#;
    let recorder = Recorder::start(400, refusal);
    let arguments = ["run", "-m", "openai-compatible:m", "--base-url", &recorder.url];
    let finished = run(arguments, "{\"id\":\"a\",\"prompt\":\"hi\"}\n");
    let row = finished.code(1).rows().remove(0);
    let expected = r#"{"id":"a","index":0,"ok":false,"error":{"kind":"invalid_request","message":"invalid request: no such parameter (HTTP 400)","status":400},"usage":{"input":0,"output":0,"cached_input":0,"cache_write":0,"cache_write_long":0,"reasoning":0},"attempts":1,"calls":1}"#;
    assert_eq!(row.to_string(), expected);
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
    run(arguments, "{\"prompt\":\"one\",\"note\":\"a, b\"}\n{broken\n").code(1);
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
    assert!(text.contains("\n2,1,false,,,,source,"), "{text}");
    assert_eq!(text.matches("error_kind").count(), 1);
}

#[test]
fn text_is_the_answers_alone() {
    let recorder = Recorder::start(200, COMPLETION);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--output-format",
        "text",
    ];
    assert_eq!(run(arguments, "hi\n").code(0).stdout, "line one\nline \"two\"\n");
    let recorder = Recorder::start(400, r#"{"error":{"message":"nope"}}"#);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--output-format",
        "text",
    ];
    let finished = run(arguments, "hi\n");
    assert_eq!(finished.code(1).says("item 1: invalid request: nope").stdout, "");
}

#[test]
fn failures_in_openai_results() {
    let recorder = Recorder::start(400, r#"{"error":{"message":"nope","code":"bad"}}"#);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--output-format",
        "openai-batch",
    ];
    let row = run(arguments, "hi\n").code(1).rows().remove(0);
    assert_eq!(row["response"]["status_code"], 400);
    assert_eq!(row["response"]["body"]["error"]["message"], "nope");
    assert_eq!(row["error"], Value::Null);
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
    assert_eq!(ids(&rows(&fs::read_to_string(&file).unwrap())), ["1", "2"]);
    // Not even with --overwrite does an output replace an input.
    let finished = run(provider.arguments([out, "-o", out, "--overwrite"]), "");
    finished.code(2).says("is an input");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
}

#[test]
fn what_is_said_is_chosen() {
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
