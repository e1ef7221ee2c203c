//! Records that wait in memory for their predecessors.

use std::collections::{HashMap, HashSet, VecDeque};

use mhc_protocol::{RecordId, record::VerifiedRecord};

use super::tables::{LogId, Position};

/// Of one author in one network.
const MAX_LOG_RECORDS: usize = 256;
const MAX_LOG_BYTES: usize = 1024 * 1024;
/// Of all.
const MAX_RECORDS: usize = 4096;
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Header, signature and bookkeeping of a record, roughly.
const RECORD_OVERHEAD_BYTES: usize = 1024;

#[derive(Default)]
struct Share {
    records: usize,
    bytes: usize,
}

/// The buffer. Full for one author it takes no more of that author; full in total it forgets the oldest, so
/// that nobody can close it for the others. What it forgets comes back with the next sync.
#[derive(Default)]
pub(super) struct Pending {
    records: HashMap<RecordId, VerifiedRecord>,
    children: HashMap<RecordId, HashSet<RecordId>>,
    logs: HashMap<LogId, Share>,
    bytes: usize,
    /// Oldest first; may name records that have left.
    arrivals: VecDeque<RecordId>,
}

impl Pending {
    /// Keeps `record` until its predecessor `prev` comes. Returns whether there was room.
    pub(super) fn add(&mut self, prev: RecordId, record: VerifiedRecord) -> bool {
        let id = record.id();
        if let Some(known) = self.records.get(&id) {
            // One without its body doesn't keep the whole one out.
            if known.body().is_some() || record.body().is_none() {
                return true;
            }
            self.remove(id);
        }
        let (log, bytes) = (LogId::of(record.header()), size_bytes(&record));
        let share = self.logs.entry(log).or_default();
        if share.records >= MAX_LOG_RECORDS || share.bytes + bytes > MAX_LOG_BYTES {
            return false;
        }
        share.records += 1;
        share.bytes += bytes;
        self.bytes += bytes;
        self.records.insert(id, record);
        self.children.entry(prev).or_default().insert(id);
        self.arrivals.push_back(id);
        self.forget_oldest();
        true
    }

    /// Takes out the records that waited for `prev`.
    pub(super) fn take_children(&mut self, prev: RecordId) -> Vec<VerifiedRecord> {
        let ids: Vec<_> = self.children.get(&prev).into_iter().flatten().copied().collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Drops everything that waits for `id`, directly or not.
    pub(super) fn drop_descendants(&mut self, id: RecordId) {
        let mut dropped = vec![id];
        while let Some(id) = dropped.pop() {
            dropped.extend(self.take_children(id).iter().map(|child| child.id()));
        }
    }

    /// The highest position of this log that waits.
    pub(super) fn highest(&self, log: LogId) -> Option<Position> {
        self.logs.get(&log)?;
        let of_log = self.records.values().filter(|record| LogId::of(record.header()) == log);
        of_log.map(|record| Position::of(record.header())).max()
    }

    fn forget_oldest(&mut self) {
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.arrivals.pop_front() else { return };
            self.remove(oldest);
        }
        // Names of records that have left go once they are the most.
        if self.arrivals.len() > 2 * MAX_RECORDS {
            self.arrivals.retain(|id| self.records.contains_key(id));
        }
    }

    fn remove(&mut self, id: RecordId) -> Option<VerifiedRecord> {
        let record = self.records.remove(&id)?;
        let (log, bytes) = (LogId::of(record.header()), size_bytes(&record));
        self.bytes -= bytes;
        if let Some(share) = self.logs.get_mut(&log) {
            share.records -= 1;
            share.bytes -= bytes;
            if share.records == 0 {
                self.logs.remove(&log);
            }
        }
        if let Some(prev) = record.header().prev
            && let Some(children) = self.children.get_mut(&prev)
        {
            children.remove(&id);
            if children.is_empty() {
                self.children.remove(&prev);
            }
        }
        Some(record)
    }
}

fn size_bytes(record: &VerifiedRecord) -> usize {
    RECORD_OVERHEAD_BYTES + record.body().map_or(0, <[u8]>::len)
}
