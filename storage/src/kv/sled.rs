//! sled 0.34: **unfit for truth**; it is here because it was asked for, for an index that can be rebuilt.
//!
//! Its own flush calls `sync_file_range`, which doesn't survive power loss: 1 of 20 rounds came back whole. This
//! adapter flushes the files itself, which mended that for single flushes (40 of 40) and not for several
//! commits between flushes (15 of 20). On a full disk it can't be opened. Its transactions' snapshots aren't:
//! a reader sees what is committed while it reads. See `docs/decisions/0001-record-engine.md`.

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    Durability, Engine, Entry, KeyRange, KvError, Snapshot, WriteTx,
    flat::{Batch, Flat, Tables, Write, ensure_dir, sync_tree},
};

/// How long a lock is waited for: sled's threads let go of it a moment after the last handle was dropped.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// A sled folder.
pub struct Sled {
    database: ::sled::Db,
    path: PathBuf,
    writer: Mutex<()>,
}

impl Sled {
    /// Opens the folder at `path`, creating it when there is none; a crash during creation leaves nothing
    /// there. `cache_bytes` bounds the page cache.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        ensure_dir(path, |new| open_at(new, cache_bytes)?.flush().map(drop).map_err(sled))?;
        Ok(Self { database: open_at(path, cache_bytes)?, path: path.to_owned(), writer: Mutex::new(()) })
    }

    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), KvError> {
        let mut writes = ::sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.database.apply_batch(writes).map_err(sled)?;
        self.database.flush().map_err(sled)?;
        match durability {
            Durability::Durable => sync_tree(&self.path).map_err(KvError::from_io),
            Durability::Buffered => Ok(()),
        }
    }
}

fn open_at(path: &Path, cache_bytes: u64) -> Result<::sled::Db, KvError> {
    // Flushed by each commit and by nobody else.
    let config = ::sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let started = Instant::now();
    loop {
        match config.open() {
            Err(::sled::Error::Io(error)) if is_lock(&error) && started.elapsed() < LOCK_WAIT => {
                thread::sleep(LOCK_LOOK)
            }
            opened => return opened.map_err(sled),
        }
    }
}

/// sled has no kind for it.
fn is_lock(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

impl Engine for Sled {
    fn read(&self) -> Result<Snapshot, KvError> {
        Ok(Box::new(Tables(View(self.database.clone()))))
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let view = View(self.database.clone());
        Ok(Box::new(Write::new(writer, view, |batch, durability| self.apply(batch, durability))))
    }
}

struct View(::sled::Db);

impl Flat for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(key).map_err(sled)?.map(|value| value.to_vec()))
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.0.range::<&[u8], _>((Bound::Included(range.start()), end));
        let entry = |row: ::sled::Result<(::sled::IVec, ::sled::IVec)>| {
            row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(sled)
        };
        match range.is_reversed() {
            true => rows.rev().take(limit).map(entry).collect(),
            false => rows.take(limit).map(entry).collect(),
        }
    }
}

fn sled(error: ::sled::Error) -> KvError {
    match error {
        ::sled::Error::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock => KvError::Locked,
        ::sled::Error::Io(error) => KvError::from_io(error),
        ::sled::Error::Corruption { .. } => KvError::Corrupt(error.to_string()),
        error => KvError::Other(error.to_string()),
    }
}
