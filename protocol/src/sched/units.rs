//! The units in flight.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{UnitId, groups::bytes_in};
use crate::Timestamp;

/// One request to one provider. Its bytes come in order, so what hasn't come is a single run.
#[derive(Debug)]
pub(super) struct Unit {
    /// Index in the roster.
    pub(super) provider: usize,
    /// What hasn't come, in groups.
    pub(super) rest: Range<u64>,
    /// Where it starts.
    start: u64,
    /// When its last verified bytes came (or it was asked for).
    pub(super) moved: Timestamp,
    /// When it was asked for.
    pub(super) asked: Timestamp,
    /// The unit that was asked of another provider because this one lags, and from which group on that has its bytes.
    pub(super) helper: Option<(UnitId, u64)>,
}

impl Unit {
    pub(super) fn rest_bytes(&self) -> u64 {
        bytes_in(&self.rest)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.rest.start > self.start
    }
}

/// All of them, by name and by place.
#[derive(Debug, Default)]
pub(super) struct Units {
    all: BTreeMap<UnitId, Unit>,
    by_start: BTreeSet<(u64, UnitId)>,
    /// The longest ever asked for, in groups: how far before a place a unit that reaches it may start.
    longest: u64,
    next: UnitId,
}

impl Units {
    pub(super) fn add(&mut self, now: Timestamp, provider: usize, run: Range<u64>) -> UnitId {
        let id = self.next;
        self.next += 1;
        self.longest = self.longest.max(run.end - run.start);
        self.by_start.insert((run.start, id));
        let unit = Unit { provider, start: run.start, rest: run, moved: now, asked: now, helper: None };
        self.all.insert(id, unit);
        id
    }

    pub(super) fn remove(&mut self, id: UnitId) -> Option<Unit> {
        let unit = self.all.remove(&id)?;
        self.by_start.remove(&(unit.start, id));
        Some(unit)
    }

    pub(super) fn get(&self, id: UnitId) -> Option<&Unit> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.all.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (UnitId, &Unit)> {
        self.all.iter().map(|(id, unit)| (*id, unit))
    }

    /// Those that will still bring something of `run`, by place.
    pub(super) fn within(&self, run: Range<u64>) -> impl Iterator<Item = (UnitId, &Unit)> {
        let reach = (run.start.saturating_sub(self.longest), 0)..(run.end.max(run.start), 0);
        let near = self.by_start.range(reach).filter_map(|(_, id)| self.all.get(id).map(|unit| (*id, unit)));
        near.filter(move |(_, unit)| unit.rest.start < run.end && unit.rest.end > run.start && !unit.rest.is_empty())
    }

    /// The helper of `unit` that is still at it.
    pub(super) fn helper_of(&self, unit: &Unit) -> Option<(&Unit, u64)> {
        let (id, from) = unit.helper?;
        self.all.get(&id).map(|helper| (helper, from))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
