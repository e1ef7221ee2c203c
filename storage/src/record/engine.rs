//! The open engine, and the free space it needs.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::{EngineOpener, RecordsError, RecordsOptions};
use crate::kv::{Engine, KvError, Snapshot};

const RESERVE_FILE: &str = "reserve";

enum Slot {
    Open(Box<dyn Engine>),
    /// It couldn't be opened again.
    Failed(Arc<KvError>),
    Closed,
}

/// Where readers and the writer find the engine. Only the writer changes it.
pub(super) struct EngineSlot(RwLock<Slot>);

impl EngineSlot {
    pub(super) fn new(engine: Box<dyn Engine>) -> Self {
        Self(RwLock::new(Slot::Open(engine)))
    }

    /// The state of the last commit. The lock is held only while the snapshot is taken.
    pub(super) fn read(&self) -> Result<Snapshot, RecordsError> {
        Ok(self.get().engine()?.read()?)
    }

    /// For the writer's transactions.
    pub(super) fn get(&self) -> SlotGuard<'_> {
        SlotGuard(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.get().0, Slot::Open(_))
    }

    pub(super) fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Slot::Closed;
    }

    /// Closes the engine and opens it again: after a failed commit nothing it believes can be trusted.
    pub(super) fn reopen(&self, open: impl FnOnce() -> Result<Box<dyn Engine>, KvError>) -> Result<(), RecordsError> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Dropped first: two handles on one store would shut each other out.
        *slot = Slot::Closed;
        match open() {
            Ok(engine) => {
                *slot = Slot::Open(engine);
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                *slot = Slot::Failed(Arc::clone(&error));
                Err(as_records_error(&error))
            }
        }
    }
}

pub(super) struct SlotGuard<'a>(RwLockReadGuard<'a, Slot>);

impl SlotGuard<'_> {
    pub(super) fn engine(&self) -> Result<&dyn Engine, RecordsError> {
        match &*self.0 {
            Slot::Open(engine) => Ok(engine.as_ref()),
            Slot::Failed(error) => Err(as_records_error(error)),
            Slot::Closed => Err(RecordsError::Closed),
        }
    }
}

fn as_records_error(error: &Arc<KvError>) -> RecordsError {
    match **error {
        KvError::Full => RecordsError::StorageFull,
        _ => RecordsError::Engine(Arc::clone(error)),
    }
}

/// The folder, how much of its file system is left alone, and the reserve that can be given up.
///
/// The reserve is a file of real bytes. It is deleted when the engine can't be opened for want of space, since
/// opening after a crash may have to write, and made again when there is plenty.
pub(super) struct Space {
    dir: PathBuf,
    min_free_bytes: u64,
    reserve_bytes: u64,
    opener: EngineOpener,
}

impl Space {
    pub(super) fn new(dir: &Path, options: &RecordsOptions) -> Self {
        Self {
            dir: dir.to_owned(),
            min_free_bytes: options.min_free_bytes,
            reserve_bytes: options.reserve_bytes,
            opener: Arc::clone(&options.engine),
        }
    }

    /// Opens the engine, giving up the reserve if that takes space.
    pub(super) fn open(&self) -> Result<Box<dyn Engine>, KvError> {
        match (self.opener)(&self.dir) {
            Err(KvError::Full) if self.release_reserve() => (self.opener)(&self.dir),
            result => result,
        }
    }

    /// Whether there is room to write. An error is the reason why not.
    pub(super) fn check(&self) -> Result<(), String> {
        let free_bytes = self.free_bytes().map_err(|error| format!("the free space can't be told: {error}"))?;
        if free_bytes >= self.min_free_bytes {
            return Ok(());
        }
        let min = self.min_free_bytes;
        Err(format!("{free_bytes} bytes are free in {}, {min} are needed", self.dir.display()))
    }

    /// Makes the reserve when it isn't there and there is plenty of space. Without it everything works but a
    /// start on a full disk, so a failure is only worth a line in the log.
    pub(super) fn restore_reserve(&self) {
        let path = self.reserve();
        if self.reserve_bytes == 0 || fs::metadata(&path).is_ok_and(|file| file.len() == self.reserve_bytes) {
            return;
        }
        let needed_bytes = self.min_free_bytes.saturating_add(self.reserve_bytes.saturating_mul(2));
        if !self.free_bytes().is_ok_and(|free_bytes| free_bytes >= needed_bytes) {
            return;
        }
        if let Err(error) = write_zeros(&path, self.reserve_bytes) {
            tracing::warn!(%error, "no reserve for a full disk");
            // A part of it would be taken for the whole; an error here changes nothing.
            let _ = fs::remove_file(&path);
        }
    }

    fn release_reserve(&self) -> bool {
        fs::remove_file(self.reserve()).is_ok()
    }

    fn reserve(&self) -> PathBuf {
        self.dir.join(RESERVE_FILE)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Written out, since a file with holes reserves nothing.
fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = [0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        file.write_all(&block[..len])?;
        left -= len as u64;
    }
    file.sync_all()
}
