//! A node's life: everything is opened in order, runs, and is closed in the opposite order.

use std::{
    future::Future,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures::future::{self, OptionFuture};
use mhc_api::{BindError, BoundGateway, Gateway, GatewayOptions, OperatorToken, Registry, Routes, SetupCodes};
use mhc_config::{Config, Role};
use mhc_platform::{Context, Publisher, Service, catalog};
use mhc_protocol::{NetworkId, NodeId, SecretKey, network::Interest, relay::RelayUrlError, ticket::Ticket};
use mhc_relay::{
    CertificateFiles, RelayOptions,
    front::{Front, FrontError, FrontOptions},
};
use mhc_storage::{
    blob::{BlobError, BlobOptions, BlobStore},
    kv::KvError,
    record::{Projection, Records, RecordsError, RecordsOptions},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    author::{LocalInspector, NodeAuthor, now},
    bundle::{self, Bundles, Stores},
    emergency::{self, Emergency},
    fetch::{FetchOptions, Fetcher},
    home::{Home, HomeError},
    http::{self, Operations},
    journal::Journal,
    mode::{self, ShutdownMode},
    net::{Net, NetError, NetOptions, RelaySettings},
    pins::Pins,
    satellite::{self, ListenError, Satellite},
};

/// How often services get to do their periodic work.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);

/// What a node is started with.
#[derive(Debug)]
pub struct NodeOptions {
    /// The home, locked.
    pub home: Home,
    /// The settings.
    pub config: Config,
    /// Nodes to connect to, beside those in the settings.
    pub peers: Vec<Ticket>,
}

/// What whoever started a node wants to know.
#[derive(Debug, Clone)]
pub struct ReadyInfo {
    /// Where the gateway listens.
    pub http: SocketAddr,
    /// Where the public front does, if there is one.
    pub https: Option<SocketAddr>,
    /// The node.
    pub node: NodeId,
    /// Its network.
    pub network: NetworkId,
    /// The one-time link that sets up the operator's browser, until somebody used it.
    pub setup_url: Option<String>,
}

/// Why a node doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The record log.
    #[error("records: {0}")]
    Records(#[from] RecordsError),
    /// The blob store.
    #[error("blobs: {0}")]
    Blobs(#[from] BlobError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The gateway's address.
    #[error(transparent)]
    Gateway(#[from] BindError),
    /// The public front's address or certificate.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// A public front without a certificate.
    #[error("gateway.https needs a certificate: set gateway.tls_certificate and gateway.tls_key to PEM files")]
    NoCertificate,
    /// The carousel's address.
    #[error(transparent)]
    Carousel(#[from] ListenError),
    /// A ticket in the settings.
    #[error("p2p.peers: {0}")]
    Ticket(#[from] mhc_protocol::ticket::TicketError),
    /// The relay's address in the settings.
    #[error("relay.public_url: {0}")]
    RelayUrl(#[from] RelayUrlError),
}

impl StartError {
    /// The exit code of a program that ends by it: 3 for a conflict with another process, 5 for a refusal, 7 for
    /// damaged data, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Home(error) => error.exit_code(),
            Self::Net(NetError::OtherNetwork { .. }) => 5,
            Self::Records(RecordsError::Engine(error)) if matches!(**error, KvError::Corrupt(_)) => 7,
            _ => 1,
        }
    }
}

/// A running node.
pub struct Node {
    home: Arc<Home>,
    records: Records,
    blobs: BlobStore,
    net: Net,
    fetcher: Fetcher,
    pins: Pins,
    bundles: Arc<Bundles>,
    satellite: Arc<Satellite>,
    emergency: Emergency,
    mode: ShutdownMode,
    gateway: BoundGateway,
    front: Option<Front>,
    context: Context,
    services: Vec<Arc<dyn Service>>,
}

impl Node {
    /// Opens everything and connects; serves HTTP once [`run_until`](Self::run_until) is called.
    pub async fn start(options: NodeOptions) -> Result<Self, StartError> {
        let NodeOptions { home, config, peers } = options;
        let started = Instant::now();
        let home = Arc::new(home);
        let services = mhc_platform::services();
        let projections = services.iter().map(|service| Arc::clone(service) as Arc<dyn Projection>).collect();
        let records = Records::open(&home.dir().join("records"), records_options(&config), projections)?;
        let blobs = BlobStore::open(&home.dir().join("blobs"), blob_options(&config))?;
        let net = Net::start(net_options(&home, &config)?, records.clone(), blobs.clone()).await?;
        for ticket in config.p2p.peers.iter().map(|text| text.parse()) {
            net.add_peer(ticket?).await?;
        }
        for ticket in peers {
            net.add_peer(ticket).await?;
        }
        let fetcher = Fetcher::new(blobs.clone(), Arc::new(net.clone()), FetchOptions::default());
        let pins = Pins::start(&records, blobs.clone(), fetcher.clone())?;
        let author = |key: &SecretKey| author(key, home.network(), &records);
        let context = Context {
            records: records.clone(),
            blobs: blobs.clone(),
            source: Arc::new(fetcher.clone()),
            publisher: author(home.node_key()),
            root: home.network_key().map(author),
            elsewhere: elsewhere(&home, &records, &net),
            clock: Arc::new(now),
            inspector: Arc::new(LocalInspector { blobs: blobs.clone() }),
            max_upload_bytes: config.gateway.max_upload_bytes,
        };
        let journal = Arc::new(Journal::open(&records)?);
        let emergency = Emergency::open(&records, &net, Arc::clone(&journal))?;
        let parts = mode::Parts {
            records: records.clone(),
            net: net.clone(),
            fetcher: fetcher.clone(),
            blobs: blobs.clone(),
            emergency: emergency.clone(),
            journal,
        };
        let mode = ShutdownMode::open(parts, &config.continuity)?;
        let metrics = Registry::new();
        metrics.extend(|registry| {
            net.metrics().register(registry);
            emergency.register(registry);
            fetcher.metrics().register(registry);
        });
        let http = Arc::new(OnceLock::new());
        let mut routes: Vec<Routes> =
            services.iter().map(|service| Arc::clone(service).routes(context.clone())).collect();
        let stores = Stores {
            key: home.node_key().clone(),
            network: home.network(),
            records: records.clone(),
            blobs: blobs.clone(),
            interest: interest_of(&net, home.network()),
            issuer_quota_bytes: config.storage.effective_bundle_quota_bytes(),
            news: news_of(&net),
        };
        let satellite = Arc::new(Satellite::start(stores.clone(), &config.links.satellite)?);
        routes.push(http::routes(Operations {
            context: context.clone(),
            net: net.clone(),
            fetcher: fetcher.clone(),
            pins: pins.clone(),
            satellite: Arc::clone(&satellite),
            mode: mode.clone(),
            http: Arc::clone(&http),
            started,
        }));
        let bundles = Arc::new(Bundles::new(stores));
        routes.push(bundle::routes(Arc::clone(&bundles)));
        routes.push(satellite::routes(Arc::clone(&satellite)));
        routes.push(mode::routes(mode.clone()));
        routes.push(emergency::routes(emergency::Desk {
            emergency: emergency.clone(),
            context: context.clone(),
            node_key: home.node_key().clone(),
            network_key: home.network_key().cloned(),
        }));
        let gateway = Gateway::new(gateway_options(&home, &config, &context, metrics), routes).bind().await?;
        let front = match front_options(&config)? {
            Some(options) => Some(Front::bind(options, gateway.site().clone()).await?),
            None => None,
        };
        // Set once: the port is known only now.
        http.get_or_init(|| gateway.local_addr());
        Ok(Self {
            home,
            records,
            blobs,
            net,
            fetcher,
            pins,
            bundles,
            satellite,
            emergency,
            mode,
            gateway,
            front,
            context,
            services,
        })
    }

    /// What to tell whoever started it.
    pub fn ready(&self) -> ReadyInfo {
        let http = self.gateway.local_addr();
        let code = self.home.setup_code().ok().flatten();
        ReadyInfo {
            http,
            https: self.front.as_ref().map(Front::local_addr),
            node: self.net.node(),
            network: self.home.network(),
            setup_url: code.map(|code| format!("http://{http}/setup#{code}")),
        }
    }

    /// Serves until `shutdown` resolves, then closes everything: the gateway drains, background work ends, the
    /// network says goodbye, and the stores are made durable.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), HomeError> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(reconcile(self.services, self.context)));
        tasks.spawn(stop.clone().run_until_cancelled_owned(self.emergency.run()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(self.mode.run()));
        self.home.announce(self.gateway.local_addr())?;
        let front = self.front.map(|front| front.serve(stop.clone()));
        let serving = future::join(self.gateway.serve(stop.clone()), OptionFuture::from(front));
        tokio::pin!(serving);
        tokio::select! {
            () = shutdown => stop.cancel(),
            _ = &mut serving => stop.cancel(),
        }
        tracing::info!("stopping");
        self.bundles.stop();
        self.satellite.stop();
        serving.await;
        self.home.retract()?;
        tasks.close();
        tasks.wait().await;
        self.bundles.shutdown().await;
        self.satellite.shutdown().await;
        self.pins.shutdown().await;
        self.fetcher.shutdown().await;
        self.net.shutdown().await;
        self.blobs.shutdown().await;
        self.records.close().await;
        Ok(())
    }
}

/// Signs as a key of this home.
fn author(key: &SecretKey, network: NetworkId, records: &Records) -> Arc<dyn Publisher> {
    Arc::new(NodeAuthor { key: key.clone(), network, records: records.clone() })
}

/// How much of a network is followed, as it is when asked.
fn interest_of(net: &Net, network: NetworkId) -> Arc<dyn Fn() -> Interest + Send + Sync> {
    let net = net.clone();
    Arc::new(move || {
        let followed = net.networks().into_iter().find(|followed| followed.network == network);
        followed.map(|followed| followed.interest).unwrap_or_default()
    })
}

fn news_of(net: &Net) -> Arc<dyn Fn() + Send + Sync> {
    let net = net.clone();
    Arc::new(move || net.tell_news())
}

type Elsewhere = Arc<dyn Fn(NetworkId) -> Option<Arc<dyn Publisher>> + Send + Sync>;

/// Signs as this node in the networks that it follows.
fn elsewhere(home: &Home, records: &Records, net: &Net) -> Elsewhere {
    let (key, records, net) = (home.node_key().clone(), records.clone(), net.clone());
    Arc::new(move |network| net.follows(network).then(|| author(&key, network, &records)))
}

async fn reconcile(services: Vec<Arc<dyn Service>>, context: Context) {
    let mut ticks = tokio::time::interval(RECONCILE_EVERY);
    loop {
        ticks.tick().await;
        for service in &services {
            if let Err(error) = service.reconcile(&context, now()).await {
                tracing::warn!(service = service.name(), %error, "periodic work failed");
            }
        }
    }
}

fn records_options(config: &Config) -> RecordsOptions {
    RecordsOptions { min_free_bytes: config.storage.min_free_bytes, ..RecordsOptions::default() }
}

fn blob_options(config: &Config) -> BlobOptions {
    let mhc_config::Storage { quota_bytes, min_free_bytes, cache_bytes, .. } = config.storage;
    BlobOptions { quota_bytes, min_free_bytes, cache_bytes }
}

fn net_options(home: &Home, config: &Config) -> Result<NetOptions, StartError> {
    let node = home.node_key().node();
    let relay = config.roles.contains(&Role::Relay).then(|| relay_settings(home, &config.relay)).transpose()?;
    Ok(NetOptions {
        key: home.node_key().clone(),
        network: home.network(),
        p2p_port: config.p2p.port,
        iroh_port: config.p2p.effective_iroh_port(),
        listen: config.p2p.listen.clone(),
        mdns: config.p2p.mdns,
        name: config.node.name.clone().unwrap_or_else(|| node.short()),
        version: env!("CARGO_PKG_VERSION").into(),
        upload_bytes_per_s: config.p2p.upload_bytes_per_s,
        relay,
        yggdrasil_admin: config.links.yggdrasil.admin.clone(),
    })
}

fn relay_settings(home: &Home, config: &mhc_config::Relay) -> Result<RelaySettings, StartError> {
    let certificate = config.certificate().map(|(certificate, key)| CertificateFiles { certificate, key });
    let bytes_per_s = NonZeroU32::new(config.member_bytes_per_s).unwrap_or(NonZeroU32::MAX);
    let options = RelayOptions { key: home.node_key().clone(), listen: config.listen, certificate, bytes_per_s };
    let public_url = config.public_url.as_deref().map(str::parse).transpose()?;
    Ok(RelaySettings { options, public_url })
}

fn front_options(config: &Config) -> Result<Option<FrontOptions>, StartError> {
    let Some(listen) = config.gateway.https else { return Ok(None) };
    match (config.gateway.tls_certificate.clone(), config.gateway.tls_key.clone()) {
        (Some(certificate), Some(key)) => {
            Ok(Some(FrontOptions { listen, certificate: CertificateFiles { certificate, key } }))
        }
        _ => Err(StartError::NoCertificate),
    }
}

fn gateway_options(home: &Arc<Home>, config: &Config, context: &Context, metrics: Registry) -> GatewayOptions {
    let listen = config.gateway.http;
    let operator = OperatorToken::new(home.token());
    let described = context.clone();
    let records = context.records.clone();
    GatewayOptions {
        public_hosts: config.gateway.public_host.clone(),
        setup: Some(Arc::new(HomeCodes(Arc::clone(home)))),
        describe: Some(Arc::new(move |hash| catalog::content_type_of(&described, hash))),
        readiness: Arc::new(move || records.count().map(drop).map_err(|error| error.to_string())),
        metrics,
        upload_limit_bytes: config.gateway.max_upload_bytes,
        ..GatewayOptions::new(listen, operator, Arc::clone(&context.source), context.blobs.clone())
    }
}

/// The set-up code that lies in the home.
struct HomeCodes(Arc<Home>);

impl SetupCodes for HomeCodes {
    fn redeem(&self, code: &str) -> Option<String> {
        match self.0.spend_setup_code(code) {
            Ok(true) => Some(self.0.token().to_owned()),
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(%error, "the set-up code can't be read");
                None
            }
        }
    }
}
