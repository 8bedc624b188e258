//! Items: their ids, which of them are taken, and the fields that options name.

use std::collections::HashSet;
use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{COMPLETION, Provider, Recorder, dry, finish, ids, program, run};

/// The requests that a set of arguments comes to, in the order of the input.
fn bodies(arguments: &[&str], stdin: &str) -> Vec<Value> {
    let recorder = Recorder::start(200, COMPLETION);
    let own = [
        "run",
        "-m",
        "openai-compatible:m",
        "--base-url",
        &recorder.url,
        "-c",
        "1",
    ];
    run(own.iter().chain(arguments), stdin).code(0);
    recorder.bodies()
}

#[test]
fn ids_stay_as_they_are_written_and_bad_rows_have_ids_of_their_own() {
    let input = "{\"id\":1e3,\"prompt\":\"x\"}\n{\"id\":0.10,\"prompt\":\"x\"}\n{\"id\":\"2\",\"prompt\":\"x\"}\n{broken\n{broken\n{\"id\":[],\"prompt\":\"x\"}\n";
    let provider = Provider::start(|builder| builder);
    let rows = run(provider.arguments([]), input)
        .code(1)
        .says("line 4: not JSON")
        .rows();
    let found: HashSet<String> = ids(&rows).into_iter().collect();
    assert_eq!(found.len(), 6);
    for id in ["1e3", "0.10", "2"] {
        assert!(found.contains(id), "{found:?}");
    }
    let (good, bad): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["ok"] == true);
    assert_eq!((good.len(), bad.len()), (3, 3));
    assert!(
        bad.iter()
            .all(|row| row["id"].as_str().unwrap().starts_with("malformed-"))
    );
}

/// The number of an id does not pass through a float, nor do long integers anywhere in the item.
#[test]
fn long_integers_keep_their_digits_inside_lists_and_objects() {
    let input = "{\"user\":{\"ids\":[12345678901234567890123]},\"n\":1.5}\n";
    let bodies = bodies(&["--prompt", "{{user.ids[0]}} {{n}}"], input);
    assert_eq!(bodies[0]["messages"][0]["content"], "12345678901234567890123 1.5");
}

#[test]
fn a_sample_goes_by_ids_and_is_the_same_each_time() {
    let input: String = (0..300).map(|number| format!("prompt {number}\n")).collect();
    let provider = Provider::start(|builder| builder);
    let sample = |more: &[&str], input: &str| {
        let arguments = ["--sample", "12", "--in-order"].iter().chain(more).copied();
        let rows = run(provider.arguments(arguments), input).code(0).rows();
        let index = |row: &Value| row["index"].as_u64().unwrap();
        let indexes: Vec<_> = rows.iter().map(index).collect();
        (ids(&rows), indexes)
    };
    let (first, order) = sample(&[], &input);
    assert_eq!(first.len(), 12);
    assert!(order.is_sorted() && order[11] > 100, "{order:?}");
    assert_eq!(sample(&[], &input).0, first);
    // A line on top takes one place at most.
    let changed = sample(&[], &format!("a new one\n{input}")).0;
    assert!(changed.iter().filter(|id| first.contains(id)).count() >= 11);
    assert_ne!(sample(&["--sample-seed", "7"], &input).0, first);
    // In a random order the sample is the same one.
    let (shuffled, order) = sample(&["--shuffle"], &input);
    assert_eq!(shuffled, first);
    assert!(!order.is_sorted(), "{order:?}");
    // Of the first ones only.
    let (_, order) = sample(&["--limit", "20"], &input);
    assert!(order.len() == 12 && order.iter().all(|index| *index < 20));
    assert_eq!(sample(&["--limit", "5"], &input).1.len(), 5);
    // A dry run shows that sample.
    let shown = dry(&["--sample", "12"], &input);
    assert!(
        shown.code(0).stdout.contains("items:            12"),
        "{}",
        shown.stdout
    );
    let id = shown.stdout.split(", id ").nth(1).unwrap();
    assert!(first.contains(&id[..16].to_owned()));
}

