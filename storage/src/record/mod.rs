//! Record logs, the index that follows them, the outbox, and the node's private tables: one engine file, one
//! writer.
//!
//! [`Records::append`] commits records, what the [`Projection`]s derive from them, and (for
//! [`Records::publish`]) the outbox in one transaction that is durable before it returns. Whatever kills the
//! process or the machine, what was acknowledged is there afterwards and the index is in line with it.
//!
//! # The rules of a log
//! The records of one author in one network form a tree by `prev`; its root is before the record at epoch 0,
//! seq 0. A record at (e, s) may be followed by one at (e, s+1), or by one at (e+1, 0) that raises the epoch.
//! The **active chain** starts at the root and goes on, from each record, with the follower in the highest
//! epoch and, among several there, the one with the smallest id. The index is made from active chains alone.
//!
//! - A record is kept when its predecessor is in the active chain. Until the predecessor is there it waits in
//!   memory, within bounds ([`Outcome::Pending`]).
//! - Several records at one position after one predecessor prove that the author equivocated. The two with the
//!   smallest ids are kept, the smaller one active, the other as evidence ([`Outcome::Forked`]).
//! - What follows a record that lost is not kept, nor what the old epoch wrote after the record that the new
//!   epoch follows.
//!
//! The choice at each record only ever moves towards a higher epoch and a smaller id, so what has been dropped
//! can never be needed again, and the outcome is a function of the set of records: the same on every node, in
//! whatever order and however often they arrive.
//!
//! # What counts
//! A network's root, and those it gave grants to, say who may write what and how much
//! ([`mhc_protocol::network`]). A record past its author's limits isn't part of the log. One that its author may
//! not write stays in the log, for what follows it, and out of the index. When a grant, a revocation or a policy
//! comes, the records of everybody whom it concerns are looked at again, in the same transaction.
//!
//! An author may withdraw the bodies of its own records (kind `erase.v1`): they are dropped at once, wherever they
//! are kept, and not taken back. Header, signature and chain stay.
//!
//! # Damage
//! Records are verified again whenever they are read. One that isn't what was written is set aside, and the
//! active chain ends before it, so that the next exchange of heads brings it again; what follows it stays and
//! joins when it has. Meanwhile nothing is published in that log.
//!
//! # A full disk and other failures
//! Below `min_free_bytes`, or when a commit failed, the store is read-only: writes fail with
//! [`RecordsError::StorageFull`] and each of them looks whether that is still so. After a failed commit the
//! engine is closed and opened again and its outcome is unknown; every operation may be repeated.

mod engine;
mod index;
mod log;
mod pending;
mod private;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod types;
mod writer;

