//! What a node tells about its peers: the rows of `mhc peers`.

use std::{fmt, net::SocketAddr};

use iroh::TransportAddr;
use mhc_protocol::{NetworkId, NodeId, Timestamp, link::LinkClass};
use serde::Serialize;

use super::book::{Book, Peer};

/// One peer, as `mhc peers` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerInfo {
    /// The peer's id.
    pub node: NodeId,
    /// The name it gives itself in its hello; empty until that came. Text from a stranger: escape it.
    pub name: String,
    /// The version of the program it runs, as it says.
    pub version: String,
    /// Whether there is a connection now.
    pub connected: bool,
    /// Whether it follows a network of ours.
    pub membership: Membership,
    /// The networks that both of us follow.
    pub networks: Vec<NetworkId>,
    /// Paths that are open now.
    pub links: Vec<LinkInfo>,
    /// Bytes of blobs received from it since this node started.
    pub bytes_in: u64,
    /// Bytes of blobs sent to it since this node started.
    pub bytes_out: u64,
    /// When it was last connected or heard of, by our clock; 0 when never.
    pub last_seen: Timestamp,
    /// Conduct: 0 is neutral, below 0 it misbehaved, at [`CUT_OFF_SCORE`](super::CUT_OFF_SCORE) it is cut off.
    pub score: i32,
    /// Why it is cut off, when it is.
    pub cut_off: Option<String>,
}

/// Whether a peer follows a network of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// It hasn't said hello yet.
    Unknown,
    /// It follows a network of ours, whose records and haves are exchanged.
    Member,
    /// It follows other networks only: connected for discovery.
    OtherNetwork,
}

/// One path to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkInfo {
    /// Its class, told from the address.
    pub class: LinkClass,
    /// The remote end.
    pub addr: LinkAddr,
    /// Round trip time in milliseconds, when measured.
    pub rtt_ms: Option<u64>,
    /// Whether it carries the bytes.
    pub selected: bool,
}

/// Where a path leads. Shows as `ip:port`, or as the relay's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkAddr {
    /// To the peer itself.
    Ip(SocketAddr),
    /// To a relay, which passes on to the peer.
    Relay(String),
}

impl fmt::Display for LinkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Relay(url) => f.write_str(url),
        }
    }
}

impl Serialize for LinkAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How the book's entry is shown.
pub(super) fn info(book: &Book, node: NodeId, peer: &Peer) -> PeerInfo {
    PeerInfo {
        node,
        name: peer.name.clone(),
        version: peer.version.clone(),
        connected: peer.is_connected(),
        membership: peer.membership,
        networks: book.shared_with(peer),
        links: links(peer),
        bytes_in: peer.bytes_in,
        bytes_out: peer.bytes_out,
        last_seen: peer.last_seen,
        score: peer.score,
        cut_off: peer.cut_off.as_ref().map(|cut| cut.reason.clone()),
    }
}

/// The paths of iroh, which carry the bytes, then those of libp2p. Without iroh, libp2p's first is the one in use.
fn links(peer: &Peer) -> Vec<LinkInfo> {
    let mut links: Vec<LinkInfo> = vec![];
    for conn in peer.iroh_links.iter().filter_map(|link| link.upgrade()).filter(|conn| conn.close_reason().is_none()) {
        for path in &conn.paths() {
            let addr = match path.remote_addr() {
                TransportAddr::Ip(addr) => LinkAddr::Ip(*addr),
                TransportAddr::Relay(url) => LinkAddr::Relay(url.to_string()),
                _ => continue,
            };
            let rtt_ms = u64::try_from(path.rtt().as_millis()).ok();
            match links.iter_mut().find(|link| link.addr == addr) {
                Some(link) => link.selected |= path.is_selected(),
                None => links.push(link(addr, rtt_ms, path.is_selected())),
            }
        }
    }
    for p2p in &peer.p2p_links {
        let addr = p2p.addr.map(LinkAddr::Ip);
        if let Some(addr) = addr.filter(|addr| links.iter().all(|link| link.addr != *addr)) {
            links.push(link(addr, p2p.rtt_ms, links.is_empty()));
        }
    }
    links
}

fn link(addr: LinkAddr, rtt_ms: Option<u64>, selected: bool) -> LinkInfo {
    let class = match &addr {
        LinkAddr::Ip(addr) => LinkClass::of_ip(addr.ip()),
        LinkAddr::Relay(_) => LinkClass::Relay,
    };
    LinkInfo { class, addr, rtt_ms, selected }
}
