//! Accepting connections and the limits around a request: connections, header time, idle time, body size and time, requests in
//! flight, panics. Started by the gateway actor. Connections are tasks of their own, so a crash of the actor drops none; only a
//! graceful stop asks them to end. Every request is measured here for the service level and leaves one log line, without the
//! query, an address, a key or a signature.

use std::{
    convert::Infallible,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower_service::Service;
use warp::{
    Filter as _, Rejection,
    filters::BoxedFilter,
    http::{StatusCode, header},
    reply::Response,
};

use super::{
    Shell,
    respond::{self, NoRoute, Refused},
    route::{Peer, Trail},
};
use crate::{
    error::{Error, Result},
    slo,
};

/// The longest request head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Wait after a failure to accept, e.g. without file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How much of a body that is too large is read and thrown away, so that the client gets to read its 413.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;
const DRAIN: Duration = Duration::from_secs(2);

/// What outlives the actor: the socket, the counts, the word to stop.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    connections: Arc<Semaphore>,
    in_flight: Semaphore,
    max_connections: u32,
    stop: watch::Sender<bool>,
    shell: Shell,
}

impl Door {
    pub(super) fn new(listener: TcpListener, shell: Shell) -> Self {
        let limits = &shell.env.config().server;
        let max_connections = u32::try_from(limits.max_connections).unwrap_or(u32::MAX);
        Self {
            listener,
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            in_flight: Semaphore::new(limits.max_in_flight),
            max_connections,
            stop: watch::Sender::new(false),
            shell,
        }
    }

    pub(super) fn reopen(&self) {
        self.stop.send_replace(false);
    }

    /// Asks every connection to end after its request and waits for that.
    pub(super) async fn close(&self, limit: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(limit, self.connections.acquire_many(self.max_connections)).await.is_err() {
            tracing::warn!(target: "gateway", "some requests had not ended when the gateway stopped");
        }
    }
}

