//! The chunk scheduler: decides which provider is asked for which bytes of one blob, and when to give up on whom.
//!
//! It is a pure state machine: `now` comes in with every event, decisions come out as [`Effect`]s, and it knows no
//! clock, socket or task; its choices among equals come from a seed. `node::fetch` is the shell that drives it; the
//! tests here and in `tests/suite` drive it in virtual time.
//!
//! # Driving it
//! 1. [`Scheduler::new`] once the blob's size is proven, with what is already local.
//! 2. Feed every event as it happens, in the order in which it happened: demands ([`Scheduler::demand`],
//!    [`Scheduler::withdraw`]), providers ([`Scheduler::provider_joined`], [`Scheduler::provider_path`],
//!    [`Scheduler::provider_left`], [`Scheduler::provider_has`]), and for each unit it requested
//!    [`Scheduler::progress`] whenever verified bytes of it are stored, in the order of the bytes, then exactly one of
//!    [`Scheduler::finished`] and [`Scheduler::failed`].
//! 3. After each event (or batch of events that are there at once) call [`Scheduler::poll`] and carry out what it
//!    returns, in order. A unit that is told to be cancelled is forgotten: later events of it are ignored, but progress
//!    that still arrives for it is counted. It may be one whose end was reported just before.
//! 4. Call [`Scheduler::poll`] again at [`Scheduler::next_wake`] when nothing happens before.
//! 5. Stop when no demand is left ([`Scheduler::is_idle`]); there is nothing to close.
//!
//! # What it does
//! Deadlines first: `plan` gives the most urgent missing bytes to the provider that would bring them first. Every
//! provider has outstanding what it brings in a round trip and [`Options::queue_ms`] (`pace`), in units that take
//! about a quarter of that. `rescue` asks a second provider for the end of a unit that lags. What room is left goes to
//! the background, rarest first where bitfields are known and differ.
//!
//! # What it promises
//! - Liveness: bytes that are demanded and that some provider has and answers for arrive, whatever the others do.
//! - No unit goes to a provider that lied about this blob, ever again. What it, or one that stalls, costs is at most
//!   its units in flight.
//! - No provider has more than [`Options::max_units`] or [`Options::max_outstanding_bytes`] in flight; nobody is asked
//!   for bytes nobody demands.
//! - Bytes are asked for twice only where a unit lags. Outside the end game, no more of it once bytes sent for nothing
//!   exceed 512 KiB and 2 % of what came, except for the very bytes that somebody waits for. The end game is when
//!   everything demanded is in flight.
//! - Demands of one class whose deadlines are equal or past or that have none get equal shares, in bytes.
//!
//! Work is cut on chunk groups of [`GROUP_BYTES`]. Deadlines first, expected completion by outstanding bytes over rate,
//! a bound on queues, and duplicates of what is late are the ideas of libtorrent's published streaming design.

mod groups;
mod holdings;
mod lineup;
mod pace;
mod plan;
mod provider;
mod rescue;
mod rng;
mod spans;
#[cfg(test)]
mod tests;
mod types;
mod units;

use std::{collections::BTreeMap, ops::Range};

pub use groups::{GROUP_BYTES, Groups, bytes_of};
use groups::{bytes_in, group_count, overlap, run_of};
use lineup::Lineup;
use provider::Roster;
use rescue::Tally;
use rng::Rng;
use spans::Spans;
pub use types::{CancelReason, Cost, Demand, DemandClass, DemandId, Effect, Failure, Options, Path, UnitId};
use units::Units;

use crate::{NodeId, Timestamp};

/// How often lagging units are looked for while nothing happens.
const WATCH_MS: u64 = 50;

#[derive(Debug)]
struct Wanted {
    demand: Demand,
    run: Range<u64>,
    /// When it was made, changed, or last came nearer.
    moved: Timestamp,
    /// Its share so far, in bytes; see `plan`.
    served: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    options: Options,
    size_bytes: u64,
    group_count: u64,
    have: Spans,
    /// Neither local nor in flight.
    open: Spans,
    demands: BTreeMap<DemandId, Wanted>,
    roster: Roster,
    units: Units,
    /// Per class, the share of the demand that was served last.
    turn: [u64; 3],
    /// Counts what may open something for a provider that found nothing.
    epoch: u64,
    /// Demands have changed: units may be in flight that nobody wants.
    is_stale: bool,
    tally: Tally,
    rng: Rng,
    /// When it was last polled.
    polled: Timestamp,
    /// Decided between polls.
    pending: Vec<Effect>,
}

