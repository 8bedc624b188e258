//! A server on loopback that does with each request exactly what a test says.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llm_batch::OpenAi;
use llm_batch::provider::Model;
use llm_batch::provider::openai::OpenAiBuilder;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Over all connections, from 0.
    pub(crate) number: usize,
    /// On its connection, from 0.
    pub(crate) on_connection: usize,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What happens to the connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Keep,
    /// Closes without having said so.
    Close,
    Reset,
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) wait: Duration,
    /// What follows, each after a pause.
    pub(crate) more: Vec<(Duration, Vec<u8>)>,
    pub(crate) after: After,
}

impl Reply {
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>, after: After) -> Self {
        Self {
            bytes: bytes.into(),
            wait: Duration::ZERO,
            more: Vec::new(),
            after,
        }
    }

    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<str>) -> Self {
        let body = body.as_ref();
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let text = format!(
            "HTTP/1.1 {status} Status\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self::raw(text, After::Keep)
    }

    pub(crate) fn json(body: &Value) -> Self {
        Self::new(200, &[("content-type", "application/json")], body.to_string())
    }

    pub(crate) fn text(answer: &str) -> Self {
        Self::json(&completion(answer))
    }

    /// The beginning of a stream of events: head and pieces, in chunks. Its end is for `after` or [`ended`](Self::ended).
    pub(crate) fn events(pieces: &[impl AsRef<str>]) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend(pieces.iter().flat_map(|piece| chunk(piece.as_ref())));
        Self::raw(bytes, After::Keep)
    }

    /// Another piece of a stream, after a pause.
    pub(crate) fn then(mut self, pause: Duration, piece: &str) -> Self {
        self.more.push((pause, chunk(piece)));
        self
    }

    /// The end of a chunked body.
    pub(crate) fn ended(self) -> Self {
        self.then(Duration::ZERO, "")
    }

    pub(crate) fn after(mut self, after: After) -> Self {
        self.after = after;
        self
    }

    /// Another header in the head.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        let line = format!("{name}: {value}\r\n");
        let first = self.bytes.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
        self.bytes.splice(first..first, line.into_bytes());
        self
    }

    pub(crate) fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

/// A chunk of a body; the empty one is the last.
fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// A plain chat completion of 10 + 2 tokens.
pub(crate) fn completion(answer: &str) -> Value {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "test-model-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    })
}

type Handler = Arc<dyn Fn(Received) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) received: Arc<Mutex<Vec<Received>>>,
    accept: tokio::task::JoinHandle<()>,
    serving: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Server {
    #[allow(clippy::unused_async)] // binding needs the runtime
    pub(crate) async fn start(handler: impl Fn(Received) -> Reply + Send + Sync + 'static) -> Self {
        let handler: Handler = Arc::new(move |request| {
            let reply = handler(request);
            Box::pin(async move { reply })
        });
        // With room for a thousand connections that are not accepted yet; the default resets some of them.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(4_096).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let received = Arc::new(Mutex::new(Vec::new()));
        let serving = Arc::new(Mutex::new(Vec::new()));
        let (counter, log) = (Arc::clone(&connections), Arc::clone(&received));
        let tasks = Arc::clone(&serving);
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let serving = serve(stream, Arc::clone(&handler), Arc::clone(&log));
                tasks.lock().unwrap().push(tokio::spawn(serving));
            }
        });
        Self {
            address,
            connections,
            received,
            accept,
            serving,
        }
    }

    pub(crate) fn builder(&self) -> OpenAiBuilder {
        OpenAi::builder()
            .base_url(format!("http://{}/v1", self.address))
            .api_key("sk-test-0123456789")
    }

    pub(crate) fn model(&self) -> Model {
        self.builder().build().unwrap().model("test-model")
    }

    /// Closes every connection that was accepted.
    pub(crate) fn close_all(&self) {
        for task in self.serving.lock().unwrap().drain(..) {
            task.abort();
        }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, handler: Handler, log: Arc<Mutex<Vec<Received>>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    let mut on_connection = 0;
    while let Some((method, path, headers, body)) = read_request(&mut stream, &mut buffer).await {
        let request = {
            let mut log = log.lock().unwrap();
            let request = Received {
                number: log.len(),
                on_connection,
                method,
                path,
                headers,
                body,
            };
            log.push(request.clone());
            request
        };
        on_connection += 1;
        let reply = handler(request).await;
        if !reply.wait.is_zero() {
            tokio::time::sleep(reply.wait).await;
        }
        if stream.write_all(&reply.bytes).await.is_err() {
            return;
        }
        for (pause, bytes) in reply.more {
            tokio::time::sleep(pause).await;
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        match reply.after {
            After::Keep => {}
            After::Close => return,
            After::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
        }
    }
}

type Request = (String, String, Vec<(String, String)>, String);

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let mut chunk = [0; 16 * 1024];
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut chunk).await {
            Ok(count @ 1..) => buffer.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
    let (method, path) = (first.next().unwrap(), first.next().unwrap());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = match length {
        Some((_, length)) => length.parse().unwrap(),
        None if matches!(method.as_str(), "GET" | "DELETE") => 0,
        None => panic!("bodies are sent with their length"),
    };
    let body_start = head_end + 4;
    while buffer.len() < body_start + length {
        match stream.read(&mut chunk).await {
            Ok(count @ 1..) => buffer.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
    let body = String::from_utf8(buffer[body_start..body_start + length].to_vec()).unwrap();
    buffer.drain(..body_start + length);
    Some((method, path, headers, body))
}
