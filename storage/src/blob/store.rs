//! What the parts of the store share: the table, the files, the database, and the order in which locks are taken.
//!
//! Lock order: `structure` (held over renames, unlinks and commits; blocking threads only), then the table's lock
//! (held over no I/O at all).

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bao_tree::ChunkRanges;
use mhc_protocol::BlobHash;

use super::{
    BlobError, BlobEvent, BlobOptions,
    cache::Cache,
    files::{Dirs, Files, sync_dir},
    meta::{Change, Meta, Row},
    read::WINDOW_BYTES,
    table::{Blob, Place, Table, all_chunks},
    upkeep::Signal,
    verify::Queue,
};
use crate::reserve::Reserve;

/// The store behind its handles.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dirs: Dirs,
    pub(super) options: BlobOptions,
    pub(super) table: Arc<Table>,
    pub(super) cache: Cache,
    pub(super) meta: Meta,
    structure: Mutex<()>,
    pub(super) signal: Signal,
    pub(super) verify: Queue,
    /// The last stop wasn't clean.
    pub(super) was_unclean: bool,
}

/// Proof that `structure` is locked.
pub(super) type Structure<'a> = MutexGuard<'a, ()>;

/// Enough for the metadata to be opened and repaired.
const RESERVE_BYTES: u64 = 1024 * 1024;

impl Inner {
    /// Opens the folder. After an unclean stop every blob is queued for verification.
    pub(super) fn open(dir: &Path, options: BlobOptions) -> Result<Self, BlobError> {
        let step = BlobError::io("open the blob store");
        let dirs = Dirs::create(dir).map_err(&step)?;
        let reserve = Reserve::new(dir, RESERVE_BYTES);
        let (meta, loaded) = match Meta::open(&dirs.meta()) {
            Err(BlobError::StorageFull) if reserve.release() => Meta::open(&dirs.meta())?,
            opened => opened?,
        };
        reserve.restore(options.min_free_bytes);
        dirs.empty_temp().map_err(&step)?;
        let mut suspects = loaded.suspects;
        let was_unclean = dirs.unclean().exists();
        if was_unclean {
            suspects = loaded.rows.iter().map(|(hash, _)| *hash).collect();
            let changes: Vec<_> = suspects.iter().copied().map(Change::Suspect).collect();
            match meta.commit(&changes) {
                // They are checked all the same, and queued again at the next start.
                Err(BlobError::StorageFull) => tracing::warn!("no room to note which blobs must be checked"),
                committed => committed?,
            }
        } else {
            let marked = std::fs::File::create(dirs.unclean()).and_then(|file| file.sync_all());
            match marked.and_then(|()| sync_dir(dir)).map_err(&step) {
                // Without the mark a kill goes unnoticed; what is read is checked all the same.
                Err(BlobError::StorageFull) => tracing::warn!("no room to mark the blob store as open"),
                marked => marked?,
            }
        }
        let table = Arc::new(Table::new(loaded.rows));
        let verify = Queue::new(suspects);
        Ok(Self {
            dirs,
            options,
            table,
            cache: Cache::new(options.cache_bytes, WINDOW_BYTES),
            meta,
            structure: Mutex::new(()),
            signal: Signal::default(),
            verify,
            was_unclean,
        })
    }

    pub(super) fn structure(&self) -> Structure<'_> {
        self.structure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob's open files: the ones already open, or opened now. A referenced file is checked to be the one that
    /// was hashed.
    pub(super) fn files(&self, hash: BlobHash) -> Result<Arc<Files>, BlobError> {
        loop {
            let (size_bytes, generation, place, open) = {
                let mut state = self.table.lock();
                let blob = state.get(hash)?;
                (blob.size_bytes, blob.generation, blob.place.clone(), blob.files.upgrade())
            };
            if let Place::Referenced(reference) = &place
                && !reference.identity.matches(&reference.path)
            {
                self.lose_reference(hash, generation);
                return Err(BlobError::Changed { path: reference.path.clone() });
            }
            if let Some(files) = open.filter(|files| files.generation == generation) {
                return Ok(files);
            }
            let opened = match &place {
                Place::Owned => Files::open_owned(&self.dirs, hash, size_bytes, generation, false),
                Place::Referenced(reference) => {
                    Files::open_referenced(&self.dirs, hash, size_bytes, generation, &reference.path)
                }
            };
            let mut state = self.table.lock();
            let blob = state.get(hash)?;
            if blob.generation != generation {
                continue;
            }
            if let Some(files) = blob.files.upgrade().filter(|files| files.generation == generation) {
                return Ok(files);
            }
            let files = match opened {
                Ok(files) => Arc::new(files),
                Err(error) => {
                    drop(state);
                    return Err(self.unopenable(hash, error));
                }
            };
            blob.files = Arc::downgrade(&files);
            return Ok(files);
        }
    }

    /// Files that aren't there any more hold nothing to offer.
    fn unopenable(&self, hash: BlobHash, error: std::io::Error) -> BlobError {
        if error.kind() != std::io::ErrorKind::NotFound {
            return BlobError::open(error);
        }
        self.withdraw(hash, None);
        BlobError::Damaged
    }

