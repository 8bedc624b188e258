//! Files: compressed ones, JSON over many lines, tables, and folders that also contain other things than prompts.

use std::fs;
use std::io::Write as _;

use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::support::{Provider, dry, finish, ids, program, run};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
}

#[test]
fn compressed_inputs_are_read_by_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let table = "id,question\n1,why\n2,how\n";
    for (name, bytes) in [
        ("a.csv.gz", gzip(table)),
        ("b.csv.zst", zstd(table)),
        ("c.csv", gzip(table)),
        ("d", zstd(table)),
        ("e.csv.gz", table.as_bytes().to_vec()),
        (
            "f.csv.gz",
            [gzip("id,question\n1,why\n"), gzip("2,how\n")].concat(),
        ),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let shown = dry(&[path.to_str().unwrap(), "--prompt", "Q: {{question}}"], "");
        assert!(
            shown.code(0).stdout.contains("\"Q: how\""),
            "{name}: {}",
            shown.stdout
        );
        assert!(shown.stdout.contains("id 2 (line 3)"), "{name}: {}", shown.stdout);
        // The same from standard input.
        let mut command = program();
        command
            .args(["run", "-m", "sim:steady", "--dry-run", "--prompt", "{{question}}"])
            .stdin(fs::File::open(&path).unwrap())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let shown = finish(command.spawn().unwrap());
        assert!(shown.code(0).stdout.contains("items:            2"), "{name}");
    }
    for (name, bytes, message) in [
        (
            "twice.gz",
            {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&gzip(table)).unwrap();
                encoder.finish().unwrap()
            },
            "is compressed twice",
        ),
        (
            "t.xlsx",
            b"PK\x03\x04rest".to_vec(),
            "save the spreadsheet as CSV",
        ),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let shown = dry(&[path.to_str().unwrap()], "");
        shown.code(2).says(message);
    }
}

#[test]
fn a_compressed_input_that_is_cut_off_does_not_end_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    // Items that are not sent: what matters is the end.
    let lines: String = (0..40_000)
        .map(|number| format!("{{\"a\":\"{}\"}}\n", number * 7919))
        .collect();
    let provider = Provider::start(|builder| builder);
    for (name, bytes) in [("a.jsonl.gz", gzip(&lines)), ("a.jsonl.zst", zstd(&lines))] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let arguments = [path.to_str().unwrap(), "-o", "/dev/null", "--summary", "json"];
        let finished = run(provider.arguments(arguments), "");
        finished
            .code(3)
            .says("the input could not be read to its end: its")
            .says("damaged or cut off");
        assert_eq!(finished.summary()["termination"], "input_unreadable");
        run(
            provider.arguments([path.to_str().unwrap(), "--strict", "--prompt", "{{a}}"]),
            "",
        )
        .code(2)
        .says("cut off");
        dry(&[path.to_str().unwrap()], "").code(2).says("cut off");
    }
}

#[test]
fn arrays_and_objects_over_many_lines_are_items() {
    let folder = tempfile::tempdir().unwrap();
    let array = "[\n  {\"id\": \"a\",\n   \"prompt\": \"one\"},\n  {\"id\": 2.50, \"prompt\": tru},\n  \"three\",\n  {\"id\": 2.50, \"prompt\": \"four\"}, 5\n]\n";
    let objects = "{\n  \"id\": \"a\",\n  \"prompt\": \"one\"\n}\n{ \"id\": \"b\", \"prompt\":\n  \"x\" y }\n\"three\" {\"prompt\":\"four\"}{\"prompt\":\"five\"}";
    let provider = Provider::start(|builder| builder);
    for (name, text, good, bad) in [
        (
            "a.json",
            array,
            3,
            ["line 4: not JSON", "line 6: neither a JSON object nor a string"],
        ),
        (
            "b.jsonl",
            objects,
            4,
            ["line 5: not JSON: expected `,` or `}` (its line 2, column 7)", ""],
        ),
        ("c", objects, 4, ["line 5: not JSON", ""]),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        for arguments in [vec![path.to_str().unwrap()], vec!["--format", "json"]] {
            let finished = run(provider.arguments(arguments), text);
            finished.code(1).says(bad[0]).says(bad[1]);
            let rows = finished.rows();
            assert_eq!(
                rows.iter().filter(|row| row["ok"] == true).count(),
                good,
                "{name}"
            );
            assert!(ids(&rows).contains(&"a".to_owned()));
        }
    }
    let one_line = dry(&[], "[\"one\", \"two\"]");
    assert!(one_line.code(0).stdout.contains("items:            2"));
    // An item is the same one, however it is laid out.
    let id = |text: &str| dry(&[], text).code(0).stdout.split(", id ").nth(1).unwrap()[..16].to_owned();
    assert_eq!(
        id("{\"prompt\":\"x\",\"n\":1}\n"),
        id("[\n{\"n\": 1,\n\"prompt\": \"x\"}\n]")
    );

    run(
        provider.arguments([]),
        "[{\"prompt\":\"x\"}]\n[{\"prompt\":\"y\"}]",
    )
    .code(3)
    .says("line 2: something follows the array");
    run(provider.arguments([]), "{\n\"prompt\": {\n")
        .code(3)
        .says("line 1: the value that begins here does not end");
    let batch = "[{\"custom_id\":\"r1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}}]";
    assert_eq!(ids(&run(provider.arguments([]), batch).code(0).rows()), ["r1"]);
}