#[test]
fn every_part_of_an_input_is_as_likely_in_a_sample() {
    let input: String = (0..1000).map(|number| format!("prompt {number}\n")).collect();
    let mut counts = [0_u32; 4];
    for seed in 0..8 {
        let seed = seed.to_string();
        let arguments = [
            "run",
            "-m",
            "sim:steady",
            "--dry-run",
            "--sample",
            "3",
            "--sample-seed",
            &seed,
        ];
        let shown = run(arguments, &input);
        for part in shown.code(0).stdout.split("(line ").skip(1) {
            let line: usize = part.split(')').next().unwrap().parse().unwrap();
            counts[(line - 1) / 250] += 1;
        }
    }
    assert_eq!(counts.iter().sum::<u32>(), 24);
    assert!(counts.iter().all(|count| *count >= 1), "{counts:?}");
}

#[test]
fn a_shuffled_input_is_whole_and_an_unreadable_one_costs_nothing() {
    let input: String = (0..40)
        .map(|number| format!("{{\"prompt\":\"p\",\"n\":{number}}}\n"))
        .collect();
    let provider = Provider::start(|builder| builder);
    let arguments = ["--shuffle", "--in-order", "--keep", "n"];
    let rows = run(provider.arguments(arguments), &(input.clone() + "{bad\n"))
        .code(1)
        .rows();
    let mut indexes: Vec<_> = rows.iter().map(|row| row["index"].as_u64().unwrap()).collect();
    assert!(!indexes.is_sorted());
    indexes.sort_unstable();
    assert_eq!(indexes, (0..41).collect::<Vec<_>>());
    assert!(
        rows.iter()
            .filter(|row| row["ok"] == true)
            .all(|row| row["n"] == row["index"])
    );
    let calls = provider.ledger().received;
    for option in [["--shuffle"].as_slice(), &["--sample", "3"]] {
        let arguments = option.iter().copied().chain(["--format", "json"]);
        run(provider.arguments(arguments), "[{\"prompt\":\"x\"},\n")
            .code(3)
            .says("could not be read to its end: line 1");
    }
    assert_eq!(provider.ledger().received, calls);
}

#[test]
fn a_sample_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    let lines: String = (0..100).map(|number| format!("prompt {number}\n")).collect();
    fs::write(&input, lines).unwrap();
    let provider = Provider::start(|builder| builder);
    let paths = [input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--resume"];
    for (count, calls) in [("5", 5), ("5", 5), ("9", 9)] {
        run(
            provider.arguments(paths.into_iter().chain(["--sample", count])),
            "",
        )
        .code(0);
        // A larger sample has the smaller one in it.
        assert_eq!(provider.ledger().received, calls);
    }
}

#[test]
fn an_item_has_a_system_prompt_of_its_own() {
    let messages = |arguments: &[&str], input: &str| {
        let bodies = bodies(arguments, input);
        bodies
            .iter()
            .map(|body| body["messages"].clone())
            .collect::<Vec<_>>()
    };
    let user = json!({"role": "user", "content": "hi"});
    let system = |text: &str| json!([{"role": "system", "content": text}, user]);
    let input = "{\"prompt\":\"hi\",\"system\":\"own\",\"persona\":\"p\"}\n{\"prompt\":\"hi\",\"system\":\"\"}\n{\"prompt\":\"hi\",\"system\":null}\n";
    assert_eq!(
        messages(&["--system", "all"], input),
        [system("own"), system("all"), system("all")]
    );
    assert_eq!(
        messages(&[], input),
        [system("own"), json!([user]), json!([user])]
    );
    assert_eq!(
        messages(&["--system-field", "persona", "--system", "all"], input),
        [system("p"), system("all"), system("all")]
    );
    // With a template, a column of that name is about something else, unless it is named.
    let table = "system,question\nLinux,hi\n";
    assert_eq!(messages(&["--prompt", "{{question}}"], table), [json!([user])]);
    let named = ["--prompt", "{{question}}", "--system-field", "system"];
    assert_eq!(messages(&named, table), [system("Linux")]);
    dry(&[], "{\"prompt\":\"hi\",\"system\":{}}\n")
        .code(1)
        .says("field `system` is the system prompt, so it must be text");
    let shown = dry(&[], "{\"prompt\":\"hi\",\"system\":\"own\"}\n");
    assert!(shown.code(0).stdout.contains("\"content\": \"own\""));
}

