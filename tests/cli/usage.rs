//! Refusals before anything is called, and the help.

use crate::support::{Provider, program, run};

#[test]
fn wrong_usage_is_explained_with_status_2() {
    let cases: &[(&[&str], &str)] = &[
        (&["run"], "--model"),
        (&["run", "-m", "gpt-4o"], "--model"),
        (&["run", "-m", "gpt-4o"], "openai:, openai-chat:"),
        (&["run", "-m", "gpt-4o"], "openrouter:"),
        (&["run", "-m", "gpt-4o"], "sim:"),
        (
            &["run", "-m", "openia:gpt-4o"],
            "\"openia\" is not a known provider",
        ),
        (&["run", "-m", "openai:"], "names no model"),
        (&["run", "-m", "openai:gpt-4o"], "OPENAI_API_KEY"),
        (&["run", "-m", "mistral:m"], "MISTRAL_API_KEY"),
        (&["run", "-m", "openai-compatible:m"], "--base-url"),
        (&["run", "-m", "azure:m"], "AZURE_OPENAI_ENDPOINT"),
        (&["run", "-m", "sim:nothing"], "sim:throttled"),
        (
            &["run", "-m", "sim:steady", "--base-url", "http://x/v1"],
            "simulated",
        ),
        (&["run", "-m", "vllm:m", "--base-url", "nonsense"], "base URL"),
        (
            &["run", "-m", "vllm:m", "--api-key-env", "NO_SUCH_VARIABLE"],
            "NO_SUCH_VARIABLE",
        ),
        (
            &["run", "-m", "sim:steady", "no-such-file.jsonl"],
            "no-such-file.jsonl",
        ),
        (&["run", "-m", "sim:steady", "--timeout", "600"], "600s"),
        (&["run", "-m", "sim:steady", "--timeout", "0s"], "longer"),
        (
            &[
                "run",
                "-m",
                "sim:steady",
                "--timeout",
                "3s",
                "--item-timeout",
                "2s",
            ],
            "--timeout 3s is above --item-timeout 2s",
        ),
        (&["run", "-m", "sim:steady", "-c", "0"], "at least 1"),
        (&["run", "-m", "sim:steady", "--rpm", "0"], "rpm"),
        (&["run", "-m", "sim:steady", "--burst", "1h"], "burst"),
        (
            &["run", "-m", "sim:steady", "--temperature", "NaN"],
            "temperature",
        ),
        (&["run", "-m", "sim:steady", "--extra", "[]"], "JSON object"),
        (
            &["run", "-m", "sim:steady", "--extra", r#"{"stream": true}"#],
            "--stream",
        ),
        (
            &["run", "-m", "sim:steady", "--extra", r#"{"model": "m"}"#],
            "--model",
        ),
        (
            &[
                "run",
                "-m",
                "sim:steady",
                "--schema",
                "schema.json",
                "--extra",
                r#"{"response_format": {"type": "text"}}"#,
            ],
            "--extra sets `response_format`, which would replace the schema",
        ),
        (&["run", "-m", "sim:steady", "--prompt", "{{ open"], "template"),
        (
            &["run", "-m", "sim:steady", "--prompt", "a", "--prompt-file", "b"],
            "cannot be used",
        ),
        (
            &["run", "-m", "sim:steady", "--prompt-file", "no-such-file"],
            "no-such-file",
        ),
        (&["run", "-m", "sim:steady", "--keep", "output"], "--keep output"),
        (
            &[
                "run",
                "-m",
                "sim:steady",
                "--keep",
                "a",
                "--output-format",
                "text",
            ],
            "--keep",
        ),
        (&["run", "-m", "sim:steady", "--glob", "*.txt"], "folder"),
        (&["run", "-m", "sim:steady", "--resume"], "-o FILE"),
        (
            &["run", "-m", "sim:steady", "--resume", "--overwrite", "-o", "x"],
            "cannot be used",
        ),
        (
            &["run", "-m", "sim:steady", "-o", "no/such/folder/x"],
            "the folder does not exist",
        ),
        (&["run", "-m", "sim:steady", "-", "-"], "once"),
        (
            &["run", "-m", "sim:steady", "--events", "/no/such/folder/x"],
            "--events",
        ),
        (&["simulate", "--status", "503"], "503=0.02"),
        (&["simulate", "--status", "200=0.5"], "200"),
        (&["simulate", "--hint", "smoke"], "retry-after-ms"),
        (&["simulate", "--reset-rate", "1.5"], "1.5"),
        (&["simulate", "--garbage-rate", "2"], "garbage_rate is 2"),
        (&["simulate", "--garbage-rate", "-1"], "garbage_rate is -1"),
        (&["simulate", "--cached-share", "-0.5"], "cached_share is -0.5"),
        (&["simulate", "--outage", "4s=503"], "4s+5s=503"),
        (&["simulate", "--outage", "4s+5s=200"], "200"),
        (&["simulate", "--stream-stall", "0.1"], "0.1=5s"),
        (&["simulate", "--stall", "2=1s"], "stall is 2"),
        (
            &[
                "simulate",
                "--stream-cut-rate",
                "0.6",
                "--stream-error-rate",
                "0.6",
            ],
            "stream_cut_rate, stream_error_rate sum",
        ),
        (&["simulate", "--keep-alive", "0s"], "--keep-alive"),
    ];
    for (arguments, text) in cases {
        let finished = run(*arguments, "one\n");
        assert_eq!(
            finished.status.code(),
            Some(2),
            "{arguments:?}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains(text),
            "{arguments:?}: no {text:?} in {}",
            finished.stderr
        );
        assert_eq!(finished.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    const SECRET: &str = "sk-very-secret-123";
    let provider = Provider::start(|builder| builder.api_key("another"));
    let url = provider.arguments([]).pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let cases = [
        vec!["--header", "Authorization Bearer sk-very-secret-123"],
        vec!["--header", "Authorization: Bearer sk-very-secret-123\u{7f}"],
        vec!["--header", "Authorization: Bearer sk-very-secret-123"],
        vec!["--api-key-env", "THE_KEY", "--events", events.to_str().unwrap()],
    ];
    for more in cases {
        let output = program()
            .args(["run", "-m", "openai-compatible:m", "--base-url", &url])
            .args(&more)
            .env("THE_KEY", SECRET)
            .env("RUST_LOG", "trace")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        for bytes in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(bytes).contains(SECRET), "{more:?}");
        }
    }
    // And with a call that is refused for its key.
    let arguments = provider.arguments(["--api-key-env", "THE_KEY", "--events", events.to_str().unwrap()]);
    let input = folder.path().join("in.txt");
    std::fs::write(&input, "hi\n").unwrap();
    let output = program()
        .args(arguments)
        .arg(&input)
        .env("THE_KEY", SECRET)
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    for bytes in [output.stdout, output.stderr, std::fs::read(&events).unwrap()] {
        assert!(!bytes.is_empty());
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET));
    }
}

