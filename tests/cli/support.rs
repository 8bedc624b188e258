//! Running the program, and servers for it to talk to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llm_batch::testing::{Ledger, SimulatedProvider, SimulatedProviderBuilder, SimulatedServer};
use serde_json::Value;

/// The program, with nothing of the environment that could change what it does.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-batch"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_read = ["_API_KEY", "_BASE_URL", "_ENDPOINT"]
            .iter()
            .any(|end| text.ends_with(end));
        if is_read || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    command.env("XDG_CACHE_HOME", unused_folder());
    command
}

/// A folder that does not exist, and that no other call returns: what a run learns is not known to the others.
pub(crate) fn unused_folder() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "cache-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The output and the status of a finished program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn code(&self, expected: i32) -> &Self {
        assert_eq!(
            self.status.code(),
            Some(expected),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Standard output as rows.
    pub(crate) fn rows(&self) -> Vec<Value> {
        rows(&self.stdout)
    }

    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "no {text:?} in:\n{}", self.stderr);
        self
    }

    /// The summary of `--summary json`.
    pub(crate) fn summary(&self) -> Value {
        let line = self.stderr.lines().rev().find(|line| line.starts_with('{'));
        serde_json::from_str(line.unwrap()).unwrap()
    }
}

pub(crate) fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Ids of rows, sorted as numbers where they are.
pub(crate) fn ids(rows: &[Value]) -> Vec<String> {
    let mut ids: Vec<_> = rows
        .iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), id.clone()));
    ids
}

/// Runs the program to its end.
pub(crate) fn run<I: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = I>,
    stdin: &str,
) -> Finished {
    finish(start(arguments, Some(stdin)))
}

/// Shows what would be sent.
pub(crate) fn dry(arguments: &[&str], stdin: &str) -> Finished {
    run(
        ["run", "--model", "sim:steady", "--dry-run"]
            .iter()
            .chain(arguments),
        stdin,
    )
}

/// Starts the program. Without a text, its standard input stays open.
pub(crate) fn start<I: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = I>,
    stdin: Option<&str>,
) -> Child {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(text) = stdin {
        let mut pipe = child.stdin.take().unwrap();
        let text = text.to_owned();
        // The program may not read all of it.
        std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())));
    }
    child
}

pub(crate) fn finish(child: Child) -> Finished {
    let output = child.wait_with_output().unwrap();
    Finished {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until something is so; fails after half a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Complete lines of a file that is being written.
pub(crate) fn lines_of(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.matches('\n').count())
}

/// A simulated provider that this test owns.
pub(crate) struct Provider {
    runtime: tokio::runtime::Runtime,
    server: Option<SimulatedServer>,
}

impl Provider {
    pub(crate) fn start(set_up: impl FnOnce(SimulatedProviderBuilder) -> SimulatedProviderBuilder) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let provider = set_up(SimulatedProvider::builder()).build().unwrap();
        let server = runtime.block_on(provider.serve("127.0.0.1:0")).unwrap();
        Self {
            runtime,
            server: Some(server),
        }
    }

    /// `run --model openai-compatible:sim --base-url ..` and further arguments.
    pub(crate) fn arguments<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let url = self.server.as_ref().unwrap().base_url();
        let mut all = ["run", "--model", "openai-compatible:sim", "--base-url", &url]
            .map(str::to_owned)
            .to_vec();
        all.extend(more.into_iter().map(str::to_owned));
        all
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.server.as_ref().unwrap().ledger()
    }

    /// The ledger once every call has ended.
    pub(crate) fn shutdown(mut self) -> Ledger {
        self.runtime.block_on(self.server.take().unwrap().shutdown())
    }
}

/// A server that keeps what it was sent.
pub(crate) struct Recorder {
    pub(crate) url: String,
    pub(crate) requests: Arc<Mutex<Vec<Recorded>>>,
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Recorder {
    /// Answers every request with the same body.
    pub(crate) fn start(status: u16, answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::answering(move |_| (status, answer.clone()))
    }

    /// Answers each request by its body.
    pub(crate) fn answering(answer: impl Fn(&Value) -> (u16, String) + Send + 'static) -> Self {
        Self::with_headers("", answer)
    }

    /// The same, with more lines in the head of each answer.
    pub(crate) fn with_headers(
        headers: &'static str,
        answer: impl Fn(&Value) -> (u16, String) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Recorded>>>::default();
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                if length == 0 || stream.read_exact(&mut body).is_err() {
                    continue;
                }
                let body = serde_json::from_slice(&body).unwrap();
                let (status, answer) = answer(&body);
                let reply = format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{answer}",
                    answer.len()
                );
                kept.lock().unwrap().push(Recorded { head, body });
                let _ = stream.get_mut().write_all(reply.as_bytes());
            }
        });
        Self { url, requests }
    }

    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .map(|request| request.body.clone())
            .collect()
    }
}

/// A completion as OpenAI sends it.
pub(crate) const COMPLETION: &str = r#"{
  "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "a-model-2026",
  "choices": [{"index": 0, "message": {"role": "assistant", "content": "line one\nline \"two\""}, "finish_reason": "stop"}],
  "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 3}},
  "unknown_field": {"z": 1, "a": 2}
}"#;
