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

/// A key in the environment is not spent: a real provider is asked only if it is named. Where the address is dead, a fault shows.
#[test]
fn quickstart_with_a_key_in_the_environment_is_simulated() {
    let output = example("quickstart")
        .env("OPENAI_API_KEY", "sk-not-to-be-used")
        .env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(
        printed.starts_with("asking the simulated provider at http://127.0.0.1:"),
        "{printed}"
    );
    assert!(
        printed.contains("200 items: 200 succeeded, 0 failed"),
        "{printed}"
    );
}

/// The picture in the docs is the one that the program makes.
#[test]
fn pace_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.svg");
    assert!(example("pace_picture").arg(&path).status().unwrap().success());
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/how-the-gate-paces.svg");
    assert!(
        std::fs::read(&path).unwrap() == std::fs::read(committed).unwrap(),
        "run: cargo run --example pace_picture"
    );
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
fn prompt_cache() {
    let printed = output_of("prompt_cache");
    for line in [
        "calls                           200          200",
        "  written to the cache            0         3750",
        "  read from the cache             0       746250",
        "cost                        $2.4776      $0.4655",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
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
fn reqwest_client() {
    let printed = output_of("reqwest_client");
    assert!(printed.starts_with("20 of 20 questions answered\n"), "{printed}");
    assert!(!printed.contains("\n0 calls"), "{printed}");
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

/// The numbers in what is printed, in order.
fn numbers(printed: &str) -> Vec<u64> {
    let words = printed.split(|character: char| !character.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn escalate() {
    let expected = "\
a ladder:        992 of 1000 answered; calls: 1000 small, 200 medium, 40 large; $0.093
always the best: 992 of 1000 answered; calls: 1016 large; $0.785
the ladder costs 12 % of that
";
    assert_eq!(output_of("escalate"), expected);
}

#[test]
fn temperatures() {
    let expected = "\
easy: asked at [0.0, 0.0]
harder: asked at [0.0, 0.5, 0.5]
hardest: asked at [0.0, 0.5, 1.0, 1.0]
";
    assert_eq!(output_of("temperatures"), expected);
}

#[test]
fn feedback() {
    let printed = output_of("feedback");
    let wrong = "- /stars: 8 is greater than the maximum of 5\n- /author/country: is missing\nWhat is right";
    assert!(printed.contains(wrong), "{printed}");
    assert!(
        printed.ends_with("100 of 100 succeeded on the second attempt\n"),
        "{printed}"
    );
}

#[test]
fn partial() {
    let printed = output_of("partial");
    let numbers = numbers(&printed);
    let [100, 100, _, first, _, _, second, _] = numbers[..] else {
        panic!("{printed}")
    };
    assert!(second * 20 < first, "{printed}");
}

#[test]
fn two_accounts() {
    let printed = output_of("two_accounts");
    let calls = |name: &str| -> u64 {
        let line = printed.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        numbers(line)[0]
    };
    let (small, large) = (calls("small: "), calls("large: "));
    assert_eq!(small + large, 250, "{printed}");
    assert!((40..=60).contains(&small), "{printed}");
}

#[test]
fn fallback() {
    let printed = output_of("fallback");
    let numbers = numbers(&printed);
    let [200, 200, first, throttled, second, calls, tokens @ ..] = &numbers[..] else {
        panic!("{printed}")
    };
    assert!(*throttled > 0 && first + second == 200, "{printed}");
    assert_eq!(*calls, 200 + throttled, "{printed}");
    // At the providers, in the items, in the ledger.
    let [in_items, in_ledger, billed, billed_items, billed_ledger] = tokens else {
        panic!("{printed}")
    };
    assert_eq!((in_items, in_ledger), (calls, calls), "{printed}");
    assert_eq!((billed_items, billed_ledger), (billed, billed), "{printed}");
}

#[test]
fn response_cache() {
    let expected = "\
20 asked, 180 shared
calls at the provider: 20
tokens: 1540 billed by the provider, 1540 in the items, 1540 in the ledger, 13860 saved
";
    assert_eq!(output_of("response_cache"), expected);
}

#[test]
fn agent() {
    let printed = output_of("agent");
    let answers = "What costs a lamp? It costs 20 dollars.\nWhat costs a chair? It costs 85 dollars.\n";
    let counts = printed
        .strip_prefix(answers)
        .unwrap_or_else(|| panic!("{printed}"));
    let [calls, in_items, in_ledger, billed, accounted] = numbers(counts)[..] else {
        panic!("{printed}")
    };
    assert_eq!((calls, billed), (in_items, accounted), "{printed}");
    // Two questions of two calls each, and some that failed.
    assert!(calls == in_ledger && calls > 4, "{printed}");
}

#[test]
fn tools() {
    let printed = output_of("tools");
    let lines: Vec<_> = printed.lines().collect();
    let [call, last, calls] = lines[..] else {
        panic!("{printed}")
    };
    assert!(call.starts_with(r#"state_of({"order":"#), "{printed}");
    assert!(call.ends_with(" is on its way"), "{printed}");
    assert_eq!((last, calls), ("the model has the last word: true", "calls: 2"));
}
