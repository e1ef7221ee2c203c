//! The chunk scheduler: decides which provider is asked for which bytes of one blob, and when to give up on whom.
//!
//! It is a pure state machine: `now` comes in with every event, decisions come out as [`Effect`]s, and it knows no
//! clock, socket or task. `node::fetch` is the shell that drives it; the tests here and `testnet` drive it in
//! virtual time.
//!
//! # Driving it
//! 1. [`Scheduler::new`] once the blob's size is proven, with what is already local.
//! 2. Feed every event as it happens, in the order in which it happened: demands ([`Scheduler::demand`],
//!    [`Scheduler::withdraw`]), providers ([`Scheduler::provider_joined`], [`Scheduler::provider_left`],
//!    [`Scheduler::provider_has`]), and for each unit it requested [`Scheduler::progress`] whenever verified bytes of it
//!    are stored, then exactly one of [`Scheduler::finished`] and [`Scheduler::failed`].
//! 3. After each event (or batch of events that are there at once) call [`Scheduler::poll`] and carry out what it
//!    returns, in order. A unit that is told to be cancelled is forgotten: later events of it are ignored, but progress
//!    that still arrives for it is counted. It may be one whose end was reported just before.
//! 4. Call [`Scheduler::poll`] again at [`Scheduler::next_wake`] when nothing happens before.
//! 5. Stop when no demand is left ([`Scheduler::is_idle`]); there is nothing to close.
//!
//! # What it promises
//! - Liveness: bytes that are demanded and that some provider has and answers for arrive, whatever the others do.
//! - No unit goes to a provider that lied about this blob, ever again.
//! - No provider has more than [`Options::max_units`] in flight; nobody is asked for bytes nobody demands.
//! - A group is in flight at two providers at most, and only when nothing else is left to ask for.
//!
//! Work is cut on chunk groups of [`GROUP_BYTES`]. The ideas of deadlines first, small windows that grow and end-game
//! duplicates are those of libtorrent's published streaming design.

mod groups;
mod provider;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::Range};

pub use groups::{GROUP_BYTES, Groups, bytes_of};
use groups::{first_run, groups_of, overlap_end};
use provider::Provider;

use crate::{NodeId, Timestamp};

/// Names a demand; the driver chooses it.
pub type DemandId = u64;

/// Names one request to one provider; the scheduler chooses it, and never twice.
pub type UnitId = u64;

/// How urgent demanded bytes are; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DemandClass {
    /// Somebody waits for them now.
    Playhead,
    /// Somebody will want them soon.
    Lookahead,
    /// Wanted some time: pins and whole-blob downloads.
    Background,
}

/// Bytes somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Urgency.
    pub class: DemandClass,
    /// When the first of them is needed, if that is known; earlier goes first within a class.
    pub deadline: Option<Timestamp>,
    /// Which bytes; rounded out to chunk groups and cut at the blob's end.
    pub range: Range<u64>,
    /// [`Effect::GiveUp`] after this long without a new byte in `range`; never when `None`.
    pub give_up_ms: Option<u64>,
}

/// Why a unit ended without all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The provider answered that it lacks (the rest of) the range, or ended the answer early.
    Missing,
    /// The stream failed for a reason that says nothing about what the provider has.
    Broken,
    /// The provider sent what an honest one can't: it is banned for this blob.
    Lied,
}

/// Why a unit is to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// No verified byte for [`Options::stall_ms`].
    Stalled,
    /// All of its bytes have come from somebody else.
    Duplicate,
    /// Nobody demands its bytes any more.
    Withdrawn,
    /// Its provider left or lied.
    ProviderGone,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask `provider` for the bytes `range`.
    Request {
        /// The new unit's name.
        unit: UnitId,
        /// Whom to ask.
        provider: NodeId,
        /// Whole chunk groups, cut at the blob's end.
        range: Range<u64>,
        /// The most urgent demand for them.
        class: DemandClass,
    },
    /// Stop `unit` and forget it.
    Cancel {
        /// Which.
        unit: UnitId,
        /// The provider that had it.
        provider: NodeId,
        /// Why.
        why: CancelReason,
    },
    /// No byte of `demand` has come for its `give_up_ms`; the demand is forgotten.
    GiveUp {
        /// Which.
        demand: DemandId,
    },
}

