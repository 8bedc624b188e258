//! The handling of calls over HTTP, from the request to the last byte of the response.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tokio::time::sleep;

use super::SimulatedProvider;
use super::call::{Call, Work};
use super::fault::Fate;
use super::ledger::End;
use super::outgoing::{self, Outgoing};
use super::rejection::Rejection;
use super::socket::Connection;
use super::wire::{Refused, Reply, Wire, insert};

/// The maximum size of a request body.
const LARGEST_REQUEST: usize = 64 << 20;

pub(super) async fn complete(
    wire: &'static dyn Wire,
    provider: SimulatedProvider,
    connection: Connection,
    request: Request,
) -> Response {
    // From here on the call counts: if the client disconnects, this future is dropped, and the call with it.
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

pub(super) fn respond(refused: Refused) -> Response {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, refused.headers, Json(refused.body)).into_response()
}

pub(super) fn check_key(
    provider: &SimulatedProvider,
    wire: &dyn Wire,
    head: &Parts,
) -> Result<(), Box<Rejection>> {
    match &provider.inner.config.api_key {
        Some(key) if wire.key(head).as_ref() != Some(key) => Err(Rejection::wrong_key().into()),
        _ => Ok(()),
    }
}

pub(super) async fn read(
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

impl Work {
    async fn respond(
        self,
        wire: &dyn Wire,
        keep_alive: Option<Duration>,
        call: Call,
        connection: Connection,
    ) -> Response {
        let early = keep_alive
            .filter(|_| self.asked.streamed && self.fate != Fate::ResetBeforeHead)
            .zip(wire.keep_alive());
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
        if let Some((interval, sign)) = early {
            body = body.keep_alive(self.delay, interval, sign);
        }
        (headers, body.into_body()).into_response()
    }

    /// The events of a stream, and its end.
    fn stream(&self, wire: &dyn Wire, reply: &Reply<'_>) -> (VecDeque<Bytes>, End) {
        let mut events = wire.events(reply);
        let end = match self.fate {
            Fate::StreamCut | Fate::ResetInBody => End::CutInBody,
            Fate::StreamError => End::ErrorEvent,
            Fate::Truncated => End::Garbled,
            _ => End::Answered,
        };
        if end != End::Answered {
            // In the middle, and never after the last event, which would complete the answer.
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
