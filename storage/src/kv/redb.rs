//! redb: copy-on-write B-trees in one file; the engine that holds truth.
//!
//! Commits are two-phase, so the old root stays valid until the new one is on disk, and save the allocator's
//! state ("quick repair"), so that opening after a crash doesn't walk the file.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use ::redb::{
    CommitError, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, TableHandle, TransactionError, WriteTransaction,
};

use super::{
    Durability, Engine, Entry, KeyRange, KvError, ReadTx, Snapshot, WriteTx,
    overlay::{Changes, Overlay},
};

/// Bytes of keys and values that a transaction keeps in memory before they go into the tree.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// How a redb file is opened.
#[derive(Debug, Clone)]
pub struct RedbOptions {
    /// Memory for cached pages, in bytes.
    pub cache_bytes: usize,
    /// Whether every page's checksum is verified on open; reads the whole file.
    pub check_integrity: bool,
}

impl Default for RedbOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024, check_integrity: false }
    }
}

/// A redb file.
pub struct Redb(Database);

impl Redb {
    /// Opens the file at `path`, creating it when there is none. A crash during creation leaves nothing at
    /// `path`: the file is made beside it and moved there when it is whole.
    pub fn open(path: &Path, options: &RedbOptions) -> Result<Self, KvError> {
        if !path.try_exists().map_err(KvError::from_io)? {
            create(path, options)?;
        }
        Ok(Self(builder(options).open(path).map_err(database)?))
    }

    /// Opens what `backend` holds, creating it when that is nothing; for tests with disks that misbehave.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(backend: impl ::redb::StorageBackend, options: &RedbOptions) -> Result<Self, KvError> {
        Ok(Self(builder(options).create_with_backend(backend).map_err(database)?))
    }
}

fn builder(options: &RedbOptions) -> ::redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(options.check_integrity);
    builder
}

fn create(path: &Path, options: &RedbOptions) -> Result<(), KvError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // What an earlier attempt left behind may be torn.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(KvError::from_io(error)),
        _ => {}
    }
    let result = create_at(&new, options).and_then(|()| publish(&new, path).map_err(KvError::from_io));
    if result.is_err() {
        // On a full disk the half-made file would keep the space it took; an error here changes nothing.
        let _ = fs::remove_file(&new);
    }
    result
}

fn create_at(path: &Path, options: &RedbOptions) -> Result<(), KvError> {
    let store = Redb(builder(options).create(path).map_err(database)?);
    store.write()?.commit(Durability::Durable)?;
    store.0.close().map_err(database)
}

fn publish(new: &Path, path: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

impl Engine for Redb {
    fn read(&self) -> Result<Snapshot, KvError> {
        Ok(Box::new(Read(self.0.begin_read().map_err(transaction)?)))
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        let transaction = self.0.begin_write().map_err(transaction)?;
        Ok(Box::new(Write(Overlay::new(Transaction(transaction)))))
    }
}

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

struct Read(ReadTransaction);

impl ReadTx for Read {
    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.0.open_table(Definition::new(name)) {
            Ok(table) => get(&table, key),
            Err(error) => missing_is(None, error),
        }
    }

    fn scan(&self, name: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        match self.0.open_table(Definition::new(name)) {
            Ok(table) => scan(&table, range, limit),
            Err(error) => missing_is(Vec::new(), error),
        }
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        Ok(sorted(self.0.list_tables().map_err(storage)?))
    }
}

/// Writes wait in memory and go into the tree in the order of their keys: a tree that is much larger than the cache
/// takes them several times as fast as in the order in which they come.
struct Write(Overlay<Transaction>);

struct Transaction(WriteTransaction);

impl ReadTx for Transaction {
    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        get(&self.0.open_table(Definition::new(name)).map_err(table)?, key)
    }

    fn scan(&self, name: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        scan(&self.0.open_table(Definition::new(name)).map_err(table)?, range, limit)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        Ok(sorted(self.0.list_tables().map_err(storage)?))
    }
}

