//! Room: quota and free space, eviction by last use, removal, and deleting what belongs to no blob.

use std::sync::Arc;

use mhc_protocol::BlobHash;

use super::{
    BlobError, BlobEvent, GcReport,
    files::delete,
    meta::Change,
    store::{Inner, Structure},
    table::{Blob, Place, State},
};
use crate::reserve::free_bytes;

/// What is needed: bytes that will count against the quota, and bytes of disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Need {
    pub(super) quota_bytes: u64,
    pub(super) disk_bytes: u64,
}

/// Bytes promised to an import until its blob is in the table.
#[derive(Debug)]
pub(super) struct Reservation {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Reservation {
    pub(super) fn none(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner), bytes: 0 }
    }

    /// Makes room for more bytes, evicting when needed.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), BlobError> {
        let structure = self.inner.structure();
        self.inner.make_room(&structure, Need { quota_bytes: bytes, disk_bytes: bytes })?;
        self.inner.table.lock().reserved_bytes += bytes;
        drop(structure);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.inner.table.lock().reserved_bytes -= self.bytes;
    }
}

impl Inner {
    /// Evicts the least recently used until `need` fits; evicts nothing when it can't be made to fit.
    pub(super) fn make_room(&self, structure: &Structure<'_>, need: Need) -> Result<(), BlobError> {
        let free = self.free_bytes()?;
        let victims = self.plan(&self.table.lock(), need, free)?;
        self.remove_all(structure, &victims, |blob| blob.users == 0)?;
        Ok(())
    }

    /// Fails when the file system has less left than it should.
    pub(super) fn check_free(&self) -> Result<(), BlobError> {
        if self.free_bytes()? < self.options.min_free_bytes { Err(BlobError::StorageFull) } else { Ok(()) }
    }

    fn free_bytes(&self) -> Result<u64, BlobError> {
        free_bytes(&self.dirs.root).map_err(BlobError::io("ask for free space"))
    }

    fn plan(&self, state: &State, need: Need, free_bytes: u64) -> Result<Vec<BlobHash>, BlobError> {
        if state.closed {
            return Err(BlobError::Closed);
        }
        let used = state.quota_used_bytes().saturating_add(need.quota_bytes);
        let mut over_quota = self.options.quota_bytes.map_or(0, |quota| used.saturating_sub(quota));
        let disk =
            need.disk_bytes.saturating_add(state.outstanding_bytes()).saturating_add(self.options.min_free_bytes);
        let mut over_disk = if need.disk_bytes == 0 { 0 } else { disk.saturating_sub(free_bytes) };
        let mut victims = Vec::new();
        for (hash, bytes) in evictable(state) {
            if over_quota == 0 && over_disk == 0 {
                break;
            }
            over_quota = over_quota.saturating_sub(bytes);
            over_disk = over_disk.saturating_sub(bytes);
            victims.push(hash);
        }
        match self.options.quota_bytes {
            Some(quota_bytes) if over_quota > 0 => Err(BlobError::QuotaExceeded { quota_bytes }),
            _ if over_disk > 0 => Err(BlobError::StorageFull),
            _ => Ok(victims),
        }
    }

    /// Forgets blobs and deletes the store's files of them; those that `may` go. Returns how many and the
    /// bytes freed.
    pub(super) fn remove_all(
        &self,
        _structure: &Structure<'_>,
        hashes: &[BlobHash],
        may: impl Fn(&Blob) -> bool,
    ) -> Result<(u64, u64), BlobError> {
        let mut removed = Vec::new();
        {
            let mut state = self.table.lock();
            for hash in hashes {
                if state.blobs.get(hash).is_some_and(&may)
                    && let Some(blob) = state.blobs.remove(hash)
                {
                    state.notify(*hash);
                    removed.push((*hash, blob));
                }
            }
        }
        if removed.is_empty() {
            return Ok((0, 0));
        }
        let changes: Vec<_> = removed.iter().map(|(hash, _)| Change::Delete(*hash)).collect();
        let mut committed = self.meta.commit(&changes);
        if committed.is_err() && !matches!(committed, Err(BlobError::StorageFull)) {
            // Nothing was deleted, so nothing is lost by knowing it still.
            let mut state = self.table.lock();
            state.blobs.extend(removed);
            return committed.map(|()| (0, 0));
        }
        let mut freed_bytes = 0;
        for (hash, blob) in &removed {
            freed_bytes += self.delete_files(*hash, &blob.place);
        }
        if committed.is_err() {
            // The disk was too full to write the deletion down; now it isn't.
            committed = self.meta.commit(&changes);
        }
        if committed.is_err() {
            self.table.lock().unwritten_deletes.extend(removed.iter().map(|(hash, _)| *hash));
            self.signal.dirty(false);
        }
        for (hash, _) in &removed {
            self.cache.forget(*hash);
            self.table.emit(BlobEvent::Removed(*hash));
        }
        committed.map(|()| (removed.len() as u64, freed_bytes))
    }

