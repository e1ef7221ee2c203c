//! The rows on disk: one per blob, in a small redb file of the store's own.
//!
//! Commits are two-phase with quick repair. When one fails its outcome is unknown, so the database is closed and
//! opened again; rows are written whole from memory, so writing one again is safe.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bao_tree::{ChunkNum, ChunkRanges};
use mhc_protocol::BlobHash;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{
    BlobError,
    files::{Identity, sync_dir},
    table::{Blob, Place, Reference},
};

/// Hash -> [`Row`] in DAG-CBOR.
const BLOBS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("blobs");
/// Hashes of blobs to verify in the background.
const SUSPECTS: TableDefinition<'_, &[u8; 32], ()> = TableDefinition::new("suspects");
/// The rows are small and few are read after the start.
const CACHE_BYTES: usize = 4 << 20;
/// Version of [`Row`].
const VERSION: u8 = 1;

/// A blob as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    version: u8,
    pub(super) size_bytes: u64,
    pub(super) complete: bool,
    /// Boundaries of the durable chunk ranges; empty when complete.
    boundaries: Vec<u64>,
    reference: Option<ReferenceRow>,
    pub(super) pinned: bool,
    pub(super) last_used_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ReferenceRow {
    #[serde(with = "serde_bytes")]
    path: Vec<u8>,
    len_bytes: u64,
    mtime_ns: i64,
    inode: u64,
    device: u64,
}

impl Row {
    pub(super) fn of(blob: &Blob, complete: bool) -> Self {
        let boundaries = if complete { &[] } else { blob.durable.boundaries() };
        Self {
            version: VERSION,
            size_bytes: blob.size_bytes,
            complete,
            boundaries: boundaries.iter().map(|chunk| chunk.0).collect(),
            reference: match &blob.place {
                Place::Owned => None,
                Place::Referenced(reference) => Some(ReferenceRow::of(reference)),
            },
            pinned: blob.pinned,
            last_used_ms: blob.last_used_ms,
        }
    }

    pub(super) fn ranges(&self) -> ChunkRanges {
        let boundaries = self.boundaries.iter().copied().map(ChunkNum).collect();
        // None when they aren't ascending: as good as nothing.
        ChunkRanges::new(boundaries).unwrap_or_else(ChunkRanges::empty)
    }

    pub(super) fn place(&self) -> Place {
        self.reference.as_ref().map_or(Place::Owned, |row| Place::Referenced(row.reference()))
    }
}

impl ReferenceRow {
    fn of(reference: &Reference) -> Self {
        let Identity { len_bytes, mtime_ns, inode, device } = reference.identity;
        Self { path: reference.path.as_os_str().as_bytes().to_vec(), len_bytes, mtime_ns, inode, device }
    }

    fn reference(&self) -> Reference {
        let Self { len_bytes, mtime_ns, inode, device, .. } = *self;
        let path = PathBuf::from(OsString::from_vec(self.path.clone()));
        Reference { path, identity: Identity { len_bytes, mtime_ns, inode, device } }
    }
}

/// What a transaction does to a row.
#[derive(Debug)]
pub(super) enum Change {
    Put(BlobHash, Row),
    Delete(BlobHash),
    /// Remembers that a blob is to be verified.
    Suspect(BlobHash),
    /// It was.
    Verified(BlobHash),
}

/// The database.
#[derive(Debug)]
pub(super) struct Meta {
    path: PathBuf,
    slot: Mutex<Slot>,
}

#[derive(Debug)]
enum Slot {
    Open(Database),
    /// A commit failed and it couldn't be opened again yet: tried with each commit.
    Broken,
    /// For good.
    Closed,
}

/// What was in it when it was opened.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) rows: Vec<(BlobHash, Row)>,
    pub(super) suspects: Vec<BlobHash>,
}

impl Meta {
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), BlobError> {
        if !path.exists() {
            create(path)?;
        }
        let database = builder().open(path).map_err(database_error)?;
        let loaded = load(&database).map_err(meta_error)?;
        Ok((Self { path: path.to_path_buf(), slot: Mutex::new(Slot::Open(database)) }, loaded))
    }

    /// Makes the changes durable, all or none. On failure the outcome is unknown; the file is opened anew.
    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), BlobError> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, Slot::Broken) {
            *slot = Slot::Open(builder().open(&self.path).map_err(database_error)?);
        }
        let Slot::Open(database) = &*slot else { return Err(BlobError::Closed) };
        let Err(error) = write(database, changes) else { return Ok(()) };
        tracing::error!(%error, "blob metadata can't be written");
        // Closed before it is opened: the file is locked as long as it is open.
        *slot = Slot::Broken;
        if let Ok(database) = builder().open(&self.path) {
            *slot = Slot::Open(database);
        }
        Err(meta_error(error))
    }

    /// Closes the file, so that it can be opened again while handles to the store still live.
    pub(super) fn close(&self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Closed;
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes an empty database under another name first: one that was half created couldn't be opened again.
fn create(path: &Path) -> Result<(), BlobError> {
    let step = BlobError::io("create blob metadata");
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(step(error)),
        _ => {}
    }
    let database = builder().create(&new).map_err(database_error)?;
    write(&database, &[]).map_err(meta_error)?;
    drop(database);
    fs::File::open(&new).and_then(|file| file.sync_all()).map_err(&step)?;
    fs::rename(&new, path).map_err(&step)?;
    sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(&step)
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut blobs = transaction.open_table(BLOBS)?;
        let mut suspects = transaction.open_table(SUSPECTS)?;
        for change in changes {
            match change {
                Change::Put(hash, row) => drop(blobs.insert(hash.as_bytes(), encode(row)?.as_slice())?),
                Change::Delete(hash) => {
                    blobs.remove(hash.as_bytes())?;
                    suspects.remove(hash.as_bytes())?;
                }
                Change::Suspect(hash) => drop(suspects.insert(hash.as_bytes(), ())?),
                Change::Verified(hash) => drop(suspects.remove(hash.as_bytes())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn encode(row: &Row) -> Result<Vec<u8>, redb::Error> {
    serde_ipld_dagcbor::to_vec(row).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

fn load(database: &Database) -> Result<Loaded, redb::Error> {
    let transaction = database.begin_read()?;
    let mut rows = Vec::new();
    for entry in transaction.open_table(BLOBS)?.iter()? {
        let (key, value) = entry?;
        let hash = BlobHash::from_bytes(*key.value());
        match serde_ipld_dagcbor::from_slice::<Row>(value.value()) {
            Ok(row) if row.version == VERSION => rows.push((hash, row)),
            // The blob counts as unknown; its bytes can be fetched again.
            _ => tracing::error!(blob = %hash, "unreadable metadata of a blob"),
        }
    }
    let mut suspects = Vec::new();
    for entry in transaction.open_table(SUSPECTS)?.iter()? {
        suspects.push(BlobHash::from_bytes(*entry?.0.value()));
    }
    Ok(Loaded { rows, suspects })
}

fn meta_error(error: redb::Error) -> BlobError {
    match error {
        redb::Error::Io(source) => BlobError::io("write blob metadata")(source),
        other => BlobError::Meta(other.to_string()),
    }
}

fn database_error(error: DatabaseError) -> BlobError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => BlobError::Locked,
        other => meta_error(other.into()),
    }
}
