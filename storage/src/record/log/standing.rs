//! What the records of a log count for: who may write them, how many, which were withdrawn. And the index, which
//! holds the rows of those that count.

use std::{collections::btree_map, sync::Arc};

use mhc_protocol::{
    AuthorId, NetworkId, RecordId, cbor,
    network::{Action, Authority, Deed, ERASE, Erase, Meter, When, is_governance},
    record::{MAX_RECORD_BYTES, VerifiedRecord},
};

use super::{CHUNK_RECORDS, Link, LogTx, verified};
use crate::{
    kv::{KeyRange, KvError, ReadTx},
    record::{
        Head, RecordsError,
        index::{self, Generation},
        tables::{ERASED, GOVERNANCE, HEADS, LOG, LogId, LogKey, METERS, Position, STRAY_ERASED, State, erased_key},
    },
};

/// Withdrawals that aren't kept in their author's log and yet are honoured, of one author.
const MAX_STRAY_ERASED: usize = 64;
/// Networks that are looked at again in one transaction. Each change of who may what can end a log, which can
/// change who may what; a chain of more than this doesn't come from honest records.
const MAX_ROUNDS: usize = 16;
const MAX_METER_BYTES: usize = 4096;

/// A rebuild of the index beside the current one: where it is.
#[derive(Debug)]
pub(in crate::record) struct Rebuild {
    generation: Generation,
    /// The log being read; `None` before the first.
    log: Option<LogId>,
    /// The key to go on from, and what the records before it have used.
    from: [u8; 80],
    meter: Meter,
    records: u64,
}

impl Rebuild {
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    fn start_log(&mut self, log: LogId) {
        self.log = Some(log);
        self.from = Position::START.key(log);
        self.meter = Meter::default();
    }
}

/// Where rows go.
#[derive(Clone, Copy)]
enum Target {
    /// The index is in line but for what has changed.
    Changed,
    /// The index is empty.
    Empty,
    /// This generation is being filled, the other is in line but for what has changed.
    Filling(Generation),
}

