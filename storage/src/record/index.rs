//! The index: tables that services derive from records, in the record's own transaction.
//!
//! Every row belongs to one record. So the index is a function of the set of records that count, whatever their
//! order, and a record that ceases to count (its author forked, lost a grant, or erased it) takes its rows along.
//!
//! There are two generations of tables. Pages are made from one; while the index is rebuilt the other fills up
//! beside it, gets every change as well, and takes over when it is whole.

use std::{collections::BTreeSet, sync::Arc};

use mhc_protocol::record::{RecordKind, VerifiedRecord};

use super::RecordsError;
use crate::kv::{Entry, KeyRange, KvError, ReadTx, Snapshot, WriteTx};

/// Every table of the index begins with this.
const INDEX: &str = "index/";
/// No projection's table can have this name: those have three slashes.
const MARKER_TABLE: &str = "index/marker";
const MARKER_KEY: &[u8] = b"made-by";
/// Raised when what replay itself does changes.
const INDEX_VERSION: u32 = 2;
/// Entries read at a time where all are read.
const SCAN_ENTRIES: usize = 1024;

/// Folds records into tables that pages are made from.
///
/// What it makes of a record depends on that record alone: no clock, no randomness, no other record. What depends
/// on several is put together by whoever reads.
pub trait Projection: Send + Sync + 'static {
    /// Names its tables: lower-case, without a slash, the same for ever.
    fn name(&self) -> &'static str;

    /// Raised when its tables or their meaning change: the index is then rebuilt on open.
    fn version(&self) -> u32;

    /// The kinds of records it folds.
    fn kinds(&self) -> &'static [RecordKind];

    /// The rows that `record` brings; its body may be missing. Each key must be this record's own: as a rule its
    /// id is part of it.
    fn rows(&self, record: &VerifiedRecord, rows: &mut Rows) -> Result<(), Malformed>;
}

/// The rows that one record brings into a projection's tables.
#[derive(Debug, Default)]
pub struct Rows(Vec<Row>);

#[derive(Debug)]
struct Row {
    table: &'static str,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Rows {
    /// Adds a row.
    pub fn put(&mut self, table: &'static str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.push(Row { table, key: key.into(), value: value.into() });
    }
}

/// A body that isn't what its kind prescribes: the record stays in its log and out of this projection. The text
/// is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// One of the two sets of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Generation {
    A,
    B,
}

impl Generation {
    pub(super) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::A => "index/a/",
            Self::B => "index/b/",
        }
    }

    fn table(self, projection: &str, table: &str) -> String {
        format!("{}{projection}/{table}", self.prefix())
    }
}

/// One projection's tables as of one moment: later commits don't show. Hold it briefly.
pub struct IndexView<'a> {
    snapshot: Box<dyn ReadTx + Send + Sync + 'a>,
    generation: Generation,
    projection: &'static str,
}

impl IndexView<'_> {
    pub(super) fn new(snapshot: Snapshot, projection: &'static str) -> Result<Self, RecordsError> {
        let generation = current(&*snapshot)?;
        Ok(Self { snapshot, generation, projection })
    }

    /// The value at `key`.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.snapshot.get(&self.generation.table(self.projection, table), key)?)
    }

    /// At most `limit` entries of the range.
    pub fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, RecordsError> {
        Ok(self.snapshot.scan(&self.generation.table(self.projection, table), range, limit)?)
    }
}

/// Puts the rows that `record` brings into these generations.
pub(super) fn show(
    tx: &mut dyn WriteTx,
    projections: &[Arc<dyn Projection>],
    generations: &[Generation],
    record: &VerifiedRecord,
) -> Result<(), KvError> {
    each_row(projections, record, |projection, row| {
        generations.iter().try_for_each(|to| tx.put(&to.table(projection, row.table), &row.key, &row.value))
    })
}

/// Takes them out again.
pub(super) fn hide(
    tx: &mut dyn WriteTx,
    projections: &[Arc<dyn Projection>],
    generations: &[Generation],
    record: &VerifiedRecord,
) -> Result<(), KvError> {
    each_row(projections, record, |projection, row| {
        generations.iter().try_for_each(|from| tx.delete(&from.table(projection, row.table), &row.key))
    })
}

