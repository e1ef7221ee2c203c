//! HTTP/3: requests over QUIC streams, answered by the same router.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response, header},
};
use bytes::{Buf, Bytes};
use futures::{Stream, stream};
use h3::{
    error::{Code, StreamError},
    server::{RequestResolver, RequestStream},
};
use http_body_util::BodyExt;
use mhc_api::{Connections, Limits, serve};
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::certificate::Certificate;

use super::{HANDSHAKE_TIMEOUT, MAX_CONCURRENT_REQUESTS, MAX_HEAD_BYTES};

/// How long a connection may be silent; browsers open another when they need one.
const IDLE_TIMEOUT_MS: u32 = 30_000;
/// How long a client may take over the next piece of its request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long peers are given to hear that the endpoint closes.
const FAREWELL: Duration = Duration::from_secs(1);
/// One-way streams of a client: control, the two of QPACK, and some that nobody knows yet.
const MAX_ONE_WAY_STREAMS: u32 = 8;

type QuicConnection = h3_quinn::Connection;
type Sending = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;

/// The body of a request, which nobody may want.
struct Receiving(RequestStream<h3_quinn::RecvStream, Bytes>);

impl Drop for Receiving {
    fn drop(&mut self) {
        // Without this, the client would be told of an error (RFC 9114, 4.1).
        self.0.stop_sending(Code::H3_NO_ERROR);
    }
}

/// Starts to listen.
pub(super) fn listen(address: SocketAddr, certificate: &Arc<Certificate>) -> io::Result<Endpoint> {
    let crypto = certificate.server_config(&[b"h3"]).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(crypto).map_err(io::Error::other)?));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_CONCURRENT_REQUESTS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_ONE_WAY_STREAMS))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))));
    config.transport_config(Arc::new(transport));
    let socket = UdpSocket::bind(address)?;
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))
}

/// Serves until `shutdown`, and drains.
pub(super) async fn serve(endpoint: Endpoint, router: Router, connections: Connections, shutdown: &CancellationToken) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = served.join_next() => serve::note_end(ended),
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                // Before it costs much, a sender shows that its address is its own.
                if connections.crowded() && !incoming.remote_address_validated() && incoming.may_retry() {
                    // It fails only where no retry may be asked for.
                    let _ = incoming.retry();
                    continue;
                }
                let Some(place) = connections.try_place() else {
                    incoming.refuse();
                    continue;
                };
                let serving = connection(incoming, router.clone(), connections.limits(), shutdown.clone());
                served.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
        }
    }
    endpoint.set_server_config(None);
    connections.drain(served).await;
    endpoint.close(VarInt::from_u32(Code::H3_NO_ERROR.value() as u32), b"");
    // Whoever doesn't hear it finds out by itself.
    let _ = timeout(FAREWELL, endpoint.wait_idle()).await;
}

/// One connection, until it ends, or until `shutdown` and the answers under way.
async fn connection(incoming: Incoming, router: Router, limits: Limits, shutdown: CancellationToken) {
    let peer = incoming.remote_address();
    let handshake = async {
        let connection = incoming.await.map_err(|error| error.to_string())?;
        let mut builder = h3::server::builder();
        builder.max_field_section_size(u64::from(MAX_HEAD_BYTES));
        let connection = builder.build(QuicConnection::new(connection)).await;
        connection.map_err(|error| error.to_string())
    };
    let mut connection: h3::server::Connection<QuicConnection, Bytes> =
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(error, "no HTTP/3 with a client"),
            Err(_) => return,
        };
    let mut requests = JoinSet::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Ok(Some(resolver)) => drop(requests.spawn(request(resolver, peer, router.clone(), limits))),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "connection ended");
                    break;
                }
            },
            Some(ended) = requests.join_next() => serve::note_end(ended),
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                // The client hears that it may ask no more; what it asked is answered.
                if connection.shutdown(0).await.is_err() {
                    break;
                }
            }
        }
        if stopping && requests.is_empty() {
            break;
        }
    }
    while let Some(ended) = requests.join_next().await {
        serve::note_end(ended);
    }
}

/// One request and its answer. Errors end the stream; the connection goes on.
async fn request(resolver: RequestResolver<QuicConnection, Bytes>, peer: SocketAddr, router: Router, limits: Limits) {
    let outcome = async {
        let Ok(resolved) = timeout(limits.header_timeout, resolver.resolve_request()).await else { return Ok(()) };
        let (head, stream) = resolved?;
        let (sending, receiving) = stream.split();
        let asked = Request::from_parts(head.into_parts().0, Body::from_stream(body(Receiving(receiving))));
        let answer = match serve::answer(router, peer, asked).await {
            Ok(answer) => answer,
            Err(impossible) => match impossible {},
        };
        send(sending, answer).await
    };
    let outcome: Result<(), StreamError> = outcome.await;
    if let Err(error) = outcome {
        tracing::debug!(%error, "a request ended early");
    }
}

/// The body of a request, as it comes.
fn body(receiving: Receiving) -> impl Stream<Item = Result<Bytes, io::Error>> {
    stream::try_unfold(receiving, async |mut receiving| {
        let piece = timeout(BODY_TIMEOUT, receiving.0.recv_data()).await;
        let piece = piece.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)?;
        let bytes = piece.map(|mut piece| piece.copy_to_bytes(piece.remaining()));
        Ok(bytes.map(|bytes| (bytes, receiving)))
    })
}

async fn send(mut sending: Sending, answer: Response<Body>) -> Result<(), StreamError> {
    let (mut head, mut body) = answer.into_parts();
    // There is one connection for many requests; what belongs to it isn't for them to say (RFC 9114, 4.2).
    head.headers.remove(header::CONNECTION);
    sending.send_response(Response::from_parts(head, ())).await?;
    let mut trailers: Option<HeaderMap> = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // The client mustn't take what it has for the whole.
            sending.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) => sending.send_data(data).await?,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    if let Some(trailers) = trailers {
        sending.send_trailers(trailers).await?;
    }
    sending.finish().await
}
