//! An HTTP/1.1 server with bounds on connections, headers and time. `axum::serve` has none of them: a silent connection
//! stays open there for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bounds of one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Time from the start of a request (or of an idle wait) to the end of its headers; then the connection is closed.
    pub header_read: Duration,
    /// Header fields of one request; more are answered with 431.
    pub headers: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long written bytes may stay unacknowledged, or the peer's window closed (TCP_USER_TIMEOUT, RFC 5482).
    pub write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header_read: Duration::from_secs(5),
            headers: 64,
            head_bytes: 16 * 1024,
            write_stall: Duration::from_secs(10),
        }
    }
}

/// How long accepting rests after an error that is not one connection's fault, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stop` is cancelled, then finishes the requests that have begun and returns. The caller bounds
/// that last wait. Bodies and handlers are bounded by the router's own layers. Each request has the other end of its connection
/// as an extension, `ConnectInfo<SocketAddr>`.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = stop
            .run_until_cancelled(async {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                (slot, listener.accept().await)
            })
            .await;
        let (slot, stream, peer) = match accepted {
            None => break,
            Some((slot, Ok((stream, peer)))) => (slot, stream, peer),
            Some((_, Err(error))) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            serve_connection(stream, peer, router, limits, stop).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let socket = SockRef::from(&stream);
    // A client that takes nothing of its answer would keep its place for ever; hyper has no limit for writing.
    let set = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(limits.write_stall)));
    if let Err(error) = set {
        tracing::debug!(%error, "set the options of a connection");
    }
    let router = TowerToHyperService::new(router);
    let routes = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(stream), routes);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::{Limits, serve};

    /// More than the sockets of both sides hold.
    const LARGE: usize = 64 * 1024 * 1024;

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_its_answer_loses_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/large", get(async || Body::from(vec![b'x'; LARGE])))
            .route("/small", get(async || "hello"));
        let limits = Limits { connections: 1, write_stall: Duration::from_millis(300), ..Limits::default() };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, limits, stop.clone()));

        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // The answer has begun: the place is taken. Not a byte more is read.
        idle.peek(&mut [0]).await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(30), next.read_to_string(&mut answer))
            .await
            .expect("the place is never free")
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
        stop.cancel();
        server.await.unwrap();
        drop(idle);
    }
}
