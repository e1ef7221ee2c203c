//! The index: tables that services derive from records, in the record's own transaction.

use std::sync::Arc;

use mhc_protocol::record::{RecordKind, VerifiedRecord};

use super::RecordsError;
use crate::kv::{Entry, KeyRange, KvError, ReadTx, Snapshot, WriteTx};

/// Every table of the index begins with this.
const INDEX: &str = "index/";
/// No projection's table can have this name: those have two slashes.
const MARKER_TABLE: &str = "index/marker";
const MARKER_KEY: &[u8] = b"made-by";
/// Raised when what replay itself does changes.
const INDEX_VERSION: u32 = 1;
/// Entries read at a time where all are read.
const SCAN_ENTRIES: usize = 1024;

/// Folds records into tables that pages are made from.
///
/// The index is a pure function of the set of active records, so [`apply`](Projection::apply) must not look at
/// a clock, at randomness or at what was applied before in a way that depends on the order.
pub trait Projection: Send + Sync + 'static {
    /// Names its tables: lower-case, without a slash, the same for ever.
    fn name(&self) -> &'static str;

    /// Raised when its tables or their meaning change: the index is then rebuilt on open.
    fn version(&self) -> u32;

    /// The kinds of records it folds.
    fn kinds(&self) -> &'static [RecordKind];

    /// Folds one record in. Synchronous, idempotent, insensitive to the order of records; the body may be
    /// missing. Returns [`ApplyError::Malformed`] before it has written anything.
    fn apply(&self, tx: &mut IndexTx<'_>, record: &VerifiedRecord) -> Result<(), ApplyError>;
}

/// Why a record isn't in the index.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Its body isn't what its kind prescribes: it stays in the log and out of the index.
    #[error("{0}")]
    Malformed(String),
    /// The engine failed; the whole transaction is given up.
    #[error(transparent)]
    Engine(#[from] KvError),
}

impl ApplyError {
    /// A malformed body; the text is for the log.
    pub fn new(why: impl Into<String>) -> Self {
        Self::Malformed(why.into())
    }
}

/// One projection's tables within the transaction that commits the record.
pub struct IndexTx<'a> {
    tx: &'a mut dyn WriteTx,
    projection: &'static str,
}

impl IndexTx<'_> {
    /// The value at `key`.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, ApplyError> {
        Ok(self.tx.get(&table_name(self.projection, table), key)?)
    }

    /// At most `limit` entries of the range.
    pub fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, ApplyError> {
        Ok(self.tx.scan(&table_name(self.projection, table), range, limit)?)
    }

    /// Sets the value at `key`.
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), ApplyError> {
        Ok(self.tx.put(&table_name(self.projection, table), key, value)?)
    }

    /// Removes `key` if it is there.
    pub fn delete(&mut self, table: &str, key: &[u8]) -> Result<(), ApplyError> {
        Ok(self.tx.delete(&table_name(self.projection, table), key)?)
    }
}

/// One projection's tables as of one moment: later commits don't show. Hold it briefly.
pub struct IndexView<'a> {
    snapshot: Box<dyn ReadTx + Send + Sync + 'a>,
    projection: &'static str,
}

impl IndexView<'_> {
    pub(super) fn new(snapshot: Snapshot, projection: &'static str) -> Self {
        Self { snapshot, projection }
    }

    /// The value at `key`.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.snapshot.get(&table_name(self.projection, table), key)?)
    }

    /// At most `limit` entries of the range.
    pub fn scan(&self, table: &str, range: KeyRange<'_>, limit: usize) -> Result<Vec<Entry>, RecordsError> {
        Ok(self.snapshot.scan(&table_name(self.projection, table), range, limit)?)
    }
}

fn table_name(projection: &str, table: &str) -> String {
    format!("{INDEX}{projection}/{table}")
}

/// Folds `record` into every projection that asks for its kind.
pub(super) fn apply(
    tx: &mut dyn WriteTx,
    projections: &[Arc<dyn Projection>],
    record: &VerifiedRecord,
) -> Result<(), KvError> {
    let kind = &record.header().kind;
    for projection in projections.iter().filter(|projection| projection.kinds().contains(kind)) {
        let mut index = IndexTx { tx: &mut *tx, projection: projection.name() };
        match projection.apply(&mut index, record) {
            Ok(()) => {}
            Err(ApplyError::Malformed(why)) => {
                tracing::debug!(record = %record.id(), %kind, why, "not indexed: malformed body");
            }
            Err(ApplyError::Engine(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the index was made by these projections in these versions, as far as its marker tells.
pub(super) fn is_current(tx: &dyn ReadTx, projections: &[Arc<dyn Projection>]) -> Result<bool, KvError> {
    Ok(tx.get(MARKER_TABLE, MARKER_KEY)?.is_some_and(|marker| marker == fingerprint(projections)))
}

/// Empties the index, that of projections which no longer exist too, and marks it as made by these.
pub(super) fn reset(tx: &mut dyn WriteTx, projections: &[Arc<dyn Projection>]) -> Result<(), KvError> {
    for table in tx.tables()?.iter().filter(|table| table.starts_with(INDEX)) {
        tx.clear(table)?;
    }
    tx.put(MARKER_TABLE, MARKER_KEY, &fingerprint(projections))
}

fn fingerprint(projections: &[Arc<dyn Projection>]) -> [u8; 32] {
    let mut made_by: Vec<_> = projections.iter().map(|p| (p.name(), p.version(), p.kinds())).collect();
    made_by.sort_by_key(|(name, ..)| *name);
    *blake3::hash(format!("{INDEX_VERSION} {made_by:?}").as_bytes()).as_bytes()
}

/// BLAKE3 over every entry of the index in order, without its marker and empty tables.
pub(super) fn digest(tx: &dyn ReadTx) -> Result<[u8; 32], KvError> {
    let mut hasher = blake3::Hasher::new();
    for table in tx.tables()?.iter().filter(|table| table.starts_with(INDEX) && *table != MARKER_TABLE) {
        for_each(tx, table, KeyRange::all(), |key, value| {
            for part in [table.as_bytes(), key, value] {
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
