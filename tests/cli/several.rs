//! Several models and keys: calls go where they start first, and each has its own account.

use serde_json::{Value, json};

use crate::support::{COMPLETION, Finished, Provider, Recorder, finish, ids, program};

fn run_with(environment: &[(&str, &str)], arguments: &[&str], stdin: &str) -> Finished {
    use std::io::Write as _;
    let mut child = program()
        .arg("run")
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A command that is refused reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    finish(child)
}

fn prompts(count: usize) -> String {
    (0..count)
        .map(|n| format!("{{\"id\":\"{n}\",\"prompt\":\"What is {n}?\"}}\n"))
        .collect()
}

fn account<'a>(summary: &'a Value, of: &str) -> &'a Value {
    let accounts = summary["accounts"].as_array().unwrap();
    let named = |account: &&Value| account["model"] == of || account["api_key_env"] == of;
    accounts.iter().find(named).unwrap()
}

#[test]
fn two_providers_of_equal_worth_share_the_items() {
    let providers = [(); 2].map(|()| Provider::start(|builder| builder));
    let urls = providers
        .each_ref()
        .map(|provider| provider.arguments([]).pop().unwrap());
    let environment = [("VLLM_BASE_URL", &*urls[0]), ("LLAMACPP_BASE_URL", &*urls[1])];
    let arguments = [
        "-m",
        "vllm:a",
        "-m",
        "llamacpp:b",
        "--rpm",
        "60000",
        "--summary",
        "json",
    ];
    let finished = run_with(&environment, &arguments, &prompts(100));
    finished.code(0);
    assert_eq!(ids(&finished.rows()).len(), 100);
    let summary = finished.summary();
    let ledgers = providers.map(Provider::shutdown);
    for (ledger, model) in ledgers.iter().zip(["vllm:a", "llamacpp:b"]) {
        assert!(ledger.answered >= 40, "{summary}");
        let account = account(&summary, model);
        assert_eq!(account["calls"], ledger.received, "{summary}");
        assert_eq!(account["usage"]["input"], ledger.billed_answered.input);
        assert_eq!(account["api_key_env"], Value::Null);
    }
    assert_eq!(ledgers[0].received + ledgers[1].received, 100);
}

#[test]
fn a_key_that_is_refused_is_left_out_and_the_others_do_the_job() {
    let provider = Provider::start(|builder| builder.api_key("sk-the-good-one"));
    let url = provider.arguments([]).pop().unwrap();
    let environment = [("BAD_KEY", "sk-the-bad-one"), ("GOOD_KEY", "sk-the-good-one")];
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let arguments = [
        "-m",
        "openai-compatible:m",
        "--base-url",
        &url,
        "--api-key-env",
        "BAD_KEY",
        "--api-key-env",
        "GOOD_KEY",
        "--events",
        events.to_str().unwrap(),
    ];
    let finished = run_with(&environment, &arguments, &prompts(20));
    finished
        .code(0)
        .says("openai-compatible:m (GOOD_KEY): 20 calls, 0 failed")
        .says("openai-compatible:m (BAD_KEY): ");
    assert_eq!(finished.rows().len(), 20);
    let events = std::fs::read_to_string(&events).unwrap();
    for text in [&finished.stdout, &finished.stderr, &events] {
        assert!(!text.contains("sk-the"), "{text}");
    }
    assert!(events.contains("openai-compatible:m (GOOD_KEY)"));
    // With bad keys alone the run stops, with the error of the last.
    let environment = [("BAD_KEY", "sk-the-bad-one"), ("GOOD_KEY", "sk-the-worse-one")];
    let finished = run_with(&environment, &arguments[..arguments.len() - 2], &prompts(20));
    finished.code(3);
    assert_eq!(provider.shutdown().answered, 20);
}

#[test]
fn whole_requests_get_the_model_that_they_are_sent_to() {
    let server = Recorder::start(200, COMPLETION);
    let body = json!({"model": "in the line", "messages": [{"role": "user", "content": "Hi"}]});
    let line = |n| {
        let id = format!("r{n}");
        json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
            + "\n"
    };
    let input: String = (0..10).map(line).collect();
    let arguments = [
        "-m",
        "openai-chat:a",
        "-m",
        "openai-chat:b",
        "--base-url",
        &server.url,
    ];
    let environment = [("KEY_1", "sk-1"), ("KEY_2", "sk-2")];
    let keys = ["--api-key-env", "KEY_1", "--api-key-env", "KEY_2"];
    run_with(&environment, &[&arguments[..], &keys].concat(), &input).code(0);
    let requests = server.requests.lock().unwrap();
    for model in ["a", "b"] {
        for key in ["sk-1", "sk-2"] {
            let of = requests.iter().filter(|request| {
                request.body["model"] == model
                    && request.head.to_lowercase().contains(&format!("bearer {key}"))
            });
            let count = of.count();
            assert!((1..=4).contains(&count), "{model} {key}: {count}");
        }
    }
    assert_eq!(requests.len(), 10);
}

#[test]
fn what_does_not_fit_is_an_error_before_any_call() {
    let environment = [("KEY_1", "sk-1"), ("KEY_2", "sk-1"), ("OPENAI_API_KEY", "sk-0")];
    for (arguments, expected) in [
        (
            vec!["-m", "vllm:a", "-m", "vllm:a"],
            "--model vllm:a is given twice",
        ),
        (
            vec!["-m", "vllm:a", "--api-key-env", "KEY_1", "--api-key-env", "KEY_1"],
            "--api-key-env KEY_1 is given twice",
        ),
        (
            vec!["-m", "vllm:a", "--api-key-env", "KEY_1", "--api-key-env", "KEY_2"],
            "KEY_1 and --api-key-env KEY_2 hold the same key",
        ),
        (
            vec![
                "-m",
                "vllm:a",
                "--api-key-env",
                "KEY_1",
                "--api-key-env",
                "NO_SUCH_KEY",
            ],
            "NO_SUCH_KEY",
        ),
        (
            vec!["-m", "openai:a", "-m", "vllm:a", "--api-key-env", "KEY_1"],
            "--api-key-env would go to different providers, of --model openai:a and --model vllm:a",
        ),
        (
            vec![
                "-m",
                "openai:a",
                "-m",
                "vllm:a",
                "--base-url",
                "http://127.0.0.1:9/v1",
            ],
            "--base-url would go to different providers",
        ),
        (
            vec!["-m", "openai:a", "-m", "vllm:a", "--header", "X-Team: 1"],
            "--header would go to different providers",
        ),
        (
            vec!["-m", "openai:a", "-m", "openia:a"],
            "\"openia\" is not a known provider",
        ),
    ] {
        let finished = run_with(&environment, &arguments, "hi\n");
        finished.code(2).says(expected);
        assert!(!finished.stderr.contains("sk-"), "{}", finished.stderr);
    }
    // A dry run needs no keys.
    let arguments = [
        "-m",
        "openai:a",
        "-m",
        "openai:b",
        "--api-key-env",
        "NO_KEY",
        "--dry-run",
    ];
    let finished = run_with(&[], &arguments, "hi\n");
    finished.code(0);
    assert!(
        finished.stdout.starts_with("# as for openai:a;"),
        "{}",
        finished.stdout
    );
}
