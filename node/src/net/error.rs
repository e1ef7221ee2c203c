//! What can go wrong while the network starts or is told something.

use std::net::SocketAddr;

use mhc_protocol::NetworkId;

/// Why the network can't start or do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Another program has the port.
    #[error(
        "port {port} is in use; choose another with `{flag} PORT` (iroh takes the next one), or 0 for any free one"
    )]
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
    /// The ticket's node id isn't a public key.
    #[error("this ticket names a node that can't exist: its id isn't a public key")]
    NotAKey,
    /// The node is stopping.
    #[error("the network is shutting down")]
    Stopped,
    /// Our own failure; the text is for the log.
    #[error("network: {0}")]
    Internal(String),
}
