//! The blob store (being built: signatures first).

mod error;

use std::{io, ops::Range, path::Path, sync::Arc};

use bao_tree::{BlockSize, ChunkRanges, io::BaoContentItem};
use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use mhc_protocol::BlobHash;
use tokio::sync::{broadcast, mpsc, watch};

pub use self::error::BlobError;
use crate::source::{RangeSource, SourceError};

/// Chunk groups of 16 KiB: the unit that can be verified and served by itself. The same as iroh-blobs'.
pub const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

/// Settings of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlobOptions {
    /// Most bytes of owned, unpinned blobs; none is no limit but the disk.
    pub quota_bytes: Option<u64>,
    /// Bytes of the file system that stay free.
    pub min_free_bytes: u64,
}

/// How a file gets into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// Its bytes are copied.
    Copy,
    /// It stays where it is and is read from there. The store never writes to it or deletes it.
    Reference,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// What is being done.
    pub phase: ImportPhase,
    /// Bytes done in this phase.
    pub bytes_done: u64,
    /// The file's size.
    pub bytes_total: u64,
}

/// The steps of an import, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImportPhase {
    /// Bytes are copied into the store (not for references).
    Copying,
    /// The hash and its tree are computed.
    Hashing,
}

/// Gets told how far an import is; called on a blocking thread.
pub type OnProgress = Arc<dyn Fn(ImportProgress) + Send + Sync>;

/// A finished import. As long as it is held the blob isn't evicted: hold it until the blob is pinned.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The blob's hash.
    pub hash: BlobHash,
    /// Its size.
    pub bytes: u64,
}

/// What the store has of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobStatus {
    /// The blob's proven size.
    pub size_bytes: u64,
    /// Verified bytes that are here.
    pub local_bytes: u64,
    /// All of it is here, durably.
    pub complete: bool,
    /// It is never evicted.
    pub pinned: bool,
    /// It is a file of the user's, outside the store.
    pub referenced: bool,
    /// When it was last read or written, Unix time.
    pub last_used_ms: u64,
    /// The verified chunks (of 1 KiB) that are here: whole groups of 16, the last one cut at the blob's end.
    pub ranges: ChunkRanges,
}

/// What happened to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobEvent {
    /// A partial blob got its first bytes.
    Started(BlobHash),
    /// All of it is here, durably.
    Complete(BlobHash),
    /// Some or all of it no longer matches the hash and isn't offered any more.
    Damaged(BlobHash),
    /// It was removed or evicted.
    Removed(BlobHash),
}

/// How much the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Blobs known, partial ones included.
    pub blobs: u64,
    /// Verified bytes in the store's own files.
    pub owned_bytes: u64,
    /// Bytes of referenced files.
    pub referenced_bytes: u64,
    /// Verified owned bytes that are pinned.
    pub pinned_bytes: u64,
    /// What counts against the quota: owned, unpinned bytes, and what open transfers and imports have reserved.
    pub quota_used_bytes: u64,
    /// The quota.
    pub quota_bytes: Option<u64>,
}

/// What [`BlobStore::gc`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Blobs evicted to get below the quota.
    pub evicted: u64,
    /// Files without a blob that were deleted.
    pub stray_files: u64,
    /// Bytes freed by both.
    pub freed_bytes: u64,
}

/// How far the background verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// Blobs still to check.
    pub blobs_left: u64,
    /// Blobs checked since the store was opened.
    pub blobs_done: u64,
    /// Bytes checked since the store was opened.
    pub bytes_done: u64,
    /// Blobs in which damage was found.
    pub blobs_damaged: u64,
}

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct BlobStore {}

impl BlobStore {
    /// Opens the store in `dir`, making it when there is none.
    pub fn open(_dir: &Path, _options: BlobOptions) -> Result<Self, BlobError> {
        Err(BlobError::Closed)
    }

