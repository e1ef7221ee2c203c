//! The open engine, and the free space it needs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::{EngineOpener, RecordsError, RecordsOptions};
use crate::{
    kv::{Engine, KvError, Snapshot},
    reserve::{Reserve, free_bytes},
};

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

/// The folder, how much of its file system is left alone, and the reserve that can be given up to open the engine.
pub(super) struct Space {
    dir: PathBuf,
    min_free_bytes: u64,
    reserve: Reserve,
    opener: EngineOpener,
}

impl Space {
    pub(super) fn new(dir: &Path, options: &RecordsOptions) -> Self {
        Self {
            dir: dir.to_owned(),
            min_free_bytes: options.min_free_bytes,
            reserve: Reserve::new(dir, options.reserve_bytes),
            opener: Arc::clone(&options.engine),
        }
    }

    /// Opens the engine, giving up the reserve if that takes space.
    pub(super) fn open(&self) -> Result<Box<dyn Engine>, KvError> {
        match (self.opener)(&self.dir) {
            Err(KvError::Full) if self.reserve.release() => (self.opener)(&self.dir),
            result => result,
        }
    }

    /// Whether there is room to write. An error is the reason why not.
    pub(super) fn check(&self) -> Result<(), String> {
        let free_bytes = free_bytes(&self.dir).map_err(|error| format!("the free space can't be told: {error}"))?;
        if free_bytes >= self.min_free_bytes {
            return Ok(());
        }
        let min = self.min_free_bytes;
        Err(format!("{free_bytes} bytes are free in {}, {min} are needed", self.dir.display()))
    }

    /// Makes the reserve when it isn't there and there is plenty of space.
    pub(super) fn restore_reserve(&self) {
        self.reserve.restore(self.min_free_bytes);
    }
}
