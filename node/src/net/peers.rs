//! What a node tells about its peers: the rows of `mhc peers`.

use std::net::SocketAddr;

use mhc_protocol::{NodeId, Timestamp, link::LinkClass};
use serde::Serialize;

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
    /// Whether it serves our network.
    pub membership: Membership,
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

/// Whether a peer serves our network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// It hasn't said hello yet.
    Unknown,
    /// It serves our network: records and haves are exchanged.
    Member,
    /// It serves another network: connected for discovery only.
    OtherNetwork,
}

/// One path to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkInfo {
    /// Its class, told from the address.
    pub class: LinkClass,
    /// The remote end.
    pub addr: SocketAddr,
    /// Round trip time in milliseconds, when measured.
    pub rtt_ms: Option<u64>,
    /// Whether it carries the bytes.
    pub selected: bool,
}
