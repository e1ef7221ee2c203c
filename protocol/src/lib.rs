//! What every MHC node agrees on: identities, records, manifests, tickets, wire messages, and the pure
//! deciders that drive a node.
//!
//! Nothing in this crate opens a socket or a file, reads a clock, spawns a task or draws ambient randomness:
//! `now`, randomness and effects are arguments and return values, so everything here runs in simulation.
//! `docs/protocol.md` describes the same formats for implementers of another node.

pub mod alert;
pub mod bundle;
pub mod cbor;
pub mod id;
pub mod key;
pub mod link;
pub mod manifest;
pub mod mode;
pub mod network;
pub mod reconcile;
pub mod record;
pub mod relay;
pub mod sched;
pub mod ticket;
pub mod time;
pub mod upload;
pub mod wire;

pub use id::{AuthorId, BlobHash, NetworkId, NodeId, ParseIdError, RecordId};
pub use key::{SecretKey, Signature};
pub use time::Timestamp;
