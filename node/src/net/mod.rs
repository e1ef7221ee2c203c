//! The network of a node: a libp2p swarm for discovery and gossip, an iroh endpoint for bytes and sync, and one
//! peer book over both. One Ed25519 key is the identity of both stacks; see `docs/decisions/0003-two-stacks.md`.

mod peers;

use std::net::{IpAddr, SocketAddr};

use mhc_protocol::{NetworkId, NodeId, SecretKey, ticket::Ticket};
use mhc_storage::{blob::BlobStore, record::Records};

pub use self::peers::{LinkInfo, Membership, PeerInfo};

/// At this score a peer is cut off for a time.
pub const CUT_OFF_SCORE: i32 = -100;

/// How the network is set up.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// The node's key: its PeerId and its EndpointId.
    pub key: SecretKey,
    /// The network whose records are exchanged.
    pub network: NetworkId,
    /// Port of libp2p, TCP and UDP; 0 for any free one.
    pub p2p_port: u16,
    /// UDP port of iroh; 0 for any free one.
    pub iroh_port: u16,
    /// Addresses to listen on; usually the two unspecified ones.
    pub listen: Vec<IpAddr>,
    /// Whether to find peers on the local network by multicast DNS.
    pub mdns: bool,
    /// What the node calls itself towards its peers, at most 64 bytes.
    pub name: String,
    /// The program's version, as peers see it.
    pub version: String,
}

/// Why the network can't start or do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Another program has the port.
    #[error("port {port} is in use; choose another with `{flag} PORT`, or 0 for any free one")]
    PortInUse {
        /// The port.
        port: u16,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// A socket can't be opened for another reason.
    #[error("can't listen on {addr}: {reason}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The ticket names this node itself.
    #[error("this ticket is of this node itself")]
    OwnTicket,
    /// The ticket is for another network.
    #[error("this ticket is for network {theirs}, this node serves {ours}; join it with `mhc network join`")]
    OtherNetwork {
        /// The ticket's network.
        theirs: NetworkId,
        /// Ours.
        ours: NetworkId,
    },
    /// The node is stopping.
    #[error("the network is shutting down")]
    Stopped,
    /// Our own failure; the text is for the log.
    #[error("network: {0}")]
    Internal(String),
}

/// The running network. Clones share it; it stops with [`Net::shutdown`] or when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Net {}

impl Net {
    /// Opens the sockets and starts everything. Returns once both stacks listen.
    pub async fn start(options: NetOptions, records: Records, blobs: BlobStore) -> Result<Self, NetError> {
        let _ = (options, records, blobs);
        Err(NetError::Stopped)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        NodeId::from_bytes([0; 32])
    }

    /// An invitation to this node: its id, network and every address it can be reached at.
    pub fn ticket(&self) -> Ticket {
        Ticket { node: self.node(), network: NetworkId::from_bytes([0; 32]), p2p: vec![], iroh: vec![] }
    }

    /// Remembers the peer durably and dials it, again and again until it is there.
    pub async fn add_peer(&self, ticket: Ticket) -> Result<(), NetError> {
        let _ = ticket;
        Err(NetError::Stopped)
    }

    /// All known peers: connected ones first.
    pub fn peers(&self) -> Vec<PeerInfo> {
        vec![]
    }

    /// Peers with a connection now.
    pub fn connected_count(&self) -> usize {
        0
    }

    /// Where libp2p listens (QUIC and TCP share the port); no unspecified addresses.
    pub fn p2p_addrs(&self) -> Vec<SocketAddr> {
        vec![]
    }

    /// Where iroh listens (UDP); no unspecified addresses.
    pub fn iroh_addrs(&self) -> Vec<SocketAddr> {
        vec![]
    }

    /// The counters.
    pub fn metrics(&self) -> std::sync::Arc<Metrics> {
        std::sync::Arc::default()
    }

    /// Stops in phases (accept no more, drain, close) within 5 s.
    pub async fn shutdown(&self) {}
}

/// What the network counts.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Registers every counter under its `mhc_…` name.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        let _ = registry;
    }
}
