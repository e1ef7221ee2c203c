//! The edge role: a node that others reach when they can't reach each other.
//!
//! Here live the public front ([`front`]: HTTPS over TCP and QUIC), the relay server and the policy of the edge cache.
//! Not here: anything that a network needs to work at all; every network works without a relay.

pub mod front;

use serde::{Deserialize, Serialize};

/// A role a node can take on beside being a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Relays for peers that can't reach each other and caches at the edge.
    Relay,
}
