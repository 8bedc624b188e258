//! Runs every example and reads what it prints. `cargo test` has built them beside this program.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.is_file(),
        "{} is missing: `cargo test` builds it, or `cargo build --examples`",
        path.display()
    );
    let mut command = Command::new(path);
    // A key of the person who runs the tests must not be spent.
    command
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .env_remove("MODEL");
    command
}

/// What the example prints to standard output, once it has succeeded.
fn output_of(name: &str) -> String {
    let output = example(name).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name} ended with {}:\n{printed}\n{errors}",
        output.status
    );
    printed
}

#[test]
fn own_client() {
    let printed = output_of("own_client");
    assert!(printed.contains("7: PROMPT 7 (1 calls)"), "{printed}");
    assert!(printed.contains("20: PROMPT 20 (2 calls)"), "{printed}");
    assert!(printed.contains("30 items: 30 succeeded, 0 failed"), "{printed}");
}

#[test]
fn own_layer() {
    assert_eq!(
        output_of("own_layer"),
        "0: 42 after 2 attempts\n1: 42 after 2 attempts\n"
    );
}

#[test]
fn two_providers() {
    let expected =
        "quick answers item 0\ncareful answers item 1\nquick answers item 2\ncareful answers item 3\n";
    assert_eq!(output_of("two_providers"), expected);
}

#[test]
fn context_cache() {
    let printed = output_of("context_cache");
    for line in [
        "200 answers, 200 of them the same",
        "1 cache of 3758 tokens was made",
        "input tokens                 752991       752991",
        "  of them cached                  0       751600",
        "to make the cache                 0         3758",
        "cost                        $0.2631      $0.0613",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
}

#[test]
fn save_to_sqlite() {
    let expected = "100 questions to ask\n60 questions to ask\n100 answers in the database, 2500 tokens\n";
    assert_eq!(output_of("save_to_sqlite"), expected);
}

#[test]
fn second_stage() {
    let printed = output_of("second_stage");
    assert!(
        printed.contains("document-7: translation of summary of document 7\n"),
        "{printed}"
    );
    assert!(
        printed.ends_with("20 documents went through both stages\n"),
        "{printed}"
    );
}

#[test]
fn async_openai() {
    let printed = output_of("async_openai");
    let numbers: Vec<u64> = printed
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [answered, asked, calls, rejected, _status, granted] = numbers[..] else {
        panic!("{printed}")
    };
    assert_eq!((answered, asked), (40, 40), "{printed}");
    assert_eq!((calls, granted), (40 + rejected, calls), "{printed}");
    assert!(rejected > 0, "{printed}");
}

#[test]
fn reqwest_client() {
    let printed = output_of("reqwest_client");
    assert!(printed.starts_with("20 of 20 questions answered\n"), "{printed}");
    assert!(!printed.contains("\n0 calls"), "{printed}");
}

#[test]
fn apalis_worker() {
    assert_eq!(
        output_of("apalis_worker"),
        "20 tasks answered in 24 calls, 4 of them throttled\n"
    );
}

#[test]
fn quickstart() {
    let printed = output_of("quickstart");
    assert!(
        printed.contains("200 items: 200 succeeded, 0 failed"),
        "{printed}"
    );
    // Two columns beside each other, the provider's and ours: they agree.
    for line in [
        "answered in full",
        "tokens billed for them",
        "cut, so usage is unknown",
    ] {
        let row = printed
            .lines()
            .find(|row| row.starts_with(line))
            .unwrap_or_else(|| panic!("{line}: {printed}"));
        let columns: Vec<&str> = row[line.len()..].split_whitespace().collect();
        assert!(columns.len() == 2 && columns[0] == columns[1], "{row}\n{printed}");
    }
}

#[test]
fn structured() {
    let printed = output_of("structured");
    let lines: Vec<&str> = printed.lines().collect();
    let [reviews, again, tokens, faults] = lines[..] else {
        panic!("{printed}")
    };
    assert_eq!(
        reviews,
        "100 reviews, 100 named, 100 with 1 to 5 stars, 100 would buy again"
    );
    let number = |text: &str| text.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap();
    assert!((15..70).contains(&number(again)), "{printed}");
    let numbers: Vec<u64> = tokens.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(
        numbers.len() == 2 && numbers[0] == numbers[1] && numbers[0] > 0,
        "{printed}"
    );
    assert_eq!(
        faults,
        "validation: /stars: 7 is greater than the maximum of 5; /product: is too vague"
    );
}
