//! A store that lives in memory: for tests, and for replaying an index beside the one on disk.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{Durability, Engine, Entry, KeyRange, KvError, ReadTx, Snapshot, WriteTx, overlay::Overlay};

type Table = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = BTreeMap<String, Arc<Table>>;

/// The in-memory engine.
#[derive(Debug, Default)]
pub struct Memory {
    committed: RwLock<Arc<Tables>>,
    writer: Mutex<()>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn committed(&self) -> Committed {
        Committed(Arc::clone(&self.committed.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Engine for Memory {
    fn read(&self) -> Result<Snapshot, KvError> {
        Ok(Box::new(self.committed()))
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(Write { store: self, _writer: writer, overlay: Overlay::new(self.committed()) }))
    }
}

struct Committed(Arc<Tables>);

impl ReadTx for Committed {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(table).and_then(|table| table.get(key).cloned()))
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        let Some(table) = self.0.get(table) else { return Ok(Vec::new()) };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let entries = table.range::<[u8], _>((Bound::Included(range.start()), end));
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(match range.is_reversed() {
            true => entries.rev().take(limit).map(owned).collect(),
            false => entries.take(limit).map(owned).collect(),
        })
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        Ok(self.0.keys().cloned().collect())
    }
}

struct Write<'a> {
    store: &'a Memory,
    _writer: MutexGuard<'a, ()>,
    overlay: Overlay<Committed>,
}

impl ReadTx for Write<'_> {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.overlay.get(table, key)
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        self.overlay.scan(table, range, limit)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        self.overlay.tables()
    }
}

impl WriteTx for Write<'_> {
    fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.overlay.put(table, key, Some(value));
        Ok(())
    }

    fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), KvError> {
        self.overlay.put(table, key, None);
        Ok(())
    }

    fn clear(&mut self, table: &str) -> Result<(), KvError> {
        self.overlay.clear(table);
        Ok(())
    }

    fn commit(self: Box<Self>, _durability: Durability) -> Result<(), KvError> {
        let (base, changes) = self.overlay.into_parts();
        // Dropped before the tables are changed: without snapshots that hold them, they are changed in place.
        drop(base);
        let mut committed = self.store.committed.write().unwrap_or_else(PoisonError::into_inner);
        let tables = Arc::make_mut(&mut committed);
        for (name, changes) in changes {
            let table = Arc::make_mut(tables.entry(name).or_default());
            if changes.cleared {
                table.clear();
            }
            for (key, value) in changes.entries {
                match value {
                    Some(value) => drop(table.insert(key, value)),
                    None => drop(table.remove(&key)),
                }
            }
        }
        Ok(())
    }
}
