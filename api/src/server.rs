//! The gateway: assembles routes, listens, serves, stops.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::header,
    middleware,
    response::IntoResponse,
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use mhc_storage::{blob::BlobStore, source::RangeSource};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{
    Routes,
    auth::{self, OperatorToken, SetupCodes},
    blobs::{self, BlobRoutes, DescribeBlob},
    error::{ApiError, ApiResult},
    guard::{self, GuardPolicy},
    metrics::{HttpMetrics, Registry},
    observe::{self, Observer},
    page, upload,
};

/// How long a client may go on sending after its answer is out.
const LINGER: Duration = Duration::from_secs(2);

/// Says whether the node can serve; the text of an error is shown at `/readyz`.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Bounds of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a connection may take to send a whole request head; also how long it may idle between requests.
    pub header_timeout: Duration,
    /// How long answers under way may go on after a shutdown began.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: 1024, header_timeout: Duration::from_secs(30), drain_timeout: Duration::from_secs(5) }
    }
}

/// What a gateway is made from.
#[derive(Clone)]
pub struct GatewayOptions {
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// The names others know this gateway by, each `host` or `host:port`.
    pub public_hosts: Vec<String>,
    /// Who may change things.
    pub operator: OperatorToken,
    /// One-time codes for `POST /api/v1/setup`.
    pub setup: Option<Arc<dyn SetupCodes>>,
    /// Bytes from here or anywhere.
    pub source: Arc<dyn RangeSource>,
    /// Where uploads go, and bao slices come from.
    pub store: BlobStore,
    /// What is known of a blob beyond its hash.
    pub describe: Option<DescribeBlob>,
    /// Where figures are registered and what `/metrics` shows.
    pub metrics: Registry,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// Longest `POST /blobs`.
    pub upload_limit_bytes: u64,
    /// Bounds of the server.
    pub limits: Limits,
}

impl GatewayOptions {
    /// With defaults for what isn't named: always ready, no set-up codes, fresh metrics, 10 GiB uploads.
    pub fn new(listen: SocketAddr, operator: OperatorToken, source: Arc<dyn RangeSource>, store: BlobStore) -> Self {
        Self {
            listen,
            public_hosts: vec![],
            operator,
            setup: None,
            source,
            store,
            describe: None,
            metrics: Registry::new(),
            readiness: Arc::new(|| Ok(())),
            upload_limit_bytes: upload::DEFAULT_LIMIT_BYTES,
            limits: Limits::default(),
        }
    }
}

/// A gateway that isn't listening yet.
pub struct Gateway {
    options: GatewayOptions,
    api: Routes,
    http_metrics: HttpMetrics,
}

