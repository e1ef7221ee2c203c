//! Connections: accepted, bounded, served, drained.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::Limits;

/// How long a client may go on sending after its answer is out.
const LINGER: Duration = Duration::from_secs(2);

/// The places of one listener. Clones share them.
#[derive(Clone)]
pub struct Connections {
    limits: Limits,
    places: Arc<Semaphore>,
    open: Gauge<i64, AtomicI64>,
}

/// One connection's place, and its count among the open ones; free again when dropped.
pub struct Place {
    open: Gauge<i64, AtomicI64>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Connections {
    pub(crate) fn new(limits: Limits, open: Gauge<i64, AtomicI64>) -> Self {
        Self { limits, places: Arc::new(Semaphore::new(limits.max_connections)), open }
    }

    /// The bounds that each connection is served within.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A place, if one is free.
    pub fn try_place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| self.taken(permit))
    }

    /// Whether more than half of the places are taken.
    pub fn crowded(&self) -> bool {
        self.places.available_permits() < self.limits.max_connections / 2
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> Place {
        self.open.inc();
        Place { open: self.open.clone(), _permit: permit }
    }

    /// Has `serve` serve each connection that comes, until `shutdown`: then accepts no more, and drains. `serve` has to
    /// heed `shutdown` itself.
    pub async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
        serve: impl Fn(TcpStream, SocketAddr) -> F,
    ) {
        let mut served = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = served.join_next() => note_end(ended),
                (stream, peer, place) = self.next(&listener) => {
                    // Small answers shouldn't wait for an acknowledgement; a failure only costs latency.
                    stream.set_nodelay(true).ok();
                    let serving = serve(stream, peer);
                    served.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
            }
        }
        drop(listener);
        self.drain(served).await;
    }

    /// Waits for what is still being served, and closes what didn't end within the drain time-out.
    pub async fn drain(&self, mut served: JoinSet<()>) {
        let drained = async {
            while let Some(ended) = served.join_next().await {
                note_end(ended);
            }
        };
        if tokio::time::timeout(self.limits.drain_timeout, drained).await.is_err() {
            tracing::info!(open = served.len(), "closing connections that didn't end in time");
            served.shutdown().await;
        }
    }

    /// The next connection. Errors (no file handles left, mostly) are waited out: the listener itself stays good.
    async fn next(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Place) {
        let mut pause = Duration::from_millis(50);
        loop {
            let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else {
                return std::future::pending().await;
            };
            match listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, self.taken(permit)),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "can't accept connections");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }
}

/// Logs how a connection ended when it wasn't by itself.
pub fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

/// The connection was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one HTTP/1.1 connection until it ends, or until `shutdown` and the answer under way.
pub async fn http1<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: Io,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        Box::pin(answer(router.clone(), peer, request.map(Body::new)))
    });
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(128 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| served.poll_without_shutdown(cx)) => ended,
        () = shutdown.cancelled() => {
            Pin::new(&mut served).graceful_shutdown();
            poll_fn(|cx| served.poll_without_shutdown(cx)).await
        }
    };
    match ended {
        Ok(()) => linger(served.into_parts().io.into_inner()).await,
        Err(error) => tracing::debug!(%error, "connection ended early"),
    }
}

/// What the gateway answers to a request of `peer`.
pub async fn answer(
    router: Router,
    peer: SocketAddr,
    mut request: Request<Body>,
) -> Result<Response, std::convert::Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    router.oneshot(request).await
}

/// Closes our side and reads what the client still sends, for a moment: closing with unread bytes would reset the
/// connection, and a client in the middle of a refused upload would lose the answer that says why.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let drain = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // However it ends, the connection is done.
    let _ = tokio::time::timeout(LINGER, drain).await;
}
