//! The node's own tables: in the same file and the same flushes as the records, and never sent to anybody.

use std::sync::Arc;

use super::{
    Inner, RecordsError,
    writer::{Change, Command},
};
use crate::kv::{Entry, KeyRange};

/// One private table. Clones share it.
#[derive(Clone)]
pub struct Private {
    store: Arc<Inner>,
    table: String,
}

impl Private {
    pub(super) fn new(store: Arc<Inner>, table: &str) -> Self {
        Self { store, table: format!("private/{table}") }
    }

    /// The value at `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.store.shared.slot.read()?.get(&self.table, key)?)
    }

    /// At most `limit` entries of the range.
    pub fn scan(&self, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, RecordsError> {
        Ok(self.store.shared.slot.read()?.scan(&self.table, range, limit)?)
    }

    /// Sets the value at `key`; durable when it returns.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<(), RecordsError> {
        self.update(vec![(key.into(), Some(value.into()))]).await
    }

    /// Removes `key` if it is there; durable when it returns.
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<(), RecordsError> {
        self.update(vec![(key.into(), None)]).await
    }

    /// Sets each key to its value, or removes it when there is none: all of them or nothing.
    pub async fn update(&self, changes: Vec<Change>) -> Result<(), RecordsError> {
        let table = self.table.clone();
        self.store.writer.call(|reply| Command::Private(table, changes, reply)).await
    }
}
