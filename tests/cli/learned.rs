//! The provider's limit, as one run finds it and the next one uses it.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::{Finished, Provider, finish, program, signal, wait_until};

const STARTS: &str = "--no-learned-limits to ignore that";

/// The program with this cache folder, and this many prompts.
fn spawn(cache: &Path, arguments: &[String], prompts: usize) -> Child {
    let mut child = program()
        .args(arguments)
        .env("XDG_CACHE_HOME", cache)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        drop(pipe.write_all("prompt\n".repeat(prompts).as_bytes()));
    });
    child
}

fn run_with(cache: &Path, arguments: &[String], prompts: usize) -> Finished {
    finish(spawn(cache, arguments, prompts))
}

/// Rejects above 20 calls a second.
fn limited() -> Provider {
    Provider::start(|builder| builder.requests_per_minute(1_200))
}

fn file(cache: &Path) -> std::path::PathBuf {
    cache.join("llm-batch").join("limits.json")
}

fn limits(cache: &Path) -> Value {
    serde_json::from_slice(&fs::read(file(cache)).unwrap()).unwrap()
}

/// `PROVIDER HOST MODEL`.
fn key(provider: &Provider) -> String {
    let all = provider.arguments([]);
    let url = all.iter().find(|argument| argument.starts_with("http")).unwrap();
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    format!("openai-compatible {host} sim")
}

/// Keeps this limit, found an age ago.
fn keep(cache: &Path, key: &str, seconds_ago: u64, fields: &Value) {
    let at = SystemTime::now() - std::time::Duration::from_secs(seconds_ago);
    let mut limit = json!({"rejections": 9, "at": humantime::format_rfc3339_seconds(at).to_string()});
    limit
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    fs::create_dir_all(file(cache).parent().unwrap()).unwrap();
    fs::write(file(cache), json!({key: limit}).to_string()).unwrap();
}

#[test]
fn a_limit_is_kept_without_secrets_and_used_by_the_next_run() {
    let provider = limited();
    let cache = tempfile::tempdir().unwrap();
    let arguments = provider.arguments(["-c", "40", "--header", "X-Key: s3cret"]);
    let first = run_with(cache.path(), &arguments, 120);
    first.code(0);
    assert!(!first.stderr.contains(STARTS), "{}", first.stderr);
    let kept = limits(cache.path());
    let limit = &kept[key(&provider)];
    assert!(limit["rejections"].as_u64().unwrap() > 0, "{kept}");
    let all = fs::read_to_string(file(cache.path())).unwrap();
    assert!(!all.contains("s3cret") && !all.contains("/v1"), "{all}");
    // Nothing but the file, and the lock beside it.
    assert_eq!(fs::read_dir(cache.path().join("llm-batch")).unwrap().count(), 2);

    let second = run_with(cache.path(), &arguments, 1);
    second.code(0).says(", learnt ").says(STARTS);
    // Nothing was rejected, so nothing was learnt.
    assert_eq!(fs::read_to_string(file(cache.path())).unwrap(), all);
    let quiet = run_with(cache.path(), &provider.arguments(["-q"]), 1);
    assert_eq!(quiet.code(0).stderr, "");
}

#[test]
fn the_run_says_what_it_starts_with_unless_it_is_not_to_use_it() {
    let provider = Provider::start(|builder| builder);
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path();
    let rate = json!({"kind": "rate", "starts_per_second": 9.7, "burst": 5.0});
    let calls = json!({"kind": "in_flight", "max_in_flight": 20});
    let says = |more: &[&'static str], text: Option<&str>| {
        let finished = run_with(cache, &provider.arguments(more.iter().copied()), 2);
        match text {
            Some(text) => drop(finished.code(0).says(text)),
            None => assert!(!finished.code(0).stderr.contains("learnt"), "{}", finished.stderr),
        }
    };
    keep(cache, &key(&provider), 2 * 3_600 + 5, &rate);
    let line = "starting at 582 requests a minute, learnt 2 h ago; --no-learned-limits to ignore that\n";
    says(&[], Some(line));
    says(&["--max-in-flight", "5"], Some(line));
    says(&["--no-learned-limits"], None);
    // A limit that is stated is better known.
    says(&["--rpm", "6000"], None);
    says(&["--tpm", "600000"], None);

    keep(cache, &key(&provider), 185, &calls);
    says(
        &[],
        Some("starting with 20 calls at a time at most, learnt 3 min ago; "),
    );
    says(&["--rpm", "6000"], Some("starting with 20 calls"));
    says(&["--max-in-flight", "5"], None);
    keep(cache, &key(&provider), 0, &json!({"kind": "stray"}));
    says(
        &[],
        Some("rejections come at any rate, learnt less than a minute ago"),
    );

    keep(cache, &key(&provider), 25 * 3_600, &rate);
    says(&[], None);
    keep(
        cache,
        &key(&provider),
        5,
        &json!({"kind": "rate", "starts_per_second": -1.0}),
    );
    says(&[], None);
}

