//! Bytes from other nodes, verified before they are stored or handed out.
//!
//! [`Fetcher`] is a [`RangeSource`](mhc_storage::source::RangeSource) over the local store and every provider that
//! [`Peers`] knows. One task (`transfer`) owns each blob in transfer: it finds and connects providers, proves the
//! blob's size, and drives the pure [`Scheduler`](mhc_protocol::sched::Scheduler). Each unit the scheduler asks for is
//! one request of `/iroh-bytes/4` (`answer`), verified (`verify`) before it is written to the store (`unit`). Readers (`source`) see new bytes through the store's watch; they never touch the network.

mod answer;
mod engine;
#[cfg(any(test, feature = "testing"))]
pub mod hostile;
mod ledger;
mod metrics;
pub mod peers;
mod source;
#[cfg(test)]
mod tests;
mod transfer;
mod unit;
pub(crate) mod verify;

pub use engine::{FetchOptions, Fetcher, Progress, SourceShare, TransferInfo};
pub use metrics::FetchMetrics;
pub use peers::{BadBytes, ConnectError, Misbehaviour, Peers};