#[test]
fn a_field_that_no_item_can_have_is_an_error_and_one_that_none_has_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t.csv");
    fs::write(&table, "id,prompt\n1,x\n").unwrap();
    let table = table.to_str().unwrap();
    let provider = Provider::start(|builder| builder);
    for option in ["--keep", "--id-field", "--system-field"] {
        run(provider.arguments([table, option, "nope"]), "")
            .code(2)
            .says(&format!(
                "{option} nope: the input has no field `nope`; it has id, prompt"
            ));
    }
    run(
        provider.arguments(["-", "--keep", "nope", "--strict"]),
        "id,prompt\n1,x\n",
    )
    .code(2)
    .says("the input has no field `nope`");
    run(
        provider.arguments([folder.path().to_str().unwrap(), "--keep", "nope"]),
        "",
    )
    .code(2)
    .says("it has text, path");
    assert_eq!(provider.ledger().received, 0);

    let lines = "{\"prompt\":\"x\",\"a\":1}\n{\"prompt\":\"y\",\"b\":2}\n";
    let finished = run(
        provider.arguments(["--keep", "a,b,c", "--id-field", "key"]),
        lines,
    );
    finished
        .code(0)
        .says("warning: --keep c: no item has a field `c`")
        .says("warning: --id-field key: no item has a field `key`");
    assert_eq!(finished.stderr.matches("warning:").count(), 2);
    dry(&["--keep", "c"], lines)
        .code(0)
        .says("no item has a field `c`");
    // Where nothing could be read, nothing is known.
    let finished = run(provider.arguments(["--keep", "c", "--format", "jsonl"]), "{bad\n");
    assert!(
        !finished.code(1).stderr.contains("no item has"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_header_comes_from_the_environment_and_is_never_shown() {
    let recorder = Recorder::start(200, COMPLETION);
    let start = |header: &str, variable: Option<&str>| {
        let mut command = program();
        command
            .args([
                "run",
                "-m",
                "openai-compatible:m",
                "--base-url",
                &recorder.url,
                "--header",
                header,
            ])
            .env_remove("THE_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(value) = variable {
            command.env("THE_TOKEN", value);
        }
        command
    };
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.txt");
    fs::write(&input, "hello\n").unwrap();
    let mut command = start("X-Token=env:THE_TOKEN", Some("top-secret\n"));
    finish(command.arg(&input).env("RUST_LOG", "trace").spawn().unwrap()).code(0);
    let head = recorder.requests.lock().unwrap()[0].head.to_ascii_lowercase();
    assert!(head.contains("x-token: top-secret\r\n"), "{head}");

    for (header, variable, message) in [
        (
            "X-Token=env:THE_TOKEN",
            None,
            "--header X-Token: the environment variable THE_TOKEN is not set",
        ),
        (
            "X-Token=env:THE_TOKEN",
            Some(""),
            "the environment variable THE_TOKEN is empty",
        ),
        (
            "X-Token=env:",
            Some("top-secret"),
            "names no environment variable",
        ),
        (
            "X-Token=top-secret",
            None,
            "write a header as 'Name: value', or as Name=env:VARIABLE",
        ),
        ("X Token=env:THE_TOKEN", Some("top-secret"), "error:"),
        ("X-Token=env:THE_TOKEN", Some("top\u{1}secret"), "error:"),
    ] {
        let finished = finish(start(header, variable).spawn().unwrap());
        finished.code(2).says(message);
        assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);
    }
    // Nothing is called, so nothing secret is needed.
    let mut command = start("X-Token=env:THE_TOKEN", None);
    finish(command.args(["--dry-run"]).arg(&input).spawn().unwrap()).code(0);
}
