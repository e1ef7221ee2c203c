//! The rules of the logs, within one transaction. The module above tells them; here they are carried out.
//! What records count for, and with it the index, is in [`standing`].

mod forget;
mod standing;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mhc_protocol::{
    NetworkId, RecordId,
    network::{Authority, ERASE, Meter},
    record::{Record, VerifiedRecord},
};

pub(super) use self::standing::{Rebuild, authority};
use super::{
    Head, Outcome, Projection, Refusal,
    index::{self, Generation},
    pending::Pending,
    tables::{
        COUNT, HEADS, IDS, LOG, LogId, LogKey, META, METERS, OUTBOX, OUTBOX_NEXT, Position, QUARANTINE, State, number,
    },
};
use crate::kv::{Entry, KeyRange, KvError, ReadTx, WriteTx};

const CHUNK_RECORDS: usize = 128;

/// What the writer remembers between transactions. It can all be found again, and is forgotten when one fails.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) pending: Pending,
    pub(super) authorities: HashMap<NetworkId, Arc<Authority>>,
    /// A rebuild of the index that goes on from transaction to transaction.
    pub(super) rebuild: Option<Rebuild>,
}

/// A transaction over the logs. [`finish`](LogTx::finish) it before the commit.
pub(super) struct LogTx<'a> {
    tx: &'a mut dyn WriteTx,
    projections: &'a [Arc<dyn Projection>],
    memory: &'a mut Memory,
    /// Which tables of the index follow: the current ones and those that are being rebuilt.
    generations: Vec<Generation>,
    /// The index has to be replayed: it may hold rows of a record that is damaged. Nothing is shown until then.
    replay: bool,
    count: u64,
    activated: Vec<VerifiedRecord>,
    /// Networks whose governing records have changed, as they were before.
    before: BTreeMap<NetworkId, Arc<Authority>>,
    rebuilt: Option<u64>,
}

/// What insertion found.
enum Inserted {
    Yes(Outcome),
    /// The predecessor isn't there (yet).
    After(RecordId),
}

/// What a transaction did.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Records that joined an active chain, in order.
    pub(super) activated: Vec<VerifiedRecord>,
    /// How many records the index was made from, when a rebuild ended.
    pub(super) rebuilt: Option<u64>,
}

impl<'a> LogTx<'a> {
    /// `replay`: whether the index is known to be out of line.
    pub(super) fn begin(
        tx: &'a mut dyn WriteTx,
        projections: &'a [Arc<dyn Projection>],
        memory: &'a mut Memory,
        replay: bool,
    ) -> Result<Self, KvError> {
        let count = tx.get(META, COUNT)?.as_deref().and_then(number).unwrap_or(0);
        let mut generations = vec![index::current(&*tx)?];
        generations.extend(memory.rebuild.as_ref().map(Rebuild::generation));
        let (activated, before) = (Vec::new(), BTreeMap::new());
        Ok(Self { tx, projections, memory, generations, replay, count, activated, before, rebuilt: None })
    }

    /// Adds a record, and those that waited for it.
    pub(super) fn append(&mut self, record: &VerifiedRecord) -> Result<Outcome, KvError> {
        let outcome = match self.insert(record)? {
            Inserted::Yes(outcome) => outcome,
            Inserted::After(prev) => match self.memory.pending.add(prev, record.clone()) {
                true => return Ok(Outcome::Pending),
                false => return Ok(Outcome::Refused(Refusal::PendingFull)),
            },
        };
        self.settle_children(record.id(), outcome)?;
        Ok(outcome)
    }

