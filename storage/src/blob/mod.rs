//! The blob store: BLAKE3-addressed bytes in files of our own, each with its bao tree in 16 KiB chunk groups.
//!
//! Built directly on `bao-tree`; docs/decisions/0002-blob-store.md says why. What holds, whatever happens:
//!
//! - **Nothing unverified comes out.** Each window that is read or encoded is validated against the hash in the very
//!   buffer it is served from (`read`), which may be kept and served again. What doesn't validate is withdrawn,
//!   announced as [`BlobEvent::Damaged`], and can be fetched again.
//! - **What is reported complete is durable.** Bytes and tree are fsynced before the row that says so is committed;
//!   partial blobs are checkpointed the same way (`partial`).
//! - **A size is only a claim** until bytes prove it: nothing is preallocated.
//! - **A user's file is never written or deleted.** A reference that changed or vanished is noticed before each read.
//! - **Room is made before it is taken**: quota and free space are checked, least recently used blobs evicted
//!   (`room`); never pinned or referenced ones or ones in use.
//!
//! Where things are: `table` what is known of each blob, in memory; `meta` its rows on disk; `files` the folder;
//! `store` what ties them together and the order of locks; `import` (with `intake` and `segments`), `partial`, `read`
//! (with `validate` and `cache`) the ways in and out; `room` (and `parts`) quota, eviction, gc; `verify` finding damage; `upkeep` the two threads.

mod cache;
mod error;
mod files;
mod import;
mod intake;
mod meta;
mod partial;
mod parts;
mod read;
mod room;
mod runs;
mod segments;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
mod validate;
mod verify;

use std::{io, ops::Range, path::Path, sync::Arc};

use bao_tree::{BlockSize, ChunkRanges, io::round_up_to_chunks_groups};
use bytes::Bytes;
use futures::{Stream, future::BoxFuture, stream::BoxStream};
use mhc_protocol::BlobHash;
use tokio::sync::{broadcast, mpsc, watch};

pub use self::{error::BlobError, partial::PartialBlob, read::Encoder};
use self::{
    store::Inner,
    table::{InUse, all_chunks},
    upkeep::Threads,
};
use crate::source::{RangeSource, SourceError};

/// Chunk groups of 16 KiB: the unit that can be verified and served by itself. The same as iroh-blobs'.
pub const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

/// Settings of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobOptions {
    /// Most bytes of owned, unpinned blobs; none is no limit but the disk.
    pub quota_bytes: Option<u64>,
    /// Bytes of the file system that stay free.
    pub min_free_bytes: u64,
    /// Most bytes of memory for windows that are read again and again; 0 keeps none.
    pub cache_bytes: u64,
}

impl Default for BlobOptions {
    /// No quota, no floor, a cache of 64 MiB.
    fn default() -> Self {
        Self { quota_bytes: None, min_free_bytes: 0, cache_bytes: 64 << 20 }
    }
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
    /// Bytes are copied into the store and hashed on the way (not for references).
    Copying,
    /// The hash and its tree are computed. Of a copy only the end is told, with all bytes done: what is left is to make
    /// it durable.
    Hashing,
}

/// Gets told how far an import is; called on threads that may block, one at a time.
pub type OnProgress = Arc<dyn Fn(ImportProgress) + Send + Sync>;

/// A finished import. As long as it is held the blob isn't evicted: hold it until the blob is pinned.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The blob's hash.
    pub hash: BlobHash,
    /// Its size.
    pub bytes: u64,
    /// Only there to be dropped.
    _held: Arc<InUse>,
}

impl Imported {
    fn new((hash, bytes, held): import::Done) -> Self {
        Self { hash, bytes, _held: Arc::new(held) }
    }
}

/// Keeps a blob from being evicted while it lives.
#[derive(Debug)]
pub struct Held {
    /// Only there to be dropped.
    _held: InUse,
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

/// The store. Clones share it; the last one dropped ends its threads. [`BlobStore::shutdown`] is the clean end, anything
/// else counts as a crash: at the next start everything is verified in the background.
#[derive(Debug, Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
    threads: Arc<Threads>,
}

