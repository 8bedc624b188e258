//! The HTTP server, with the wire formats of all providers.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, serve};
use http::request::Parts;
use serde_json::Value;
use tokio::net::{TcpSocket, lookup_host};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::SimulatedProvider;
use super::ledger::Ledger;
use super::rejection::Rejection;
use super::respond::{check_key, complete, read, respond};
use super::socket::{Connection, Listener};
use super::wire::{self, Chat, Gemini, Messages, Responses, Wire, model_and_method, query};

/// The maximum number of connections waiting to be accepted.
const BACKLOG: u32 = 4096;

/// A running HTTP server of a [`SimulatedProvider`].
///
/// It has the real paths of each provider, streamed or not as requested:
///
/// | provider | base URL | paths |
/// |---|---|---|
/// | OpenAI, and compatible servers | [`base_url`](Self::base_url) | `/chat/completions`, `/responses`, `/models` |
/// | Anthropic | [`origin`](Self::origin) | `/v1/messages`, `/v1/messages/count_tokens`, `/v1/models` |
/// | Gemini | [`origin`](Self::origin) | `/{v1,v1beta}/models/MODEL:generateContent`, `:streamGenerateContent?alt=sse`, `:countTokens`, `/models`, `/cachedContents` |
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use llm_batch::testing::SimulatedProvider;
///
/// let provider = SimulatedProvider::builder().build().unwrap();
/// let server = provider.serve("127.0.0.1:0").await?;
/// assert_eq!(server.base_url(), format!("{}/v1", server.origin()));
/// assert!(server.shutdown().await.is_balanced());
/// # Ok(())
/// # }
/// ```
///
/// Only calls count: lists, token counts and context caches are not subject to quotas and faults. `GET /_sim/ledger` returns
/// the [`Ledger`] as JSON. A reset is a real one: the client's kernel sees `RST`. Dropping
/// it stops the server like [`shutdown`](Self::shutdown), but in the background.
pub struct SimulatedServer {
    address: SocketAddr,
    provider: SimulatedProvider,
    stop: oneshot::Sender<Infallible>,
    task: JoinHandle<io::Result<()>>,
}

impl SimulatedProvider {
    /// Starts the HTTP server on `address`, such as `127.0.0.1:0` for any free port.
    ///
    /// # Errors
    /// If the address cannot be resolved or bound.
    pub async fn serve(&self, address: &str) -> io::Result<SimulatedServer> {
        let address = lookup_host(address).await?.next().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{address} does not resolve to an address to listen on"),
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
            // Nothing is ever sent: dropping the sender is the signal.
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
    /// The base URL for OpenAI clients: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.origin())
    }

    /// The base URL for clients of Anthropic and Gemini, whose paths begin with the version: `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the provider's calls and billed tokens so far.
    pub fn ledger(&self) -> Ledger {
        self.provider.ledger()
    }

    /// Stops accepting connections, waits for the calls in flight, and returns the final ledger.
    ///
    /// Cancel safe: if the future is dropped, the server continues to stop in the background.
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

/// The routes of all wire formats, at the providers' real paths.
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

/// Returns the wire format of a request by its path and headers, as some paths are shared.
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

/// The reply to a request that is not a call.
fn answer(wire: &dyn Wire, result: Result<Value, Box<Rejection>>) -> Response {
    match result {
        Ok(body) => (wire.headers(0, None), Json(body)).into_response(),
        Err(rejection) => respond(wire.refuse(&rejection, 0)),
    }
}

fn calls(wire: &'static dyn Wire) -> MethodRouter<SimulatedProvider> {
    post(
        move |State(provider), ConnectInfo(connection), request: Request| {
            complete(wire, provider, connection, request)
        },
    )
}
