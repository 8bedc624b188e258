//! A loopback server that plays a script of status codes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) left: Arc<Mutex<VecDeque<u16>>>,
}

/// Answers each request with the next status of the script: a chat completion for 200, OpenAI's error body with a hint
/// of zero seconds for anything else.
pub(crate) async fn serve(statuses: impl IntoIterator<Item = u16>) -> Server {
    let left: Arc<Mutex<VecDeque<u16>>> = Arc::new(Mutex::new(statuses.into_iter().collect()));
    let script = Arc::clone(&left);
    let answer = move || {
        let status = script.lock().unwrap().pop_front().unwrap_or(418);
        async move {
            let body = match status {
                200 => {
                    r#"{"id":"c-1","object":"chat.completion","created":1,"model":"m-1",
                        "choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"42"}}],
                        "usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}"#
                }
                _ => r#"{"error":{"message":"not now","type":"t","param":null,"code":null}}"#,
            };
            let headers = [("content-type", "application/json"), ("retry-after", "0")];
            (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Server { url, left }
}

impl Server {
    pub(crate) fn is_played_out(&self) -> bool {
        self.left.lock().unwrap().is_empty()
    }
}