impl Scheduler {
    /// A scheduler for a blob of the proven size `size_bytes` of which the whole chunk groups `have` are local. `seed`
    /// decides between equals: the same events with the same seed have the same effects.
    pub fn new(size_bytes: u64, have: Groups, options: Options, seed: u64) -> Self {
        let mut scheduler = Self {
            options,
            size_bytes,
            group_count: group_count(size_bytes),
            have: Spans::default(),
            open: Spans::default(),
            demands: BTreeMap::new(),
            roster: Roster::default(),
            units: Units::default(),
            turn: [0; 3],
            epoch: 0,
            is_stale: false,
            tally: Tally::default(),
            rng: Rng::new(seed),
            polled: Timestamp::default(),
            pending: Vec::new(),
        };
        scheduler.replace_have(&have);
        scheduler
    }

    /// What is local has changed other than by [`Scheduler::progress`] (damage was found, another writer).
    /// Give-up times start anew.
    pub fn set_have(&mut self, now: Timestamp, have: Groups) {
        self.replace_have(&have);
        self.demands.values_mut().for_each(|wanted| wanted.moved = now);
        self.is_stale = true;
    }

    /// Makes or replaces a demand. Its give-up time starts anew when the range changed.
    pub fn demand(&mut self, now: Timestamp, id: DemandId, demand: Demand) {
        let run = run_of(demand.range.clone(), self.size_bytes);
        let old = self.demands.get(&id);
        let moved = old.filter(|old| old.demand.range == demand.range).map_or(now, |old| old.moved);
        let served = old.filter(|old| old.demand.class == demand.class).map_or(0, |old| old.served);
        self.demands.insert(id, Wanted { demand, run, moved, served });
        self.changed();
    }

    /// Ends a demand. Units that only it wanted are cancelled by the next [`Scheduler::poll`].
    pub fn withdraw(&mut self, id: DemandId) {
        self.demands.remove(&id);
        self.changed();
    }

    /// `node` can be asked. It is taken to have everything until it says otherwise. Ignored when it lied before.
    pub fn provider_joined(&mut self, node: NodeId) {
        let provider = self.roster.enter(node, &mut self.rng, &self.options);
        provider.join();
        provider.barren_at = None;
    }

    /// The path to `node`, which has joined, is like this now.
    pub fn provider_path(&mut self, node: NodeId, path: Path) {
        if let Some(provider) = self.roster.get_mut(node) {
            provider.pace.set_path_rtt(path.rtt_ms);
            provider.cost = path.cost;
            provider.barren_at = None;
        }
    }

    /// `node` has exactly `groups` (it told us, by an observed bitfield for instance).
    pub fn provider_has(&mut self, node: NodeId, groups: Groups) {
        if let Some(provider) = self.roster.get_mut(node) {
            provider.holdings.set(&groups, self.group_count);
            provider.barren_at = None;
        }
    }

    /// The connection to `node` ended; its units go to others. It may join again.
    pub fn provider_left(&mut self, node: NodeId) {
        if let Some(provider) = self.roster.get_mut(node) {
            provider.leave();
        }
        self.drop_units_of(node);
    }

    /// `node` lied about this blob (noticed outside a unit): it is banned for good.
    pub fn provider_lied(&mut self, node: NodeId) {
        self.roster.enter(node, &mut self.rng, &self.options).banned = true;
        self.drop_units_of(node);
    }

    /// Verified bytes of `unit` are stored.
    pub fn progress(&mut self, now: Timestamp, unit: UnitId, range: Range<u64>) {
        let stored = run_of(range, self.size_bytes);
        let known = self.have.count_in(stored.clone()) * GROUP_BYTES;
        self.tally.twice_bytes += known;
        self.tally.fresh_bytes += bytes_in(&stored) - known;
        self.have.insert(stored.clone());
        self.open.remove(stored.clone());
        for wanted in self.demands.values_mut().filter(|wanted| !overlap(&wanted.run, &stored).is_empty()) {
            wanted.moved = now;
        }
        self.advance(now, unit, &stored);
        self.cancel_overtaken(now, unit, stored);
    }

    /// All of `unit` has come, and its progress was reported.
    pub fn finished(&mut self, _now: Timestamp, unit: UnitId) {
        if let Some(provider) = self.end(unit) {
            self.roster.at_mut(provider).succeeded(&self.options);
        }
    }

    /// `unit` ended early; what its progress reported stays.
    pub fn failed(&mut self, now: Timestamp, unit: UnitId, failure: Failure) {
        let Some(rest) = self.units.get(unit).map(|unit| unit.rest.clone()) else { return };
        let has_begun = self.units.get(unit).is_some_and(units::Unit::has_begun);
        let Some(index) = self.end(unit) else { return };
        let provider = self.roster.at_mut(index);
        match failure {
            Failure::Missing => {
                if has_begun {
                    provider.holdings.brought(&self.options);
                }
                if let Some(until) = provider.holdings.lacks(now, rest) {
                    provider.rest_until(until);
                }
            }
            Failure::Broken => provider.back_off(now, &self.options),
            Failure::Lied => {
                let node = provider.node;
                self.provider_lied(node);
            }
        }
    }

