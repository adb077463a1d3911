//! Serving the admin endpoint within bounds: whoever may connect to it must not be able to take what connections need.
//!
//! One request for each connection: there is no keep-alive, so that nothing idle is ever held. Each connection takes a permit of its
//! listener; without one it is told so and closed. How many there are is part of the arithmetic of descriptors ([`ConnectionLimit`]).
//!
//! [`ConnectionLimit`]: crate::hub::ConnectionLimit

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::hub::LogThrottle;

/// Largest head and body of a request. The commands of `snisplice` send less than 1 KiB.
const HEAD: usize = 16 * 1024;
const BODY: usize = 64 * 1024;

/// Pause after the system had no descriptor or memory for a connection. The connection stays queued.
const BREATH: Duration = Duration::from_millis(100);

/// Pause after a connection was refused, so that refusing takes no processor time worth mentioning.
const AFTER_REFUSAL: Duration = Duration::from_millis(1);

/// What a connection above the limit is told.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 49\r\n\
Connection: close\r\n\r\nthe admin endpoint has too many open connections\n";

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most connections at a time.
    pub(super) connections: usize,
    /// From accept to the end of a request's head.
    pub(super) head: Duration,
    /// Until the body is there and the request carried out: longer than an order for a flow takes.
    pub(super) request: Duration,
    /// From accept until the whole answer has been taken.
    pub(super) whole: Duration,
}

impl Bounds {
    pub(super) const fn of(connections: usize) -> Self {
        Self {
            connections,
            head: Duration::from_secs(5),
            request: Duration::from_secs(10),
            whole: Duration::from_secs(30),
        }
    }
}

/// What is served on.
pub(super) trait Accept {
    type Stream: AsFd + AsyncRead + AsyncWrite + Send + Unpin + 'static;

    async fn next(&self) -> io::Result<Self::Stream>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves until dropped.
pub(super) async fn serve(listener: impl Accept, router: Router, bounds: Bounds) {
    let router = router
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn(move |request: Request, next: Next| in_time(request, next, bounds.request)));
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let throttle = LogThrottle::default();
    loop {
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                if throttle.is_due() {
                    tracing::error!(%error, "the admin endpoint cannot accept connections");
                }
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            // Nothing is waited for: what does not fit into the buffer of a new socket is not sent.
            let _ = send(&stream, BUSY, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            drop(stream);
            tokio::time::sleep(AFTER_REFUSAL).await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, router, bounds).await;
            drop(permit);
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, bounds: Bounds) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // An error is the client's: it has gone, was too slow, or sent what is no request.
    let _ = tokio::time::timeout(bounds.whole, connection).await;
}

async fn in_time(request: Request, next: Next, limit: Duration) -> Response {
    let answer = tokio::time::timeout(limit, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n").into_response()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    /// Serves two connections at a time, and says where.
    async fn start(bounds: Bounds) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "here\n"))
            .route("/large", get(async || "x".repeat(64 << 20)))
            .route("/body", post(async |body: String| body.len().to_string()));
        tokio::spawn(serve(listener, router, bounds));
        address
    }

    /// What is answered to `text`, until the connection ends.
    async fn ask(address: std::net::SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be refused before all of it is there.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_answered_and_its_connection_closed() {
        let address = start(Bounds::of(2)).await;
        let answer = ask(address, "GET / HTTP/1.1\r\nHost: here\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhere\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn connections_above_the_limit_are_told_so() {
        let address = start(Bounds { head: Duration::from_secs(2), ..Bounds::of(2) }).await;
        let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let busy = ask(address, "").await;
        let (head, text) = busy.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 "), "{busy}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", text.len())), "{busy}");
        for mut stream in silent {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "closed once its time is over");
        }
        assert!(ask(address, "GET / HTTP/1.0\r\n\r\n").await.contains(" 200 OK"));
    }

    #[tokio::test]
    async fn a_head_that_never_ends_ends_the_connection() {
        let address = start(Bounds { head: SHORT, whole: LONG, ..Bounds::of(2) }).await;
        assert!(!ask(address, "GET / HTTP/1.1\r\nHost: h").await.contains(" 200 "));
        let address = start(Bounds::of(2)).await;
        assert!(ask(address, &format!("GET /{} HTTP/1.1\r\n", "x".repeat(2 * HEAD))).await.contains(" 4"));
    }

    #[tokio::test]
    async fn a_body_has_to_come_in_time_and_to_be_small() {
        let address = start(Bounds::of(2)).await;
        let post = |length: usize, body: &str| {
            format!("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        assert!(ask(address, &post(3, "abc")).await.ends_with("\r\n\r\n3"));
        assert!(ask(address, &post(BODY + 1, &"x".repeat(BODY + 1))).await.contains(" 413 "));
        let address = start(Bounds { request: SHORT, whole: LONG, ..Bounds::of(2) }).await;
        assert!(ask(address, &post(3, "ab")).await.contains(" 408 "));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_the_connection() {
        let address = start(Bounds { whole: Duration::from_millis(300), ..Bounds::of(1) }).await;
        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let begun = Instant::now();
        while !ask(address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.contains(" 200 ") {
            assert!(begun.elapsed() < LONG, "its place is never free again");
            tokio::time::sleep(Duration::from_millis(10)).await; // poll interval
        }
    }
}
