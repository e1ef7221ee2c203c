use std::{path::Path, sync::Arc};

use mhc_protocol::{
    AuthorId, RecordId,
    network::Denied,
    record::{RecordError, VerifiedRecord},
};

use crate::kv::{
    Engine, KvError,
    redb::{Redb, RedbOptions},
};

/// Opens the engine in the folder it is given. Called again after a failed commit.
pub type EngineOpener = Arc<dyn Fn(&Path) -> Result<Box<dyn Engine>, KvError> + Send + Sync>;

/// The file of the default engine in its folder.
pub const RECORDS_FILE: &str = "records.redb";

/// How a record store is opened.
#[derive(Clone)]
pub struct RecordsOptions {
    /// The store goes read-only when the file system has less free space than this, in bytes.
    pub min_free_bytes: u64,
    /// Size of the file that is kept to be deleted when the disk is full, in bytes.
    pub reserve_bytes: u64,
    /// The engine.
    pub engine: EngineOpener,
}

impl Default for RecordsOptions {
    fn default() -> Self {
        Self { min_free_bytes: 64 * 1024 * 1024, reserve_bytes: 4 * 1024 * 1024, engine: redb(RedbOptions::default()) }
    }
}

impl std::fmt::Debug for RecordsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { min_free_bytes, reserve_bytes, engine: _ } = self;
        f.debug_struct("RecordsOptions")
            .field("min_free_bytes", min_free_bytes)
            .field("reserve_bytes", reserve_bytes)
            .finish_non_exhaustive()
    }
}

/// The default engine: [`RECORDS_FILE`] in the folder.
pub fn redb(options: RedbOptions) -> EngineOpener {
    Arc::new(move |dir| Ok(Box::new(Redb::open(&dir.join(RECORDS_FILE), &options)?)))
}

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is the next of its author's log, in the index, and durable.
    Appended,
    /// It was there before.
    Duplicate,
    /// Its predecessor is missing: it waits in memory, within bounds, and is lost on restart. Whoever brought
    /// it should bring what is before it.
    Pending,
    /// Another record has its place in the log; kept as proof that the author signed both.
    Forked,
    /// Not kept.
    Refused(Refusal),
}

/// Why a valid record is not kept. Every node comes to the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its `prev` is of another author, network or position.
    #[error("the predecessor isn't of the same log or not at the position before")]
    Chain,
    /// It follows a record that lost against another one at its position.
    #[error("it follows a record that lost its place")]
    LosingBranch,
    /// The log went on in a higher epoch from its predecessor.
    #[error("the log has moved on to a higher epoch")]
    Superseded,
    /// Two records with smaller ids already prove the equivocation.
    #[error("the equivocation is proven already")]
    Proven,
    /// Its author has written more than the network allows, or may not write in it at all.
    #[error("the author has written more than the network allows")]
    Quota,
    /// Too much waits for predecessors of this author; bring what is missing first.
    #[error("too many records of this author wait for predecessors")]
    PendingFull,
}

/// The last record of an author's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whose log.
    pub author: AuthorId,
    /// Its epoch.
    pub epoch: u64,
    /// Its position in the epoch.
    pub seq: u64,
    /// Its id.
    pub id: RecordId,
}

/// A record that has just become durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// It.
    pub record: VerifiedRecord,
    /// Whether this node published it.
    pub local: bool,
}

/// What reading every record found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Records that were read.
    pub records: u64,
    /// Those of them that were damaged, and are now set aside.
    pub damaged: Vec<RecordId>,
}

/// Whether the store takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    ReadWrite,
    /// It doesn't, for now; each write tries again.
    ReadOnly {
        /// Why, for a person.
        reason: String,
    },
}

/// Why an operation on the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// The disk is full. Reads work; writes will again when there is space.
    #[error("the disk is full")]
    StorageFull,
    /// The engine failed. After a write: the outcome is unknown, trying again is safe.
    #[error("the record store failed: {0}")]
    Engine(Arc<KvError>),
    /// The stored record isn't what was written. It has been set aside and will be fetched again.
    #[error("record {0} was damaged on disk")]
    Damaged(RecordId),
    /// The log to publish in is known to go on beyond what is here: a record is damaged, or the store was
    /// restored from an old backup. A new record would be an equivocation, so peers must bring the rest first.
    #[error("the log of {0} isn't whole; waiting for its records to come back from a peer")]
    LogIncomplete(AuthorId),
    /// The index waits for space to be rebuilt.
    #[error("the index can't be read before it is rebuilt, for which there is no space")]
    IndexStale,
    /// The record to publish breaks the protocol's bounds.
    #[error("the record can't be published: {0}")]
    Invalid(#[from] RecordError),
    /// The author may not write this in the network.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The author has written as much as the network allows, today or in all.
    #[error("the network allows no more records of this author for now; try again tomorrow, or ask an admin")]
    OverQuota,
    /// The store is closed.
    #[error("the record store is closed")]
    Closed,
}

impl From<KvError> for RecordsError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::Full => Self::StorageFull,
            error => Self::Engine(Arc::new(error)),
        }
    }
}

/// How far forgetting has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forgotten {
    /// Records that are gone.
    pub(super) records: u64,
    /// How many of the logs, from the first on, are gone.
    pub(super) logs: usize,
}