impl LogTx<'_> {
    // # Who may

    /// Who may do what in `network`, by the records that are active now.
    pub(super) fn authority(&mut self, network: NetworkId) -> Result<Arc<Authority>, KvError> {
        if let Some(known) = self.memory.authorities.get(&network) {
            return Ok(Arc::clone(known));
        }
        let authority = Arc::new(authority(&*self.tx, network)?);
        self.memory.authorities.insert(network, Arc::clone(&authority));
        Ok(authority)
    }

    /// Whether the author of `record`, which would be the next of its log, may write it. Asked before it is appended:
    /// a withdrawal takes effect even when it isn't kept.
    pub(in crate::record) fn may_write(
        &mut self,
        record: &VerifiedRecord,
    ) -> Result<Result<(), RecordsError>, KvError> {
        let header = record.header();
        if let Some(action) = Action::of(&header.kind)
            && let Err(denied) = self.authority(header.network)?.may(header.author, action, When::of(record))
        {
            return Ok(Err(denied.into()));
        }
        let mut meter = self.meter(LogId::of(header))?;
        Ok(if self.admit(&mut meter, record)? { Ok(()) } else { Err(RecordsError::OverQuota) })
    }

    /// Notes what an active record says about who may what, unless it doesn't count.
    pub(super) fn govern(&mut self, key: &LogKey, record: &VerifiedRecord, counts: bool) -> Result<(), KvError> {
        if !is_governance(&record.header().kind) {
            return Ok(());
        }
        let Some(deed) = Deed::of(record).filter(|_| counts) else { return self.ungovern(key) };
        let bytes = cbor::encode(&deed).map_err(|error| KvError::Other(error.to_string()))?;
        if self.tx.get(GOVERNANCE, &key.governance_key())?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.governing_changes(key.log.network)?;
        self.tx.put(GOVERNANCE, &key.governance_key(), &bytes)
    }

    pub(super) fn ungovern(&mut self, key: &LogKey) -> Result<(), KvError> {
        if self.tx.get(GOVERNANCE, &key.governance_key())?.is_none() {
            return Ok(());
        }
        self.governing_changes(key.log.network)?;
        self.tx.delete(GOVERNANCE, &key.governance_key())
    }

    fn governing_changes(&mut self, network: NetworkId) -> Result<(), KvError> {
        let now = self.authority(network)?;
        self.memory.authorities.remove(&network);
        if let btree_map::Entry::Vacant(before) = self.before.entry(network) {
            before.insert(now);
        }
        Ok(())
    }

    /// Looks again at the logs of everybody for whom it has changed what they may.
    pub(super) fn settle_changes(&mut self) -> Result<(), KvError> {
        for _ in 0..MAX_ROUNDS {
            let Some((network, before)) = self.before.pop_first() else { return Ok(()) };
            let logs = match self.authority(network)?.differs_for(&before) {
                None => self.logs_of(network)?,
                Some(authors) => authors.into_iter().map(|author| LogId { network, author }).collect(),
            };
            for log in logs {
                self.restart_rebuild_of(log);
                self.look_again(log, Target::Changed)?;
            }
        }
        tracing::error!("grants that end each other's logs: not settled");
        self.before.clear();
        Ok(())
    }

    fn logs_of(&self, network: NetworkId) -> Result<Vec<LogId>, KvError> {
        let mut logs = Vec::new();
        index::for_each(&*self.tx, HEADS, KeyRange::prefix(network.as_bytes()), |key, _| {
            logs.extend(LogId::from_key(key));
            Ok(())
        })?;
        Ok(logs)
    }

    // # How many

    /// Counts `record` if it is within what its author may write.
    pub(super) fn admit(&mut self, meter: &mut Meter, record: &VerifiedRecord) -> Result<bool, KvError> {
        let header = record.header();
        let limits = self.authority(header.network)?.limits(header.author, When::of(record));
        Ok(meter.admit(&header.kind, header.at, &limits))
    }

    /// What the log's active chain has used.
    pub(super) fn meter(&mut self, log: LogId) -> Result<Meter, KvError> {
        let kept = self.tx.get(METERS, &log.key())?;
        match kept.and_then(|bytes| cbor::decode(&bytes, MAX_METER_BYTES).ok()) {
            Some(meter) => Ok(meter),
            None => {
                let head = self.head(log)?.map(|head| head.position());
                self.measure(log, head)
            }
        }
    }

    pub(super) fn put_meter(&mut self, log: LogId, meter: &Meter) -> Result<(), KvError> {
        let bytes = cbor::encode(meter).map_err(|error| KvError::Other(error.to_string()))?;
        self.tx.put(METERS, &log.key(), &bytes)
    }

    /// What the log's active chain has used up to and with the position `last`.
    pub(super) fn measure(&mut self, log: LogId, last: Option<Position>) -> Result<Meter, KvError> {
        let mut meter = Meter::default();
        let Some(last) = last else { return Ok(meter) };
        let mut from = Some(Position::START.key(log));
        while let Some(start) = from {
            let (links, next) = self.chain(log, &start, last)?;
            for record in links.iter().filter_map(Link::record) {
                if !self.admit(&mut meter, &record)? {
                    meter.close();
                }
            }
            from = next;
        }
        Ok(meter)
    }

    /// Whether the kept record of `key` is within the limits after what `meter` has counted.
    pub(super) fn stands(&mut self, key: &LogKey, mut meter: Meter) -> Result<bool, KvError> {
        let bytes = self.tx.get(LOG, &key.encode())?.unwrap_or_default();
        match (Link { key: *key, bytes }).record() {
            Some(record) => self.admit(&mut meter, &record),
            None => Ok(true),
        }
    }

    // # Withdrawn bodies

    /// Whether the author has withdrawn the record's body.
    pub(super) fn is_erased(&self, record: &VerifiedRecord) -> Result<bool, KvError> {
        if record.body().is_none() || !can_be_erased(record) {
            return Ok(false);
        }
        let key = erased_key(record.header().author, record.id());
        Ok(self.tx.get(ERASED, &key)?.is_some() || self.tx.get(STRAY_ERASED, &key)?.is_some())
    }

    /// Carries out a withdrawal. One that isn't kept in its author's log, or not yet, counts as well, since what it
    /// erased elsewhere can't come back; of these only so many are remembered.
    pub(super) fn erase(&mut self, withdrawal: &VerifiedRecord, is_kept: bool) -> Result<(), KvError> {
        let Some(Ok(Erase { records })) = withdrawal.body().map(Erase::decode) else { return Ok(()) };
        let author = withdrawal.header().author;
        for id in records {
            let key = erased_key(author, id);
            if is_kept {
                self.tx.put(ERASED, &key, &[])?;
                self.tx.delete(STRAY_ERASED, &key)?;
            } else if self.tx.scan(STRAY_ERASED, KeyRange::prefix(author.as_bytes()), MAX_STRAY_ERASED)?.len()
                < MAX_STRAY_ERASED
            {
                self.tx.put(STRAY_ERASED, &key, &[])?;
            }
            self.strip(author, id)?;
        }
        Ok(())
    }

    fn strip(&mut self, author: AuthorId, id: RecordId) -> Result<(), KvError> {
        let Some((key, state)) = self.locate(id)?.filter(|(key, state)| key.log.author == author && state.has_body)
        else {
            return Ok(());
        };
        let bytes = self.tx.get(LOG, &key.encode())?.unwrap_or_default();
        match verified(&key, &bytes) {
            Some(record) if can_be_erased(&record) => self.rewrite(&key, state, &record, &record.clone().erased()),
            Some(_) => Ok(()),
            None => self.quarantine(&key, &[]),
        }
    }

    // # The index

    pub(super) fn show(&mut self, record: &VerifiedRecord) -> Result<(), KvError> {
        match self.replay {
            true => Ok(()),
            false => index::show(self.tx, self.projections, &self.generations, record),
        }
    }

    pub(super) fn hide(&mut self, record: &VerifiedRecord) -> Result<(), KvError> {
        match self.replay {
            true => Ok(()),
            false => index::hide(self.tx, self.projections, &self.generations, record),
        }
    }

    /// Takes a record that leaves the active chain out of the index and out of what governs.
    pub(super) fn retire(&mut self, key: &LogKey) -> Result<(), KvError> {
        let Some((_, state)) = self.locate(key.id)?.filter(|(_, state)| state.shown) else { return Ok(()) };
        let bytes = self.tx.get(LOG, &key.encode())?.unwrap_or_default();
        match (Link { key: *key, bytes }).record() {
            Some(record) => self.hide(&record)?,
            None => self.replay = true,
        }
        self.ungovern(key)?;
        self.mark(key, State { shown: false, ..state })
    }

    /// Decides for each record of the log's active chain anew whether it counts.
    fn look_again(&mut self, log: LogId, into: Target) -> Result<u64, KvError> {
        let (mut meter, mut records) = (Meter::default(), 0);
        let Some(last) = self.head(log)?.map(|head: Head| head.position()) else { return Ok(0) };
        let mut from = Some(Position::START.key(log));
        while let Some(start) = from {
            let (links, next) = self.chain(log, &start, last)?;
            if !self.settle(&links, &mut meter, into)? {
                return Ok(records);
            }
            records += links.len() as u64;
            from = next;
        }
        self.put_meter(log, &meter)?;
        Ok(records)
    }

    /// Brings flags and rows of these records in line; `meter` has counted those before. Returns false when one
    /// is damaged: the chain then ends before it.
    fn settle(&mut self, links: &[Link], meter: &mut Meter, into: Target) -> Result<bool, KvError> {
        for link in links {
            let Some(record) = link.record() else {
                self.quarantine(&link.key, &link.bytes)?;
                return Ok(false);
            };
            if !self.admit(meter, &record)? {
                meter.close();
            }
            let shown = !meter.is_closed() && self.authority(link.key.log.network)?.permits(&record);
            let state = State { has_body: record.body().is_some(), shown };
            let was = self.locate(link.key.id)?.map(|(_, was)| was);
            if was != Some(state) {
                self.mark(&link.key, state)?;
            }
            let was_shown = was.is_some_and(|was| was.shown);
            match into {
                Target::Empty if shown => index::show(self.tx, self.projections, &self.generations, &record)?,
                Target::Empty => {}
                Target::Filling(to) if shown && was_shown => index::show(self.tx, self.projections, &[to], &record)?,
                Target::Changed if shown && was_shown => {}
                _ if shown => self.show(&record)?,
                _ if was_shown => self.hide(&record)?,
                _ => {}
            }
            self.govern(&link.key, &record, shown)?;
        }
        Ok(true)
    }

    /// Empties the index and makes it anew within this transaction.
    pub(super) fn replay_all(&mut self) -> Result<(), KvError> {
        index::reset(self.tx, self.projections)?;
        self.memory.rebuild = None;
        self.generations = vec![index::current(&*self.tx)?];
        let (mut records, mut after) = (0, None);
        while let Some(log) = self.next_log(after)? {
            records += self.look_again(log, Target::Empty)?;
            after = Some(log);
        }
        // Only now: what was found damaged on the way is out already.
        self.replay = false;
        self.rebuilt = Some(records);
        Ok(())
    }

    fn next_log(&self, after: Option<LogId>) -> Result<Option<LogId>, KvError> {
        let start = after.map(|log| [log.key().as_slice(), &[0]].concat()).unwrap_or_default();
        let next = self.tx.scan(HEADS, KeyRange::all().starting_at(&start), 1)?;
        let log = next.first().map(|(key, _)| LogId::from_key(key));
        log.map(|log| log.ok_or_else(|| KvError::Corrupt("a head can't be read".into()))).transpose()
    }

    // # The index, made anew beside the old one

    /// Begins a rebuild, unless one is under way.
    pub(in crate::record) fn begin_rebuild(&mut self) -> Result<(), KvError> {
        if self.memory.rebuild.is_some() {
            return Ok(());
        }
        let generation = index::current(&*self.tx)?.other();
        index::clear(self.tx, generation)?;
        self.generations.push(generation);
        let (from, meter) = ([0; 80], Meter::default());
        self.memory.rebuild = Some(Rebuild { generation, log: None, from, meter, records: 0 });
        Ok(())
    }

    /// Takes the rebuild some `budget` records further. At its end the new tables take over.
    pub(in crate::record) fn go_on_rebuilding(&mut self, budget: usize) -> Result<(), KvError> {
        let Some(mut rebuild) = self.memory.rebuild.take() else { return Ok(()) };
        let mut left = budget;
        while left > 0 && !self.replay {
            let Some(log) = rebuild.log else {
                match self.next_log(None)? {
                    Some(first) => rebuild.start_log(first),
                    None => return self.end_rebuild(&rebuild),
                }
                continue;
            };
            left = left.saturating_sub(CHUNK_RECORDS);
            if self.rebuild_chunk(&mut rebuild, log)? {
                continue;
            }
            match self.next_log(Some(log))? {
                Some(next) => rebuild.start_log(next),
                None => return self.end_rebuild(&rebuild),
            }
        }
        // Damage makes a replay of all at the end of this transaction, which does the same and more.
        if !self.replay {
            self.memory.rebuild = Some(rebuild);
        }
        Ok(())
    }

    /// The next records of the log; returns whether it has more.
    fn rebuild_chunk(&mut self, rebuild: &mut Rebuild, log: LogId) -> Result<bool, KvError> {
        let Some(last) = self.head(log)?.map(|head| head.position()) else { return Ok(false) };
        let (links, next) = self.chain(log, &rebuild.from, last)?;
        self.settle(&links, &mut rebuild.meter, Target::Filling(rebuild.generation))?;
        rebuild.records += links.len() as u64;
        match next {
            Some(next) => rebuild.from = next,
            None => self.put_meter(log, &rebuild.meter)?,
        }
        Ok(next.is_some())
    }

    fn end_rebuild(&mut self, rebuild: &Rebuild) -> Result<(), KvError> {
        index::take_over(self.tx, self.projections, rebuild.generation)?;
        self.generations = vec![rebuild.generation];
        self.rebuilt = Some(rebuild.records);
        Ok(())
    }

    /// What a log's records count for has changed behind the place where the rebuild is: it reads the log again.
    pub(super) fn restart_rebuild_of(&mut self, log: LogId) {
        if let Some(rebuild) = self.memory.rebuild.as_mut().filter(|rebuild| rebuild.log == Some(log)) {
            rebuild.start_log(log);
        }
    }
}

/// Who may do what in `network`, by the records that are active.
pub(in crate::record) fn authority(tx: &dyn ReadTx, network: NetworkId) -> Result<Authority, KvError> {
    let mut deeds: Vec<Deed> = Vec::new();
    index::for_each(tx, GOVERNANCE, KeyRange::prefix(network.as_bytes()), |_, value| {
        let deed = cbor::decode(value, MAX_RECORD_BYTES);
        deeds.push(deed.map_err(|_| KvError::Corrupt("what a record says about grants can't be read".into()))?);
        Ok(())
    })?;
    Ok(Authority::new(network, &deeds))
}

/// What governs a network, and withdrawals themselves, stay whole: others rest on them.
fn can_be_erased(record: &VerifiedRecord) -> bool {
    let kind = &record.header().kind;
    !is_governance(kind) && *kind != ERASE
}
