//! Prompts of several messages, tools and reasoning; and requests of OpenAI's for models of other providers.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Finished, Recorder, run};

const COMPLETION: &str = r#"{"id": "c", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}"#;
const MESSAGE: &str = r#"{"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}"#;
const RESPONSE: &str = r#"{"id": "r", "status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": "ok"}]}], "usage": {"input_tokens": 1, "output_tokens": 1}}"#;

fn arguments<'a>(recorder: &'a Recorder, model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["run", "-m", model, "--base-url", &recorder.url];
    all.extend(more);
    all
}

fn messages() -> Value {
    json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}},
        ]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"id\": 18446744073709551616}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ])
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}])
}

#[test]
fn a_dry_run_shows_the_digits_that_are_sent() {
    const DIGITS: &str = r#"{"id":18446744073709551616}"#;
    let line = json!({"messages": messages()}).to_string();
    for (model, reply) in [("anthropic:m", MESSAGE), ("gemini:m", "{}")] {
        let recorder = Recorder::start(200, reply);
        let arguments = arguments(&recorder, model, &["--api-key-env", "PATH", "--dry-run"]);
        let finished = run(arguments, &line);
        let shown: String = finished.stdout.split_whitespace().collect();
        assert!(shown.contains(DIGITS), "{model}: {shown}");
        assert!(shown.contains(r#""look""#), "{model}: {shown}");
    }
}

#[test]
fn a_line_with_messages_is_a_prompt() {
    let recorder = Recorder::start(200, COMPLETION);
    let own =
        json!({"id": "a", "messages": messages(), "tools": tools(), "temperature": 0.25, "note": "kept"});
    let plain = json!({"id": "b", "messages": [{"role": "user", "content": "x"}]});
    let wrong = json!({"id": "c", "messages": [{"role": "robot", "content": "x"}]});
    let both = json!({"id": "d", "prompt": "x", "messages": []});
    let options = [
        "--temperature",
        "0.5",
        "--seed",
        "7",
        "--stop",
        "END",
        "--stop",
        "STOP",
        "--top-p",
        "0.9",
        "--reasoning-effort",
        "low",
        "--keep",
        "note",
        "-c",
        "1",
    ];
    let input = [own, plain, wrong, both].map(|line| line.to_string()).join("\n");
    let finished = run(arguments(&recorder, "openai-chat:m", &options), &input);
    finished
        .code(1)
        .says("`messages[0].role` is \"robot\"")
        .says("both `prompt` and `messages`");
    let rows = finished.rows();
    let row = rows.iter().find(|row| row["id"] == "a").unwrap();
    assert_eq!((&row["ok"], &row["note"]), (&json!(true), &json!("kept")));
    let common =
        json!({"model": "m", "seed": 7, "stop": ["END", "STOP"], "top_p": 0.9, "reasoning_effort": "low"});
    let with = |more: Value| {
        let mut body = common.clone();
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    assert_eq!(
        recorder.bodies(),
        [
            with(json!({"messages": messages(), "tools": tools(), "temperature": 0.25})),
            with(json!({"messages": [{"role": "user", "content": "x"}], "temperature": 0.5})),
        ]
    );
}

#[test]
fn tools_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tools.json");
    let path = path.to_str().unwrap();
    let recorder = Recorder::start(200, COMPLETION);
    let plain = json!({"name": "now", "description": "The time", "strict": true,
        "parameters": {"type": "object", "properties": {}, "additionalProperties": false, "required": []}});
    fs::write(path, json!([tools()[0], plain]).to_string()).unwrap();
    run(arguments(&recorder, "openai-chat:m", &["--tools", path]), "x\n").code(0);
    let expected = json!([tools()[0], {"type": "function", "function": plain}]);
    assert_eq!(recorder.bodies()[0]["tools"], expected);
    for (content, word) in [
        ("{}", "not a JSON array"),
        ("[]", "no tools"),
        (
            r#"[{"name": "x"}, {"name": "y", "colour": 1}]"#,
            "tool 2: `tool.colour`",
        ),
        (r#"[{"type": "web_search"}]"#, "tool 1: `tool.type`"),
    ] {
        fs::write(path, content).unwrap();
        let finished = run(arguments(&recorder, "openai-chat:m", &["--tools", path]), "x\n");
        finished.code(2).says("--tools").says(word);
    }
    assert_eq!(recorder.bodies().len(), 1);
}

#[test]
fn a_setting_that_a_provider_does_not_have_is_wrong_usage() {
    for (model, options, word) in [
        ("anthropic:m", ["--reasoning-effort", "minimal"], "minimal"),
        ("anthropic:m", ["--seed", "7"], "seed"),
        ("gemini:m", ["--reasoning-effort", "max"], "max"),
        ("openai-responses:m", ["--stop", "END"], "stop"),
        (
            "openai-chat:m",
            ["--reasoning-effort", "2048"],
            "number of tokens",
        ),
        ("openai-chat:m", ["--reasoning-effort", "much"], "much"),
        ("openai-chat:m", ["--top-p", "2"], "from 0 to 1"),
    ] {
        let recorder = Recorder::start(200, COMPLETION);
        run(arguments(&recorder, model, &options), "x\n")
            .code(2)
            .says(word);
        assert!(recorder.bodies().is_empty());
    }
}

/// The reason for the failure of item `b`.
fn refusal(finished: &Finished) -> String {
    let rows = finished.rows();
    let row = rows.iter().find(|row| row["id"] == "b").unwrap();
    row["error"]["message"].as_str().unwrap().to_owned()
}

fn line(id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

#[test]
fn batch_lines_are_converted_for_models_of_other_providers() {
    let body = json!({"model": "gpt-5", "messages": messages(), "tools": tools(), "max_completion_tokens": 64, "reasoning_effort": "low"});
    let lost = json!({"model": "gpt-5", "messages": messages(), "frequency_penalty": 0.5});
    let input = [
        line("a", "/v1/chat/completions", &body),
        line("b", "/v1/chat/completions", &lost),
    ]
    .join("\n");

    let recorder = Recorder::start(200, MESSAGE);
    let finished = run(arguments(&recorder, "anthropic:claude", &["-c", "1"]), &input);
    assert!(refusal(finished.code(1)).contains("`frequency_penalty`"));
    let sent = &recorder.bodies()[0];
    assert_eq!(recorder.bodies().len(), 1);
    assert_eq!(
        (&sent["model"], &sent["max_tokens"]),
        (&json!("claude"), &json!(64))
    );
    assert_eq!(sent["tools"][0]["name"], "look");
    assert_eq!(sent["messages"][2]["content"][0]["tool_use_id"], "c1");
    assert_eq!(sent["output_config"]["effort"], "low");

    let recorder = Recorder::start(200, RESPONSE);
    let finished = run(arguments(&recorder, "openai-responses:m", &["-c", "1"]), &input);
    assert!(refusal(finished.code(1)).contains("`frequency_penalty`"));
    let sent = &recorder.bodies()[0];
    assert_eq!(
        (&sent["model"], &sent["reasoning"]["effort"]),
        (&json!("m"), &json!("low"))
    );
    assert_eq!(sent["input"][3]["type"], "function_call_output");

    // A model with chat completions is sent them as they are, whatever is in them.
    let recorder = Recorder::start(200, COMPLETION);
    run(arguments(&recorder, "openai:m", &["-c", "1"]), &input).code(0);
    let mut expected = lost;
    expected["model"] = json!("m");
    assert_eq!(recorder.bodies()[1], expected);
}

#[test]
fn lines_for_responses_go_to_responses_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch.jsonl");
    let body = json!({"model": "old", "input": "x", "unknown": {"a": 1}});
    fs::write(&path, line("a", "/v1/responses", &body)).unwrap();
    let path = path.to_str().unwrap();
    for model in ["openai-responses:new", "openai:new"] {
        let recorder = Recorder::start(200, RESPONSE);
        run(arguments(&recorder, model, &[path]), "").code(0);
        let mut expected = body.clone();
        expected["model"] = json!("new");
        assert_eq!(recorder.bodies(), [expected], "{model}");
    }
    for model in ["openai-chat:m", "openai-compatible:m", "anthropic:m", "gemini:m"] {
        let recorder = Recorder::start(200, COMPLETION);
        run(arguments(&recorder, model, &[path]), "")
            .code(2)
            .says("/v1/responses");
        assert!(recorder.bodies().is_empty(), "{model}");
    }
}

/// The user, the storage and the names of caches are parts of the request, not columns.
#[test]
fn fields_that_do_not_shape_the_answer_are_sent_too() {
    let fields = json!({
        "store": true,
        "user": "u-7",
        "metadata": {"run": "x"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "service_tier": "flex",
    });
    let mut line = json!({"id": "a", "mine": 1, "messages": [{"role": "user", "content": "x"}]});
    line.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let input = format!("{line}\n");
    for (model, answer) in [
        ("openai-compatible:m", COMPLETION),
        ("openai-responses:m", RESPONSE),
    ] {
        let recorder = Recorder::start(200, answer);
        let more = ["--api-key-env", "PATH", "--keep", "mine,user"];
        let rows = run(arguments(&recorder, model, &more), &input).code(0).rows();
        assert_eq!((&rows[0]["mine"], &rows[0]["user"]), (&json!(1), &json!("u-7")));
        let body = recorder.bodies().remove(0);
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&body[name], value, "{model} {name}");
        }
        assert_eq!((body.get("mine"), body.get("id")), (None, None));
    }
    // Elsewhere each fails its line by name, unsent, unless its value is the default.
    let recorder = Recorder::start(200, MESSAGE);
    for name in ["store", "user", "metadata", "functions"] {
        let mut line = json!({"messages": [{"role": "user", "content": "x"}]});
        line[name] = fields
            .get(name)
            .cloned()
            .unwrap_or_else(|| json!([{"name": "f"}]));
        let more = ["--api-key-env", "PATH"];
        let finished = run(arguments(&recorder, "anthropic:m", &more), &format!("{line}\n"));
        let row = finished.code(1).rows().remove(0);
        let message = row["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
    assert_eq!(recorder.bodies().len(), 0);
    let input = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"store\":false,\"user\":null,\"metadata\":{}}\n";
    let more = ["--api-key-env", "PATH"];
    run(arguments(&recorder, "anthropic:m", &more), input).code(0);
}