/// Bounds and delays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A unit without a verified byte for so long is taken from its provider.
    pub stall_ms: u64,
    /// Units a new provider is given at once.
    pub start_units: usize,
    /// Units one provider has in flight at most.
    pub max_units: usize,
    /// Length of units for the playhead and for slow or new providers, in bytes.
    pub min_unit_bytes: u64,
    /// Length of units for fast providers, in bytes.
    pub max_unit_bytes: u64,
    /// How long a provider isn't asked again for ranges that it said it lacks; doubles while it brings nothing.
    pub missing_ms: u64,
    /// The longest such time: enough to search a provider with few scattered bytes through, one round trip a try.
    pub max_missing_ms: u64,
    /// After so many refusals in a row the provider isn't asked for anything until then; doubles likewise.
    pub missing_streak: u32,
    /// The first wait after a stall or a broken stream; doubles with each in a row.
    pub backoff_ms: u64,
    /// The longest such wait.
    pub max_backoff_ms: u64,
    /// When all demanded bytes are in flight, a unit older than this and idle for as long is asked of a second
    /// provider.
    pub duplicate_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stall_ms: 3_000,
            start_units: 2,
            max_units: 8,
            min_unit_bytes: 256 << 10,
            max_unit_bytes: 1 << 20,
            missing_ms: 2_000,
            max_missing_ms: 300_000,
            missing_streak: 16,
            backoff_ms: 500,
            max_backoff_ms: 30_000,
            duplicate_ms: 500,
        }
    }
}

#[derive(Debug)]
struct Wanted {
    demand: Demand,
    groups: Groups,
    /// When it was made, changed, or last came nearer.
    moved: Timestamp,
}

#[derive(Debug)]
struct Unit {
    provider: NodeId,
    groups: Groups,
    started: Timestamp,
    /// When its last verified bytes came (or it started).
    moved: Timestamp,
    /// What it brought.
    got: Groups,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    options: Options,
    size_bytes: u64,
    have: Groups,
    demands: BTreeMap<DemandId, Wanted>,
    providers: BTreeMap<NodeId, Provider>,
    units: BTreeMap<UnitId, Unit>,
    next_unit: UnitId,
    /// Decided between polls.
    pending: Vec<Effect>,
}

impl Scheduler {
    /// A scheduler for a blob of the proven size `size_bytes` of which the whole chunk groups `have` are local.
    pub fn new(size_bytes: u64, have: Groups, options: Options) -> Self {
        Self {
            options,
            size_bytes,
            have,
            demands: BTreeMap::new(),
            providers: BTreeMap::new(),
            units: BTreeMap::new(),
            next_unit: 0,
            pending: Vec::new(),
        }
    }

    /// What is local has changed other than by [`Scheduler::progress`] (damage was found, another writer).
    /// Give-up times start anew.
    pub fn set_have(&mut self, now: Timestamp, have: Groups) {
        self.have = have;
        self.demands.values_mut().for_each(|wanted| wanted.moved = now);
    }

    /// Makes or replaces a demand. Its give-up time starts anew when the range changed.
    pub fn demand(&mut self, now: Timestamp, id: DemandId, demand: Demand) {
        let groups = groups_of(demand.range.clone(), self.size_bytes);
        let moved = match self.demands.get(&id) {
            Some(old) if old.demand.range == demand.range => old.moved,
            _ => now,
        };
        self.demands.insert(id, Wanted { demand, groups, moved });
    }

    /// Ends a demand. Units that only it wanted are cancelled by the next [`Scheduler::poll`].
    pub fn withdraw(&mut self, id: DemandId) {
        self.demands.remove(&id);
    }

    /// `node` can be asked. It is taken to have everything until it says otherwise. Ignored when it lied before.
    pub fn provider_joined(&mut self, node: NodeId) {
        self.providers.entry(node).or_insert_with(|| Provider::new(&self.options)).join();
    }

    /// `node` has exactly `groups` (it told us, by an observed bitfield for instance).
    pub fn provider_has(&mut self, node: NodeId, groups: Groups) {
        if let Some(provider) = self.providers.get_mut(&node) {
            provider.known = Some(groups);
        }
    }

    /// The connection to `node` ended; its units go to others. It may join again.
    pub fn provider_left(&mut self, node: NodeId) {
        if let Some(provider) = self.providers.get_mut(&node) {
            provider.leave();
        }
        self.drop_units_of(node);
    }