use std::{
    collections::HashSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use mhc_protocol::{
    AuthorId, NetworkId, RecordId, SecretKey, Timestamp,
    network::Authority,
    record::{Body, RecordKind, VerifiedRecord},
};
use tokio::sync::broadcast;

use self::{
    engine::{EngineSlot, Space},
    log::{LogTx, Memory, verified},
    tables::{COUNT, ERASED, GOVERNANCE, HEADS, IDS, LOG, LogId, LogKey, META, OUTBOX, Position, STRAY_ERASED, number},
    writer::{Command, Core, Publication, Writer},
};
pub use self::{
    index::{IndexView, Malformed, Projection, Rows},
    private::Private,
    types::*,
};
use crate::kv::{Engine, KeyRange, KvError, memory::Memory as MemoryEngine};

/// Committed records that a slow subscriber may be behind; then it misses some and is told so.
const EVENTS: usize = 1024;
/// Most logs that are forgotten in one transaction.
const FORGOTTEN_LOGS: usize = 1024;
/// Records read at a time from a log.
const CHUNK_RECORDS: usize = 64;

/// The record store. Clones share it; it closes when the last one is dropped, which waits for the commit that is
/// under way.
#[derive(Clone)]
pub struct Records(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    writer: Writer,
}

/// What readers and the writer share.
struct Shared {
    slot: EngineSlot,
    projections: Vec<Arc<dyn Projection>>,
    events: broadcast::Sender<Committed>,
    health: Mutex<Health>,
    index_ready: AtomicBool,
}

impl Shared {
    fn set_health(&self, health: Health) {
        let mut current = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::discriminant(&*current) != std::mem::discriminant(&health) {
            tracing::warn!(?health, "the record store changed its mode");
        }
        *current = health;
    }

    fn set_index_ready(&self, ready: bool) {
        self.index_ready.store(ready, Ordering::Release);
    }
}

impl Records {
    /// Opens the store in `dir`, making both when they aren't there. An index that other projections, or other
    /// versions of them, have made is rebuilt first. Blocks; one process at a time.
    ///
    /// On a full disk it opens read-only, unless there is no store yet.
    pub fn open(
        dir: &Path,
        options: RecordsOptions,
        projections: Vec<Arc<dyn Projection>>,
    ) -> Result<Self, RecordsError> {
        let (shared, core) = prepare(dir, &options, projections)?;
        Ok(Self(Arc::new(Inner { shared, writer: Writer::start(core)? })))
    }

    /// As [`open`](Self::open), but without a thread: what is asked for is done within the call, and every future of
    /// this store is ready when it is polled first.
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on_caller(
        dir: &Path,
        options: RecordsOptions,
        projections: Vec<Arc<dyn Projection>>,
    ) -> Result<Self, RecordsError> {
        let (shared, core) = prepare(dir, &options, projections)?;
        Ok(Self(Arc::new(Inner { shared, writer: Writer::Caller(Box::new(Mutex::new(core))) })))
    }

    /// Adds records to their logs, in the order given. Durable when it returns, with one outcome for each.
    /// Concurrent callers share a flush.
    pub async fn append(&self, records: Vec<VerifiedRecord>) -> Result<Vec<Outcome>, RecordsError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        self.0.writer.call(|reply| Command::Append(records, reply)).await
    }

    /// Signs a record as the next of `key`'s log in `network`, appends it and puts it into the outbox: all of
    /// it durable when it returns, or none. `salt` is 16 fresh random bytes.
    ///
    /// After [`RecordsError::Engine`] the record may or may not have been published.
    pub async fn publish(
        &self,
        key: &SecretKey,
        network: NetworkId,
        kind: RecordKind,
        body: Vec<u8>,
        salt: [u8; 16],
        now: Timestamp,
    ) -> Result<VerifiedRecord, RecordsError> {
        let body = Body { salt, bytes: body };
        let publication = Box::new(Publication { key: key.clone(), network, kind, body, now });
        self.0.writer.call(|reply| Command::Publish(publication, reply)).await
    }

    /// The record with this id, active or evidence.
    pub fn get(&self, id: RecordId) -> Result<Option<VerifiedRecord>, RecordsError> {
        let snapshot = self.0.shared.slot.read()?;
        let Some((key, _)) = log::locate(&*snapshot, id)? else { return Ok(None) };
        let bytes = snapshot.get(LOG, &key.encode())?.unwrap_or_default();
        verified(&key, &bytes).map(Some).ok_or_else(|| self.damaged(key))
    }

    /// The ends of the network's logs, ordered by author, those after `after`, at most `limit`.
    pub fn heads(&self, network: NetworkId, after: Option<AuthorId>, limit: usize) -> Result<Vec<Head>, RecordsError> {
        let start = after.map(|author| [network.as_bytes().as_slice(), author.as_bytes(), &[0]].concat());
        let range = KeyRange::prefix(network.as_bytes()).starting_at(start.as_deref().unwrap_or_default());
        let rows = self.0.shared.slot.read()?.scan(HEADS, range, limit)?;
        let heads = rows.iter().map(|(key, value)| Head::decode(LogId::from_key(key)?.author, value));
        let heads: Option<Vec<_>> = heads.collect();
        Ok(heads.ok_or_else(|| KvError::Corrupt("a head can't be read".into()))?)
    }

    /// Whether the record with this id is kept, active or evidence, without looking at it.
    pub fn knows(&self, id: RecordId) -> Result<bool, RecordsError> {
        Ok(log::locate(&*self.0.shared.slot.read()?, id)?.is_some())
    }

    /// The end of one author's log.
    pub fn head(&self, network: NetworkId, author: AuthorId) -> Result<Option<Head>, RecordsError> {
        Ok(log::head(&*self.0.shared.slot.read()?, LogId { network, author })?)
    }

    /// An author's records from (epoch, seq) on in the order of the log, with the evidence of forks: at most
    /// `max_records`, and at most `max_bytes` of them as they travel, but at least one if there is one. Ends
    /// before a damaged record.
    pub fn log(
        &self,
        network: NetworkId,
        author: AuthorId,
        from: (u64, u64),
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<VerifiedRecord>, RecordsError> {
        let snapshot = self.0.shared.slot.read()?;
        let log = LogId { network, author };
        let mut from = Position { epoch: from.0, seq: from.1 }.key(log).to_vec();
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < max_records {
            let limit = CHUNK_RECORDS.min(max_records - records.len());
            let rows = log::entries(&*snapshot, log, &from, limit)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in &rows {
                bytes += value.len();
                if bytes > max_bytes && !records.is_empty() {
                    return Ok(records);
                }
                let key = log::readable(key)?;
                match verified(&key, value) {
                    Some(record) => records.push(record),
                    None => {
                        self.damaged(key);
                        return Ok(records);
                    }
                }
            }
        }
        Ok(records)
    }

    /// How many records are kept, evidence included.
    pub fn count(&self) -> Result<u64, RecordsError> {
        let count = self.0.shared.slot.read()?.get(META, COUNT)?;
        Ok(count.as_deref().and_then(number).unwrap_or(0))
    }

    /// Published records that wait to be sent, oldest first, each with its number in the outbox.
    pub fn outbox(&self, limit: usize) -> Result<Vec<(u64, VerifiedRecord)>, RecordsError> {
        self.outbox_after(None, limit)
    }

    /// The same, from the entry after this number on.
    pub fn outbox_after(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, VerifiedRecord)>, RecordsError> {
        let snapshot = self.0.shared.slot.read()?;
        let mut waiting = Vec::new();
        let mut from = after.map(|after| [after.to_be_bytes().as_slice(), &[0]].concat()).unwrap_or_default();
        while waiting.len() < limit {
            let range = KeyRange::all().starting_at(&from);
            let Some((key, value)) = snapshot.scan(OUTBOX, range, 1)?.into_iter().next() else { break };
            if let (Some(number), Ok(id)) = (number(&key), value.try_into()) {
                match self.get(RecordId::from_bytes(id)) {
                    Ok(Some(record)) => waiting.push((number, record)),
                    // Lost against another record of this log, or damaged: nothing to send for now.
                    Ok(None) | Err(RecordsError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            from = [key.as_slice(), &[0]].concat();
        }
        Ok(waiting)
    }

    /// Takes entries out of the outbox.
    pub async fn outbox_sent(&self, numbers: Vec<u64>) -> Result<(), RecordsError> {
        self.0.writer.call(|reply| Command::OutboxSent(numbers, reply)).await
    }

    /// What becomes active from now on, after it is durable. A subscriber that falls 1024 records behind is
    /// told that it has missed some.
    pub fn subscribe(&self) -> broadcast::Receiver<Committed> {
        self.0.shared.events.subscribe()
    }

    /// A projection's tables as of now.
    pub fn view(&self, projection: &'static str) -> Result<IndexView<'_>, RecordsError> {
        match self.0.shared.index_ready.load(Ordering::Acquire) {
            true => IndexView::new(self.0.shared.slot.read()?, projection),
            false => Err(RecordsError::IndexStale),
        }
    }

    /// A table of this node's own, which no record tells about and no peer sees.
    pub fn private(&self, table: &'static str) -> Private {
        Private::new(Arc::clone(&self.0), table)
    }

    /// Makes the index anew from the logs, beside the old one, which serves until the new one is whole and takes
    /// over. Writes go on meanwhile. Returns how many records it was made from.
    pub async fn rebuild(&self) -> Result<u64, RecordsError> {
        self.0.writer.call(Command::Rebuild).await
    }

    /// The networks of which something is kept, ascending.
    pub fn networks(&self) -> Result<Vec<NetworkId>, RecordsError> {
        let snapshot = self.0.shared.slot.read()?;
        let mut networks: Vec<NetworkId> = Vec::new();
        loop {
            // After every log of the last one.
            let start = networks.last().map(|last| [last.as_bytes().as_slice(), &[0xff; 33]].concat());
            let range = KeyRange::all().starting_at(start.as_deref().unwrap_or_default());
            let Some((key, _)) = snapshot.scan(HEADS, range, 1)?.into_iter().next() else { return Ok(networks) };
            let log = LogId::from_key(&key).ok_or_else(|| KvError::Corrupt("a head can't be read".into()))?;
            networks.push(log.network);
        }
    }

    /// Drops the logs of these authors, in this order, with all that came of them; returns how many records those had.
    /// What is asked for again from elsewhere comes back. Never of an author who writes here: its log would begin anew
    /// and fork.
    pub async fn forget(&self, network: NetworkId, authors: &[AuthorId]) -> Result<u64, RecordsError> {
        let mut logs: Vec<_> = authors.iter().map(|author| LogId { network, author: *author }).collect();
        let mut records = 0;
        while !logs.is_empty() {
            let step = logs.iter().copied().take(FORGOTTEN_LOGS).collect();
            let forgotten = self.0.writer.call(|reply| Command::Forget(step, reply)).await?;
            records += forgotten.records;
            logs.drain(..forgotten.logs.min(logs.len()));
        }
        Ok(records)
    }

    /// Who may do what in `network`, by the records that are here.
    pub fn authority(&self, network: NetworkId) -> Result<Authority, RecordsError> {
        let snapshot = self.0.shared.slot.read()?;
        Ok(log::authority(&*snapshot, network)?)
    }

    /// BLAKE3 over the whole index. Nodes with the same records and projections have the same.
    pub fn index_digest(&self) -> Result<[u8; 32], RecordsError> {
        Ok(index::digest(&*self.0.shared.slot.read()?)?)
    }

    /// Whether the index is what a replay of the logs makes; replays into memory. Blocks for as long as that
    /// takes.
    pub fn check_index(&self) -> Result<bool, RecordsError> {
        let snapshot = self.0.shared.slot.read()?;
        let replayed = MemoryEngine::new();
        let mut tx = replayed.write()?;
        for table in [HEADS, LOG, IDS, GOVERNANCE, ERASED, STRAY_ERASED] {
            index::for_each(&*snapshot, table, KeyRange::all(), |key, value| tx.put(table, key, value))?;
        }
        LogTx::begin(&mut *tx, &self.0.shared.projections, &mut Memory::default(), true)?.finish()?;
        Ok(index::digest(&*tx)? == index::digest(&*snapshot)?)
    }

    /// Verifies every record and sets the damaged ones aside.
    pub async fn scrub(&self) -> Result<ScrubReport, RecordsError> {
        let shared = Arc::clone(&self.0.shared);
        let found = tokio::task::spawn_blocking(move || find_damage(&shared)).await;
        let (records, damaged) = found.map_err(|error| KvError::Other(error.to_string()))??;
        let report = ScrubReport { records, damaged: damaged.iter().map(|key| key.id).collect() };
        if !damaged.is_empty() {
            self.0.writer.call(|reply| Command::Quarantine(damaged, Some(reply))).await?;
        }
        Ok(report)
    }

    /// Whether writes are taken at present.
    pub fn health(&self) -> Health {
        self.0.shared.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finishes what was asked for before and closes the engine. Everything after it fails with
    /// [`RecordsError::Closed`].
    pub async fn close(&self) {
        self.0.writer.close().await;
    }

    /// Reports damage to the writer and makes the error of it.
    fn damaged(&self, key: LogKey) -> RecordsError {
        let id = key.id;
        self.0.writer.damaged(key);
        RecordsError::Damaged(id)
    }
}

fn prepare(
    dir: &Path,
    options: &RecordsOptions,
    projections: Vec<Arc<dyn Projection>>,
) -> Result<(Arc<Shared>, Core), RecordsError> {
    check_names(&projections)?;
    fs::create_dir_all(dir).map_err(KvError::from_io)?;
    let space = Space::new(dir, options);
    let shared = Arc::new(Shared {
        slot: EngineSlot::new(space.open()?),
        projections,
        events: broadcast::Sender::new(EVENTS),
        health: Mutex::new(Health::ReadWrite),
        index_ready: AtomicBool::new(false),
    });
    let core = Core::new(Arc::clone(&shared), space)?;
    Ok((shared, core))
}

fn check_names(projections: &[Arc<dyn Projection>]) -> Result<(), KvError> {
    let names: HashSet<_> = projections.iter().map(|projection| projection.name()).collect();
    match names.len() == projections.len() && names.iter().all(|name| !name.is_empty() && !name.contains('/')) {
        true => Ok(()),
        false => Err(KvError::Other(format!("projections need names of their own, without slashes: {names:?}"))),
    }
}

fn find_damage(shared: &Shared) -> Result<(u64, Vec<LogKey>), RecordsError> {
    let (mut records, mut damaged) = (0, Vec::new());
    let snapshot = shared.slot.read()?;
    index::for_each(&*snapshot, LOG, KeyRange::all(), |key, value| {
        let key = log::readable(key)?;
        records += 1;
        if verified(&key, value).is_none() {
            damaged.push(key);
        }
        Ok(())
    })?;
    Ok((records, damaged))
}