    /// Whoever waited for `id` now follows it, or is lost with it.
    fn settle_children(&mut self, id: RecordId, outcome: Outcome) -> Result<(), KvError> {
        let mut settled = vec![(id, outcome)];
        while let Some((id, outcome)) = settled.pop() {
            if matches!(outcome, Outcome::Refused(_)) {
                self.memory.pending.drop_descendants(id);
                continue;
            }
            for child in self.memory.pending.take_children(id) {
                match self.insert(&child)? {
                    Inserted::Yes(outcome) => settled.push((child.id(), outcome)),
                    // Its predecessor was just cut off by another child.
                    Inserted::After(_) => self.memory.pending.drop_descendants(child.id()),
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, record: &VerifiedRecord) -> Result<Inserted, KvError> {
        let inserted = match self.is_erased(record)? {
            true => self.place(&record.clone().erased())?,
            false => self.place(record)?,
        };
        if record.header().kind == ERASE && !matches!(inserted, Inserted::Yes(Outcome::Duplicate)) {
            let is_kept = matches!(inserted, Inserted::Yes(Outcome::Appended | Outcome::Forked));
            self.erase(record, is_kept)?;
        }
        Ok(inserted)
    }

    fn place(&mut self, record: &VerifiedRecord) -> Result<Inserted, KvError> {
        let header = record.header();
        let key = LogKey::of(header, record.id());
        if let Some((known, state)) = self.locate(record.id())? {
            let completes = !state.has_body && record.body().is_some();
            return Ok(Inserted::Yes(match completes && self.complete(&known, state, record)? {
                true => Outcome::Appended,
                false => Outcome::Duplicate,
            }));
        }
        let head = self.head(key.log)?;
        let parent = match header.prev {
            None => None,
            Some(prev) => match self.locate(prev)? {
                None => return Ok(Inserted::After(prev)),
                Some((parent, _)) if parent.log != key.log || !key.position.follows(parent.position) => {
                    return Ok(refused(Refusal::Chain));
                }
                // Behind a gap that damage left: to be filled first.
                Some((parent, _)) if head.is_none_or(|head| parent.position > head.position()) => {
                    return Ok(Inserted::After(prev));
                }
                Some((parent, _)) if self.active_at(key.log, parent.position)? != Some(parent.id) => {
                    return Ok(refused(Refusal::LosingBranch));
                }
                Some((parent, _)) => Some(parent.position),
            },
        };
        if head.is_some_and(|head| parent != Some(head.position())) {
            return self.contest(&key, parent, record);
        }
        let mut meter = self.meter(key.log)?;
        if !self.admit(&mut meter, record)? {
            return Ok(refused(Refusal::Quota));
        }
        if let Some(parent) = parent.filter(|parent| parent.epoch < key.position.epoch) {
            // What damage may have left behind in the old epoch; as a rule nothing.
            self.cut_from(key.log, &parent.key_after(key.log))?;
        }
        self.extend(&key, record, meter).map(|()| Inserted::Yes(Outcome::Appended))
    }

    /// `record` follows an active record that another one follows already.
    fn contest(
        &mut self,
        key: &LogKey,
        parent: Option<Position>,
        record: &VerifiedRecord,
    ) -> Result<Inserted, KvError> {
        let from = parent.map_or_else(|| Position::START.key(key.log), |parent| parent.key_after(key.log));
        let rivals = self.keys(KeyRange::new(&from, &log_end(key.log)), 3)?;
        let Some(first) = rivals.first() else {
            return Err(KvError::Corrupt(format!("no record between {parent:?} and the head of {:?}", key.log)));
        };
        if first.position.epoch > key.position.epoch {
            return Ok(refused(Refusal::Superseded));
        }
        if first.position.epoch == key.position.epoch {
            return self.contest_position(key, parent, &rivals, record);
        }
        let mut meter = self.measure(key.log, parent)?;
        if !self.admit(&mut meter, record)? {
            return Ok(refused(Refusal::Quota));
        }
        // The log moved on from `parent`: what the old epoch wrote after that doesn't count.
        self.cut_from(key.log, &from)?;
        self.extend(key, record, meter).map(|()| Inserted::Yes(Outcome::Appended))
    }

    /// Several records at one position after one predecessor: the two with the smallest ids stay, the smaller
    /// of them in the active chain.
    fn contest_position(
        &mut self,
        key: &LogKey,
        parent: Option<Position>,
        rivals: &[LogKey],
        record: &VerifiedRecord,
    ) -> Result<Inserted, KvError> {
        let here: Vec<_> = rivals.iter().filter(|rival| rival.position == key.position).collect();
        let (Some(first), second) = (here.first(), here.get(1)) else { return Ok(refused(Refusal::Chain)) };
        if second.is_some_and(|second| second.id < key.id) {
            return Ok(refused(Refusal::Proven));
        }
        let before = self.measure(key.log, parent)?;
        let mut meter = before.clone();
        if !self.admit(&mut meter, record)? {
            return Ok(refused(Refusal::Quota));
        }
        if let Some(second) = second {
            self.remove(second)?;
        }
        let stands = self.stands(first, before)?;
        if key.id > first.id && stands {
            self.store(key, record)?;
            self.mark(key, State { has_body: record.body().is_some(), shown: false })?;
            return Ok(Inserted::Yes(Outcome::Forked));
        }
        // The chain goes on from the new record; what followed the old one lost with it, and so did its rows.
        self.retire(first)?;
        if !stands {
            self.remove(first)?;
        }
        self.cut_from(key.log, &key.position.key_after(key.log))?;
        self.extend(key, record, meter)?;
        Ok(Inserted::Yes(Outcome::Appended))
    }

    /// Makes `record` the head, and then what is kept after it. `meter` has counted it.
    fn extend(&mut self, key: &LogKey, record: &VerifiedRecord, mut meter: Meter) -> Result<(), KvError> {
        self.store(key, record)?;
        self.activate(key, record, &meter)?;
        self.activated.push(record.clone());
        let mut head = *key;
        // Damage may have left records behind a gap that is now filled.
        while let Some((next, bytes)) = self.next_after(&head)? {
            match verified(&next, &bytes) {
                Some(record) if record.header().prev == Some(head.id) && next.position.follows(head.position) => {
                    if !self.admit(&mut meter, &record)? {
                        meter.close();
                    }
                    self.activate(&next, &record, &meter)?;
                    head = next;
                }
                Some(_) => return self.cut_from(head.log, &head.position.key_after(head.log)),
                None => return self.quarantine(&next, &bytes),
            }
        }
        Ok(())
    }

    fn activate(&mut self, key: &LogKey, record: &VerifiedRecord, meter: &Meter) -> Result<(), KvError> {
        self.tx.put(HEADS, &key.log.key(), &Head::at(key).encode())?;
        self.put_meter(key.log, meter)?;
        let shown = !meter.is_closed() && self.authority(key.log.network)?.permits(record);
        self.mark(key, State { has_body: record.body().is_some(), shown })?;
        if shown {
            self.show(record)?;
        }
        self.govern(key, record, shown)
    }

    /// Gives a record that is kept without its body the body. Returns whether the record is active.
    fn complete(&mut self, known: &LogKey, state: State, record: &VerifiedRecord) -> Result<bool, KvError> {
        self.rewrite(known, state, &record.clone().erased(), record)?;
        let reached = self.head(known.log)?.is_some_and(|head| known.position <= head.position());
        if !reached || self.active_at(known.log, known.position)? != Some(known.id) {
            return Ok(false);
        }
        self.govern(known, record, state.shown)?;
        self.activated.push(record.clone());
        Ok(true)
    }

    /// Keeps `new` where `old` was, which differs from it in the body alone.
    fn rewrite(
        &mut self,
        key: &LogKey,
        state: State,
        old: &VerifiedRecord,
        new: &VerifiedRecord,
    ) -> Result<(), KvError> {
        self.tx.put(LOG, &key.encode(), &new.to_bytes())?;
        self.mark(key, State { has_body: new.body().is_some(), ..state })?;
        if state.shown {
            self.hide(old)?;
            self.show(new)?;
        }
        Ok(())
    }

    fn store(&mut self, key: &LogKey, record: &VerifiedRecord) -> Result<(), KvError> {
        self.tx.put(LOG, &key.encode(), &record.to_bytes())?;
        self.tx.delete(QUARANTINE, &key.encode())?;
        self.count += 1;
        Ok(())
    }

    fn mark(&mut self, key: &LogKey, state: State) -> Result<(), KvError> {
        self.tx.put(IDS, key.id.as_bytes(), &key.id_value(state))
    }

    fn remove(&mut self, key: &LogKey) -> Result<(), KvError> {
        self.tx.delete(LOG, &key.encode())?;
        self.tx.delete(IDS, key.id.as_bytes())?;
        self.count = self.count.saturating_sub(1);
        Ok(())
    }

    /// Removes the log's records from the key `from` on.
    fn cut_from(&mut self, log: LogId, from: &[u8]) -> Result<(), KvError> {
        self.tx.delete(METERS, &log.key())?;
        self.restart_rebuild_of(log);
        loop {
            let keys = self.keys(KeyRange::new(from, &log_end(log)), CHUNK_RECORDS)?;
            for key in &keys {
                self.retire(key)?;
                self.remove(key)?;
            }
            if keys.len() < CHUNK_RECORDS {
                return Ok(());
            }
        }
    }

    /// Sets aside what was found where the record of `key` should be. Its position becomes free and the active
    /// chain ends before it, so that the next sync brings the record again; what follows it stays and joins
    /// the chain once the gap is filled.
    pub(super) fn quarantine(&mut self, key: &LogKey, found: &[u8]) -> Result<(), KvError> {
        tracing::error!(record = %key.id, author = %key.log.author, epoch = key.position.epoch,
            seq = key.position.seq, "a stored record is damaged: set aside, to be fetched again");
        let active = self.active_at(key.log, key.position)?;
        self.tx.put(QUARANTINE, &key.encode(), found)?;
        if active.is_some_and(|active| active < key.id) {
            // Evidence of a fork: the chain doesn't stand on it.
            return self.remove(key);
        }
        self.tx.delete(IDS, key.id.as_bytes())?;
        self.ungovern(key)?;
        let (start, end) = (key.position.key(key.log), key.position.key_after(key.log));
        for here in self.keys(KeyRange::new(&start, &end), CHUNK_RECORDS)? {
            self.remove(&here)?;
        }
        if self.head(key.log)?.is_some_and(|head| head.position() >= key.position) {
            // Which rows it had can't be told any more.
            self.replay = true;
            return self.set_head_before(key);
        }
        Ok(())
    }

    fn set_head_before(&mut self, key: &LogKey) -> Result<(), KvError> {
        self.tx.delete(METERS, &key.log.key())?;
        let (start, end) = (Position::START.key(key.log), key.position.key(key.log));
        let last = self.keys(KeyRange::new(&start, &end).reversed(), 1)?;
        match last.first() {
            None => self.tx.delete(HEADS, &key.log.key()),
            Some(last) => {
                let id = self.active_at(key.log, last.position)?.unwrap_or(last.id);
                self.tx.put(HEADS, &key.log.key(), &Head::at(&LogKey { id, ..*last }).encode())
            }
        }
    }

    /// Whether it is known that the log has records which aren't in its active chain yet.
    pub(super) fn is_incomplete(&self, log: LogId) -> Result<bool, KvError> {
        let key = log.key();
        let damaged = self.tx.scan(QUARANTINE, KeyRange::prefix(&key), 1)?;
        let head = self.head(log)?.map(|head| head.position());
        Ok(!damaged.is_empty() || self.memory.pending.highest(log).is_some_and(|highest| Some(highest) > head))
    }

    /// Puts `id` into the outbox.
    pub(super) fn send(&mut self, id: RecordId) -> Result<(), KvError> {
        let number = self.tx.get(META, OUTBOX_NEXT)?.as_deref().and_then(number).unwrap_or(0);
        self.tx.put(OUTBOX, &number.to_be_bytes(), id.as_bytes())?;
        self.tx.put(META, OUTBOX_NEXT, &number.saturating_add(1).to_be_bytes())
    }

    /// The engine's transaction, for what isn't about logs.
    pub(super) fn raw(&mut self) -> &mut dyn WriteTx {
        self.tx
    }

    /// Brings the index in line. The transaction may then be committed.
    pub(super) fn finish(mut self) -> Result<Finished, KvError> {
        if self.replay {
            self.replay_all()?;
        }
        self.settle_changes()?;
        self.tx.put(META, COUNT, &self.count.to_be_bytes())?;
        Ok(Finished { activated: self.activated, rebuilt: self.rebuilt })
    }

    /// The record of the active chain at a position that the chain has reached.
    fn active_at(&self, log: LogId, position: Position) -> Result<Option<RecordId>, KvError> {
        let (start, end) = (position.key(log), position.key_after(log));
        Ok(self.keys(KeyRange::new(&start, &end), 1)?.first().map(|key| key.id))
    }

    /// Part of the active chain, from the key `from` up to and with the position `last`, and where to go on.
    fn chain(&self, log: LogId, from: &[u8; 80], last: Position) -> Result<(Vec<Link>, Option<[u8; 80]>), KvError> {
        let entries = self.tx.scan(LOG, KeyRange::new(from, &last.key_after(log)), CHUNK_RECORDS)?;
        let is_full = entries.len() == CHUNK_RECORDS;
        let mut links: Vec<Link> = Vec::with_capacity(entries.len());
        for (key, bytes) in entries {
            let key = readable(&key)?;
            // Only the first at each position is in the active chain.
            if links.last().is_none_or(|link| link.key.position != key.position) {
                links.push(Link { key, bytes });
            }
        }
        let next = links.last().filter(|_| is_full).map(|link| link.key.position.key_after(log));
        Ok((links, next))
    }

    fn next_after(&self, key: &LogKey) -> Result<Option<(LogKey, Vec<u8>)>, KvError> {
        let from = key.position.key_after(key.log);
        let next = self.tx.scan(LOG, KeyRange::new(&from, &log_end(key.log)), 1)?.into_iter().next();
        next.map(|(key, bytes)| Ok((readable(&key)?, bytes))).transpose()
    }

    fn keys(&self, range: KeyRange<'_>, limit: usize) -> Result<Vec<LogKey>, KvError> {
        self.tx.scan(LOG, range, limit)?.iter().map(|(key, _)| readable(key)).collect()
    }

    fn locate(&self, id: RecordId) -> Result<Option<(LogKey, State)>, KvError> {
        locate(self.tx, id)
    }

    pub(super) fn head(&self, log: LogId) -> Result<Option<Head>, KvError> {
        head(self.tx, log)
    }
}

/// A record of an active chain, as stored.
struct Link {
    key: LogKey,
    bytes: Vec<u8>,
}

impl Link {
    /// The record, unless what is stored isn't it. The signature isn't checked again: the id covers what it signed.
    fn record(&self) -> Option<VerifiedRecord> {
        let record = Record::kept(&self.bytes).ok()?;
        (LogKey::of(record.header(), record.id()) == self.key).then_some(record)
    }
}

fn refused(refusal: Refusal) -> Inserted {
    Inserted::Yes(Outcome::Refused(refusal))
}

/// The first key after every record of `log`: positions stay far below this by the protocol's bounds.
fn log_end(log: LogId) -> [u8; 80] {
    Position { epoch: u64::MAX, seq: u64::MAX }.key(log)
}

/// Where the record with this id is kept, and how.
pub(super) fn locate(tx: &(impl ReadTx + ?Sized), id: RecordId) -> Result<Option<(LogKey, State)>, KvError> {
    let Some(value) = tx.get(IDS, id.as_bytes())? else { return Ok(None) };
    let found = LogKey::from_id_value(&value, id);
    found.map(Some).ok_or_else(|| KvError::Corrupt(format!("the place of {id} can't be read")))
}

/// The last record of the log's active chain.
pub(super) fn head(tx: &(impl ReadTx + ?Sized), log: LogId) -> Result<Option<Head>, KvError> {
    let Some(value) = tx.get(HEADS, &log.key())? else { return Ok(None) };
    let head = Head::decode(log.author, &value);
    head.map(Some).ok_or_else(|| KvError::Corrupt("a head can't be read".into()))
}

/// The record at `key`, unless what is stored isn't it.
pub(super) fn verified(key: &LogKey, bytes: &[u8]) -> Option<VerifiedRecord> {
    let record = Record::verify_stored(bytes).ok()?;
    (LogKey::of(record.header(), record.id()) == *key).then_some(record)
}

/// A key of the log.
pub(super) fn readable(key: &[u8]) -> Result<LogKey, KvError> {
    LogKey::decode(key).ok_or_else(|| KvError::Corrupt("a key of the log can't be read".into()))
}

/// What of one author's log is at and after the key `from`, as far as its active chain reaches.
pub(super) fn entries(
    tx: &(impl ReadTx + ?Sized),
    log: LogId,
    from: &[u8],
    limit: usize,
) -> Result<Vec<Entry>, KvError> {
    let Some(head) = head(tx, log)? else { return Ok(Vec::new()) };
    tx.scan(LOG, KeyRange::new(from, &head.position().key_after(log)), limit)
}
