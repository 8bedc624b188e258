//! `--schema`: answers as JSON of a form.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Provider, Recorder, run};

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Rating",
  "type": "object",
  "properties": {"text": {"type": "string"}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
  "required": ["text", "stars"]
}"#;

fn completion(content: &str) -> String {
    json!({
        "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    })
    .to_string()
}

fn fits(output: &Value) -> bool {
    output["text"].is_string()
        && output["stars"]
            .as_u64()
            .is_some_and(|stars| (1..=5).contains(&stars))
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schema.json");
    fs::write(&path, text).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn answers_are_written_as_json() {
    let (_folder, schema) = file(SCHEMA);
    let provider = Provider::start(|builder| builder.invalid_json_rate(0.3).seed(4));
    let arguments = provider.arguments(["--schema", &schema, "--max-attempts", "12"]);
    let input: String = (0..40).map(|n| format!("prompt {n}\n")).collect();
    let rows = run(arguments, &input).code(0).rows();
    assert_eq!(rows.len(), 40);
    for row in &rows {
        assert!(fits(&row["output"]), "{row}");
    }
    let calls: u64 = rows.iter().map(|row| row["calls"].as_u64().unwrap()).sum();
    assert!(calls > 44, "{calls}");
    assert_eq!(provider.ledger().received, calls);
    let arguments = provider.arguments([
        "--schema",
        &schema,
        "--max-attempts",
        "12",
        "--output-format",
        "text",
    ]);
    let text = run(arguments, "one\n").code(0).stdout.clone();
    assert!(fits(&serde_json::from_str(&text).unwrap()), "{text}");
    // The preset that users try first.
    let rows = run(["run", "-m", "sim:steady", "--schema", &schema], "one\n")
        .code(0)
        .rows();
    assert!(fits(&rows[0]["output"]), "{rows:?}");
}

#[test]
fn the_model_gets_the_fault_of_its_answer() {
    let (_folder, schema) = file(SCHEMA);
    let answer = r#"{"text": "fine", "stars": 9}"#;
    let recorder = Recorder::start(200, &completion(answer));
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--schema",
        &schema,
        "--max-attempts",
        "3",
    ];
    let finished = run(arguments, "Rate it\n");
    let row = finished.code(1).rows().remove(0);
    assert_eq!(row["error"]["kind"], "validation");
    assert_eq!(
        row["error"]["message"],
        "validation: /stars: 9 is greater than the maximum of 5"
    );
    assert_eq!(
        (&row["attempts"], &row["usage"]["output"]),
        (&json!(3), &json!(15))
    );

    let bodies = recorder.bodies();
    assert_eq!(bodies.len(), 3);
    let format = &bodies[0]["response_format"]["json_schema"];
    assert_eq!(
        (&format["name"], &format["strict"]),
        (&json!("Rating"), &json!(true))
    );
    let own = json!({"role": "user", "content": "Rate it"});
    assert_eq!(bodies[0]["messages"], json!([own]));
    let feedback = json!([
        own,
        {"role": "assistant", "content": answer},
        {
            "role": "user",
            "content": "Your answer was not accepted. What is wrong with it:\n\
                        - /stars: 9 is greater than the maximum of 5\n\
                        What is right, to be kept as it is:\n- /text\n\
                        Give the whole answer again, corrected.",
        },
    ]);
    assert_eq!(bodies[1]["messages"], feedback);
    // Not twice.
    assert_eq!(bodies[2]["messages"], feedback);
}

#[test]
fn a_schema_that_is_none_is_refused_before_any_call() {
    let provider = Provider::start(|builder| builder);
    let (_folder, broken) = file("{\"type\":");
    let (_folder2, nonsense) = file(r#"{"type": "object", "properties": {"a": {"type": "nonsense"}}}"#);
    let (_folder3, dangling) = file(r##"{"type": "object", "properties": {"a": {"$ref": "#/$defs/None"}}}"##);
    for (path, text) in [
        ("no-such-file.json", "no-such-file.json"),
        (broken.as_str(), "not JSON"),
        (nonsense.as_str(), "nonsense"),
        (dangling.as_str(), "$defs/None"),
    ] {
        let finished = run(provider.arguments(["--schema", path]), "one\n");
        finished.code(2).says("--schema").says(text);
        assert_eq!(finished.stdout, "");
    }
    let (_folder, schema) = file(SCHEMA);
    let line =
        r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}"#;
    let input = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    fs::write(input.path(), format!("{line}\n")).unwrap();
    let arguments = provider.arguments(["--schema", &schema, input.path().to_str().unwrap()]);
    run(arguments, "").code(2).says("--schema");
    assert_eq!(provider.ledger().received, 0);
}

#[test]
fn a_dry_run_shows_the_schema() {
    let (_folder, schema) = file(r#"{"title": "Names", "type": "array", "items": {"type": "string"}}"#);
    let finished = run(
        [
            "run",
            "-m",
            "openai:gpt-4o-mini",
            "--dry-run",
            "--schema",
            &schema,
        ],
        "one\n",
    );
    finished.code(0);
    // A list is asked for inside an object.
    for text in [
        "\"json_schema\"",
        "\"name\": \"Names\"",
        "\"value\"",
        "\"strict\": true",
    ] {
        assert!(finished.stdout.contains(text), "no {text} in {}", finished.stdout);
    }
}
