//! A loopback server that streams its answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::stream;

/// The duration of an answer, from its head to its end.
pub(crate) const ANSWER: Duration = Duration::from_millis(60);

/// The events of an answer: three pieces, the usage, and the end.
pub(crate) const EVENTS: [&str; 5] = [
    r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{"role":"assistant","content":"4"},"finish_reason":null}]}"#,
    r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{"content":"2"},"finish_reason":null}]}"#,
    r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}"#,
    "data: [DONE]",
];

/// The number of answers under way.
#[derive(Clone, Default)]
pub(crate) struct UnderWay {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl UnderWay {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Entered {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Entered(self.clone())
    }
}

struct Entered(UnderWay);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Streams [`EVENTS`] to each request, and stalls forever before the last two at `/stalls`. An answer is under way until right
/// before its last piece is sent.
pub(crate) async fn serve() -> (String, UnderWay) {
    let under_way = UnderWay::default();
    let gauge = under_way.clone();
    let answer = move |request: axum::extract::Request| {
        let stalls = request.uri().path().contains("stalls");
        let entered = gauge.enter();
        async move {
            let pieces = stream::unfold((0, Some(entered)), move |(number, mut entered)| async move {
                let event = EVENTS.get(number)?;
                if stalls && number == 3 {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(ANSWER / 5).await;
                if number + 1 == EVENTS.len() {
                    entered = None;
                }
                let piece = Bytes::from(format!("{event}\n\n"));
                Some((Ok::<_, Infallible>(piece), (number + 1, entered)))
            });
            Response::builder()
                .header(CONTENT_TYPE, "text/event-stream")
                .body(Body::from_stream(pieces))
                .unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, under_way)
}

/// Waits until `done` returns `true`.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("it never came to that");
}