impl Transaction {
    fn apply(&self, name: &str, changes: Changes) -> Result<(), KvError> {
        let definition = Definition::new(name);
        if changes.cleared {
            self.0.delete_table(definition).map(drop).map_err(table)?;
        }
        if changes.entries.is_empty() {
            return Ok(());
        }
        let mut table = self.0.open_table(definition).map_err(self::table)?;
        for (key, value) in changes.entries {
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice()).map(drop).map_err(storage)?,
                None => table.remove(key.as_slice()).map(drop).map_err(storage)?,
            }
        }
        Ok(())
    }
}

impl Write {
    fn change(&mut self, name: &str, key: &[u8], value: Option<&[u8]>) -> Result<(), KvError> {
        self.0.put(name, key, value);
        match self.0.bytes() < MAX_WAITING_BYTES {
            true => Ok(()),
            false => self.carry_out(),
        }
    }

    fn carry_out(&mut self) -> Result<(), KvError> {
        let waiting = self.0.take();
        waiting.into_iter().try_for_each(|(name, changes)| self.0.base().apply(&name, changes))
    }
}

impl ReadTx for Write {
    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(name, key)
    }

    fn scan(&self, name: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        self.0.scan(name, range, limit)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        self.0.tables()
    }
}

impl WriteTx for Write {
    fn put(&mut self, name: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.change(name, key, Some(value))
    }

    fn delete(&mut self, name: &str, key: &[u8]) -> Result<(), KvError> {
        self.change(name, key, None)
    }

    fn clear(&mut self, name: &str) -> Result<(), KvError> {
        self.0.clear(name);
        Ok(())
    }

    fn commit(mut self: Box<Self>, durability: Durability) -> Result<(), KvError> {
        self.carry_out()?;
        let durability = match durability {
            Durability::Durable => ::redb::Durability::Immediate,
            Durability::Buffered => ::redb::Durability::None,
        };
        let (Transaction(mut transaction), _) = self.0.into_parts();
        transaction.set_durability(durability).map_err(|error| KvError::Other(error.to_string()))?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        transaction.commit().map_err(|error| match error {
            CommitError::Storage(error) => storage(error),
            error => KvError::Other(error.to_string()),
        })
    }
}

fn get(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
    Ok(table.get(key).map_err(storage)?.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    range: KeyRange<'_>,
    limit: usize,
) -> Result<Vec<Entry>, KvError> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let rows = match range.end() {
        Some(end) => table.range::<&[u8]>(range.start()..end),
        None => table.range::<&[u8]>(range.start()..),
    }
    .map_err(storage)?;
    match range.is_reversed() {
        true => collect(rows.rev(), limit),
        false => collect(rows, limit),
    }
}

type Row<'a> = (::redb::AccessGuard<'a, &'static [u8]>, ::redb::AccessGuard<'a, &'static [u8]>);

fn collect<'a>(rows: impl Iterator<Item = Result<Row<'a>, StorageError>>, limit: usize) -> Result<Vec<Entry>, KvError> {
    rows.take(limit)
        .map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).map_err(storage))
        .collect()
}

fn sorted(tables: impl Iterator<Item = impl TableHandle>) -> Vec<String> {
    let mut names: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
    names.sort();
    names
}

fn missing_is<T>(default: T, error: TableError) -> Result<T, KvError> {
    match error {
        TableError::TableDoesNotExist(_) => Ok(default),
        error => Err(table(error)),
    }
}

fn storage(error: StorageError) -> KvError {
    match error {
        StorageError::Io(error) if is_damage(&error) => KvError::Corrupt(error.to_string()),
        StorageError::Io(error) => KvError::from_io(error),
        StorageError::PreviousIo => KvError::Io(io::Error::other(error.to_string())),
        StorageError::Corrupted(text) => KvError::Corrupt(text),
        error => KvError::Other(error.to_string()),
    }
}

/// The file is too short, or isn't a redb file.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn table(error: TableError) -> KvError {
    match error {
        TableError::Storage(error) => storage(error),
        error => KvError::Other(error.to_string()),
    }
}

fn transaction(error: TransactionError) -> KvError {
    match error {
        TransactionError::Storage(error) => storage(error),
        error => KvError::Other(error.to_string()),
    }
}

fn database(error: DatabaseError) -> KvError {
    match error {
        DatabaseError::Storage(error) => storage(error),
        DatabaseError::DatabaseAlreadyOpen => KvError::Locked,
        error => KvError::Other(error.to_string()),
    }
}
