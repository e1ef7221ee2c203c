//! The gateway: assembles routes, listens.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::State, http::header, middleware, response::IntoResponse, routing::get};
use mhc_storage::{blob::BlobStore, source::RangeSource};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{
    Routes,
    auth::{self, OperatorToken, SetupCodes},
    blobs::{self, BlobRoutes, DescribeBlob},
    error::{ApiError, ApiResult},
    guard::{self, GuardPolicy, Scheme},
    metrics::{HttpMetrics, Registry},
    observe::{self, Observer},
    page,
    serve::{self, Connections},
    upload,
};

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

    /// The OpenAPI document of all routes.
    pub fn openapi(&self) -> &OpenApi {
        self.api.get_openapi()
    }

    /// What is served, for whatever brings connections.
    pub fn site(self) -> Site {
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
        Site {
            routes,
            public_hosts: self.options.public_hosts,
            limits: self.options.limits,
            observer: Arc::new(Observer::new(self.http_metrics.clone())),
            metrics: self.http_metrics,
        }
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
        Ok(BoundGateway { listener, address, site: self.site() })
    }
}

/// Everything a gateway answers, not yet bound to an address. Clones share it.
#[derive(Clone)]
pub struct Site {
    routes: Router,
    public_hosts: Vec<String>,
    limits: Limits,
    observer: Arc<Observer>,
    metrics: HttpMetrics,
}

impl Site {
    /// The whole of its HTTP as a service that answers to `bound`, and is reached by `scheme` there.
    pub fn router(&self, scheme: Scheme, bound: SocketAddr) -> Router {
        let policy = Arc::new(GuardPolicy::new(scheme, bound, &self.public_hosts));
        // The routes are a fallback of an outer router, so that the layers below run before any routing.
        Router::new()
            .fallback_service(self.routes.clone())
            .layer(middleware::from_fn_with_state(policy, guard::enforce))
            .layer(middleware::from_fn(guard::announce_close))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.observer), observe::observe))
    }

    /// The bounds that the gateway serves within.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Places for as many connections as `limits` allow, which show in the figures.
    pub fn connections(&self, limits: Limits) -> Connections {
        Connections::new(limits, self.metrics.connections.clone())
    }

    /// The names others know it by, as in the settings.
    pub fn public_hosts(&self) -> &[String] {
        &self.public_hosts
    }
}

/// A gateway that listens; connections wait until [`BoundGateway::serve`].
pub struct BoundGateway {
    listener: TcpListener,
    address: SocketAddr,
    site: Site,
}

impl BoundGateway {
    /// The address, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it serves, for further listeners.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Serves HTTP/1.1 until `shutdown`: then stops accepting, lets answers under way end within the drain time-out,
    /// and closes the rest. (HTTP/2 without TLS is spoken by no browser, and its preface would have to be awaited
    /// outside of the header time-out.)
    pub async fn serve(self, shutdown: CancellationToken) {
        let (router, limits) = (self.site.router(Scheme::Http, self.address), self.site.limits);
        let stop = shutdown.clone();
        let serve = move |stream, peer| serve::http1(stream, peer, router.clone(), limits, stop.clone());
        self.site.connections(limits).accept(self.listener, shutdown, serve).await;
    }
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
