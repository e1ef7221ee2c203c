//! What is known of every blob, in memory. One lock over small critical sections, never held over I/O; the rows in
//! the database are written from here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use bao_tree::{BaoTree, ChunkNum, ChunkRanges, io::full_chunk_groups};
use mhc_protocol::BlobHash;
use range_collections::range_set::RangeSetRange;
use tokio::sync::{broadcast, watch};

use super::{BLOCK_SIZE, BlobError, BlobEvent, BlobOptions, BlobStatus, Usage, files::Files, groups_of, meta::Row};

/// Events a slow receiver may be behind before it misses the oldest.
const EVENTS: usize = 1024;

/// The user's file behind a referenced blob, as it was when it was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) path: std::path::PathBuf,
    pub(super) identity: super::files::Identity,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Owned,
    Referenced(Reference),
}

/// One blob.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) size_bytes: u64,
    pub(super) place: Place,
    /// Verified and offered.
    pub(super) ranges: ChunkRanges,
    /// Of `ranges`, what was fsynced.
    pub(super) durable: ChunkRanges,
    /// Written, but not yet a whole group.
    pub(super) fragments: ChunkRanges,
    /// Durably recorded as complete.
    pub(super) complete: bool,
    pub(super) pinned: bool,
    pub(super) last_used_ms: u64,
    /// Handles of any kind: never evicted while there are some.
    pub(super) users: u32,
    /// Handles that may write: the whole size is reserved while there are some.
    pub(super) writers: u32,
    /// Handles that may write what they reserve.
    pub(super) part_writers: u32,
    /// Reserved for them, and not here yet.
    pub(super) promised: ChunkRanges,
    /// `last_used_ms` is newer than the database's row; written along, or at shutdown.
    pub(super) touched: bool,
    /// The database's row is behind in what matters.
    pub(super) row_dirty: bool,
    /// Written since the last checkpoint.
    pub(super) unsynced_bytes: u64,
    /// Tells this blob from one that was removed and came again.
    pub(super) instance: u64,
    /// Changes whenever the files are replaced, so that whoever still holds the old ones notices.
    pub(super) generation: u64,
    /// The open files, shared by all who read and write.
    pub(super) files: Weak<Files>,
}

impl Blob {
    pub(super) fn new(size_bytes: u64, place: Place, now_ms: u64) -> Self {
        Self {
            size_bytes,
            place,
            ranges: ChunkRanges::empty(),
            durable: ChunkRanges::empty(),
            fragments: ChunkRanges::empty(),
            complete: false,
            pinned: false,
            last_used_ms: now_ms,
            users: 0,
            writers: 0,
            part_writers: 0,
            promised: ChunkRanges::empty(),
            touched: true,
            row_dirty: true,
            unsynced_bytes: 0,
            instance: 0,
            generation: 0,
            files: Weak::new(),
        }
    }

    pub(super) fn from_row(row: Row) -> Self {
        let mut blob = Self::new(row.size_bytes, row.place(), row.last_used_ms);
        blob.ranges = if row.complete { all_chunks(row.size_bytes) } else { row.ranges() };
        blob.durable = blob.ranges.clone();
        blob.complete = row.complete;
        blob.pinned = row.pinned;
        blob.row_dirty = false;
        blob.touched = false;
        blob
    }

    pub(super) fn referenced(&self) -> bool {
        matches!(self.place, Place::Referenced(_))
    }

    pub(super) fn local_bytes(&self) -> u64 {
        bytes_in(&self.ranges, self.size_bytes)
    }

    /// Every byte is here, though perhaps not yet durably.
    pub(super) fn full(&self) -> bool {
        self.size_bytes > 0 && self.ranges == all_chunks(self.size_bytes)
    }

    /// What it counts against the quota.
    pub(super) fn charge(&self) -> u64 {
        match (self.referenced() || self.pinned, self.writers) {
            (true, _) => 0,
            (false, 0) => self.local_bytes() + self.promised_bytes(),
            (false, _) => self.size_bytes,
        }
    }

    /// What is reserved and not here yet, unless all of it is.
    pub(super) fn promised_bytes(&self) -> u64 {
        bytes_in(&self.promised, self.size_bytes)
    }

    /// Adds chunks that were written. Returns the groups they make whole, which are offered from now on.
    pub(super) fn add(&mut self, written: &ChunkRanges) -> ChunkRanges {
        // Only their own groups are looked at: what is here may be in many parts.
        let groups = groups_of(written, self.size_bytes);
        let here = &(&(&self.ranges & &groups) | &(&self.fragments & &groups)) | written;
        let whole = whole_groups(&here, self.size_bytes);
        if whole != *written || !self.fragments.is_empty() {
            self.fragments = &(&self.fragments | written) - &whole;
        }
        self.ranges |= whole.clone();
        if !self.promised.is_empty() {
            self.promised -= whole.clone();
        }
        whole
    }