impl BlobStore {
    /// Opens the store in `dir`, making it when there is none. Blocks for a few milliseconds.
    ///
    /// Fails with [`BlobError::Locked`] when it is open already.
    pub fn open(dir: &Path, options: BlobOptions) -> Result<Self, BlobError> {
        let inner = Arc::new(Inner::open(dir, options)?);
        let threads = Arc::new(Threads::start(&inner)?);
        Ok(Self { inner, threads })
    }

    /// Imports a stream of at most `limit_bytes`, in bounded memory. Durable when it returns; on failure nothing is
    /// kept. Importing what is already complete changes nothing.
    ///
    /// Fails with [`BlobError::TooLarge`], [`BlobError::StorageFull`], [`BlobError::QuotaExceeded`], or
    /// [`BlobError::Stream`] when the stream itself fails.
    pub async fn import_stream<S>(&self, bytes: S, limit_bytes: u64) -> Result<Imported, BlobError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        import::stream(&self.inner, bytes, limit_bytes).await.map(Imported::new)
    }

    /// Imports a file, durably. A reference that changes while it is hashed, and a file that shrinks while it is copied,
    /// fail with [`BlobError::Changed`].
    pub async fn import_file(
        &self,
        path: &Path,
        mode: ImportMode,
        progress: OnProgress,
    ) -> Result<Imported, BlobError> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_path_buf());
        let import = match mode {
            ImportMode::Copy => import::copy_file,
            ImportMode::Reference => import::reference_file,
        };
        blocking(move || import(&inner, &path, &progress)).await.map(Imported::new)
    }

    /// What is here of `hash`; none when nothing is known of it.
    pub fn status(&self, hash: BlobHash) -> Option<BlobStatus> {
        self.inner.table.status(hash)
    }

    /// The file that holds a complete blob's bytes, for programs that can only read files. What they read isn't
    /// validated, and the file may change or go while they do.
    pub fn path(&self, hash: BlobHash) -> Option<std::path::PathBuf> {
        match self.inner.table.complete_place(hash)? {
            table::Place::Owned => Some(self.inner.dirs.data(hash)),
            table::Place::Referenced(reference) => Some(reference.path),
        }
    }

    /// Every blob the store knows.
    pub fn list(&self) -> Vec<(BlobHash, BlobStatus)> {
        self.inner.table.list()
    }

    /// A handle to write verified pieces of a blob as they come. `size_bytes` must be proven (by the tree's last chunk);
    /// room for all of it is made and reserved while the handle lives, nothing is preallocated.
    ///
    /// Fails with [`BlobError::QuotaExceeded`] or [`BlobError::StorageFull`] when the room can't be made, and
    /// [`BlobError::SizeMismatch`] when the blob is known with another size.
    pub async fn partial(&self, hash: BlobHash, size_bytes: u64) -> Result<PartialBlob, BlobError> {
        PartialBlob::open(&self.inner, hash, size_bytes, true).await
    }

    /// The same for a blob of which perhaps only parts are wanted, or pass through: it may be larger than the quota and
    /// the disk. Room is made only for what is [reserved](PartialBlob::reserve) or written, if need be by giving up
    /// other parts of this same blob, unless it is pinned.
    ///
    /// Fails with [`BlobError::SizeMismatch`] when the blob is known with another size.
    pub async fn partial_in_parts(&self, hash: BlobHash, size_bytes: u64) -> Result<PartialBlob, BlobError> {
        PartialBlob::open(&self.inner, hash, size_bytes, false).await
    }

    /// Protects `hash` from eviction while the answer lives; none when nothing is known of it. It keeps no file open.
    pub fn hold(&self, hash: BlobHash) -> Option<Held> {
        self.inner.table.hold(hash).ok().map(|held| Held { _held: held })
    }

    /// The verified chunks of `hash` that are here, as they change; empty while nothing is.
    pub fn watch(&self, hash: BlobHash) -> watch::Receiver<ChunkRanges> {
        self.inner.table.watch(hash)
    }

    /// Sends what [`encoder`](Self::encoder) yields to `out` and returns the bytes sent.
    ///
    /// Fails with [`BlobError::Missing`] before anything is sent when some of it isn't here. After any later error
    /// ([`BlobError::Damaged`], [`BlobError::Changed`]) what was sent is valid but not all: cut the stream.
    pub async fn encode(
        &self,
        hash: BlobHash,
        ranges: ChunkRanges,
        out: mpsc::Sender<Bytes>,
    ) -> Result<u64, BlobError> {
        read::encode(&self.inner, hash, &ranges, out).await
    }

    /// The bao encoding of `ranges` (no size prefix), piece by piece as it is asked for, validated while reading.
    /// Chunks behind the end ask for the last chunk, as bao-tree and iroh-blobs have it.
    ///
    /// Fails with [`BlobError::Missing`] when some of it isn't here.
    pub fn encoder(&self, hash: BlobHash, ranges: &ChunkRanges) -> Result<Encoder, BlobError> {
        Encoder::new(&self.inner, hash, ranges)
    }

    /// The bytes of `range`, validated, in pieces of up to 256 KiB. The first item is `NoSource` when they aren't all
    /// here. When they turn out damaged in the middle the stream ends with `Lost`.
    pub fn read_local(&self, hash: BlobHash, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        read::local(&self.inner, hash, range)
    }

    /// Protects `hash` from eviction, or no longer. Durable when it returns.
    pub async fn set_pinned(&self, hash: BlobHash, pinned: bool) -> Result<(), BlobError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.update(hash, |blob| blob.pinned = pinned)).await
    }

    /// Forgets `hash` and deletes the store's files of it, pinned or not. Who is reading it gets an error. Returns the
    /// bytes freed; none when it wasn't there.
    pub async fn remove(&self, hash: BlobHash) -> Result<u64, BlobError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inner.remove_all(&inner.structure(), &[hash], |_| true)?.1)).await
    }

    /// Evicts down to the quota and the free-space floor and deletes stray files, now.
    pub async fn gc(&self) -> Result<GcReport, BlobError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.gc()).await
    }

    /// How much the store holds.
    pub fn usage(&self) -> Usage {
        self.inner.table.usage(&self.inner.options)
    }

    /// What happens from now on. A receiver that is 1024 events behind misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<BlobEvent> {
        self.inner.table.events()
    }

    /// Queues every blob for verification in the background, durably. Referenced files that were moved back or only
    /// touched are offered again when they validate.
    pub async fn verify_all(&self) -> Result<(), BlobError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.verify_all()).await
    }

    /// How far the background verification is.
    pub fn verification(&self) -> VerifyProgress {
        self.inner.verify.progress()
    }

    /// Makes everything durable and closes the files. Later calls fail with [`BlobError::Closed`].
    pub async fn shutdown(&self) {
        let store = self.clone();
        let closed = blocking(move || {
            store.threads.stop();
            store.inner.shutdown();
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "the blob store wasn't closed cleanly");
        }
    }
}

impl RangeSource for BlobStore {
    fn size(&self, hash: BlobHash) -> BoxFuture<'_, Result<u64, SourceError>> {
        Box::pin(async move { self.status(hash).map(|blob| blob.size_bytes).ok_or(SourceError::NoSource) })
    }

    fn read(&self, hash: BlobHash, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        self.read_local(hash, range)
    }
}

/// Runs what waits for the disk where waiting is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    finished(tokio::task::spawn_blocking(work).await)
}

/// What a task came to; a panic in it is an error like others.
fn finished<T>(done: Result<Result<T, BlobError>, tokio::task::JoinError>) -> Result<T, BlobError> {
    done.map_err(|error| BlobError::Io { step: "work on a blocking thread", source: io::Error::other(error) })?
}

/// The whole groups that contain `chunks`.
fn groups_of(chunks: &ChunkRanges, size_bytes: u64) -> ChunkRanges {
    round_up_to_chunks_groups(chunks.clone(), BLOCK_SIZE) & all_chunks(size_bytes)
}