    /// Stops offering `chunks` (everything when none) of a blob, and says so.
    pub(super) fn withdraw(&self, hash: BlobHash, chunks: Option<&ChunkRanges>) {
        let mut state = self.table.lock();
        let Ok(blob) = state.get(hash) else { return };
        let all = all_chunks(blob.size_bytes);
        let before = (blob.complete, blob.ranges.clone());
        blob.withdraw(chunks.unwrap_or(&all));
        if before == (blob.complete, blob.ranges.clone()) {
            return;
        }
        state.notify(hash);
        drop(state);
        self.cache.forget(hash);
        tracing::warn!(blob = %hash, "bytes on disk don't match the hash; they are no longer offered");
        self.table.emit(BlobEvent::Damaged(hash));
        self.signal.dirty(true);
    }

    /// A referenced file isn't the one that was hashed any more. When it still has its length it is verified anew:
    /// it may only have been touched.
    pub(super) fn lose_reference(&self, hash: BlobHash, generation: u64) {
        {
            let mut state = self.table.lock();
            let next = state.next_generation();
            let Ok(blob) = state.get(hash) else { return };
            if blob.generation != generation {
                return;
            }
            blob.generation = next;
        }
        self.withdraw(hash, None);
        self.verify.push(hash);
    }

    /// Makes what was written of a blob durable: its bytes first, then its row; as complete when nothing is missing.
    pub(super) fn checkpoint(&self, hash: BlobHash) -> Result<(), BlobError> {
        let Some((generation, written, needs_sync)) = self.to_checkpoint(hash) else { return Ok(()) };
        if needs_sync {
            let synced = self.files(hash).and_then(|files| files.sync().map_err(BlobError::io("fsync a blob")));
            if let Err(error) = synced {
                self.distrust(hash, generation);
                return Err(error);
            }
        }
        self.settle(hash, generation, &written)
    }

    fn to_checkpoint(&self, hash: BlobHash) -> Option<(u64, ChunkRanges, bool)> {
        let mut state = self.table.lock();
        let blob = state.get(hash).ok()?;
        let needs_sync = blob.ranges != blob.durable;
        if !needs_sync && !blob.row_dirty {
            return None;
        }
        blob.unsynced_bytes = 0;
        Some((blob.generation, blob.ranges.clone(), needs_sync && !blob.referenced()))
    }

    /// Records that `synced` is durable.
    fn settle(&self, hash: BlobHash, generation: u64, synced: &ChunkRanges) -> Result<(), BlobError> {
        let _structure = self.structure();
        let (row, completes) = {
            let mut state = self.table.lock();
            let Ok(blob) = state.get(hash) else { return Ok(()) };
            if blob.generation != generation {
                return Ok(());
            }
            blob.durable |= synced.clone() & blob.ranges.clone();
            blob.row_dirty = false;
            let completes = !blob.complete && blob.full() && blob.durable == blob.ranges;
            (Row::of(blob, blob.complete || completes), completes)
        };
        if let Err(error) = self.meta.commit(&[Change::Put(hash, row)]) {
            self.row_is_dirty(hash);
            return Err(error);
        }
        if completes {
            self.now_complete(hash);
        }
        Ok(())
    }

    fn row_is_dirty(&self, hash: BlobHash) {
        if let Ok(blob) = self.table.lock().get(hash) {
            blob.row_dirty = true;
        }
    }

    fn now_complete(&self, hash: BlobHash) {
        let mut state = self.table.lock();
        let Ok(blob) = state.get(hash) else { return };
        // Damage may have been found since.
        blob.complete = blob.full();
        blob.row_dirty |= !blob.complete;
        let complete = blob.complete;
        drop(state);
        if complete {
            self.table.emit(BlobEvent::Complete(hash));
        }
    }

    /// After a failed fsync nobody knows what reached the disk: only what was durable before still counts, and
    /// verification finds the rest.
    fn distrust(&self, hash: BlobHash, generation: u64) {
        let mut state = self.table.lock();
        let Ok(blob) = state.get(hash) else { return };
        if blob.generation != generation {
            return;
        }
        blob.ranges = blob.durable.clone();
        blob.fragments = ChunkRanges::empty();
        state.notify(hash);
        drop(state);
        self.table.emit(BlobEvent::Damaged(hash));
        self.verify.push(hash);
    }

    /// Changes a blob's row at once.
    pub(super) fn update(&self, hash: BlobHash, change: impl FnOnce(&mut Blob)) -> Result<(), BlobError> {
        let _structure = self.structure();
        let row = {
            let mut state = self.table.lock();
            let blob = state.get(hash)?;
            change(blob);
            Row::of(blob, blob.complete)
        };
        self.meta.commit(&[Change::Put(hash, row)]).inspect_err(|_| self.row_is_dirty(hash))
    }

    /// Checkpoints everything, writes every "last used", and closes.
    pub(super) fn shutdown(&self) {
        let hashes: Vec<_> = self.table.lock().blobs.keys().copied().collect();
        let mut clean = self.write_deletes().is_ok();
        for hash in hashes {
            if let Err(error) = self.checkpoint(hash) {
                tracing::error!(blob = %hash, %error, "a blob can't be made durable");
                clean = false;
            }
        }
        let _structure = self.structure();
        let rows: Vec<_> = {
            let mut state = self.table.lock();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            let touched = state.blobs.iter().filter(|(_, blob)| blob.touched);
            touched.map(|(hash, blob)| Change::Put(*hash, Row::of(blob, blob.complete))).collect()
        };
        clean &= self.meta.commit(&rows).is_ok();
        self.meta.close();
        if clean {
            // When it stays, the next start verifies needlessly.
            let _ = std::fs::remove_file(self.dirs.unclean()).and_then(|()| sync_dir(&self.dirs.root));
        }
    }
}
