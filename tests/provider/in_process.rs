//! Tests that need a process of their own: for its environment, or for its limits.

use std::process::Command;
use std::time::Duration;

use llm_batch::{Anthropic, Delivery, ErrorKind, LlmRequest, OpenAi, strategy};
use tower::ServiceExt;

use crate::server::{Reply, Server};

/// Runs one of the ignored tests below in a process of its own, and gives what it printed.
fn in_process(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        &format!("in_process::{test}"),
        "--ignored",
        "--nocapture",
    ]);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["_API_KEY", "_BASE_URL", "_ENDPOINT"]
            .iter()
            .any(|end| text.ends_with(end))
        {
            command.env_remove(&name);
        }
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What becomes of a named strategy, or of `from_env`, under these variables.
pub(crate) fn describe_in(name: &str, variables: &[(&str, &str)]) -> String {
    let mut variables = variables.to_vec();
    variables.push(("DESCRIBE", name));
    in_process("describe", &variables)
}

#[test]
#[ignore = "a child process of another test runs it, with an environment of its own"]
fn describe() {
    let name = std::env::var("DESCRIBE").unwrap_or_default();
    let result = match name.as_str() {
        "from_env" => OpenAi::from_env().map(|client| format!("{client:?}")),
        "anthropic_from_env" => Anthropic::from_env().map(|client| format!("{client:?}")),
        "gemini_from_env" => llm_batch::Gemini::from_env().map(|client| format!("{client:?}")),
        name => strategy(name).map(|_| "a strategy".to_owned()),
    };
    match result {
        Ok(text) => println!("ok: {text}"),
        Err(error) => println!("error: {error}"),
    }
}

#[tokio::test]
#[ignore = "a child process of another test runs it, with an environment of its own"]
async fn one_call() {
    match OpenAi::from_env()
        .unwrap()
        .model("m")
        .oneshot(LlmRequest::new("x".into()))
        .await
    {
        Ok(answer) => println!("ok: {}", answer.output),
        Err(error) => println!("error: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_proxy_stands_before_a_server_on_this_machine() {
    let server = Server::start(|_| Reply::text("direct")).await;
    let base = format!("http://{}/v1", server.address);
    let dead = "http://127.0.0.1:1";
    let variables = [
        ("OPENAI_BASE_URL", base.as_str()),
        ("HTTP_PROXY", dead),
        ("http_proxy", dead),
        ("ALL_PROXY", dead),
    ];
    let text = in_process("one_call", &variables);
    assert!(text.contains("ok: direct"), "{text}");
    // Any other host goes through it.
    let variables = [
        ("OPENAI_BASE_URL", "http://host.example/v1"),
        ("HTTP_PROXY", dead),
        ("http_proxy", dead),
    ];
    let text = in_process("one_call", &variables);
    assert!(
        text.contains("error: connection") && text.contains("refused"),
        "{text}"
    );
}

/// Runs calls at once under a limit on open files, and prints what failed and what was warned of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a child process of another test runs it, with an environment of its own"]
async fn many_calls() {
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    tracing_subscriber::fmt()
        .with_writer(std::io::stdout)
        .with_ansi(false)
        .init();
    rlimit::Resource::NOFILE
        .set(number("FILES"), rlimit::Resource::NOFILE.get_hard().unwrap())
        .unwrap();
    let model = OpenAi::from_env().unwrap().model("m");
    let calls: Vec<_> = (0..number("CALLS"))
        .map(|_| tokio::spawn(model.clone().oneshot(LlmRequest::new("x".into()))))
        .collect();
    let mut failed = 0;
    for call in calls {
        if let Err(error) = call.await.unwrap() {
            assert_eq!(
                (error.kind(), error.delivery()),
                (ErrorKind::Connection, Delivery::NotSent),
                "{error}"
            );
            assert!(error.to_string().contains("too many open files"), "{error}");
            failed += 1;
        }
    }
    println!("failed: {failed}.");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_open_files_is_warned_of_once_and_named_when_it_is_reached() {
    let server = Server::start(|_| Reply::text("ok").wait(Duration::from_millis(500))).await;
    let base = format!("http://{}/v1", server.address);
    let run = |calls, files| {
        in_process(
            "many_calls",
            &[
                ("OPENAI_BASE_URL", base.as_str()),
                ("CALLS", calls),
                ("FILES", files),
            ],
        )
    };
    let warning = "connections near the limit of open files";

    let text = run("256", "300");
    assert_eq!(text.matches(warning).count(), 1, "{text}");
    assert!(text.contains("failed: 0."), "{text}");
    let text = run("64", "300");
    assert!(!text.contains(warning) && text.contains("failed: 0."), "{text}");
    let text = run("256", "128");
    assert_eq!(text.matches(warning).count(), 1, "{text}");
    assert!(
        text.contains("failed: ") && !text.contains("failed: 0."),
        "{text}"
    );
}