    /// Stops offering `chunks`.
    pub(super) fn withdraw(&mut self, chunks: &ChunkRanges) {
        self.ranges -= chunks.clone();
        self.durable -= chunks.clone();
        self.fragments -= chunks.clone();
        self.complete = false;
        self.row_dirty = true;
    }

    fn status(&self) -> BlobStatus {
        BlobStatus {
            size_bytes: self.size_bytes,
            local_bytes: self.local_bytes(),
            complete: self.complete,
            pinned: self.pinned,
            referenced: self.referenced(),
            last_used_ms: self.last_used_ms,
            ranges: self.ranges.clone(),
        }
    }
}

/// All blobs, and whoever wants to hear of them.
#[derive(Debug)]
pub(super) struct Table {
    state: Mutex<State>,
    events: broadcast::Sender<BlobEvent>,
}

/// What the lock protects.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) blobs: HashMap<BlobHash, Blob>,
    watchers: HashMap<BlobHash, watch::Sender<ChunkRanges>>,
    /// Bytes imports in progress have been promised.
    pub(super) reserved_bytes: u64,
    /// Removed, but the disk was too full to write that down.
    pub(super) unwritten_deletes: Vec<BlobHash>,
    pub(super) closed: bool,
    clock_ms: u64,
    generation: u64,
}

impl State {
    /// The blob, unless it is unknown or the store closed.
    pub(super) fn get(&mut self, hash: BlobHash) -> Result<&mut Blob, BlobError> {
        if self.closed {
            return Err(BlobError::Closed);
        }
        self.blobs.get_mut(&hash).ok_or(BlobError::Missing)
    }

    /// Unix time in ms, made strictly increasing so that "last used" is an order.
    pub(super) fn now_ms(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64);
        self.clock_ms = now.max(self.clock_ms + 1);
        self.clock_ms
    }

    /// A number no blob's files had before.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Tells watchers what is here now; drops those nobody listens to.
    pub(super) fn notify(&mut self, hash: BlobHash) {
        let Some(watcher) = self.watchers.get(&hash) else { return };
        if watcher.receiver_count() == 0 {
            self.watchers.remove(&hash);
            return;
        }
        let ranges = self.blobs.get(&hash).map_or_else(ChunkRanges::empty, |blob| blob.ranges.clone());
        watcher.send_if_modified(|seen| {
            let changed = *seen != ranges;
            *seen = ranges;
            changed
        });
    }

    /// Tells watchers what was added, without copying what was there.
    pub(super) fn notify_added(&mut self, hash: BlobHash, added: &ChunkRanges) {
        let Some(watcher) = self.watchers.get(&hash).filter(|watcher| watcher.receiver_count() > 0) else { return };
        watcher.send_if_modified(|seen| {
            let news = !added.is_subset(seen);
            if news {
                *seen |= added.clone();
            }
            news
        });
    }

    /// Bytes that count against the quota.
    pub(super) fn quota_used_bytes(&self) -> u64 {
        self.blobs.values().map(Blob::charge).fold(self.reserved_bytes, u64::saturating_add)
    }

    /// Bytes open transfers may still write.
    pub(super) fn outstanding_bytes(&self) -> u64 {
        let outstanding = |blob: &Blob| match (blob.referenced(), blob.writers) {
            (true, _) => 0,
            (false, 0) => blob.promised_bytes(),
            (false, _) => blob.size_bytes - blob.local_bytes(),
        };
        self.blobs.values().map(outstanding).fold(0, u64::saturating_add)
    }
}

