//! The HTTP face: the wires of all providers on loopback.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, serve};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tokio::net::{TcpSocket, lookup_host};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::SimulatedProvider;
use super::call::{Call, Work};
use super::fault::Fate;
use super::ledger::{End, Ledger};
use super::outgoing::{self, Outgoing};
use super::rejection::Rejection;
use super::socket::{Connection, Listener};
use super::wire::{
    self, Chat, Gemini, Messages, Refused, Reply, Responses, Wire, insert, model_and_method, query,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// The largest request body that is read.
const LARGEST_REQUEST: usize = 64 << 20;

/// A running HTTP face of a [`SimulatedProvider`].
///
/// Each provider's calls are at the paths that it has itself, streamed or not as the request asks:
///
/// | provider | base URL | paths |
/// |---|---|---|
/// | OpenAI, and servers that speak like it | [`base_url`](Self::base_url) | `/chat/completions`, `/responses`, `/models` |
/// | Anthropic | [`origin`](Self::origin) | `/v1/messages`, `/v1/messages/count_tokens`, `/v1/models` |
/// | Gemini | [`origin`](Self::origin) | `/{v1,v1beta}/models/MODEL:generateContent`, `:streamGenerateContent?alt=sse`, `:countTokens`, `/models`, `/cachedContents` |
///
/// `GET /_sim/ledger` answers with the [`Ledger`] as JSON. A reset is a real one: the client's kernel sees `RST`. Dropping
/// it stops the server as [`shutdown`](Self::shutdown) does, but in the background.
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
        let router = routes()
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
    /// The base URL for clients of OpenAI's wires: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.origin())
    }

    /// The base URL for clients of Anthropic and Gemini, whose paths begin with the version: `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
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

