//! Uncommitted writes over a snapshot: what makes a transaction of an engine that only has snapshots and
//! atomic batches.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    mem,
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
    /// Keys and values put since the last [`Overlay::take`].
    bytes: usize,
}

impl<S: ReadTx> Overlay<S> {
    pub(super) fn new(base: S) -> Self {
        Self { base, tables: BTreeMap::new(), bytes: 0 }
    }

    pub(super) fn put(&mut self, table: &str, key: &[u8], value: Option<&[u8]>) {
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.changes(table).entries.insert(key.to_vec(), value.map(<[u8]>::to_vec));
    }

    pub(super) fn clear(&mut self, table: &str) {
        *self.changes(table) = Changes { cleared: true, entries: BTreeMap::new() };
    }

    pub(super) fn into_parts(self) -> (S, BTreeMap<String, Changes>) {
        (self.base, self.tables)
    }

    /// What it lies over.
    pub(super) fn base(&self) -> &S {
        &self.base
    }

    /// Bytes of keys and values that wait in it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the writes, for whoever has carried them out in what it lies over before the next one reads.
    pub(super) fn take(&mut self) -> BTreeMap<String, Changes> {
        self.bytes = 0;
        mem::take(&mut self.tables)
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
        let is_reversed = range.is_reversed();
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let above = changes.entries.range::<[u8], _>((Bound::Included(range.start()), end));
        let above: Box<dyn Iterator<Item = _>> = if is_reversed { Box::new(above.rev()) } else { Box::new(above) };
        let mut above = above.peekable();
        let rest = (!changes.cleared).then_some(range.clone());
        let mut below = Below { base: &self.base, table, rest, page: Vec::new().into_iter(), page_entries: limit };
        let mut next_below = below.next()?;
        let mut merged = Vec::new();
        while merged.len() < limit {
            let order = match (above.peek(), &next_below) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((written, _)), Some((kept, _))) if is_reversed => kept.cmp(written),
                (Some((written, _)), Some((kept, _))) => (*written).cmp(kept),
            };
            if order.is_ge() {
                let kept = next_below.take();
                next_below = below.next()?;
                // An entry at the same key was written since.
                merged.extend(kept.filter(|_| order.is_gt()));
            }
            if order.is_le()
                && let Some((key, Some(value))) = above.next()
            {
                merged.push((key.clone(), value.clone()));
            }
        }
        Ok(merged)
    }

    fn tables(&self) -> Result<Vec<String>, KvError> {
        let mut names: BTreeSet<String> = self.base.tables()?.into_iter().collect();
        names.extend(self.tables.keys().cloned());
        Ok(names.into_iter().collect())
    }
}

/// The entries of a range under the writes, read a page at a time.
struct Below<'a, S> {
    base: &'a S,
    table: &'a str,
    /// What is to be read after the page.
    rest: Option<KeyRange<'a>>,
    page: std::vec::IntoIter<Entry>,
    page_entries: usize,
}

impl<S: ReadTx> Below<'_, S> {
    fn next(&mut self) -> Result<Option<Entry>, KvError> {
        if self.page.len() == 0
            && let Some(range) = self.rest.take()
        {
            let page = self.base.scan(self.table, range.clone(), self.page_entries)?;
            self.rest = page.last().filter(|_| page.len() == self.page_entries).map(|(last, _)| range.after(last));
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}