    /// Writes down the removals that couldn't be.
    pub(super) fn write_deletes(&self) -> Result<(), BlobError> {
        let _structure = self.structure();
        let changes: Vec<_> = {
            let mut state = self.table.lock();
            let hashes = std::mem::take(&mut state.unwritten_deletes);
            // What came back meanwhile has a row again.
            hashes.into_iter().filter(|hash| !state.blobs.contains_key(hash)).map(Change::Delete).collect()
        };
        if changes.is_empty() {
            return Ok(());
        }
        self.meta.commit(&changes).inspect_err(|_| {
            let hashes = changes.iter().filter_map(|change| match change {
                Change::Delete(hash) => Some(*hash),
                _ => None,
            });
            self.table.lock().unwritten_deletes.extend(hashes);
        })
    }

    /// Deletes the store's own files of a blob, never a user's.
    fn delete_files(&self, hash: BlobHash, place: &Place) -> u64 {
        let mut paths = vec![self.dirs.bao(hash)];
        if *place == Place::Owned {
            paths.push(self.dirs.data(hash));
        }
        let deleted = paths.iter().map(|path| {
            delete(path).unwrap_or_else(|error| {
                // The next gc finds it as a stray.
                tracing::warn!(%error, path = %path.display(), "a blob's file can't be deleted");
                0
            })
        });
        deleted.sum()
    }

    /// Evicts down to the quota and the free-space floor, then deletes files that belong to no blob.
    pub(super) fn gc(&self) -> Result<GcReport, BlobError> {
        let structure = self.structure();
        let over = self.over_budget()?;
        let (evicted, mut freed_bytes) = self.remove_all(&structure, &over, |blob| blob.users == 0)?;
        let (stray_files, stray_bytes) = self.delete_strays(&structure)?;
        freed_bytes += stray_bytes;
        Ok(GcReport { evicted, stray_files, freed_bytes })
    }

    /// The blobs to evict now: as many as help, even when that isn't enough.
    fn over_budget(&self) -> Result<Vec<BlobHash>, BlobError> {
        let free = self.free_bytes()?;
        let state = self.table.lock();
        if state.closed {
            return Err(BlobError::Closed);
        }
        let used = state.quota_used_bytes();
        let over_quota = self.options.quota_bytes.map_or(0, |quota| used.saturating_sub(quota));
        let mut over = over_quota.max(self.options.min_free_bytes.saturating_sub(free));
        let enough = |(_, bytes): &(BlobHash, u64)| {
            let wanted = over > 0;
            over = over.saturating_sub(*bytes);
            wanted
        };
        Ok(evictable(&state).into_iter().take_while(enough).map(|(hash, _)| hash).collect())
    }

    pub(super) fn delete_strays(&self, _structure: &Structure<'_>) -> Result<(u64, u64), BlobError> {
        let step = BlobError::io("look for stray files");
        let mut found = (0, 0);
        for (hash, path, bytes) in self.dirs.blob_files().map_err(&step)? {
            if hash.is_some_and(|hash| self.owns(hash, &path)) {
                continue;
            }
            delete(&path).map_err(&step)?;
            found = (found.0 + 1, found.1 + bytes);
        }
        Ok(found)
    }

    /// A file in the store's folder that a known blob is made of.
    fn owns(&self, hash: BlobHash, path: &std::path::Path) -> bool {
        let state = self.table.lock();
        let Some(blob) = state.blobs.get(&hash) else { return false };
        path == self.dirs.bao(hash) || (path == self.dirs.data(hash) && !blob.referenced())
    }
}

/// What may go, least recently used first, and the bytes each frees.
fn evictable(state: &State) -> Vec<(BlobHash, u64)> {
    let idle = state.blobs.iter().filter(|(_, blob)| blob.users == 0 && !blob.pinned && !blob.referenced());
    let mut idle: Vec<_> = idle.map(|(hash, blob)| (blob.last_used_ms, *hash, blob.local_bytes())).collect();
    idle.sort_unstable();
    idle.into_iter().map(|(_, hash, bytes)| (hash, bytes)).collect()
}
