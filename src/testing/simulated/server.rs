//! The HTTP face: OpenAI's chat completions on loopback.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, serve};
use bytes::Bytes;
use futures::stream;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, lookup_host};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::SimulatedProvider;
use super::answer::Question;
use super::call::{Call, Rejection, Work};
use super::fault::Fate;
use super::hint::{Hint, openai_duration, up_to_milliseconds, up_to_seconds};
use super::ledger::{End, Ledger};
use super::socket::{Connection, Listener};
use crate::classify::{QuotaDimension, QuotaWindow, ReportedQuota};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// The largest request body that is read.
const LARGEST_REQUEST: usize = 64 << 20;
/// Time for bytes already written to reach the client before a connection is reset.
const BEFORE_RESET: Duration = Duration::from_millis(2);
/// Pieces in which a slow body dribbles.
const DRIBBLES: usize = 8;

/// A running HTTP face of a [`SimulatedProvider`].
///
/// It answers `POST /v1/chat/completions` (and `/chat/completions`), `GET /v1/models` and `GET /_sim/ledger`. A reset is
/// a real one: the client's kernel sees `RST`. Dropping it stops the server as [`shutdown`](Self::shutdown) does, but
/// in the background.
pub struct SimulatedServer {
    address: SocketAddr,
    provider: SimulatedProvider,
    stop: oneshot::Sender<Infallible>,
    task: JoinHandle<io::Result<()>>,
}

impl SimulatedProvider {
    /// Serves the HTTP face on `address`, such as `127.0.0.1:0` for any free port.
    ///
    /// # Errors
    /// If the address cannot be resolved or bound.
    pub async fn serve(&self, address: &str) -> io::Result<SimulatedServer> {
        let address = lookup_host(address).await?.next().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{address} names no address to listen on"),
            )
        })?;
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/chat/completions", post(complete))
            .route("/v1/models", get(models))
            .route("/models", get(models))
            .route("/_sim/ledger", get(ledger))
            .fallback(unknown)
            .with_state(self.clone())
            .into_make_service_with_connect_info::<Connection>();
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let serve = serve(Listener::new(listener), router).with_graceful_shutdown(async {
            // Nothing is ever sent: the sender is dropped.
            let _ = stopped.await;
        });
        Ok(SimulatedServer {
            address,
            provider: self.clone(),
            stop,
            task: tokio::spawn(async { serve.await }),
        })
    }
}

impl SimulatedServer {
    /// The base URL for clients: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the provider did and billed so far.
    pub fn ledger(&self) -> Ledger {
        self.provider.ledger()
    }

    /// Accepts no more connections, waits for the calls in flight, and returns the final ledger.
    ///
    /// Cancel safe: dropped, the server goes on stopping in the background.
    pub async fn shutdown(self) -> Ledger {
        let Self {
            provider, stop, task, ..
        } = self;
        drop(stop);
        // The server never fails, and a panic in it has been printed.
        let _ = task.await;
        provider.ledger()
    }
}

impl fmt::Debug for SimulatedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedServer")
            .field("address", &self.address)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

async fn ledger(State(provider): State<SimulatedProvider>) -> Json<Ledger> {
    Json(provider.ledger())
}

async fn models(State(provider): State<SimulatedProvider>) -> Json<Value> {
    let model = &provider.inner.config.model;
    Json(json!({
        "object": "list",
        "data": [{"id": model, "object": "model", "created": 0, "owned_by": "simulated"}],
    }))
}

async fn unknown(request: Request) -> Response {
    let message = format!(
        "Unknown request URL: {} {}.",
        request.method(),
        request.uri().path()
    );
    (
        StatusCode::NOT_FOUND,
        Json(error_body(&message, "invalid_request_error", Some("unknown_url"))),
    )
        .into_response()
}

async fn complete(
    State(provider): State<SimulatedProvider>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response {
    // From here on the call counts: when the client leaves, this future is dropped, and the call with it.
    let mut call = provider.receive();
    if call.is_reset_unread() {
        sleep(call.rejection_latency()).await;
        call.end(End::ResetUnread);
        return connection.reset();
    }
    match admit(&provider, &mut call, request).await {
        Ok(work) => work.respond(call, connection).await,
        Err(rejection) => {
            sleep(rejection.delay).await;
            let number = call.number();
            call.end(rejection.end);
            rejection.respond(number)
        }
    }
}

async fn admit(
    provider: &SimulatedProvider,
    call: &mut Call,
    request: Request,
) -> Result<Work, Box<Rejection>> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_REQUEST)
        .await
        .map_err(|error| Rejection::invalid(format!("The request body could not be read: {error}.")))?;
    if let Some(key) = &provider.inner.config.api_key {
        let given = head
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        if given.and_then(|value| value.strip_prefix("Bearer ")) != Some(key) {
            return Err(Rejection::wrong_key().into());
        }
    }
    let body = serde_json::from_slice(&body).map_err(|error| {
        Rejection::invalid(format!(
            "We could not parse the JSON body of your request: {error}."
        ))
    })?;
    let question = Question::from_body(&body).map_err(Rejection::invalid)?;
    call.admit(&question)
}

