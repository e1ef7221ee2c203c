//! The relay server: iroh's, in this process, for members only.
//!
//! On TCP it passes datagrams on between nodes that can't reach each other; they are encrypted end to end, so that it
//! learns who talks to whom and nothing else. On UDP, at the same port, it tells nodes how they are seen from outside,
//! which they need to find a way past it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iroh_base::EndpointId;
use iroh_relay::server::{
    Access, AccessControl, CertConfig, ClientRateLimit, ClientRequest, ConnectionId, Limits, QuicConfig, RelayConfig,
    Server, ServerConfig, TlsConfig,
};
use mhc_protocol::{NetworkId, NodeId, SecretKey, relay::read_token};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    certificate::{self, Certificate, CertificateError, CertificateFiles},
    door::{Door, Refusal},
    metrics::{Reasons, RelayMetrics},
};

/// Keys of clients that are kept decoded.
const KEY_CACHE: usize = 4096;

/// How a relay is set up.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The node's key, by which it proves itself to those that it tells how they are seen.
    pub key: SecretKey,
    /// Where it listens, TCP and UDP; port 0 for any free one.
    pub listen: SocketAddr,
    /// With these it speaks HTTPS, without them plain HTTP.
    pub certificate: Option<CertificateFiles>,
    /// Most bytes a second that are taken from one connection.
    pub bytes_per_s: NonZeroU32,
}

/// Says who is a member.
pub trait Members: std::fmt::Debug + Send + Sync + 'static {
    /// Whether `node` is a member of one of these networks, to which it says it belongs, and the relay serves that
    /// network. None when it can't be told. May block.
    fn is_member(&self, node: NodeId, networks: &[NetworkId]) -> Option<bool>;
}

/// Why a relay doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Its address.
    #[error("the relay can't listen on {addr}: {reason}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// Its certificate.
    #[error("the relay's {0}")]
    Certificate(#[from] CertificateError),
}

/// A running relay. It stops when it is dropped.
#[derive(Debug)]
pub struct RelayServer {
    server: Server,
    addr: SocketAddr,
    is_https: bool,
    /// Reads the certificate again when it is renewed.
    _watching: Option<AbortOnDropHandle<()>>,
}

impl RelayServer {
    /// Opens its sockets and serves.
    pub async fn start(
        options: &RelayOptions,
        members: Arc<dyn Members>,
        metrics: RelayMetrics,
    ) -> Result<Self, RelayError> {
        let addr = free(options.listen).map_err(|error| listen(options.listen, &error))?;
        let mut relay = RelayConfig::new(addr);
        let mut watching = None;
        if let Some(files) = &options.certificate {
            let certificate = Certificate::load(files.clone())?;
            let cert = CertConfig::Manual { server_config: certificate.server_config(&[])? };
            watching = Some(AbortOnDropHandle::new(tokio::spawn(async move { certificate.watch().await })));
            // Beside HTTPS the server wants to answer plain HTTP, where portals are looked for. Nobody here does.
            relay.http_bind_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            relay.tls = Some(TlsConfig::new(addr, cert));
        }
        let mut limits = Limits::default();
        limits.client_rx = Some(ClientRateLimit::new(options.bytes_per_s));
        relay.limits = limits;
        relay.key_cache_capacity = Some(KEY_CACHE);
        relay.access = Arc::new(Doorman { door: Mutex::default(), members, metrics: metrics.clone() });
        let mut quic = QuicConfig::new(addr);
        quic.server_config = Some(certificate::of_node(&options.key)?);
        let mut config = ServerConfig::default();
        (config.relay, config.quic) = (Some(relay), Some(quic));
        let server = Server::spawn(config).await.map_err(|error| listen(addr, &error))?;
        let _ = metrics.server.set(Arc::clone(&server.metrics().server));
        let is_https = options.certificate.is_some();
        tracing::info!(%addr, is_https, "relaying for members");
        Ok(Self { server, addr, is_https, _watching: watching })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether it speaks HTTPS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Tells its clients that it ends, and ends.
    pub async fn shutdown(self) {
        if let Err(error) = self.server.shutdown().await {
            tracing::debug!(%error, "the relay ended");
        }
    }
}

fn listen(addr: SocketAddr, error: &dyn std::fmt::Display) -> RelayError {
    RelayError::Listen { addr, reason: format!("{error:#}") }
}

/// `addr` when it is free for TCP and UDP; for port 0 a port that is. On a machine without IPv6 "any address" is any
/// of IPv4.
fn free(addr: SocketAddr) -> io::Result<SocketAddr> {
    const TRIES: usize = 32;
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..TRIES {
        result = TcpListener::bind(addr).and_then(|tcp| {
            let addr = tcp.local_addr()?;
            UdpSocket::bind(addr).map(|_| addr)
        });
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && addr.port() == 0 => {}
            Err(error)
                if error.kind() != io::ErrorKind::AddrInUse && addr.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) =>
            {
                return free((Ipv4Addr::UNSPECIFIED, addr.port()).into());
            }
            _ => return result,
        }
    }
    result
}

/// Lets members in and counts them.
#[derive(Debug)]
struct Doorman {
    door: Mutex<Door>,
    members: Arc<dyn Members>,
    metrics: RelayMetrics,
}

impl Doorman {
    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admit(&self, node: NodeId, token: Option<String>) -> Result<(), Refusal> {
        let networks = token.and_then(|token| read_token(&token).ok()).ok_or(Refusal::NoNetwork)?;
        let members = Arc::clone(&self.members);
        let is_member = tokio::task::spawn_blocking(move || members.is_member(node, &networks)).await.ok().flatten();
        match is_member {
            Some(true) => self.door().enter(node),
            Some(false) => Err(Refusal::NotAMember),
            None => Err(Refusal::Fault),
        }
    }

    fn count(&self) {
        self.metrics.connections.set(i64::try_from(self.door().count()).unwrap_or(i64::MAX));
    }
}

impl AccessControl for Doorman {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let node = node_of(request.endpoint_id());
        let admitted = self.admit(node, request.auth_token()).await;
        self.count();
        match admitted {
            Ok(()) => {
                self.metrics.admitted.inc();
                tracing::debug!(peer = %node, "relayed from now on");
                Access::Allow
            }
            Err(refusal) => {
                self.metrics.refused.get_or_create(&Reasons { reason: refusal.kind() }).inc();
                tracing::info!(peer = %node, %refusal, "not relayed");
                Access::Deny { reason: Some(refusal.to_string()) }
            }
        }
    }

    fn on_disconnect(&self, endpoint: EndpointId, _: ConnectionId) {
        self.door().leave(node_of(endpoint));
        self.count();
    }
}

fn node_of(endpoint: EndpointId) -> NodeId {
    NodeId::from_bytes(*endpoint.as_bytes())
}