    /// `node` lied about this blob (noticed outside a unit): it is banned for good.
    pub fn provider_lied(&mut self, node: NodeId) {
        self.providers.entry(node).or_insert_with(|| Provider::new(&self.options)).banned = true;
        self.drop_units_of(node);
    }

    /// Verified bytes of `unit` are stored.
    pub fn progress(&mut self, now: Timestamp, unit: UnitId, range: Range<u64>) {
        let stored = groups_of(range, self.size_bytes);
        self.have.union_with(&stored);
        if let Some(unit) = self.units.get_mut(&unit) {
            unit.moved = now;
            unit.got.union_with(&stored);
        }
        for wanted in self.demands.values_mut().filter(|wanted| wanted.groups.intersects(&stored)) {
            wanted.moved = now;
        }
    }

    /// All of `unit` has come, and its progress was reported.
    pub fn finished(&mut self, now: Timestamp, unit: UnitId) {
        let Some(unit) = self.units.remove(&unit) else { return };
        let bytes = groups::count(&unit.groups) * GROUP_BYTES;
        if let Some(provider) = self.providers.get_mut(&unit.provider) {
            provider.succeeded(&self.options, bytes, now.saturating_ms_since(unit.started));
        }
    }

    /// `unit` ended early; what its progress reported stays.
    pub fn failed(&mut self, now: Timestamp, unit: UnitId, failure: Failure) {
        let Some(unit) = self.units.remove(&unit) else { return };
        let rest = unit.groups.difference(&self.have);
        let Some(provider) = self.providers.get_mut(&unit.provider) else { return };
        provider.in_flight = provider.in_flight.saturating_sub(1);
        match failure {
            Failure::Missing => provider.lacks(now, &self.options, &rest, !unit.got.is_empty()),
            Failure::Broken => provider.back_off(now, &self.options),
            Failure::Lied => self.provider_lied(unit.provider),
        }
    }

    /// Decides. Carry out the effects in order.
    pub fn poll(&mut self, now: Timestamp) -> Vec<Effect> {
        self.give_up(now);
        self.cancel_stalled(now);
        self.cancel_unwanted();
        self.providers.values_mut().for_each(|provider| provider.refresh(now, &self.options));
        self.probe_heads(now);
        self.assign(now);
        self.probe_lacking(now);
        self.duplicate(now);
        std::mem::take(&mut self.pending)
    }

