//! Runs every example and checks its output. `cargo test` has built them beside this program.
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
    // The tests must not use the developer's API keys.
    command
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .env_remove("MODEL");
    command
}

/// Runs the example, checks that it succeeds, and returns its standard output.
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

/// A client of another crate as a strategy: the provider and the accounts agree.
fn client_strategy(name: &str) {
    let printed = output_of(name);
    let numbers = numbers(&printed);
    let [40, 40, calls, accounted, billed, tokens, rejected, failed] = numbers[..] else {
        panic!("{printed}")
    };
    assert_eq!(
        (calls, tokens, rejected),
        (accounted, billed, failed),
        "{printed}"
    );
    assert!(rejected > 0 && calls == 40 + rejected, "{printed}");
}

/// The numbers in the output, in order.
fn numbers(printed: &str) -> Vec<u64> {
    let words = printed.split(|character: char| !character.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn save_to_sqlite() {
    let expected = "100 questions to ask\n60 questions to ask\n100 answers in the database, 2500 tokens\n";
    assert_eq!(output_of("save_to_sqlite"), expected);
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
fn apalis_worker() {
    assert_eq!(
        output_of("apalis_worker"),
        "20 tasks answered in 24 calls, 4 of them throttled\n"
    );
}

#[test]
fn async_openai_strategy() {
    client_strategy("async_openai_strategy");
}

#[test]
fn agentai_strategy() {
    assert_eq!(
        output_of("agentai_strategy"),
        "40 of 40 answered\ncalls: 50 at the provider, 50 accounted\ntokens: 3657 billed, 3657 accounted\n"
    );
}

#[test]
fn genai_strategy() {
    client_strategy("genai_strategy");
}