fn each_row(
    projections: &[Arc<dyn Projection>],
    record: &VerifiedRecord,
    mut visit: impl FnMut(&'static str, &Row) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let kind = &record.header().kind;
    for projection in projections.iter().filter(|projection| projection.kinds().contains(kind)) {
        let mut rows = Rows::default();
        match projection.rows(record, &mut rows) {
            Ok(()) => rows.0.iter().try_for_each(|row| visit(projection.name(), row))?,
            Err(Malformed(why)) => tracing::debug!(record = %record.id(), %kind, why, "not indexed: malformed body"),
        }
    }
    Ok(())
}

/// The generation that pages are made from.
pub(super) fn current(tx: &(impl ReadTx + ?Sized)) -> Result<Generation, KvError> {
    let marker = tx.get(MARKER_TABLE, MARKER_KEY)?;
    Ok(match marker.as_deref().and_then(<[u8]>::last) {
        Some(b'b') => Generation::B,
        _ => Generation::A,
    })
}

/// Whether the index was made by these projections in these versions, as far as its marker tells.
pub(super) fn is_current(tx: &dyn ReadTx, projections: &[Arc<dyn Projection>]) -> Result<bool, KvError> {
    let marker = tx.get(MARKER_TABLE, MARKER_KEY)?;
    let expected = made_by(projections, current(tx)?);
    Ok(marker.is_some_and(|marker| marker == expected))
}

/// Makes `generation` the one that pages are made from, and empties every other table of the index.
pub(super) fn take_over(
    tx: &mut dyn WriteTx,
    projections: &[Arc<dyn Projection>],
    generation: Generation,
) -> Result<(), KvError> {
    clear_but(tx, Some(generation))?;
    tx.put(MARKER_TABLE, MARKER_KEY, &made_by(projections, generation))
}

/// Empties the index, that of projections which no longer exist too, and marks it as made by these.
pub(super) fn reset(tx: &mut dyn WriteTx, projections: &[Arc<dyn Projection>]) -> Result<(), KvError> {
    clear_but(tx, None)?;
    tx.put(MARKER_TABLE, MARKER_KEY, &made_by(projections, Generation::A))
}

/// Empties the tables of one generation.
pub(super) fn clear(tx: &mut dyn WriteTx, generation: Generation) -> Result<(), KvError> {
    let tables = tx.tables()?;
    tables.iter().filter(|table| table.starts_with(generation.prefix())).try_for_each(|table| tx.clear(table))
}

fn clear_but(tx: &mut dyn WriteTx, kept: Option<Generation>) -> Result<(), KvError> {
    let is_kept = |table: &str| kept.is_some_and(|kept| table.starts_with(kept.prefix()));
    let tables = tx.tables()?;
    tables.iter().filter(|table| table.starts_with(INDEX) && !is_kept(table)).try_for_each(|table| tx.clear(table))
}

fn made_by(projections: &[Arc<dyn Projection>], generation: Generation) -> Vec<u8> {
    let mut made_by: Vec<_> = projections.iter().map(|p| (p.name(), p.version(), p.kinds())).collect();
    made_by.sort_by_key(|(name, ..)| *name);
    let fingerprint = blake3::hash(format!("{INDEX_VERSION} {made_by:?}").as_bytes());
    let generation = match generation {
        Generation::A => b'a',
        Generation::B => b'b',
    };
    [fingerprint.as_bytes().as_slice(), &[generation]].concat()
}

/// BLAKE3 over every entry of the index in order, whichever generation it is in; without its marker and empty
/// tables.
pub(super) fn digest(tx: &dyn ReadTx) -> Result<[u8; 32], KvError> {
    let prefix = current(tx)?.prefix();
    let mut hasher = blake3::Hasher::new();
    let tables: BTreeSet<String> = tx.tables()?.into_iter().filter(|table| table.starts_with(prefix)).collect();
    for table in &tables {
        for_each(tx, table, KeyRange::all(), |key, value| {
            for part in [&table.as_bytes()[prefix.len()..], key, value] {
                hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
            }
            Ok(())
        })?;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Calls `visit` for each entry of an ascending range with bounded memory.
pub(super) fn for_each(
    tx: &dyn ReadTx,
    table: &str,
    range: KeyRange<'_>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let range = match &after {
            Some(after) => range.clone().starting_at(after),
            None => range.clone(),
        };
        let entries = tx.scan(table, range, SCAN_ENTRIES)?;
        for (key, value) in &entries {
            visit(key, value)?;
        }
        match entries.into_iter().nth(SCAN_ENTRIES - 1) {
            // The smallest key after the last one.
            Some((mut last, _)) => {
                last.push(0);
                after = Some(last);
            }
            None => return Ok(()),
        }
    }
}
