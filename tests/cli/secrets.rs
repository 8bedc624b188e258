//! Keys: by whichever option they come, and also where a server repeats them, they are in nothing that a run writes.

use std::fs;
use std::path::Path;

use crate::support::{COMPLETION, Recorder, program};

const SECRET: &str = "sk-very-secret-123";

/// All that is in a folder.
fn written(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &written(&path);
        } else {
            all += &String::from_utf8_lossy(&fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_key_is_in_nothing_that_is_written() {
    // As OpenAI does, a server repeats the key that it refuses; and one that is wrong repeats it in an answer.
    let refusing = Recorder::start(
        401,
        &format!(
            r#"{{"error":{{"message":"Incorrect API key provided: {SECRET}","code":"invalid_api_key"}}}}"#
        ),
    );
    let failing = Recorder::start(500, &format!("upstream said: authorization: Bearer {SECRET}"));
    let garbled = Recorder::start(200, &format!(r#"{{"choices": "Bearer {SECRET}"}}"#));
    let good = Recorder::start(200, COMPLETION);
    let with_key = |url: &str| url.replace("http://", &format!("http://user:{SECRET}@"));
    let bearer = format!("Authorization: Bearer {SECRET}");
    let own_header = format!("X-Team-Key: {SECRET}");
    for (server, code) in [(&refusing, 3), (&failing, 1), (&garbled, 1), (&good, 0)] {
        for keys in [
            vec!["--api-key-env", "THE_KEY"],
            vec!["--header", "Authorization=env:THE_BEARER"],
            vec!["--header", &bearer],
            vec!["--header", &own_header],
            vec![],
        ] {
            for (index, output) in [
                vec!["-o", "out.jsonl"],
                vec!["-o", "out.csv"],
                vec!["--output-dir", "answers"],
                vec!["-o", "out", "--output-format", "openai-batch"],
            ]
            .iter()
            .enumerate()
            {
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("in.txt"), "hi\n").unwrap();
                let from_url = with_key(&server.url);
                // Without an option the key is in the address.
                let url = if keys.is_empty() { &from_url } else { &server.url };
                let summary = if index % 2 == 0 { "json" } else { "text" };
                let log = folder.path().join("events.jsonl");
                let result = program()
                    .current_dir(folder.path())
                    .args(["run", "in.txt", "-m", "openai-compatible:m", "--base-url", url])
                    .args([
                        "--max-attempts",
                        "1",
                        "--summary",
                        summary,
                        "--events",
                        "events.jsonl",
                    ])
                    .args(&keys)
                    .args(output)
                    .env("THE_KEY", SECRET)
                    .env("THE_BEARER", format!("Bearer {SECRET}"))
                    .env("RUST_LOG", "trace")
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&result.stderr).into_owned();
                let all = text.clone() + &String::from_utf8_lossy(&result.stdout) + &written(folder.path());
                let place = all
                    .find(SECRET)
                    .map(|at| &all[at.saturating_sub(300)..at + SECRET.len()]);
                assert_eq!(
                    place, None,
                    "{keys:?} {output:?} of the server that answers {code}"
                );
                // A key in an address may be refused as wrong usage.
                if !keys.is_empty() {
                    assert_eq!(result.status.code(), Some(code), "{text}");
                    assert!(log.exists());
                }
            }
        }
    }
    let sent = good.requests.lock().unwrap();
    assert!(
        sent.iter().any(|request| request.head.contains(SECRET)),
        "no key was sent"
    );
}

/// Of options that are wrong, too.
#[test]
fn a_key_is_in_no_message_about_wrong_usage() {
    let in_url = format!("http://user:{SECRET}@127.0.0.1:1/v1");
    let prices = format!("http://user:{SECRET}@127.0.0.1:1/prices.json?key={SECRET}");
    let query = format!("http://127.0.0.1:1/v1?api-key={SECRET}");
    for more in [
        vec!["-m", "vllm:m", "--base-url", &in_url],
        vec!["-m", "vllm:m", "--base-url", &query],
        vec!["-m", "sim:steady", "--prices", &prices],
        vec!["-m", "sim:steady", "--base-url", &in_url],
        vec!["-m", "nothing:m", "--base-url", &in_url],
    ] {
        let result = program()
            .arg("run")
            .args(&more)
            .args(["--max-attempts", "1", "--timeout", "2s", "--item-timeout", "3s"])
            .env("RUST_LOG", "trace")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let all = [result.stdout, result.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(!all.concat().contains(SECRET), "{more:?}: {}", all.concat());
    }
}