/// Accepts until it is aborted.
pub(super) async fn accept(door: Arc<Door>, routes: BoxedFilter<(Response,)>) -> Infallible {
    let service = warp::service(routes.recover(fallback).unify());
    loop {
        let Ok(permit) = door.connections.clone().acquire_owned().await else {
            unreachable!("the semaphore is never closed");
        };
        let (stream, address) = match door.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(target: "gateway", %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (door, service) = (door.clone(), service.clone());
        tokio::spawn(async move {
            serve(&door, stream, address, service).await;
            drop(permit);
        });
    }
}

async fn serve<S>(door: &Arc<Door>, stream: TcpStream, address: SocketAddr, service: S)
where
    S: Service<hyper::Request<Full<Bytes>>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let _ = stream.set_nodelay(true); // only speed is lost
    let header_timeout = Duration::from_millis(door.shell.env.config().server.header_timeout_ms);
    let requests = {
        let door = door.clone();
        service_fn(move |request| {
            let (door, service) = (door.clone(), service.clone());
            async move { Ok::<_, Infallible>(answer(&door, request, address, service).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), requests);
    tokio::pin!(connection);
    let mut stop = door.stop.subscribe();
    let stopped = async move { stop.wait_for(|stop| *stop).await.map(drop) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(target: "gateway", %error, "a connection ended early");
    }
}

/// One request from its head to its answer, whatever happens in between.
async fn answer<S>(door: &Door, request: hyper::Request<Incoming>, address: SocketAddr, service: S) -> Response
where
    S: Service<hyper::Request<Full<Bytes>>, Response = Response, Error = Infallible> + Send,
    S::Future: Send,
{
    let env = &door.shell.env;
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let trail = Trail::default();
    let mut started = Instant::now();
    let handled = AssertUnwindSafe(handle(door, request, address, trail.clone(), service, &mut started)).catch_unwind().await;
    let mut response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => respond::problem(&error),
        Err(_) => respond::problem(&Error::internal("a handler panicked; the panic is in the log")),
    };
    if response.extensions().get::<NoRoute>().is_some() {
        let allow = trail.allow();
        if !allow.is_empty() {
            response = respond::method_not_allowed(&allow);
        }
    }
    let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let status = response.status();
    if counts(&path, &response) {
        env.meter().record(slo::API, env.now(), latency_us, status.is_server_error());
    }
    let route = trail.pattern().unwrap_or_else(|| loggable(&path));
    let reason = response.extensions().get::<Refused>().map(|r| r.0.as_str());
    if status.is_server_error() {
        tracing::warn!(target: "access", %method, route, status = status.as_u16(), latency_us, peer = %address.ip(), reason);
    } else {
        tracing::debug!(target: "access", %method, route, status = status.as_u16(), latency_us, peer = %address.ip(), reason);
    }
    response
}

/// Reads the body, takes a place among the requests in flight and lets the routes answer. The clock of the service level starts
/// when the request is complete: how fast a client sends is not ours.
async fn handle<S>(
    door: &Door,
    request: hyper::Request<Incoming>,
    address: SocketAddr,
    trail: Trail,
    mut service: S,
    started: &mut Instant,
) -> Result<Response>
where
    S: Service<hyper::Request<Full<Bytes>>, Response = Response, Error = Infallible>,
{
    let limits = &door.shell.env.config().server;
    let (head, body) = request.into_parts();
    let expects = head.headers.contains_key(header::EXPECT);
    let body_time = Duration::from_millis(limits.body_timeout_ms);
    let body = match tokio::time::timeout(body_time, read(body, limits.max_body_bytes, expects)).await {
        Ok(read) => read?,
        Err(_) => {
            return Err(Error::invalid("body_timeout", format!("the body was not complete after {} ms", limits.body_timeout_ms)));
        }
    };
    *started = Instant::now();
    let place = door.in_flight.try_acquire();
    if place.is_err() && !is_probe(head.uri.path()) {
        return Err(Error::unavailable("overloaded", "too many requests at once"));
    }
    let mut request = hyper::Request::from_parts(head, Full::new(body));
    request.extensions_mut().insert(Peer(address));
    request.extensions_mut().insert(trail);
    match service.call(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// The whole body, up to `max` bytes, however it is framed.
async fn read(mut body: Incoming, max: usize, expects: bool) -> Result<Bytes> {
    let announced = body.size_hint().exact();
    let too_large = || Error::invalid("too_large", format!("the body is larger than {max} bytes"));
    if expects && announced.is_some_and(|n| n > max as u64) {
        return Err(too_large()); // it waits for our word and has sent nothing
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::invalid("body", "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue }; // trailers
        if whole.len() + data.len() > max || announced.is_some_and(|n| n > max as u64) {
            let _ = tokio::time::timeout(DRAIN, drain(body)).await; // a client that sends on for longer meets a closed connection
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn drain(mut body: Incoming) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// Rejections mean that no route took the request; handlers never reject.
async fn fallback(rejection: Rejection) -> std::result::Result<Response, Infallible> {
    let wrong_method = rejection.find::<warp::reject::MethodNotAllowed>().is_some();
    if wrong_method {
        return Ok(respond::method_not_allowed("GET, HEAD")); // pages, which know nothing else
    }
    let mut response = respond::not_found();
    response.extensions_mut().insert(NoRoute);
    Ok(response)
}

/// Probes of our own health and streams that never end say nothing about the service.
fn counts(path: &str, response: &Response) -> bool {
    let stream = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
    !stream && !is_probe(path) && response.status() != StatusCode::SWITCHING_PROTOCOLS
}

/// Answered however busy we are: a daemon under load is not dead.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// A path that no pattern stands for may hold anything; only short plain ones are named.
fn loggable(path: &str) -> &str {
    let plain = |b: u8| b.is_ascii_lowercase() || matches!(b, b'/' | b'_' | b'-' | b'.');
    if path.len() <= 48 && path.bytes().all(plain) { path } else { "-" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_may_hold_an_address_are_not_logged() {
        for (path, logged) in [("/", "/"), ("/portal", "/portal"), ("/api/customer/invoices/a@b.c", "-"), ("/x%40", "-"), ("/ep_0123", "-")]
        {
            assert_eq!(loggable(path), logged);
        }
    }

    #[test]
    fn probes_and_streams_are_not_counted() {
        let mut plain = respond::json(&serde_json::json!({}));
        assert!(counts("/api/slo/status", &plain));
        assert!(!counts("/healthz", &plain) && !counts("/readyz", &plain) && !counts("/metrics", &plain));
        respond::set(&mut plain, header::CONTENT_TYPE, "text/event-stream");
        assert!(!counts("/api/events/stream", &plain));
    }
}
