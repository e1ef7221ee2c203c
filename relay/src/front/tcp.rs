//! HTTP/1.1 and HTTP/2 over TLS.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mhc_api::{Connections, Limits, serve};
use tokio::{net::TcpListener, net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::certificate::Certificate;

use super::{HANDSHAKE_TIMEOUT, MAX_CONCURRENT_REQUESTS, MAX_HEAD_BYTES};

/// A peer that is silent this long is asked whether it is there, and is given as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Serves until `shutdown`, and drains.
pub(super) async fn serve(
    listener: TcpListener,
    certificate: &Arc<Certificate>,
    router: Router,
    connections: Connections,
    shutdown: &CancellationToken,
) {
    let config = match certificate.server_config(&[b"h2", b"http/1.1"]) {
        Ok(config) => Arc::new(config),
        Err(error) => return tracing::error!(%error, "no TLS over TCP"),
    };
    let (acceptor, limits, stop) = (TlsAcceptor::from(config), connections.limits(), shutdown.clone());
    let serve = move |stream, peer| connection(acceptor.clone(), stream, peer, router.clone(), limits, stop.clone());
    connections.accept(listener, shutdown.clone(), serve).await;
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = match shutdown.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => return tracing::debug!(%error, "no TLS with a client"),
        Some(Err(_)) | None => return,
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(stream, peer, router, limits, shutdown).await;
    } else {
        serve::http1(stream, peer, router, limits, shutdown).await;
    }
}

/// Serves one HTTP/2 connection until it ends or idles for the header time-out, or until `shutdown` and the answers
/// under way.
async fn http2(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let noted = Arc::clone(&activity);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let under_way = Activity::begin(&noted);
        let answer = serve::answer(router.clone(), peer, request.map(Body::new));
        async move {
            // The request is under way until its body was sent.
            answer.await.map(|response| response.map(|body| body.map_frame(move |frame| under_way.pass(frame))))
        }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_REQUESTS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = async { tokio::select! { () = shutdown.cancelled() => (), () = activity.idle_for(limits.header_timeout) => () } } => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// What a connection has been asked.
#[derive(Default)]
struct Activity {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

/// A request that isn't wholly answered.
struct UnderWay(Arc<Activity>);

impl Activity {
    fn begin(this: &Arc<Self>) -> UnderWay {
        this.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(this))
    }

    /// Waits until nothing was asked, and nothing under way, for one to two times `time`.
    async fn idle_for(&self, time: Duration) {
        let mut seen = usize::MAX;
        loop {
            let (begun, ended) = (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
            if begun == seen && ended == begun {
                return;
            }
            seen = begun;
            tokio::time::sleep(time).await;
        }
    }
}

impl UnderWay {
    fn pass<T>(&self, frame: T) -> T {
        frame
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}