/// An array on one line, as programs write it, is not held in memory.
#[cfg(target_os = "linux")]
#[test]
fn a_large_array_takes_no_memory() {
    let mut child = crate::support::start(
        [
            "run",
            "-m",
            "sim:steady",
            "-o",
            "/dev/null",
            "-q",
            "--format",
            "json",
        ],
        None,
    );
    let mut pipe = child.stdin.take().unwrap();
    let item = format!("{{\"a\":\"{}\"}},", "x".repeat(1 << 20));
    let mut peak = 0;
    pipe.write_all(b"[").unwrap();
    for _ in 0..150 {
        pipe.write_all(item.as_bytes()).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        let now: u64 = line
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0);
        peak = peak.max(now);
    }
    pipe.write_all(b"\"end\"]").unwrap();
    drop(pipe);
    finish(child).code(1);
    assert!(peak > 1_000 && peak < 120_000, "{peak} KiB");
}

#[test]
fn columns_of_any_name_can_be_used() {
    let table = ",first name,prompt-text,a.b,\n0,Ada,Say hello,x,y\n";
    let template = "{{ row[\"first name\"] }}: {{ row[\"prompt-text\"] }} {{ row[\"a.b\"] }} {{ row[\"column 1\"] }} {{ row[\"column 5\"] }}";
    let shown = dry(&["--prompt", template, "--keep", "first name"], table);
    assert!(
        shown.code(0).stdout.contains("\"Ada: Say hello x 0 y\""),
        "{}",
        shown.stdout
    );
    dry(&["--format", "csv"], "a,b,a\n1,2,3\n")
        .code(2)
        .says("has two columns with the name `a`, the 1. and the 3.");
    // A field of that name stays what it is.
    let shown = dry(
        &["--prompt", "{{row}} {{other}}"],
        "{\"row\":\"r\",\"other\":1}\n",
    );
    assert!(shown.code(0).stdout.contains("\"r 1\""));
    for (template, message) in [
        ("{{first_name}}", "is {{ row[\"first name\"] }} meant?"),
        ("{{ row[\"first nam\"] }}", "is {{ row[\"first name\"] }} meant?"),
        ("{{prompt-text}}", "is {{ row[\"prompt-text\"] }} meant?"),
        ("{{Prompt_text}}", "`Prompt_text` is undefined"),
        (
            "{{zzz}}",
            "`zzz` is undefined (its fields are: column 1, first name,",
        ),
    ] {
        dry(&["--prompt", template], table)
            .code(1)
            .says("line 2: ")
            .says(message);
    }
    dry(&[], table)
        .code(1)
        .says("such as --prompt '{{ row[\"column 1\"] }}'");
}

#[test]
fn braces_of_other_languages_are_text_or_explained() {
    let input = "{\"question\":\"why\"}\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    for text in [
        "p {#id} and {# this #} stay {{question}}",
        "}} %} #} { } {{question}}",
        "{% raw %}{{ x }} {% y %}{% endraw %} {{question}}",
    ] {
        fs::write(&file, text).unwrap();
        let expected = text
            .replace("{% raw %}", "")
            .replace("{% endraw %}", "")
            .replace("{{question}}", "why");
        for option in [["--prompt", text], ["--prompt-file", file.to_str().unwrap()]] {
            let shown = dry(&option, input);
            assert!(shown.code(0).stdout.contains(&expected), "{}", shown.stdout);
        }
    }
    for text in [
        "a {{ b",
        "a {% b",
        "{{ }}",
        "{% nothing %}",
        "{{ two words }}",
        "{{{{ x }}}}",
    ] {
        fs::write(&file, text).unwrap();
        for option in [["--prompt", text], ["--prompt-file", file.to_str().unwrap()]] {
            dry(&option, input)
                .code(2)
                .says("put the text between {% raw %} and {% endraw %}")
                .says("{{ row[\"its name\"] }}");
        }
    }
}

#[test]
fn a_row_of_the_wrong_width_names_its_line_with_every_line_break() {
    for end in ["\n", "\r\n", "\r"] {
        let table = ["id,prompt", "1,a", "", "2,b,c", "3", "\"4", "\",d", "5,e,f"].join(end);
        let finished = dry(&["--format", "csv"], &table);
        finished
            .code(1)
            .says("line 4: the row has 3 cells, the header 2")
            .says("line 5: the row has 1 cells")
            .says("line 8: the row has 3 cells");
    }
}