#[test]
fn without_learned_limits_nothing_is_read_or_written() {
    let provider = limited();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let finished = run_with(
        &cache,
        &provider.arguments(["-c", "40", "--no-learned-limits"]),
        80,
    );
    assert!(
        !finished.code(0).stderr.contains("warning"),
        "{}",
        finished.stderr
    );
    assert!(provider.ledger().throttled > 0);
    assert!(!cache.exists());
    // The provider inside the program lives as long as the run.
    let arguments = ["run", "-m", "sim:throttled", "-c", "40"].map(str::to_owned);
    run_with(&cache, &arguments, 80).code(0);
    assert!(!cache.exists());
}

#[test]
fn a_file_that_cannot_be_used_is_reported_once_and_replaced() {
    let provider = limited();
    let cache = tempfile::tempdir().unwrap();
    keep(cache.path(), "x", 0, &json!({}));
    for broken in ["{\"a\": ", "[]", "\u{0}"] {
        fs::write(file(cache.path()), broken).unwrap();
        let finished = run_with(cache.path(), &provider.arguments([]), 2);
        finished.code(0).says("limits.json cannot be read: ");
        assert_eq!(
            finished.stderr.matches("warning: ").count(),
            1,
            "{}",
            finished.stderr
        );
    }
    let finished = run_with(cache.path(), &provider.arguments(["-c", "40"]), 120);
    assert_eq!(finished.code(0).stderr.matches("warning: ").count(), 1);
    assert!(limits(cache.path())[key(&provider)].is_object());

    // An entry of a newer version is neither reported nor lost.
    let newer = json!({"kind": "new", "rejections": 1});
    fs::write(file(cache.path()), json!({"a": newer}).to_string()).unwrap();
    let finished = run_with(cache.path(), &provider.arguments(["-c", "40"]), 120);
    assert_eq!(finished.code(0).stderr.matches("warning: ").count(), 0);
    assert_eq!(limits(cache.path())["a"], newer);
    assert!(limits(cache.path())[key(&provider)].is_object());

    // No folder can be made below a file.
    let below = file(cache.path());
    let finished = run_with(&below, &provider.arguments(["-c", "40"]), 120);
    assert_eq!(
        finished.code(0).stderr.matches("warning: ").count(),
        1,
        "{}",
        finished.stderr
    );
    let finished = run_with(&below, &provider.arguments(["-q"]), 2);
    assert_eq!(finished.code(0).stderr, "");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_what_it_has_learnt() {
    let provider = limited();
    let cache = tempfile::tempdir().unwrap();
    let events = cache.path().join("events.jsonl");
    let arguments = provider.arguments(["-c", "40", "--events", events.to_str().unwrap()]);
    let child = spawn(cache.path(), &arguments, 100_000);
    wait_until("a limit", || {
        fs::read_to_string(&events).is_ok_and(|text| text.contains("\"limit_learned\""))
    });
    signal(&child, "INT");
    finish(child).code(130);
    assert!(limits(cache.path())[key(&provider)]["starts_per_second"].is_f64());
}

#[test]
fn runs_that_end_together_lose_nothing() {
    let provider = limited();
    let cache = tempfile::tempdir().unwrap();
    keep(cache.path(), "old", 30 * 3_600, &json!({"kind": "stray"}));
    let children: Vec<_> = (0..4)
        .map(|number| {
            let mut arguments = provider.arguments(["-c", "20"]);
            arguments[2] = format!("openai-compatible:model-{number}");
            spawn(cache.path(), &arguments, 60)
        })
        .collect();
    for child in children {
        finish(child).code(0);
    }
    let kept = limits(cache.path());
    let models: Vec<_> = kept.as_object().unwrap().keys().cloned().collect();
    // The old one is of no use any more.
    assert_eq!(models.len(), 4, "{models:?}");
    assert!(models.iter().all(|model| model.contains(" model-")), "{models:?}");
}
