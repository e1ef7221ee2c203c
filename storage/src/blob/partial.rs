//! A blob in transfer: verified pieces are written where they belong, offered at once, and made durable by checkpoints
//! (every 16 MiB, every 2 s while something is written, when the handle goes, and when the blob is complete).

use std::sync::Arc;

use bao_tree::{ChunkRanges, io::BaoContentItem};
use mhc_protocol::BlobHash;

use super::{
    BlobError, BlobEvent, blocking,
    files::Files,
    import,
    room::Need,
    runs::Runs,
    store::Inner,
    table::{self, Blob, InUse, Place, all_chunks},
};

/// Bytes written before a checkpoint is due at once.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// Largest file offset.
const MAX_BYTES: u64 = i64::MAX as u64;

/// A blob in transfer. Clones share it; while one lives the blob isn't evicted, and its whole
/// size is reserved, or what was asked for ([`PartialBlob::reserve`]).
#[derive(Debug, Clone)]
pub struct PartialBlob {
    writer: Arc<Writer>,
}

impl PartialBlob {
    /// `whole`: room for all of it is reserved.
    pub(super) async fn open(
        inner: &Arc<Inner>,
        hash: BlobHash,
        size_bytes: u64,
        whole: bool,
    ) -> Result<Self, BlobError> {
        let inner = Arc::clone(inner);
        let writer = blocking(move || Writer::open(inner, hash, size_bytes, whole)).await?;
        Ok(Self { writer: Arc::new(writer) })
    }

    /// Writes items the decoder has verified, in the order it gave them. Chunk groups that are now whole are offered
    /// and watchers told before this returns; when they were the last, the blob is durably complete.
    pub async fn write(&self, items: Vec<BaoContentItem>) -> Result<(), BlobError> {
        let writer = Arc::clone(&self.writer);
        blocking(move || writer.write(&items)).await
    }

    /// [`PartialBlob::write`] for a caller that is on a blocking thread already.
    pub fn write_blocking(&self, items: &[BaoContentItem]) -> Result<(), BlobError> {
        self.writer.write(items)
    }

    /// Makes and reserves room for the groups around `chunks` that aren't here; nothing to do for a handle that has
    /// reserved everything. Without it [`write`](Self::write) makes room for what it is given.
    ///
    /// Fails with [`BlobError::QuotaExceeded`] or [`BlobError::StorageFull`] when the room can't be made, neither by
    /// evicting other blobs nor by giving up parts of this one that `chunks` doesn't contain: first what lies before
    /// them, from the beginning on, then what lies behind, from the end.
    pub async fn reserve(&self, chunks: &ChunkRanges) -> Result<(), BlobError> {
        let (writer, chunks) = (Arc::clone(&self.writer), chunks.clone());
        blocking(move || writer.inner.reserve(writer.held.hash, &chunks)).await
    }

    /// What of `ranges` isn't here yet. Chunks behind the blob's end don't count.
    pub fn missing(&self, ranges: &ChunkRanges) -> ChunkRanges {
        let wanted = ranges & &all_chunks(self.writer.size_bytes);
        match self.writer.inner.table.lock().get(self.writer.held.hash) {
            Ok(blob) => &wanted - &blob.ranges,
            Err(_) => wanted,
        }
    }

    /// The blob's size.
    pub fn size_bytes(&self) -> u64 {
        self.writer.size_bytes
    }

    /// The blob's hash.
    pub fn hash(&self) -> BlobHash {
        self.writer.held.hash
    }
}

/// What clones of a handle share.
#[derive(Debug)]
struct Writer {
    inner: Arc<Inner>,
    held: InUse,
    size_bytes: u64,
    /// All of it is reserved.
    whole: bool,
}

impl Writer {
    fn open(inner: Arc<Inner>, hash: BlobHash, size_bytes: u64, whole: bool) -> Result<Self, BlobError> {
        if size_bytes > MAX_BYTES {
            return Err(BlobError::TooLarge { limit_bytes: MAX_BYTES });
        }
        if size_bytes == 0 {
            install_empty(&inner, hash)?;
        }
        let structure = inner.structure();
        let need = need(&inner, hash, size_bytes)?;
        // Held before room is made, so that making room can't take the blob itself.
        let known = inner.table.hold(hash).ok();
        if whole {
            inner.make_room(&structure, need)?;
        }
        let held = match known {
            Some(held) => held,
            None => create(&inner, hash, size_bytes)?,
        };
        own(&inner, hash)?;
        held.with_blob(|blob| if whole { blob.writers += 1 } else { blob.part_writers += 1 });
        drop(structure);
        Ok(Self { inner, held, size_bytes, whole })
    }

    fn write(&self, items: &[BaoContentItem]) -> Result<(), BlobError> {
        let hash = self.held.hash;
        let already_complete = self.inner.table.lock().get(hash)?.complete;
        if already_complete {
            return Ok(());
        }
        let runs = Runs::gather(self.size_bytes, items)?;
        if !self.whole {
            self.inner.reserve(hash, runs.chunks())?;
        }
        let files = self.inner.files(hash)?;
        self.held.keep(&files);
        if !files.writable {
            return Ok(());
        }
        let written = runs.write(&files)?;
        if self.offer(&files, &written)? {
            return self.inner.checkpoint(hash);
        }
        Ok(())
    }

