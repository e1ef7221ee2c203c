//! The edge role: a node that others reach when they can't reach each other.
//!
//! | file | does |
//! |---|---|
//! | [`front`] | the public front: HTTPS over TCP and QUIC |
//! | `server` | iroh's relay server in this process |
//! | `door` | who is let in |
//! | `certificate` | what it shows of itself |
//! | `trust` | how others tell that it is the one they were told of |
//! | `metrics` | what it counts |
//!
//! Not here: anything that a network needs to work at all; every network works without a relay.

mod certificate;
mod door;
pub mod front;
mod metrics;
mod server;
mod trust;

pub use certificate::{CertificateError, CertificateFiles};
pub use door::{MAX_CONNECTIONS, MAX_CONNECTIONS_PER_NODE, Refusal};
pub use metrics::{Reasons, RelayMetrics};
pub use server::{Members, RelayError, RelayOptions, RelayServer};
pub use trust::Pins;

use serde::{Deserialize, Serialize};

/// A role a node can take on beside being a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Relays for peers that can't reach each other and caches at the edge.
    Relay,
}