#[test]
fn a_dry_run_shows_three_requests_and_calls_no_provider() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let arguments = ["--dry-run", "--system", "Be brief.", "-o", out.to_str().unwrap()];
    let finished = run(provider.arguments(arguments), "one\ntwo\nthree\nfour\n");
    finished.code(0);
    assert_eq!(finished.stdout.matches("# request ").count(), 3);
    assert!(finished.stdout.contains("\"model\": \"sim\""));
    assert!(finished.stdout.contains("Be brief."));
    // (9 + 3) / 4 rounded up, and so on, and 256 for each answer.
    assert!(
        finished.stdout.contains("estimated tokens: 1038"),
        "{}",
        finished.stdout
    );
    assert_eq!(provider.ledger().received, 0);
    assert!(!out.exists());
    // It needs no key.
    run(["run", "-m", "openai:gpt-4o-mini", "--dry-run"], "one\n").code(0);
}

#[test]
fn help_teaches_by_examples() {
    for (arguments, texts) in [
        (vec!["--help"], vec!["Examples:", "sim:throttled", "simulate"]),
        (
            vec!["run", "--help"],
            vec![
                "Examples:",
                "{{review}}",
                "Exit status:",
                "--dry-run",
                "Default: 600s",
            ],
        ),
        (
            vec!["simulate", "--help"],
            vec!["Examples:", "503=0.02", "ledger"],
        ),
    ] {
        let finished = run(&arguments, "");
        finished.code(0);
        for text in texts {
            assert!(finished.stdout.contains(text), "{arguments:?}: {text}");
        }
        assert!(finished.stdout.lines().all(|line| line.chars().count() <= 100));
    }
}

/// The library's list of providers and the one in the help are the same.
#[test]
fn the_help_names_every_provider() {
    let refused = run(["run", "-m", "nothing:m"], "");
    refused.code(2);
    let (_, known) = refused.stderr.split_once("providers are ").unwrap();
    let (known, _) = known.split_once(", and sim:").unwrap();
    let known: Vec<&str> = known
        .split(", ")
        .map(|prefix| prefix.trim_end_matches(':'))
        .collect();
    assert!(known.contains(&"openai"), "{known:?}");

    let help = run(["run", "--help"], "").stdout;
    let (_, listed) = help.split_once("Providers: ").unwrap();
    let (listed, _) = listed.split_once("and sim:steady").unwrap();
    let mut listed: Vec<&str> = listed
        .split(|c: char| c.is_whitespace() || ",;()".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let others = "and both need --base-url on a machine of your own";
    listed.retain(|word| !others.split(' ').any(|other| other == *word));
    listed.sort_unstable();
    let mut known = known;
    known.sort_unstable();
    assert_eq!(listed, known);
}

/// The files that a run reads beside its input are not overwritten either.
#[test]
fn the_files_of_options_are_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("read");
    std::fs::write(&file, "{}").unwrap();
    let file = file.to_str().unwrap();
    for (read, written) in [
        ("--schema", "--events"),
        ("--schema", "-o"),
        ("--prompt-file", "-o"),
    ] {
        let mut arguments = vec!["run", "-m", "sim:steady", read, file, written, file];
        arguments.extend((written == "-o").then_some("--overwrite"));
        run(arguments, "x\n")
            .code(2)
            .says("is an input and would be overwritten");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "{}");
    }
}