#[test]
fn an_output_inside_an_input_folder_does_not_feed_on_itself() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    fs::create_dir(&texts).unwrap();
    for number in 0..40 {
        fs::write(texts.join(format!("{number}.txt")), "one").unwrap();
    }
    let path = |name: &str| texts.join(name).to_str().unwrap().to_owned();
    let provider = Provider::start(|builder| builder);
    let input = texts.to_str().unwrap();
    let mut calls = 0;
    let mut count = |expected: u64| {
        let received = provider.ledger().received;
        assert_eq!(received - calls, expected);
        calls = received;
    };
    let run_with = |more: &[&str]| run(provider.arguments([input].iter().chain(more).copied()), "");

    let (out, new) = (path("out"), path("deep/new/out"));
    run_with(&["--output-dir", &out]).code(0);
    count(40);
    run_with(&["--output-dir", &out, "--resume"]).code(0);
    count(0);
    let shown = dry(&[input, "--output-dir", &out, "--resume"], "");
    assert!(
        shown.code(0).stdout.contains("items:            40"),
        "{}",
        shown.stdout
    );
    // The answers of the run before are files like any other to a run that writes elsewhere.
    fs::remove_dir_all(&out).unwrap();
    run_with(&["--output-dir", &new]).code(0);
    count(40);
    fs::remove_dir_all(texts.join("deep")).unwrap();
    let (file, events) = (path("out.txt"), path("events.txt"));
    let more = ["-o", &file, "--events", &events];
    run_with(&more).code(0);
    count(40);
    run_with(&[&more[..], &["--resume"]].concat()).code(0);
    count(0);
    for name in [&file, &events] {
        fs::remove_file(name).unwrap();
    }
    #[cfg(unix)]
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&texts, &link).unwrap();
        let out = link.join("out");
        run_with(&["--output-dir", out.to_str().unwrap()]).code(0);
        count(40);
        fs::remove_dir_all(&out).unwrap();
    }

    // The answers would have the names of the prompts.
    let same = path(".");
    let more = ["--output-dir", &same, "--overwrite"];
    dry(&[&[input], &more[..]].concat(), "")
        .code(2)
        .says("is an input folder");
    run_with(&more).code(2).says("is an input folder");
    count(0);
    assert_eq!(fs::read_dir(&texts).unwrap().count(), 40);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_name_that_no_id_can_have_costs_its_own_item() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path();
    fs::write(texts.join("a.txt"), "one").unwrap();
    for name in [&b"b\xff.txt"[..], b"b\xfe.txt", b"c\n.txt"] {
        fs::write(texts.join(std::ffi::OsStr::from_bytes(name)), "two").unwrap();
    }
    fs::write(texts.join("d.txt.gz"), gzip("three")).unwrap();
    fs::write(texts.join("e.txt.gz"), &gzip("four")[..9]).unwrap();
    std::os::unix::fs::symlink("nowhere", texts.join("f.txt")).unwrap();
    let provider = Provider::start(|builder| builder);
    let finished = run(provider.arguments([texts.to_str().unwrap()]), "");
    finished
        .code(1)
        .says("b\\xff.txt: has a name with characters that no id can have")
        .says("c\\n.txt: has a name")
        .says("e.txt.gz: cannot be read: its gzip data are damaged or cut off");
    let rows = finished.rows();
    assert_eq!(
        ids(&rows),
        [
            "a.txt",
            "b\\xfe.txt",
            "b\\xff.txt",
            "c\\n.txt",
            "d.txt",
            "e.txt.gz",
            "f.txt"
        ]
    );
    assert_eq!(rows.iter().filter(|row| row["ok"] == true).count(), 2);
}

/// A second input does not change the ids of a folder's files.
#[test]
fn a_file_beside_a_folder_leaves_its_ids_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, more) = (folder.path().join("texts"), folder.path().join("more"));
    for folder in [&texts, &more] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("1.txt"), "one").unwrap();
    }
    let list = folder.path().join("list.jsonl");
    fs::write(&list, "{\"id\":\"x\",\"text\":\"y\"}\n").unwrap();
    let provider = Provider::start(|builder| builder);
    let (texts, more, list) = (
        texts.to_str().unwrap(),
        more.to_str().unwrap(),
        list.to_str().unwrap(),
    );
    let found = |inputs: &[&str]| {
        let arguments = inputs.iter().copied().chain(["--prompt", "{{text}}"]);
        ids(&run(provider.arguments(arguments), "").code(0).rows())
    };
    assert_eq!(found(&[texts]), ["1.txt"]);
    assert_eq!(found(&[texts, list]), ["1.txt", "x"]);
    let mut both = [format!("{texts}/1.txt"), format!("{more}/1.txt")];
    both.sort();
    assert_eq!(found(&[texts, more]), both);
}

