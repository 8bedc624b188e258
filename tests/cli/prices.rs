//! `--prices`.

use std::fs;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Recorder, run};

/// A file of prices, and the folder that holds it.
fn prices(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

const OWN: &str = "models.m = { input = 1.0, cached_input = 0.5, output = 10 }";
const PUBLIC: &str = r#"{"sample_spec": {"input_cost_per_token": 0.0}, "elsewhere/m": {"litellm_provider": "elsewhere", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}}"#;

#[test]
fn the_cost_is_in_the_rows_and_in_the_summary() {
    let recorder = Recorder::start(200, COMPLETION);
    let (_folder, path) = prices(OWN);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--prices",
        &path,
    ];
    let finished = run(arguments, "one\ntwo\n");
    // 6 * 1 + 3 * 0.5 + 4 * 10 = 47.5 per million
    for row in finished.code(0).rows() {
        assert_eq!(row["cost"], json!(0.000_047_5));
        assert_eq!(row.get("unknown_cost_calls"), None);
    }
    finished.says("\n  cost       $0.000095\n");

    let json = run(arguments.iter().chain(&["--summary", "json"]), "one\n");
    assert_eq!(json.code(0).summary()["cost"], json!(0.000_047_5));
    assert_eq!(json.summary()["unknown_cost_calls"], 0);

    let table = run(arguments.iter().chain(&["--output-format", "csv"]), "one\n");
    let mut rows = csv::Reader::from_reader(table.code(0).stdout.as_bytes());
    let column = rows
        .headers()
        .unwrap()
        .iter()
        .position(|name| name == "cost")
        .unwrap();
    assert_eq!(&rows.records().next().unwrap().unwrap()[column], "0.0000475");
}

#[test]
fn a_cost_that_is_not_known_is_null() {
    let recorder = Recorder::start(200, COMPLETION);
    let (_folder, path) = prices(PUBLIC);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--prices",
        &path,
    ];
    let finished = run(arguments, "one\n");
    let row = finished.code(0).rows().remove(0);
    assert_eq!(
        (&row["cost"], &row["unknown_cost_calls"]),
        (&Value::Null, &json!(1))
    );
    assert!(row.as_object().unwrap().contains_key("cost"));
    finished
        .says("the cost is not known")
        .says("the cost of calls to openai-compatible:m is not known");

    // A call that was rejected is known to cost nothing.
    let recorder = Recorder::start(400, r#"{"error":{"message":"nope"}}"#);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--prices",
        &path,
    ];
    assert_eq!(run(arguments, "one\n").code(1).rows()[0]["cost"], json!(0.0));
}

#[test]
fn a_cost_that_the_provider_reports_needs_no_prices() {
    let reported = COMPLETION.replace("\"prompt_tokens\": 9", "\"cost\": 0.25, \"prompt_tokens\": 9");
    let recorder = Recorder::start(200, &reported);
    let arguments = ["run", "-m", "openai-compatible:m", "--base-url", &recorder.url];
    let finished = run(arguments, "one\n");
    assert_eq!(finished.code(0).rows()[0]["cost"], json!(0.25));
    finished.says("\n  cost       $0.25\n");
    let (_folder, path) = prices(OWN);
    let finished = run(arguments.iter().chain(&["--prices", path.as_str()]), "one\n");
    assert_eq!(finished.code(0).rows()[0]["cost"], json!(0.25));
}

#[test]
fn a_dry_run_estimates_the_cost_of_the_input() {
    let (_folder, path) = prices(OWN);
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--dry-run",
    ];
    let input = format!("{}\n{}\n", "x".repeat(4_000), "y".repeat(2_000));
    let finished = run(arguments.iter().chain(&["--prices", path.as_str()]), &input);
    // 1,000 and 500 tokens.
    let text = &finished.code(0).stdout;
    assert!(
        text.contains("\nestimated cost:   $0.0015 for the input"),
        "{text}"
    );
    assert!(!run(arguments, &input).code(0).stdout.contains("cost"));
    let (_folder, path) = prices(PUBLIC);
    let finished = run(arguments.iter().chain(&["--prices", path.as_str()]), &input);
    let text = &finished.code(0).stdout;
    assert!(
        text.contains("\nestimated cost:   unknown for 2 items\n"),
        "{text}"
    );
}

#[test]
fn wrong_prices_stop_before_anything_is_called() {
    let recorder = Recorder::start(200, COMPLETION);
    let (_folder, path) = prices("models.m = { input = -1 }");
    let arguments = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "--prices",
        &path,
    ];
    run(arguments, "one\n")
        .code(2)
        .says("--prices")
        .says("\"m\"")
        .says(&path);
    let arguments = ["run", "-m", "sim:steady", "--prices", "/nowhere/prices.json"];
    run(arguments, "one\n").code(2).says("/nowhere/prices.json");
    assert!(recorder.bodies().is_empty());
}