impl Table {
    pub(super) fn new(rows: Vec<(BlobHash, Row)>) -> Self {
        let blobs: HashMap<_, _> = rows.into_iter().map(|(hash, row)| (hash, Blob::from_row(row))).collect();
        let clock_ms = blobs.values().map(|blob| blob.last_used_ms).max().unwrap_or(0);
        let state = State { blobs, clock_ms, ..State::default() };
        Self { state: Mutex::new(state), events: broadcast::channel(EVENTS).0 }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn emit(&self, event: BlobEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    pub(super) fn events(&self) -> broadcast::Receiver<BlobEvent> {
        self.events.subscribe()
    }

    pub(super) fn status(&self, hash: BlobHash) -> Option<BlobStatus> {
        self.lock().blobs.get(&hash).map(Blob::status)
    }

    /// Where a complete blob's bytes are.
    pub(super) fn complete_place(&self, hash: BlobHash) -> Option<Place> {
        self.lock().blobs.get(&hash).filter(|blob| blob.complete).map(|blob| blob.place.clone())
    }

    pub(super) fn list(&self) -> Vec<(BlobHash, BlobStatus)> {
        self.lock().blobs.iter().map(|(hash, blob)| (*hash, blob.status())).collect()
    }

    pub(super) fn watch(&self, hash: BlobHash) -> watch::Receiver<ChunkRanges> {
        let mut state = self.lock();
        let ranges = state.blobs.get(&hash).map_or_else(ChunkRanges::empty, |blob| blob.ranges.clone());
        state.watchers.retain(|_, watcher| watcher.receiver_count() > 0);
        state.watchers.entry(hash).or_insert_with(|| watch::channel(ranges).0).subscribe()
    }

    pub(super) fn usage(&self, options: &BlobOptions) -> Usage {
        let state = self.lock();
        let mut usage = Usage { quota_bytes: options.quota_bytes, ..Usage::default() };
        for blob in state.blobs.values() {
            usage.blobs += 1;
            let bytes = blob.local_bytes();
            match blob.place {
                Place::Referenced(_) => usage.referenced_bytes += bytes,
                Place::Owned => usage.owned_bytes += bytes,
            }
            if blob.pinned && !blob.referenced() {
                usage.pinned_bytes += bytes;
            }
        }
        usage.quota_used_bytes = state.quota_used_bytes();
        usage
    }

    /// A handle that keeps `hash` from being evicted.
    pub(super) fn hold(self: &Arc<Self>, hash: BlobHash) -> Result<InUse, BlobError> {
        let mut state = self.lock();
        let now_ms = state.now_ms();
        let blob = state.get(hash)?;
        blob.users += 1;
        blob.last_used_ms = now_ms;
        blob.touched = true;
        Ok(InUse { table: Arc::clone(self), hash, instance: blob.instance, files: Mutex::default() })
    }
}

/// Keeps a blob from being evicted, and its files open. Outlives the blob's removal.
pub(super) struct InUse {
    table: Arc<Table>,
    pub(super) hash: BlobHash,
    instance: u64,
    files: Mutex<Option<Arc<Files>>>,
}

impl InUse {
    /// Keeps these open from now on.
    pub(super) fn keep(&self, files: &Arc<Files>) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(files));
    }

    /// Changes the blob, unless it was removed since.
    pub(super) fn with_blob(&self, change: impl FnOnce(&mut Blob)) {
        let mut state = self.table.lock();
        if let Some(blob) = state.blobs.get_mut(&self.hash).filter(|blob| blob.instance == self.instance) {
            change(blob);
        }
    }
}

impl std::fmt::Debug for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InUse({})", self.hash.short())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.with_blob(|blob| blob.users = blob.users.saturating_sub(1));
    }
}

/// Every chunk of a blob.
pub(super) fn all_chunks(size_bytes: u64) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(0)..ChunkNum::chunks(size_bytes))
}

/// The blob's tree.
pub(super) fn tree(size_bytes: u64) -> BaoTree {
    BaoTree::new(size_bytes, BLOCK_SIZE)
}

/// The bytes a set of chunks covers.
pub(super) fn bytes_in(chunks: &ChunkRanges, size_bytes: u64) -> u64 {
    spans(chunks, size_bytes).map(|(start, end)| end - start).sum()
}

/// The byte ranges of a set of chunks, cut at the blob's end.
pub(super) fn spans(chunks: &ChunkRanges, size_bytes: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    chunks.iter().map(move |range| {
        let (start, end) = match range {
            RangeSetRange::Range(range) => (range.start.to_bytes(), range.end.to_bytes()),
            RangeSetRange::RangeFrom(range) => (range.start.to_bytes(), size_bytes),
        };
        (start.min(size_bytes), end.min(size_bytes))
    })
}

/// Of `chunks`, the groups that are whole; the last one is whole when it reaches the blob's end.
pub(super) fn whole_groups(chunks: &ChunkRanges, size_bytes: u64) -> ChunkRanges {
    let end = ChunkNum::chunks(size_bytes);
    let past_end = ChunkRanges::from(end..ChunkNum::chunk_group_end(end, BLOCK_SIZE));
    full_chunk_groups(&(chunks | &past_end), BLOCK_SIZE) & all_chunks(size_bytes)
}