    /// Offers the groups that are now whole. True when that was the last of the blob.
    fn offer(&self, files: &Files, written: &ChunkRanges) -> Result<bool, BlobError> {
        let hash = self.held.hash;
        let mut state = self.inner.table.lock();
        let now_ms = state.now_ms();
        let blob = state.get(hash)?;
        if blob.generation != files.generation {
            // The files were replaced by a complete import meanwhile.
            return Ok(false);
        }
        let (was_empty, was_full) = (blob.ranges.is_empty(), blob.full());
        let whole = blob.add(written);
        blob.unsynced_bytes += table::bytes_in(written, self.size_bytes);
        blob.last_used_ms = now_ms;
        blob.touched = true;
        let started = was_empty && !blob.ranges.is_empty();
        let full = blob.full() && !was_full;
        let due = blob.unsynced_bytes >= CHECKPOINT_BYTES;
        state.notify_added(hash, &whole);
        drop(state);
        if started {
            self.inner.table.emit(BlobEvent::Started(hash));
        }
        self.inner.signal.dirty(due);
        Ok(full)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.held.with_blob(|blob| match self.whole {
            true => blob.writers = blob.writers.saturating_sub(1),
            false => blob.part_writers = blob.part_writers.saturating_sub(1),
        });
        self.held.with_blob(|blob| {
            if blob.part_writers == 0 {
                blob.promised = ChunkRanges::empty();
            }
        });
        self.inner.signal.dirty(true);
    }
}

/// The empty blob needs nobody to send it.
fn install_empty(inner: &Arc<Inner>, hash: BlobHash) -> Result<(), BlobError> {
    if hash != BlobHash::of(&[]) {
        return Err(BlobError::InvalidItem);
    }
    let step = BlobError::io("create an import's file");
    let (data, tree) = (inner.dirs.temp().map_err(&step)?, inner.dirs.temp().map_err(&step)?);
    import::move_into_place(inner, hash, 0, Place::Owned, Some(data), tree).map(drop)
}

/// Checks the size against what is known, and tells how much more the blob may take.
fn need(inner: &Inner, hash: BlobHash, size_bytes: u64) -> Result<Need, BlobError> {
    match inner.table.lock().get(hash) {
        Ok(blob) if blob.size_bytes != size_bytes => {
            Err(BlobError::SizeMismatch { known_bytes: blob.size_bytes, claimed_bytes: size_bytes })
        }
        Ok(blob) if blob.complete || blob.writers > 0 => Ok(Need::default()),
        Ok(blob) => {
            let here = if blob.referenced() { 0 } else { blob.local_bytes() + blob.promised_bytes() };
            let lacking = size_bytes.saturating_sub(here);
            Ok(Need { quota_bytes: if blob.pinned { 0 } else { lacking }, disk_bytes: lacking })
        }
        Err(BlobError::Missing) => Ok(Need { quota_bytes: size_bytes, disk_bytes: size_bytes }),
        Err(error) => Err(error),
    }
}

/// A new blob with empty files. Its row is written with the first checkpoint: until then there is nothing to keep.
fn create(inner: &Arc<Inner>, hash: BlobHash, size_bytes: u64) -> Result<InUse, BlobError> {
    let generation = inner.table.lock().next_generation();
    Files::open_owned(&inner.dirs, hash, size_bytes, generation, true).map_err(BlobError::open)?;
    let mut state = inner.table.lock();
    let now_ms = state.now_ms();
    let mut blob = Blob::new(size_bytes, Place::Owned, now_ms);
    (blob.generation, blob.instance) = (generation, generation);
    state.blobs.insert(hash, blob);
    drop(state);
    inner.table.hold(hash)
}

/// Turns what was a reference to a file now changed or gone into a partial blob of our own, and gives a blob whose
/// files vanished new ones.
fn own(inner: &Inner, hash: BlobHash) -> Result<(), BlobError> {
    let (size_bytes, generation) = {
        let mut state = inner.table.lock();
        let generation = state.next_generation();
        let blob = state.get(hash)?;
        let files_gone = !blob.referenced() && blob.ranges.is_empty() && !inner.dirs.has_files(hash, blob.size_bytes);
        if blob.complete || !(blob.referenced() || files_gone) {
            return Ok(());
        }
        (blob.size_bytes, generation)
    };
    Files::open_owned(&inner.dirs, hash, size_bytes, generation, true).map_err(BlobError::open)?;
    let mut state = inner.table.lock();
    let blob = state.get(hash)?;
    blob.place = Place::Owned;
    blob.generation = generation;
    blob.ranges = ChunkRanges::empty();
    blob.durable = ChunkRanges::empty();
    blob.row_dirty = true;
    Ok(())
}
