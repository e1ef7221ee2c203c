//! What fetch needs of the network, and nothing more.
//!
//! `node::net` implements [`Peers`]; tests implement it over a handful of endpoints on loopback.

use std::fmt;

use futures::future::BoxFuture;
use iroh::endpoint::Connection;
use mhc_protocol::{BlobHash, NodeId};

/// The network as fetch sees it: who may have a blob, how to reach them, and where to report what they did.
pub trait Peers: Send + Sync + 'static {
    /// Known nodes that may have (a part of) the blob, the likeliest first. Quick; asked again and again.
    fn candidates(&self, hash: BlobHash) -> BoxFuture<'_, Vec<NodeId>>;

    /// Looks further for nodes that have the blob (a DHT look-up), when those known don't help. May take a while;
    /// fetch bounds the wait.
    fn search(&self, hash: BlobHash) -> BoxFuture<'_, Vec<NodeId>>;

    /// A connection with ALPN `/iroh-bytes/4` to `node`, new or pooled. Fetch never closes it.
    fn connect(&self, node: NodeId) -> BoxFuture<'_, Result<Connection, ConnectError>>;

    /// `node` broke the protocol. It is scored down and, for [`Misbehaviour::BadBytes`], shown as cut off.
    /// Called once for each provider and blob at most. Must not block.
    fn misbehaved(&self, node: NodeId, what: Misbehaviour);

    /// `bytes` verified content bytes came from `node`. Called often. Must not block.
    fn received(&self, node: NodeId, bytes: u64);
}

/// Why a provider can't be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Policy: the node is banned, or isn't of our network.
    #[error("refused: {0}")]
    Refused(String),
    /// No address is known, or none of them answered.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// This node is shutting down.
    #[error("shutting down")]
    Closed,
}

/// What a provider did that an honest one can't do, not even by accident of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// It sent bytes that aren't the blob's, or claimed a size that isn't.
    BadBytes {
        /// Of this blob.
        hash: BlobHash,
        /// How it was noticed.
        how: BadBytes,
    },
}

/// How bad bytes were noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadBytes {
    /// A leaf's bytes don't have the hash its parent says.
    LeafHash,
    /// A parent node doesn't have the hash its own parent (or the blob's name) says.
    ParentHash,
    /// It claims a size that differs from the proven one, or that can't be.
    Size,
    /// It sent more than was asked for.
    Surplus,
}

impl BadBytes {
    /// The value of the label `how` in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeafHash => "leaf_hash",
            Self::ParentHash => "parent_hash",
            Self::Size => "size",
            Self::Surplus => "surplus",
        }
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBytes { hash, how } => write!(f, "bad bytes ({}) for blob {}", how.as_str(), hash.short()),
        }
    }
}