/// Why the gateway can't listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else does.
    #[error(
        "{listen} is in use by another program; choose another address with --http ADDR (port 0 takes any free one)"
    )]
    InUse {
        /// The address.
        listen: SocketAddr,
    },
    /// Anything else: no such address here, no permission.
    #[error("can't listen on {listen}: {source}; choose another address with --http ADDR")]
    Other {
        /// The address.
        listen: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

impl Gateway {
    /// Assembles the services' routes with the gateway's own. Panics when two services claim one route.
    pub fn new(options: GatewayOptions, services: Vec<Routes>) -> Self {
        let blob_routes = BlobRoutes {
            source: Arc::clone(&options.source),
            store: options.store.clone(),
            describe: options.describe.clone(),
            limit_bytes: options.upload_limit_bytes,
        };
        let own = [auth::routes(options.setup.clone()), blobs::routes(blob_routes)];
        let empty = Routes::with_openapi(describe_api());
        let api = own.into_iter().chain(services).fold(empty, |all, routes| all.merge(routes));
        let http_metrics = HttpMetrics::register(&options.metrics);
        Self { options, api, http_metrics }
    }

    /// The whole of its HTTP as a service that answers to `bound`; for tests without a socket.
    pub fn router(self, bound: SocketAddr) -> Router {
        let (api, openapi) = self.api.split_for_parts();
        let probes = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state(self.options.readiness)
            .merge(Router::new().route("/metrics", get(metrics)).with_state(self.options.metrics));
        let routes = api
            .merge(probes)
            .merge(openapi_route(&openapi))
            .merge(page::routes())
            .fallback(async || ApiError::not_found("There is nothing at this address. See /api/docs."))
            .layer(middleware::from_fn(observe::note_route))
            .layer(Extension(self.options.operator));

        let policy = Arc::new(GuardPolicy::new(bound, &self.options.public_hosts));
        let observer = Arc::new(Observer::new(self.http_metrics));
        // The routes are a fallback of an outer router, so that the layers below run before any routing.
        Router::new()
            .fallback_service(routes)
            .layer(middleware::from_fn_with_state(policy, guard::enforce))
            .layer(middleware::from_fn(guard::announce_close))
            .layer(middleware::from_fn_with_state(observer, observe::observe))
    }

    /// The OpenAPI document of all routes.
    pub fn openapi(&self) -> &OpenApi {
        self.api.get_openapi()
    }

    /// Starts to listen.
    pub async fn bind(self) -> Result<BoundGateway, BindError> {
        let listen = self.options.listen;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { listen },
            _ => BindError::Other { listen, source },
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (limits, metrics) = (self.options.limits, self.http_metrics.clone());
        Ok(BoundGateway { listener, address, router: self.router(address), limits, metrics })
    }
}

/// A gateway that listens; connections wait until [`BoundGateway::serve`].
pub struct BoundGateway {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    limits: Limits,
    metrics: HttpMetrics,
}

impl BoundGateway {
    /// The address, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`: then stops accepting, lets answers under way end within the drain time-out, and
    /// closes the rest.
    pub async fn serve(self, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => note_end(ended),
                (stream, peer, permit) = accept(&self.listener, &permits) => {
                    let served = connection(stream, peer, self.router.clone(), self.limits, shutdown.clone());
                    let open = self.metrics.connections.clone();
                    connections.spawn(async move {
                        open.inc();
                        served.await;
                        open.dec();
                        drop(permit);
                    });
                }
            }
        }
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.limits.drain_timeout, drained).await.is_err() {
            tracing::info!(open = connections.len(), "closing connections that didn't end in time");
            connections.shutdown().await;
        }
    }
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

/// The next connection. Errors (no file handles left, mostly) are waited out: the listener itself stays good.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let mut pause = Duration::from_millis(50);
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "can't accept connections");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// The connection was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One HTTP/1.1 connection. (HTTP/2 without TLS is spoken by no browser, and its preface would have to be awaited
/// outside of the header time-out.)
async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, shutdown: CancellationToken) {
    // Small answers shouldn't wait for an acknowledgement; a failure only costs latency.
    stream.set_nodelay(true).ok();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        Box::pin(router.clone().oneshot(request.map(Body::new)))
    });
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(128 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| served.poll_without_shutdown(cx)) => ended,
        () = shutdown.cancelled() => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            poll_fn(|cx| served.poll_without_shutdown(cx)).await
        }
    };
    match ended {
        Ok(()) => linger(served.into_parts().io.into_inner()).await,
        Err(error) => tracing::debug!(%error, "connection ended early"),
    }
}

/// Closes our side and reads what the client still sends, for a moment: closing with unread bytes would reset the
/// connection, and a client in the middle of a refused upload would lose the answer that says why.
async fn linger(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // However it ends, the connection is done.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

async fn readyz(State(readiness): State<Readiness>) -> ApiResult<&'static str> {
    readiness().map(|()| "ready\n").map_err(ApiError::unavailable)
}

async fn metrics(State(registry): State<Registry>) -> ApiResult<impl IntoResponse> {
    let text = registry.encode().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

fn openapi_route(openapi: &OpenApi) -> Router {
    let json: Option<Arc<str>> = openapi.to_json().ok().map(Arc::from);
    let answer = async move || {
        let json = json.clone().ok_or_else(|| ApiError::internal("the OpenAPI document can't be written"))?;
        ApiResult::Ok(([(header::CONTENT_TYPE, "application/json")], json.to_string()))
    };
    Router::new().route("/api/v1/openapi.json", get(answer))
}

fn describe_api() -> OpenApi {
    let operator = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The operator's token, in <home>/api.token"))
        .build();
    let components = ComponentsBuilder::new().security_scheme("operator", SecurityScheme::Http(operator)).build();
    let info = InfoBuilder::new()
        .title("MHC gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("What a node serves over HTTP. Errors are application/problem+json with a stable `code`."))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}
