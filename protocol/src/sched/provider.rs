//! What the scheduler knows about one provider.

use std::collections::BTreeMap;

use super::{Cost, DemandClass, Options, UnitId, groups::GROUP_BYTES, holdings::Holdings, pace::Pace, rng::Rng};
use crate::{NodeId, Timestamp};

/// Verified bytes may be reported so much after they came: silence up to this is none.
const REPORT_MS: u64 = 100;

/// A unit at its provider.
#[derive(Debug)]
struct Asked {
    unit: UnitId,
    class: DemandClass,
    at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Provider {
    pub(super) node: NodeId,
    /// Connected.
    here: bool,
    /// It lied.
    pub(super) banned: bool,
    pub(super) holdings: Holdings,
    pub(super) pace: Pace,
    pub(super) cost: Cost,
    /// Orders providers that are equal otherwise.
    pub(super) salt: u64,
    /// Its units, the oldest first.
    asked: Vec<Asked>,
    /// What of them hasn't come, in bytes.
    pub(super) outstanding_bytes: u64,
    /// Stalls and broken streams since it last brought a unit.
    failures: u32,
    /// Isn't asked before.
    resting_until: Option<Timestamp>,
    /// Nothing was open for it when the scheduler's epoch was this.
    pub(super) barren_at: Option<u64>,
}

impl Provider {
    fn new(node: NodeId, salt: u64, options: &Options) -> Self {
        Self {
            node,
            here: false,
            banned: false,
            holdings: Holdings::new(options),
            pace: Pace::new(),
            cost: Cost::default(),
            salt,
            asked: Vec::new(),
            outstanding_bytes: 0,
            failures: 0,
            resting_until: None,
            barren_at: None,
        }
    }

    pub(super) fn join(&mut self) {
        self.here = true;
    }

    pub(super) fn leave(&mut self) {
        self.here = false;
        self.holdings.unset();
    }

    pub(super) fn is_here(&self) -> bool {
        self.here && !self.banned
    }

    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.is_here() && self.resting_until.is_none_or(|until| until <= now)
    }

    // ---- its units ----

    pub(super) fn in_flight(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn units(&self) -> impl Iterator<Item = UnitId> + '_ {
        self.asked.iter().map(|asked| asked.unit)
    }

    /// Units that are at least as urgent as `class`.
    pub(super) fn in_flight_at(&self, class: DemandClass) -> usize {
        self.asked.iter().filter(|asked| asked.class <= class).count()
    }

    /// How many more units it may have. One that failed last has to bring one first.
    pub(super) fn free_slots(&self, options: &Options) -> usize {
        let most = if self.failures > 0 { 1 } else { options.max_units.max(1) };
        most.saturating_sub(self.asked.len())
    }

    pub(super) fn ask(&mut self, now: Timestamp, unit: UnitId, class: DemandClass, bytes: u64) {
        self.asked.push(Asked { unit, class, at: now });
        self.outstanding_bytes += bytes;
    }

    /// `unit` is over, with `bytes` of it outstanding.
    pub(super) fn drop_unit(&mut self, unit: UnitId, bytes: u64) {
        self.asked.retain(|asked| asked.unit != unit);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
    }

    /// `bytes` of one of its units came, of which `expected` were outstanding.
    pub(super) fn arrived(&mut self, now: Timestamp, bytes: u64, expected: u64) {
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(expected);
        let oldest = self.asked.first().map_or(now, |asked| asked.at);
        self.pace.arrived(now, oldest, bytes);
    }

    /// How long it has been silent, in milliseconds, beyond what is usual for it.
    pub(super) fn overdue_ms(&self, now: Timestamp) -> u64 {
        let Some(oldest) = self.asked.first() else { return 0 };
        let first = oldest.at.saturating_add_ms(self.pace.latency_ms());
        let group_ms = self.pace.rate().map_or(0, |rate| GROUP_BYTES * 1_000 / rate);
        let expected = self.pace.last_arrival().map_or(first, |last| last.max(first));
        now.saturating_ms_since(expected.saturating_add_ms(group_ms + REPORT_MS))
    }

    /// One of its units is taken from it: if it was silent, that says something about its rate.
    pub(super) fn gave_up_on(&mut self, now: Timestamp) {
        let overdue_ms = self.overdue_ms(now);
        self.pace.gave_up_on(now, overdue_ms);
    }

    // ---- its failures ----

    pub(super) fn succeeded(&mut self, options: &Options) {
        (self.failures, self.resting_until) = (0, None);
        self.holdings.brought(options);
    }

    pub(super) fn stalled(&mut self, now: Timestamp, options: &Options) {
        self.pace.restart();
        self.back_off(now, options);
    }

    pub(super) fn back_off(&mut self, now: Timestamp, options: &Options) {
        if self.resting_until.is_some_and(|until| until > now) {
            return; // Several units failed at once: that counts once.
        }
        let wait_ms = options.backoff_ms.saturating_mul(1 << self.failures.min(16)).min(options.max_backoff_ms);
        self.failures = self.failures.saturating_add(1);
        self.rest_until(now.saturating_add_ms(wait_ms));
    }

    pub(super) fn rest_until(&mut self, until: Timestamp) {
        self.resting_until = self.resting_until.max(Some(until));
    }

    /// Time has passed.
    pub(super) fn refresh(&mut self, now: Timestamp, options: &Options) {
        self.resting_until = self.resting_until.filter(|until| *until > now);
        if self.holdings.refresh(now, options) {
            self.barren_at = None;
        }
    }

    /// When time alone makes it askable (again).
    pub(super) fn next_change(&self) -> Option<Timestamp> {
        let changes = [self.holdings.forget_at(), self.resting_until];
        changes.into_iter().flatten().min().filter(|_| self.is_here())
    }
}

/// All providers that ever joined or lied, each at an index of its own for good.
#[derive(Debug, Default)]
pub(super) struct Roster {
    all: Vec<Provider>,
    index: BTreeMap<NodeId, usize>,
}

impl Roster {
    pub(super) fn get(&self, node: NodeId) -> Option<&Provider> {
        self.index.get(&node).and_then(|at| self.all.get(*at))
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Provider> {
        self.index.get(&node).and_then(|at| self.all.get_mut(*at))
    }

    pub(super) fn enter(&mut self, node: NodeId, rng: &mut Rng, options: &Options) -> &mut Provider {
        let at = *self.index.entry(node).or_insert_with(|| {
            self.all.push(Provider::new(node, rng.next(), options));
            self.all.len() - 1
        });
        &mut self.all[at]
    }

    pub(super) fn at(&self, index: usize) -> &Provider {
        &self.all[index]
    }

    pub(super) fn at_mut(&mut self, index: usize) -> &mut Provider {
        &mut self.all[index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Provider)> {
        self.all.iter().enumerate()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Provider> {
        self.all.iter_mut()
    }

    /// Those that can be asked at `now`.
    pub(super) fn usable(&self, now: Timestamp) -> impl Iterator<Item = (usize, &Provider)> {
        self.iter().filter(move |(_, provider)| provider.is_usable(now))
    }
}
