//! Bytes from other nodes, verified before they are stored or handed out.

pub mod peers;

pub use peers::{BadBytes, ConnectError, Misbehaviour, Peers};