fn error_body(message: &str, kind: &str, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

impl Rejection {
    fn respond(self, number: u64) -> Response {
        let mut headers = HeaderMap::new();
        insert(&mut headers, "x-request-id", &format!("req-sim-{number}"));
        let mut message = self.message;
        let mut details = None;
        match self.hint {
            Some((Hint::RetryAfterMs, wait, _)) => {
                insert(
                    &mut headers,
                    "retry-after-ms",
                    &up_to_milliseconds(wait).as_millis(),
                );
            }
            Some((Hint::RetryAfterSeconds, wait, _)) => {
                insert(&mut headers, RETRY_AFTER.as_str(), &up_to_seconds(wait).as_secs());
            }
            Some((Hint::HttpDate, wait, _)) => {
                let since_epoch = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let date = SystemTime::UNIX_EPOCH + up_to_seconds(since_epoch + wait);
                insert(&mut headers, RETRY_AFTER.as_str(), &httpdate::fmt_http_date(date));
            }
            Some((Hint::Message, wait, _)) => {
                message.push_str(&format!(" Please try again in {}.", openai_duration(wait)));
            }
            Some((Hint::RetryInfo, wait, _)) => {
                details = Some(json!([{
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{}.{:09}s", wait.as_secs(), wait.subsec_nanos()),
                }]));
            }
            Some((Hint::ResetHeaders | Hint::None, ..)) | None => {}
        }
        if let Some(quota) = &self.quota {
            quota_headers(&mut headers, quota);
        }
        let mut body = error_body(&message, self.error_type, self.code);
        if let Some(details) = details {
            body["error"]["details"] = details;
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, headers, Json(body)).into_response()
    }
}

impl Work {
    async fn respond(self, call: Call, connection: Connection) -> Response {
        sleep(self.delay).await;
        if self.fate == Fate::ResetBeforeHead {
            call.end(End::CutBeforeHead);
            return connection.reset();
        }
        let mut headers = HeaderMap::new();
        insert(
            &mut headers,
            "x-request-id",
            &format!("req-sim-{}", call.number()),
        );
        if let Some(quota) = &self.quota {
            quota_headers(&mut headers, quota);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut body = self.body(call.number());
        let end = match self.fate {
            Fate::Truncated => {
                body.truncate(body.len() / 2);
                End::Garbled
            }
            Fate::Garbage => {
                body = "<html><body>Bad gateway, please come back.</body></html>".into();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
                End::Garbled
            }
            Fate::ResetInBody => End::CutInBody,
            Fate::Answer | Fate::ResetBeforeHead | Fate::Refusal | Fate::InvalidJson => End::Answered,
        };
        insert(&mut headers, CONTENT_LENGTH.as_str(), &body.len());
        let reply = Reply::new(body.into(), self.body_time, call, end, connection);
        (headers, reply.into_body()).into_response()
    }

    fn body(&self, number: u64) -> String {
        let answer = &self.answer;
        let (content, refusal) = if answer.refused {
            (None, Some(&answer.text))
        } else {
            (Some(&answer.text), None)
        };
        json!({
            "id": format!("chatcmpl-sim-{number}"),
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
                "logprobs": null,
                "finish_reason": answer.finish.as_str(),
            }],
            "usage": {
                "prompt_tokens": answer.usage.input,
                "completion_tokens": answer.usage.output,
                "total_tokens": answer.usage.total(),
                "prompt_tokens_details": {"cached_tokens": answer.usage.cached_input},
                "completion_tokens_details": {"reasoning_tokens": answer.usage.reasoning},
            },
            "system_fingerprint": "fp_simulated",
        })
        .to_string()
    }
}

/// A response body on its way out. Dropped before its last piece, the client has left.
struct Reply {
    rest: Bytes,
    piece: usize,
    pause: Duration,
    // Where a body that is cut ends.
    stop_at: usize,
    call: Call,
    end: End,
    connection: Connection,
}

impl Reply {
    fn new(body: Bytes, time: Duration, call: Call, end: End, connection: Connection) -> Self {
        let pieces = if time.is_zero() { 1 } else { DRIBBLES };
        let stop_at = if end == End::CutInBody { body.len() / 2 } else { 0 };
        Self {
            piece: body.len().div_ceil(pieces).max(1),
            rest: body,
            pause: time / pieces as u32,
            stop_at,
            call,
            end,
            connection,
        }
    }

    fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(Some(self), async |reply| {
            let mut reply = reply?;
            if reply.rest.len() <= reply.stop_at {
                sleep(BEFORE_RESET).await;
                reply.call.end(reply.end);
                return Some((Err(reply.connection.reset_error()), None));
            }
            if !reply.pause.is_zero() {
                sleep(reply.pause).await;
            }
            let piece = reply
                .rest
                .split_to(reply.piece.min(reply.rest.len() - reply.stop_at));
            if reply.rest.is_empty() {
                reply.call.end(reply.end);
                return Some((Ok(piece), None));
            }
            Some((Ok(piece), Some(reply)))
        }))
    }
}

fn insert(headers: &mut HeaderMap, name: &str, value: &dyn fmt::Display) {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.to_string())) {
        headers.insert(name, value);
    }
}

fn quota_headers(headers: &mut HeaderMap, quota: &ReportedQuota) {
    let dimensions = [
        (QuotaDimension::Requests, quota.requests),
        (QuotaDimension::Tokens, quota.tokens),
    ];
    for (dimension, window) in dimensions {
        let name = if dimension == QuotaDimension::Requests {
            "requests"
        } else {
            "tokens"
        };
        let QuotaWindow {
            limit,
            remaining,
            reset,
        } = window;
        if let (Some(limit), Some(remaining), Some(reset)) = (limit, remaining, reset) {
            insert(headers, &format!("x-ratelimit-limit-{name}"), &limit);
            insert(headers, &format!("x-ratelimit-remaining-{name}"), &remaining);
            insert(
                headers,
                &format!("x-ratelimit-reset-{name}"),
                &openai_duration(reset),
            );
        }
    }
}
