//! Messages between nodes: what they greet each other with, gossip, and ask while they sync.
//!
//! Every message is deterministic CBOR with a size limit of its own. What travels is described by private
//! structs; what the rest of the program sees has been checked: `decode` bounds every list and text, and
//! `encode` refuses what `decode` would refuse, so that a node never sends what its peers punish.
//! `docs/protocol.md` describes the same for implementers.

mod compare;
mod gossip;
mod hello;
mod sync;

pub use self::{
    compare::{Bound, Content, MAX_BOUND_BYTES, Mark, Part},
    gossip::{HAVES_VERSION, Haves, MAX_GOSSIP_BYTES, MAX_HAVES, Topic, haves_topic, records_topic},
    hello::{
        Follows, HELLO_VERSION, Hello, MAX_HELLO_ADDRS, MAX_HELLO_BYTES, MAX_NAME_BYTES, MAX_NETWORKS,
        MAX_VERSION_BYTES,
    },
    sync::{
        Have, Head, MAX_FOUND, MAX_HAVE_RANGES, MAX_HEADS, MAX_LOG_BYTES, MAX_LOG_RECORDS, MAX_MARKS, MAX_PARTS,
        MAX_SYNC_REQUEST_BYTES, MAX_SYNC_RESPONSE_BYTES, MAX_WANTS, MIN_HEADS_BEFORE_MORE, SyncRequest, SyncResponse,
        Want,
    },
};

use crate::cbor::CborError;

/// Why bytes aren't a message, or a value can't be sent as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not the deterministic encoding of this kind of message, or too large.
    #[error("message: {0}")]
    Cbor(#[from] CborError),
    /// A version this node doesn't know: the sender is newer, not hostile.
    #[error("message version {0} is unknown")]
    Version(u8),
    /// A list is longer than allowed.
    #[error("{count} {what} where at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A field has a value that no honest sender gives it.
    #[error("{0} is out of bounds")]
    Invalid(&'static str),
}

impl WireError {
    /// Whether the sender is to blame; an unknown version is nobody's fault.
    pub const fn is_misbehaviour(&self) -> bool {
        !matches!(self, Self::Version(_))
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), WireError> {
    match count > limit {
        true => Err(WireError::TooMany { what, count, limit }),
        false => Ok(()),
    }
}

/// A short text for people: bounded, and without control characters that could upset a terminal.
fn plain_text(what: &'static str, text: &str, limit_bytes: usize) -> Result<(), WireError> {
    match text.len() > limit_bytes || text.chars().any(char::is_control) {
        true => Err(WireError::Invalid(what)),
        false => Ok(()),
    }
}