    /// When [`Scheduler::poll`] has something to do even if nothing happens; `None`: never.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let stalls = self.units.values().map(|unit| unit.moved.saturating_add_ms(self.options.stall_ms));
        let duplicates = self.units.values().map(|unit| self.duplicate_at(unit));
        let give_ups = self.demands.values().filter(|wanted| self.is_missing(wanted)).filter_map(Wanted::give_up_at);
        let providers = self.providers.values().filter_map(Provider::next_change);
        let soonest = stalls.chain(give_ups).min();
        // The two below are only worth waking for while something is missing.
        let useful = duplicates.chain(providers).min().filter(|_| self.demands.values().any(|w| self.is_missing(w)));
        [soonest, useful].into_iter().flatten().min()
    }

    /// Nobody wants anything.
    pub fn is_idle(&self) -> bool {
        self.demands.is_empty() && self.units.is_empty() && self.pending.is_empty()
    }

    /// Demanded bytes are missing.
    pub fn is_hungry(&self) -> bool {
        self.demands.values().any(|wanted| self.is_missing(wanted))
    }

    /// Providers that could be given a unit at `now`, or have one.
    pub fn usable_providers(&self, now: Timestamp) -> usize {
        self.providers.values().filter(|provider| provider.in_flight > 0 || provider.is_usable(now)).count()
    }

    /// `node` lied about this blob.
    pub fn is_banned(&self, node: NodeId) -> bool {
        self.providers.get(&node).is_some_and(|provider| provider.banned)
    }

    /// Units in flight at `node`.
    pub fn in_flight(&self, node: NodeId) -> usize {
        self.units.values().filter(|unit| unit.provider == node).count()
    }

    /// The whole chunk groups that are local.
    pub fn have(&self) -> &Groups {
        &self.have
    }

    // ---- what poll does, in its order ----

    fn give_up(&mut self, now: Timestamp) {
        let have = &self.have;
        let pending = &mut self.pending;
        self.demands.retain(|&demand, wanted| {
            if wanted.groups.is_subset(have) {
                wanted.moved = now;
            }
            let over = wanted.give_up_at().is_some_and(|at| at <= now);
            if over {
                pending.push(Effect::GiveUp { demand });
            }
            !over
        });
    }

    fn cancel_stalled(&mut self, now: Timestamp) {
        let stall_ms = self.options.stall_ms;
        let stalled: Vec<UnitId> = self
            .units
            .iter()
            .filter(|(_, u)| now.saturating_ms_since(u.moved) >= stall_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            let Some(node) = self.cancel(id, CancelReason::Stalled) else { continue };
            if let Some(provider) = self.providers.get_mut(&node) {
                provider.stalled(now, &self.options);
            }
        }
    }

    fn cancel_unwanted(&mut self) {
        let wanted = self.demands.values().fold(Groups::empty(), |all, wanted| all.union(&wanted.groups));
        let mut over = Vec::new();
        for (&id, unit) in &self.units {
            let rest: Groups = unit.groups.difference(&self.have);
            if rest.is_empty() {
                // Complete: its own end is near, unless the bytes came from another.
                if !unit.groups.is_subset(&unit.got) {
                    over.push((id, CancelReason::Duplicate));
                }
            } else if rest.is_disjoint(&wanted) {
                over.push((id, CancelReason::Withdrawn));
            }
        }
        for (id, why) in over {
            self.cancel(id, why);
        }
    }

    /// Gives free providers what is missing, the most urgent demand first.
    fn assign(&mut self, now: Timestamp) {
        let mut done: Groups = self.have.union(&self.asked());
        for id in self.by_urgency() {
            let Some(wanted) = self.demands.get(&id) else { continue };
            let class = wanted.demand.class;
            let mut missing: Groups = wanted.groups.difference(&done);
            while let Some((node, run)) = self.best_for(now, class, &missing) {
                missing.difference_with(&run);
                done.union_with(&run);
                self.request(now, node, run);
            }
        }
    }

    /// The free provider that can take the earliest missing group, the likely fastest of several, and what to ask.
    fn best_for(&self, now: Timestamp, class: DemandClass, missing: &Groups) -> Option<(NodeId, Groups)> {
        if missing.is_empty() {
            return None;
        }
        let free = self.providers.iter().filter(|(_, provider)| provider.is_free(now));
        let offers = free.filter_map(|(node, provider)| {
            let run = first_run(&provider.eligible(missing))?;
            Some((run.start, provider.wait_ms(&self.options), *node, run))
        });
        let (start, _, node, run) = offers.min_by_key(|(start, wait, node, _)| (*start, *wait, *node))?;
        let provider = self.providers.get(&node)?;
        let unit_groups = provider.unit_bytes(&self.options, class) / GROUP_BYTES;
        Some((node, Groups::from(start..overlap_end(&run, unit_groups.max(1)))))
    }

    /// A playhead whose next bytes everybody refused within a longer range: asks for less before anything else.
    fn probe_heads(&mut self, now: Timestamp) {
        for id in self.by_urgency() {
            let done: Groups = self.have.union(&self.asked());
            let Some(wanted) = self.demands.get(&id).filter(|w| w.demand.class == DemandClass::Playhead) else {
                continue;
            };
            let missing: Groups = wanted.groups.difference(&done);
            let Some(head) = first_run(&missing).map(|run| Groups::from(run.start..run.start + 1)) else { continue };
            let usable = || self.providers.iter().filter(|(_, provider)| provider.is_usable(now));
            if usable().any(|(_, provider)| !provider.eligible(&head).is_empty()) {
                continue;
            }
            let finer = usable().filter(|(_, p)| p.is_free(now)).find_map(|(node, p)| {
                let run = p.finer(&missing)?;
                run.intersects(&head).then_some((*node, run))
            });
            if let Some((node, run)) = finer {
                self.request(now, node, run);
            }
        }
    }

    /// What nobody who could be asked has as a whole may be there in part: asks, one at a time, for less.
    fn probe_lacking(&mut self, now: Timestamp) {
        let mut done: Groups = self.have.union(&self.asked());
        for id in self.by_urgency() {
            let Some(wanted) = self.demands.get(&id) else { continue };
            let missing: Groups = wanted.groups.difference(&done);
            let idle: Vec<NodeId> = self
                .providers
                .iter()
                .filter(|(_, provider)| provider.in_flight == 0 && provider.is_free(now))
                .map(|(node, _)| *node)
                .collect();
            for node in idle {
                let missing = missing.difference(&done);
                let Some(run) = self.providers.get(&node).and_then(|provider| provider.finer(&missing)) else {
                    continue;
                };
                done.union_with(&run);
                self.request(now, node, run);
            }
        }
    }

    /// End game: everything demanded is in flight, so whoever is free helps with the unit that lags.
    fn duplicate(&mut self, now: Timestamp) {
        let twice = self.asked_twice();
        let lagging: Vec<(NodeId, Groups)> = self
            .units
            .values()
            .filter(|unit| self.duplicate_at(unit) <= now)
            .map(|unit| (unit.provider, unit.groups.difference(&self.have)))
            .filter(|(_, rest)| !rest.is_empty() && rest.is_disjoint(&twice))
            .collect();
        for (slow, rest) in lagging {
            let helper = self.providers.iter().find(|(node, provider)| {
                **node != slow
                    && provider.in_flight == 0
                    && provider.is_free(now)
                    && !provider.eligible(&rest).is_empty()
            });
            let Some((&node, provider)) = helper else { continue };
            if let Some(run) = first_run(&provider.eligible(&rest)) {
                self.request(now, node, Groups::from(run));
            }
        }
    }

    // ---- helpers ----

    fn request(&mut self, now: Timestamp, node: NodeId, groups: Groups) {
        let Some(run) = first_run(&groups) else { return };
        let Some(provider) = self.providers.get_mut(&node) else { return };
        provider.in_flight += 1;
        let unit = self.next_unit;
        self.next_unit += 1;
        let range = bytes_of(run, self.size_bytes);
        let wanting = self.demands.values().filter(|wanted| wanted.groups.intersects(&groups));
        let class = wanting.map(|wanted| wanted.demand.class).min().unwrap_or(DemandClass::Background);
        self.units.insert(unit, Unit { provider: node, groups, started: now, moved: now, got: Groups::empty() });
        self.pending.push(Effect::Request { unit, provider: node, range, class });
    }

    fn cancel(&mut self, id: UnitId, why: CancelReason) -> Option<NodeId> {
        let unit = self.units.remove(&id)?;
        self.pending.push(Effect::Cancel { unit: id, provider: unit.provider, why });
        if let Some(provider) = self.providers.get_mut(&unit.provider) {
            provider.in_flight = provider.in_flight.saturating_sub(1);
        }
        Some(unit.provider)
    }

    fn drop_units_of(&mut self, node: NodeId) {
        let units: Vec<UnitId> = self.units.iter().filter(|(_, u)| u.provider == node).map(|(id, _)| *id).collect();
        for id in units {
            self.cancel(id, CancelReason::ProviderGone);
        }
    }

    fn by_urgency(&self) -> Vec<DemandId> {
        let key = |(id, wanted): (&DemandId, &Wanted)| {
            let demand = &wanted.demand;
            (demand.class, demand.deadline.unwrap_or(Timestamp(u64::MAX)), demand.range.start, *id)
        };
        let mut order: Vec<_> = self.demands.iter().map(key).collect();
        order.sort_unstable();
        order.into_iter().map(|(.., id)| id).collect()
    }

    fn asked(&self) -> Groups {
        self.units.values().fold(Groups::empty(), |all, unit| all.union(&unit.groups))
    }

    fn asked_twice(&self) -> Groups {
        let (mut once, mut twice) = (Groups::empty(), Groups::empty());
        for unit in self.units.values() {
            twice.union_with(&once.intersection::<[u64; 2]>(&unit.groups));
            once.union_with(&unit.groups);
        }
        twice
    }

    fn duplicate_at(&self, unit: &Unit) -> Timestamp {
        unit.moved.saturating_add_ms(self.options.duplicate_ms)
    }

    fn is_missing(&self, wanted: &Wanted) -> bool {
        !wanted.groups.is_subset(&self.have)
    }
}

impl Wanted {
    fn give_up_at(&self) -> Option<Timestamp> {
        self.demand.give_up_ms.map(|ms| self.moved.saturating_add_ms(ms))
    }
}