/// The routes of all wires, at the paths that the providers have.
fn routes() -> Router<SimulatedProvider> {
    let mut router = Router::new()
        .route("/v1/chat/completions", calls(&Chat))
        .route("/chat/completions", calls(&Chat))
        .route("/v1/responses", calls(&Responses))
        .route("/responses", calls(&Responses))
        .route("/v1/messages", calls(&Messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/models", get(models))
        .route("/_sim/ledger", get(ledger));
    for version in ["/v1", "/v1beta"] {
        router = router
            .route(&format!("{version}/models"), get(models))
            .route(&format!("{version}/models/{{model}}"), get(model).post(generate))
            .route(
                &format!("{version}/cachedContents"),
                get(list_contents).post(create_content),
            )
            .route(
                &format!("{version}/cachedContents/{{id}}"),
                get(get_content).patch(patch_content).delete(delete_content),
            );
    }
    router.fallback(unknown)
}

/// Whose request it is, as far as path and headers tell: some paths are the same everywhere.
fn wire_of(head: &Parts) -> &'static dyn Wire {
    let path = head.uri.path();
    let has = |name: &str| head.headers.contains_key(name);
    let keyed = |pair: &str| pair.starts_with("key=");
    if has("anthropic-version") || path.starts_with("/v1/messages") {
        &Messages
    } else if path.starts_with("/v1beta/")
        || path.starts_with("/v1/cachedContents")
        || has("x-goog-api-key")
        || head.uri.query().is_some_and(|query| query.split('&').any(keyed))
    {
        &Gemini
    } else {
        &Chat
    }
}

async fn models(State(provider): State<SimulatedProvider>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let wire = wire_of(&head);
    let list = check_key(&provider, wire, &head).map(|()| wire.models(&provider.inner.config.model));
    answer(wire, list)
}

async fn model(
    State(provider): State<SimulatedProvider>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let wire = wire_of(&head);
    answer(
        wire,
        check_key(&provider, wire, &head).map(|()| wire.model(&name)),
    )
}

async fn unknown(request: Request) -> Response {
    let (head, _) = request.into_parts();
    let rejection = Rejection::unknown_url(&head.method, head.uri.path());
    answer(wire_of(&head), Err(rejection.into()))
}

async fn count_tokens(State(provider): State<SimulatedProvider>, request: Request) -> Response {
    let counted = match read(&provider, &Messages, request).await {
        Ok((head, body)) => wire::count_tokens(&head, &body),
        Err(rejection) => Err(rejection),
    };
    answer(&Messages, counted)
}

/// The methods of Gemini's models.
async fn generate(
    state: State<SimulatedProvider>,
    connection: ConnectInfo<Connection>,
    request: Request,
) -> Response {
    match model_and_method(request.uri().path()) {
        Some((_, "generateContent" | "streamGenerateContent")) => {
            complete(&Gemini, state.0, connection.0, request).await
        }
        Some((_, "countTokens")) => {
            let counted = match read(&state.0, &Gemini, request).await {
                Ok((_, body)) => wire::count_content_tokens(&body),
                Err(rejection) => Err(rejection),
            };
            answer(&Gemini, counted)
        }
        _ => unknown(request).await,
    }
}

async fn create_content(State(provider): State<SimulatedProvider>, request: Request) -> Response {
    let created = match read(&provider, &Gemini, request).await {
        Ok((_, body)) => provider.create_content(&body),
        Err(rejection) => Err(rejection),
    };
    answer(&Gemini, created)
}

async fn list_contents(State(provider): State<SimulatedProvider>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let list = check_key(&provider, &Gemini, &head)
        .and_then(|()| provider.list_contents(query(&head, "pageSize"), query(&head, "pageToken")));
    answer(&Gemini, list)
}

async fn get_content(
    State(provider): State<SimulatedProvider>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let found = check_key(&provider, &Gemini, &head).and_then(|()| provider.get_content(&id));
    answer(&Gemini, found)
}

async fn patch_content(
    State(provider): State<SimulatedProvider>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let patched = match read(&provider, &Gemini, request).await {
        Ok((_, body)) => provider.patch_content(&id, &body),
        Err(rejection) => Err(rejection),
    };
    answer(&Gemini, patched)
}

async fn delete_content(
    State(provider): State<SimulatedProvider>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let deleted = check_key(&provider, &Gemini, &head).and_then(|()| provider.delete_content(&id));
    answer(&Gemini, deleted)
}

/// The answer to what is no call.
fn answer(wire: &dyn Wire, result: Result<Value, Box<Rejection>>) -> Response {
    match result {
        Ok(body) => (wire.headers(0, None), Json(body)).into_response(),
        Err(rejection) => respond(wire.refuse(&rejection, 0)),
    }
}

fn respond(refused: Refused) -> Response {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, refused.headers, Json(refused.body)).into_response()
}

fn check_key(provider: &SimulatedProvider, wire: &dyn Wire, head: &Parts) -> Result<(), Box<Rejection>> {
    match &provider.inner.config.api_key {
        Some(key) if wire.key(head).as_ref() != Some(key) => Err(Rejection::wrong_key().into()),
        _ => Ok(()),
    }
}

async fn read(
    provider: &SimulatedProvider,
    wire: &dyn Wire,
    request: Request,
) -> Result<(Parts, Map<String, Value>), Box<Rejection>> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_REQUEST)
        .await
        .map_err(|error| Rejection::invalid(format!("The request body could not be read: {error}.")))?;
    check_key(provider, wire, &head)?;
    let body = serde_json::from_slice(&body).map_err(|error| {
        Rejection::invalid(format!(
            "We could not parse the JSON body of your request: {error}."
        ))
    })?;
    Ok((head, body))
}

fn calls(wire: &'static dyn Wire) -> MethodRouter<SimulatedProvider> {
    post(
        move |State(provider), ConnectInfo(connection), request: Request| {
            complete(wire, provider, connection, request)
        },
    )
}

