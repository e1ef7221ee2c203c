//! fjall: a log-structured merge tree in a folder. Five times the durable writes of redb on our workload, for
//! seven times its memory; a failed commit may be found done after a reopen, as the trait allows.

use std::{
    ops::Bound,
    path::Path,
    sync::{Mutex, PoisonError},
};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::{
    Durability, Engine, Entry, KeyRange, KvError, Snapshot, WriteTx,
    flat::{Batch, Flat, Tables, Write, ensure_dir},
};

const KEYSPACE: &str = "tables";

/// A fjall folder.
pub struct Fjall {
    database: Database,
    tables: Keyspace,
    writer: Mutex<()>,
}

impl Fjall {
    /// Opens the folder at `path`, creating it when there is none; a crash during creation leaves nothing
    /// there. `cache_bytes` bounds the block cache.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        ensure_dir(path, |new| {
            let created = Self::open_at(new, cache_bytes)?;
            created.database.persist(PersistMode::SyncAll).map_err(fjall)
        })?;
        Self::open_at(path, cache_bytes)
    }

    fn open_at(path: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        let database = Database::builder(path).cache_size(cache_bytes).worker_threads(1).open().map_err(fjall)?;
        let tables = database.keyspace(KEYSPACE, KeyspaceCreateOptions::default).map_err(fjall)?;
        Ok(Self { database, tables, writer: Mutex::new(()) })
    }

    fn view(&self) -> View {
        View { snapshot: self.database.snapshot(), tables: self.tables.clone() }
    }

    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), KvError> {
        let mode = match durability {
            Durability::Durable => PersistMode::SyncAll,
            Durability::Buffered => PersistMode::Buffer,
        };
        let mut writes = self.database.batch().durability(Some(mode));
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(&self.tables, key, value),
                None => writes.remove(&self.tables, key),
            }
        }
        writes.commit().map_err(fjall)
    }
}

impl Engine for Fjall {
    fn read(&self) -> Result<Snapshot, KvError> {
        Ok(Box::new(Tables(self.view())))
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(Write::new(writer, self.view(), |batch, durability| self.apply(batch, durability))))
    }
}

struct View {
    snapshot: ::fjall::Snapshot,
    tables: Keyspace,
}

impl Flat for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.snapshot.get(&self.tables, key).map_err(fjall)?.map(|value| value.to_vec()))
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.snapshot.range::<&[u8], _>(&self.tables, (Bound::Included(range.start()), end));
        let entry = |row: ::fjall::Guard| row.into_inner().map(|(key, value)| (key.to_vec(), value.to_vec()));
        match range.is_reversed() {
            true => rows.rev().take(limit).map(entry).collect::<Result<_, _>>().map_err(fjall),
            false => rows.take(limit).map(entry).collect::<Result<_, _>>().map_err(fjall),
        }
    }
}

fn fjall(error: ::fjall::Error) -> KvError {
    match error {
        ::fjall::Error::Io(error) => KvError::from_io(error),
        ::fjall::Error::Storage(::fjall::LsmError::Io(error)) => KvError::from_io(error),
        ::fjall::Error::Locked => KvError::Locked,
        ::fjall::Error::Poisoned => KvError::Io(std::io::Error::other("an earlier write failed")),
        error => KvError::Corrupt(error.to_string()),
    }
}
