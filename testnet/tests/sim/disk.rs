//! A disk in memory that fails when it is told to.

use std::sync::{Arc, Mutex, PoisonError};

use mhc_storage::kv::{Durability, Engine, Entry, KeyRange, KvError, ReadTx, Snapshot, WriteTx, memory::Memory};

/// How the next commit fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// No space: nothing is written.
    Full,
    /// An error, though everything was written.
    Written,
}

/// What survives a crash. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    tables: Memory,
    fault: Mutex<Option<Fault>>,
}

impl Disk {
    /// The next commit fails like this.
    pub(crate) fn fail(&self, fault: Fault) {
        *self.0.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// No commit fails.
    pub(crate) fn heal(&self) {
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Engine for Disk {
    fn read(&self) -> Result<Snapshot, KvError> {
        self.0.tables.read()
    }

    fn write(&self) -> Result<Box<dyn WriteTx + '_>, KvError> {
        Ok(Box::new(Tx { inner: self.0.tables.write()?, fault: &self.0.fault }))
    }
}

struct Tx<'a> {
    inner: Box<dyn WriteTx + 'a>,
    fault: &'a Mutex<Option<Fault>>,
}

impl ReadTx for Tx<'_> {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        self.inner.scan(table, range, limit)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        self.inner.tables()
    }
}

impl WriteTx for Tx<'_> {
    fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.inner.put(table, key, value)
    }

    fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), KvError> {
        self.inner.delete(table, key)
    }

    fn clear(&mut self, table: &str) -> Result<(), KvError> {
        self.inner.clear(table)
    }

    fn commit(self: Box<Self>, durability: Durability) -> Result<(), KvError> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match fault {
            None => self.inner.commit(durability),
            Some(Fault::Full) => Err(KvError::Full),
            Some(Fault::Written) => {
                self.inner.commit(durability)?;
                Err(KvError::Io(std::io::Error::other("lost power while it answered")))
            }
        }
    }
}