async fn complete(
    wire: &'static dyn Wire,
    provider: SimulatedProvider,
    connection: Connection,
    request: Request,
) -> Response {
    // From here on the call counts: when the client leaves, this future is dropped, and the call with it.
    let mut call = provider.receive();
    if call.is_reset_unread() {
        sleep(call.rejection_latency()).await;
        call.end(End::ResetUnread);
        return connection.reset();
    }
    let admitted = match read(&provider, wire, request).await {
        Ok((head, body)) => wire.read(&head, body).and_then(|asked| call.admit(asked)),
        Err(rejection) => Err(rejection),
    };
    match admitted {
        Ok(work) => {
            work.respond(wire, provider.inner.config.keep_alive, call, connection)
                .await
        }
        Err(rejection) => {
            sleep(call.rejection_latency()).await;
            let refused = wire.refuse(&rejection, call.number());
            call.end(rejection.end(refused.status));
            respond(refused)
        }
    }
}

impl Work {
    async fn respond(
        self,
        wire: &dyn Wire,
        keep_alive: Option<Duration>,
        call: Call,
        connection: Connection,
    ) -> Response {
        let early = keep_alive.filter(|_| self.asked.streamed && self.fate != Fate::ResetBeforeHead);
        if early.is_none() {
            sleep(self.delay).await;
        }
        if self.fate == Fate::ResetBeforeHead {
            call.end(End::CutBeforeHead);
            return connection.reset();
        }
        let number = call.number();
        let mut headers = wire.headers(number, self.quota.as_ref());
        let reply = Reply {
            number,
            model: &self.model,
            asked: &self.asked,
            answer: &self.answer,
        };
        let streamed = self.asked.streamed && self.fate != Fate::Garbage;
        let (pieces, end) = if streamed {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/event-stream; charset=utf-8"),
            );
            self.stream(wire, &reply)
        } else {
            let mut body = wire.whole(&reply).to_string();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let end = match self.fate {
                Fate::Truncated => End::Garbled,
                Fate::Garbage => {
                    body = "<html><body>Bad gateway, please come back.</body></html>".into();
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
                    End::Garbled
                }
                Fate::ResetInBody => End::CutInBody,
                _ => End::Answered,
            };
            let mut body = Bytes::from(body);
            let half = body.len() / 2;
            if self.fate == Fate::Truncated {
                body.truncate(half);
            }
            insert(&mut headers, CONTENT_LENGTH.as_str(), &body.len());
            if self.fate == Fate::ResetInBody {
                body.truncate(half);
            }
            (outgoing::pieces(body, self.body_time), end)
        };
        let mut body = Outgoing::new(pieces, self.body_time, call, end, connection);
        if self.fate == Fate::ResetInBody {
            body = body.reset();
        }
        if streamed {
            body = body.stall(self.stall);
        }
        if let Some(interval) = early {
            body = body.keep_alive(self.delay, interval, wire.keep_alive());
        }
        (headers, body.into_body()).into_response()
    }

    /// The events of a stream, and how it ends.
    fn stream(&self, wire: &dyn Wire, reply: &Reply<'_>) -> (VecDeque<Bytes>, End) {
        let mut events = wire.events(reply);
        let end = match self.fate {
            Fate::StreamCut | Fate::ResetInBody => End::CutInBody,
            Fate::StreamError => End::ErrorEvent,
            Fate::Truncated => End::Garbled,
            _ => End::Answered,
        };
        if end != End::Answered {
            // In the middle, and never with the last event, which would make an answer of it.
            let middle = events.len().saturating_sub(1) / 2;
            events.truncate(middle + 1);
        }
        if end == End::ErrorEvent {
            events.push(wire.error_event(reply.number, &events));
        }
        let mut pieces: VecDeque<_> = events.into_iter().map(Bytes::from).collect();
        if end == End::Garbled
            && let Some(event) = pieces.back_mut()
        {
            event.truncate(event.len() / 2);
        }
        (pieces, end)
    }
}