    /// Decides. Carry out the effects in order.
    pub fn poll(&mut self, now: Timestamp) -> Vec<Effect> {
        self.polled = now;
        self.give_up(now);
        self.cancel_stalled(now);
        if std::mem::take(&mut self.is_stale) {
            self.cancel_unwanted();
        }
        self.roster.iter_mut().for_each(|provider| provider.refresh(now, &self.options));
        self.plan(now);
        std::mem::take(&mut self.pending)
    }

    /// When [`Scheduler::poll`] has something to do even if nothing happens; `None`: never.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let stalls = self.units.iter().map(|(_, unit)| unit.moved.saturating_add_ms(self.options.stall_ms));
        let missing = self.demands.values().filter(|wanted| self.is_missing(wanted));
        let soonest = stalls.chain(missing.filter_map(Wanted::give_up_at)).min();
        // Who could be asked again or help is only of interest while something is missing.
        let providers = self.roster.iter().filter_map(|(_, provider)| provider.next_change());
        let could_help = !self.units.is_empty() && self.roster.iter().filter(|(_, p)| p.is_here()).nth(1).is_some();
        let watch = could_help.then(|| self.polled.saturating_add_ms(WATCH_MS));
        let useful = providers.chain(watch).min().filter(|_| self.is_hungry());
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
        self.roster.iter().filter(|(_, provider)| provider.in_flight() > 0 || provider.is_usable(now)).count()
    }

    /// `node` lied about this blob.
    pub fn is_banned(&self, node: NodeId) -> bool {
        self.roster.get(node).is_some_and(|provider| provider.banned)
    }

    /// Units in flight at `node`.
    pub fn in_flight(&self, node: NodeId) -> usize {
        self.roster.get(node).map_or(0, provider::Provider::in_flight)
    }

    /// What `node` was asked for and hasn't brought, in bytes.
    pub fn outstanding_bytes(&self, node: NodeId) -> u64 {
        self.roster.get(node).map_or(0, |provider| provider.outstanding_bytes)
    }

    /// Bytes per second that `node` brings, as far as they were measured.
    pub fn rate(&self, node: NodeId) -> Option<u64> {
        self.roster.get(node).and_then(|provider| provider.pace.rate())
    }

    /// Bytes that came more than once so far.
    pub fn duplicate_bytes(&self) -> u64 {
        self.tally.twice_bytes
    }

    /// The whole chunk groups that are local. Costs their number of runs.
    pub fn have(&self) -> Groups {
        self.have.to_groups()
    }

    // ---- what poll does, in its order ----

    fn give_up(&mut self, now: Timestamp) {
        let have = &self.have;
        let pending = &mut self.pending;
        let before = self.demands.len();
        self.demands.retain(|&demand, wanted| {
            if have.covers(&wanted.run) {
                wanted.moved = now;
            }
            let over = wanted.give_up_at().is_some_and(|at| at <= now);
            if over {
                pending.push(Effect::GiveUp { demand });
            }
            !over
        });
        self.is_stale |= self.demands.len() < before;
    }

    fn cancel_stalled(&mut self, now: Timestamp) {
        let stall_ms = self.options.stall_ms;
        let stalled = self.units.iter().filter(|(_, unit)| now.saturating_ms_since(unit.moved) >= stall_ms);
        for id in stalled.map(|(id, _)| id).collect::<Vec<_>>() {
            if let Some(provider) = self.cancel(id, CancelReason::Stalled) {
                self.roster.at_mut(provider).stalled(now, &self.options);
            }
        }
    }

    fn cancel_unwanted(&mut self) {
        let is_wanted = |run: &Range<u64>| {
            let parts = self.demands.values().map(|wanted| overlap(&wanted.run, run));
            parts.into_iter().any(|part| !self.have.covers(&part))
        };
        let unwanted = self.units.iter().filter(|(_, unit)| !unit.rest.is_empty() && !is_wanted(&unit.rest));
        let why = |rest: &Range<u64>| match self.have.covers(rest) {
            true => CancelReason::Duplicate,
            false => CancelReason::Withdrawn,
        };
        for (id, why) in unwanted.map(|(id, unit)| (id, why(&unit.rest))).collect::<Vec<_>>() {
            self.cancel(id, why);
        }
    }

    fn plan(&mut self, now: Timestamp) {
        let mut lineup = Lineup::new(now, &self.roster, &self.options);
        if self.demands.is_empty() || !lineup.has_any_room() {
            return;
        }
        self.probe_heads(now, &mut lineup);
        self.assign_urgent(now, DemandClass::Playhead, &mut lineup, 0);
        let ahead = self.missing_of(DemandClass::Playhead);
        self.assign_urgent(now, DemandClass::Lookahead, &mut lineup, ahead);
        self.assign_background(now, &mut lineup);
        self.end_game(now, &mut lineup);
        self.probe_lacking(now, &mut lineup);
    }

    // ---- helpers ----

    fn request(&mut self, now: Timestamp, provider: usize, run: Range<u64>, class: DemandClass) -> UnitId {
        self.open.remove(run.clone());
        let unit = self.units.add(now, provider, run.clone());
        let provider = self.roster.at_mut(provider);
        provider.ask(now, unit, class, bytes_in(&run));
        let (provider, range) = (provider.node, bytes_of(run, self.size_bytes));
        self.pending.push(Effect::Request { unit, provider, range, class });
        unit
    }

    /// `stored` of unit `id` has come.
    fn advance(&mut self, now: Timestamp, id: UnitId, stored: &Range<u64>) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let provider = self.roster.at_mut(unit.provider);
        if !unit.has_begun() {
            provider.pace.began(now.saturating_ms_since(unit.asked));
        }
        let rest = unit.rest.start.max(stored.end.min(unit.rest.end))..unit.rest.end;
        let expected = unit.rest_bytes() - bytes_in(&rest);
        provider.arrived(now, bytes_in(stored), expected);
        (unit.rest, unit.moved) = (rest, now);
        let Some(unit) = self.units.get(id) else { return };
        let is_taken_over = |(helper, from): (&units::Unit, u64)| unit.rest.start >= from && helper.has_begun();
        if !unit.rest.is_empty() && self.units.helper_of(unit).is_some_and(is_taken_over) {
            self.cancel(id, CancelReason::Duplicate);
        }
    }

    /// Others than `by` that have nothing to bring now that `stored` is here.
    fn cancel_overtaken(&mut self, now: Timestamp, by: UnitId, stored: Range<u64>) {
        let overtaken = self.units.within(stored).filter(|(id, unit)| *id != by && self.have.covers(&unit.rest));
        for (id, provider) in overtaken.map(|(id, unit)| (id, unit.provider)).collect::<Vec<_>>() {
            self.roster.at_mut(provider).gave_up_on(now);
            self.cancel(id, CancelReason::Duplicate);
        }
    }

    /// Ends a unit without telling its provider; returns that. What it hasn't brought is open again.
    fn end(&mut self, id: UnitId) -> Option<usize> {
        let unit = self.units.remove(id)?;
        self.roster.at_mut(unit.provider).drop_unit(id, unit.rest_bytes());
        self.reopen(unit.rest);
        Some(unit.provider)
    }

    fn cancel(&mut self, id: UnitId, why: CancelReason) -> Option<usize> {
        self.tally.twice_bytes += self.in_transit(id);
        let index = self.end(id)?;
        self.pending.push(Effect::Cancel { unit: id, provider: self.roster.at(index).node, why });
        Some(index)
    }

    /// Bytes of a unit that its provider has sent already, probably: a cancel wastes them.
    fn in_transit(&self, id: UnitId) -> u64 {
        let Some(unit) = self.units.get(id) else { return 0 };
        let provider = self.roster.at(unit.provider);
        let share = provider.pace.rate().unwrap_or(0) / provider.in_flight().max(1) as u64;
        (share.saturating_mul(provider.pace.latency_ms()) / 1_000).min(unit.rest_bytes())
    }

    fn drop_units_of(&mut self, node: NodeId) {
        let units: Vec<UnitId> = self.roster.get(node).map(|provider| provider.units().collect()).unwrap_or_default();
        for id in units {
            self.cancel(id, CancelReason::ProviderGone);
        }
    }

    /// What of `run` is neither local nor in flight is open.
    fn reopen(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        self.open.insert(run.clone());
        let local = self.have.runs_in(run.clone());
        let in_flight = self.units.within(run.clone()).map(|(_, unit)| overlap(&unit.rest, &run));
        local.chain(in_flight).for_each(|taken| self.open.remove(taken));
        self.epoch += 1;
    }

    fn replace_have(&mut self, have: &Groups) {
        self.have = Spans::of(have, self.group_count);
        self.open = Spans::default();
        self.reopen(0..self.group_count);
    }

    fn changed(&mut self) {
        self.is_stale = true;
        self.epoch += 1;
    }

    fn is_missing(&self, wanted: &Wanted) -> bool {
        !self.have.covers(&wanted.run)
    }
}

impl Wanted {
    fn give_up_at(&self) -> Option<Timestamp> {
        self.demand.give_up_ms.map(|ms| self.moved.saturating_add_ms(ms))
    }
}
