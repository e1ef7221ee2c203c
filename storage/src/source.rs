//! The seam between whoever wants bytes and wherever they come from.

use std::ops::Range;

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use mhc_protocol::BlobHash;

/// Why bytes can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nobody reachable has them. Before the first byte this is the gateway's 504 `no_source`.
    #[error("no reachable node has this blob")]
    NoSource,
    /// Every source died or failed while bytes were flowing.
    #[error("all sources were lost in the middle")]
    Lost,
    /// The range lies outside the blob.
    #[error("the range lies outside the blob's {size} bytes")]
    OutOfRange {
        /// The blob's verified size in bytes.
        size: u64,
    },
    /// There is no room for them.
    #[error("the disk or the quota is full")]
    StorageFull,
    /// Our own failure; the text is for the log.
    #[error("storage: {0}")]
    Internal(String),
}

/// "Give me bytes a..b of blob H, verified, as they come."
///
/// Every byte that comes out has been checked against the blob's hash. Implemented by
/// [`BlobStore`](crate::blob::BlobStore) for what is local, by `node::fetch` for everything else.
pub trait RangeSource: Send + Sync + 'static {
    /// The blob's verified size in bytes. May ask the network, for at most 10 s.
    fn size(&self, hash: BlobHash) -> BoxFuture<'_, Result<u64, SourceError>>;

    /// [`size`](Self::size) for somebody who reads from byte `from` on next: what has to be asked of others for both is
    /// asked at once.
    fn size_and_start(&self, hash: BlobHash, _from: u64) -> BoxFuture<'_, Result<u64, SourceError>> {
        self.size(hash)
    }

    /// The bytes of `range` in order, in pieces of any length. The stream ends after the last byte or with its
    /// first error. Dropping it withdraws the demand.
    fn read(&self, hash: BlobHash, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>>;
}
