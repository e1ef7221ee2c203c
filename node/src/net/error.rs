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
    /// This node's own relay doesn't start.
    #[error(transparent)]
    Relay(#[from] mhc_relay::RelayError),
    /// The ticket names this node itself.
    #[error("this ticket is of this node itself")]
    OwnTicket,
    /// The ticket is for another network.
    #[error(
        "this ticket is for network {theirs}, this node's home is {ours}; follow the other one, too, with `mhc network follow`"
    )]
    OtherNetwork {
        /// The ticket's network.
        theirs: NetworkId,
        /// Ours.
        ours: NetworkId,
    },
    /// It follows as many networks as it may.
    #[error("this node follows {limit} networks already, which is the most")]
    TooManyNetworks {
        /// How many that is.
        limit: usize,
    },
    /// An interest in channels that names none, or too many.
    #[error("name 1 to {limit} channels")]
    Channels {
        /// How many there may be.
        limit: usize,
    },
    /// The home network can't be left.
    #[error("this is the node's home network, which it always follows")]
    Home,
    /// The network isn't followed.
    #[error("this node doesn't follow that network; `mhc network list` shows which it does")]
    NotFollowed,
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