/// The header shows before any call that every row would fail.
#[test]
fn a_template_for_other_columns_is_wrong_usage() {
    let provider = Provider::start(|builder| builder);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let table = file("table.csv", "id,first name,review,row\n1,Ada,good,7\n");
    let tabs = file("table.tsv", "id\treview\n1\tgood\n");
    let packed = folder.path().join("packed.csv.gz");
    fs::write(&packed, gzip("id,review\n1,good\n")).unwrap();
    let lines = file("lines.txt", "one\ntwo\n");
    let inputs = folder.path().join("texts");
    fs::create_dir(&inputs).unwrap();
    fs::write(inputs.join("a.txt"), "x").unwrap();
    let inputs = inputs.to_str().unwrap().to_owned();
    let packed = packed.to_str().unwrap().to_owned();
    for (input, template, message) in [
        (
            &table,
            "{{reveiw}}",
            "table.csv: the template names the column `reveiw`, which is not in the input; is {{review}} meant? (its columns are: id, first name, review, row)",
        ),
        (
            &table,
            "{{review}} {{ row['last name'] }}",
            "`last name`, which is not in the input; is {{ row[\"first name\"] }} meant?",
        ),
        (
            &table,
            "{% if review == 'bad' %}{{ why }}{% endif %}",
            "the column `why`",
        ),
        (&table, "{{ row.nothing }}", "the column `nothing`"),
        (
            &table,
            "{{row}} {{ row['first name'] }}",
            "rename the field `row`",
        ),
        (&tabs, "{{question}}", "(its columns are: id, review)"),
        (&packed, "{{question}}", "(its columns are: id, review)"),
        (&lines, "{{question}}", "(its columns are: prompt, text)"),
        (&inputs, "{{question}}", "(its columns are: text, path)"),
    ] {
        for more in ["--dry-run", "--in-order"] {
            let finished = run(provider.arguments([input, "--prompt", template, more]), "");
            finished.code(2).says(message);
            assert_eq!(finished.stdout, "");
        }
    }
    for input in [&table, &tabs] {
        run(provider.arguments([input.as_str()]), "")
            .code(2)
            .says("the column `prompt` is missing; name the one to use, such as --prompt '{{id}}'");
    }
    // Of standard input it is known once it was read.
    run(
        provider.arguments(["--strict", "--prompt", "{{question}}"]),
        "id,review\n1,good\n",
    )
    .code(2)
    .says("the column `question`");
    assert_eq!(provider.ledger().received, 0);

    // What may be missing, what the template sets itself, and an empty table.
    for template in [
        "{{review}} {{ note|default('none') }}",
        "{{review}} {% if note is defined %}{{note}}{% endif %}",
        "{% set note = review %}{{note}}",
        "{% for x in range(2) %}{{x}}{% endfor %}{{ row['review'] }}",
        "{% raw %}{{ question }}{% endraw %}",
    ] {
        run(provider.arguments([table.as_str(), "--prompt", template]), "").code(0);
    }
    run(provider.arguments([file("empty.csv", "").as_str()]), "")
        .code(0)
        .says("the input has no items");
    // Lines of JSON have no header: each has fields of its own.
    run(
        provider.arguments(["--prompt", "{{question}}"]),
        "{\"question\":\"a\"}\n{\"quest\":\"b\"}\n",
    )
    .code(1);
}

/// A field called `row` hides neither the item nor itself.
#[test]
fn the_item_is_reachable_beside_a_field_called_row() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.csv");
    fs::write(&file, "row,first name\n7,Ada\n").unwrap();
    let file = file.to_str().unwrap();
    let line = "{\"row\":\"7\",\"first name\":\"Ada\"}\n";
    for (template, expected) in [
        ("{{row}}.", "\"7.\""),
        (
            "{{ row['first name'] }} {{ row['row'] }} {{ row.row }}",
            "\"Ada 7 7\"",
        ),
    ] {
        for (input, text) in [(vec![file], ""), (vec![], line)] {
            let arguments = [input, vec!["--prompt", template]].concat();
            let shown = dry(&arguments, text);
            assert!(
                shown.code(0).stdout.contains(expected),
                "{template}: {}",
                shown.stdout
            );
        }
    }
    dry(&["--prompt", "{{row}} {{ row['first name'] }}"], line)
        .code(1)
        .says("line 1: the template uses `row` alone")
        .says("rename the field `row`");
    let shown = dry(&["--prompt", "{{ row }}"], "{\"a\":1}\n");
    assert!(shown.code(0).stdout.contains(r#"{\"a\":1}"#), "{}", shown.stdout);
}