    /// Imports a stream, at most `limit_bytes` long.
    pub async fn import_stream<S>(&self, _bytes: S, _limit_bytes: u64) -> Result<Imported, BlobError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        Err(BlobError::Closed)
    }

    /// Imports a file.
    pub async fn import_file(
        &self,
        _path: &Path,
        _mode: ImportMode,
        _progress: OnProgress,
    ) -> Result<Imported, BlobError> {
        Err(BlobError::Closed)
    }

    /// What is here of `hash`; none when nothing is known of it.
    pub fn status(&self, _hash: BlobHash) -> Option<BlobStatus> {
        None
    }

    /// Every blob the store knows.
    pub fn list(&self) -> Vec<(BlobHash, BlobStatus)> {
        Vec::new()
    }

    /// A handle to write verified pieces of a blob of `size_bytes` (already proven) as they come.
    pub async fn partial(&self, _hash: BlobHash, _size_bytes: u64) -> Result<PartialBlob, BlobError> {
        Err(BlobError::Closed)
    }

    /// The verified chunks of `hash` that are here, as they change; empty while nothing is.
    pub fn watch(&self, _hash: BlobHash) -> watch::Receiver<ChunkRanges> {
        watch::channel(ChunkRanges::empty()).1
    }

    /// Sends the bao encoding of `ranges` (no size prefix) to `out`, validated while reading. Returns the bytes sent.
    pub async fn encode(
        &self,
        _hash: BlobHash,
        _ranges: ChunkRanges,
        _out: mpsc::Sender<Bytes>,
    ) -> Result<u64, BlobError> {
        Err(BlobError::Closed)
    }

    /// The bytes of `range`, validated; `NoSource` at once when they aren't all local.
    pub fn read_local(&self, _hash: BlobHash, _range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        futures::stream::empty().boxed()
    }

    /// Protects `hash` from eviction, or no longer. Durable when it returns.
    pub async fn set_pinned(&self, _hash: BlobHash, _pinned: bool) -> Result<(), BlobError> {
        Err(BlobError::Closed)
    }

    /// Forgets `hash` and deletes the store's files of it, pinned or not. Returns the bytes freed.
    pub async fn remove(&self, _hash: BlobHash) -> Result<u64, BlobError> {
        Err(BlobError::Closed)
    }

    /// Evicts down to the quota and deletes stray files, now.
    pub async fn gc(&self) -> Result<GcReport, BlobError> {
        Err(BlobError::Closed)
    }

    /// How much the store holds.
    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    /// What happens from now on. A receiver that lags misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<BlobEvent> {
        broadcast::channel(1).1
    }

    /// Queues every blob for verification in the background.
    pub fn verify_all(&self) {}

    /// How far the background verification is.
    pub fn verification(&self) -> VerifyProgress {
        VerifyProgress::default()
    }

    /// Makes everything durable and closes the files. Later calls fail with [`BlobError::Closed`].
    pub async fn shutdown(&self) {}
}

impl RangeSource for BlobStore {
    fn size(&self, hash: BlobHash) -> BoxFuture<'_, Result<u64, SourceError>> {
        Box::pin(async move { self.status(hash).map(|blob| blob.size_bytes).ok_or(SourceError::NoSource) })
    }

    fn read(&self, hash: BlobHash, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        self.read_local(hash, range)
    }
}

/// A blob in transfer. Clones share it; while one lives the blob isn't evicted.
#[derive(Debug, Clone)]
pub struct PartialBlob {}

impl PartialBlob {
    /// Writes items the decoder has verified, in the order it gave them.
    pub async fn write(&self, _items: Vec<BaoContentItem>) -> Result<(), BlobError> {
        Err(BlobError::Closed)
    }

    /// What of `ranges` isn't here yet.
    pub fn missing(&self, ranges: &ChunkRanges) -> ChunkRanges {
        ranges.clone()
    }

    /// The blob's size.
    pub fn size_bytes(&self) -> u64 {
        0
    }
}
