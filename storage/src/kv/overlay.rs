//! Uncommitted writes over a snapshot: what makes a transaction of an engine that only has snapshots and
//! atomic batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{Entry, KeyRange, KvError, ReadTx};

/// What a transaction did to one table: `cleared` first, then the entries; `None` is a deletion.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) cleared: bool,
    pub(super) entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// A snapshot and the writes over it.
pub(super) struct Overlay<S> {
    base: S,
    tables: BTreeMap<String, Changes>,
}

impl<S: ReadTx> Overlay<S> {
    pub(super) fn new(base: S) -> Self {
        Self { base, tables: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, table: &str, key: &[u8], value: Option<&[u8]>) {
        self.changes(table).entries.insert(key.to_vec(), value.map(<[u8]>::to_vec));
    }

    pub(super) fn clear(&mut self, table: &str) {
        *self.changes(table) = Changes { cleared: true, entries: BTreeMap::new() };
    }

    pub(super) fn into_parts(self) -> (S, BTreeMap<String, Changes>) {
        (self.base, self.tables)
    }

    fn changes(&mut self, table: &str) -> &mut Changes {
        self.tables.entry(table.to_owned()).or_default()
    }
}

impl<S: ReadTx> ReadTx for Overlay<S> {
    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.tables.get(table) {
            Some(changes) => match changes.entries.get(key) {
                Some(value) => Ok(value.clone()),
                None if changes.cleared => Ok(None),
                None => self.base.get(table, key),
            },
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, KvError> {
        let Some(changes) = self.tables.get(table) else { return self.base.scan(table, range, limit) };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let above: Vec<_> = changes.entries.range::<[u8], _>((Bound::Included(range.start()), end)).collect();
        let reverse = range.is_reversed();
        let below = match changes.cleared {
            true => Vec::new(),
            // Each write above can hide one entry below, so this many leave `limit` of them.
            false => self.base.scan(table, range, limit.saturating_add(above.len()))?,
        };
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = below.into_iter().collect();
        for (key, value) in above {
            match value {
                Some(value) => drop(merged.insert(key.clone(), value.clone())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(match reverse {
            true => merged.into_iter().rev().take(limit).collect(),
            false => merged.into_iter().take(limit).collect(),
        })
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        let mut names: BTreeSet<String> = self.base.tables()?.into_iter().collect();
        names.extend(self.tables.keys().cloned());
        Ok(names.into_iter().collect())
    }
}
