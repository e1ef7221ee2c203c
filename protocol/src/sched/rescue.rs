//! Whom to ask for what lags elsewhere.
//!
//! A unit lags if it will be late, by what its provider brought and by how long that has been silent, and somebody with
//! room would bring it clearly earlier. Then the tail that the slow provider wouldn't bring in the meantime is asked of
//! that one too; when the slow one reaches the tail, its unit is cancelled. So little is sent twice even if the guess
//! was wrong, and nothing is lost if the helper turns out worse.

use std::ops::Range;

use super::{
    DemandClass, Scheduler, UnitId,
    groups::{GROUP_BYTES, bytes_in},
    lineup::{Lineup, time_us},
    units::Unit,
};
use crate::Timestamp;

/// Outside the end game, bytes that came twice may be this in all, and the share below of what came.
const DUPLICATE_BYTES: u64 = 512 << 10;
const DUPLICATE_SHARE: u64 = 50;

/// A unit is late if it takes so many quarters of what a helper would.
const LATE_QUARTERS: u64 = 8;
/// The same if its next bytes are the very ones somebody waits for.
const BLOCKING_QUARTERS: u64 = 5;

/// What came, in bytes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) fresh_bytes: u64,
    pub(super) twice_bytes: u64,
}

impl Tally {
    fn allows_more(&self) -> bool {
        self.twice_bytes <= DUPLICATE_BYTES + self.fresh_bytes / DUPLICATE_SHARE
    }
}

impl Scheduler {
    /// Helps with the units that bring bytes of `run`, which are needed in `spare_us` at the earliest, and after `before`
    /// other groups.
    pub(super) fn rescue_within(
        &mut self,
        now: Timestamp,
        class: DemandClass,
        run: Range<u64>,
        spare_us: u64,
        mut before: u64,
        lineup: &mut Lineup,
    ) {
        let mut from = run.start;
        let units: Vec<(UnitId, u64)> = self.units.within(run).map(|(id, unit)| (id, unit.rest.start)).collect();
        for (unit, at) in units {
            before += self.missing_in(from..at.max(from));
            from = from.max(at);
            let needed_us = time_us(before * GROUP_BYTES, lineup.total_rate).max(spare_us);
            self.rescue(now, unit, class, needed_us, lineup);
        }
    }

    /// Groups of all demands of a class that aren't local.
    pub(super) fn missing_of(&self, class: DemandClass) -> u64 {
        let demands = self.demands.values().filter(|wanted| wanted.demand.class == class);
        demands.map(|wanted| self.missing_in(wanted.run.clone())).sum()
    }

    /// Groups that aren't local.
    pub(super) fn missing_in(&self, run: Range<u64>) -> u64 {
        run.end.saturating_sub(run.start).saturating_sub(self.have.count_in(run))
    }

    /// Nothing is left to ask for: everything demanded is in flight.
    fn is_end_game(&self) -> bool {
        self.demands.values().all(|wanted| self.open.first_in(wanted.run.clone()).is_none())
    }

    /// Whoever has room helps with what would come last.
    pub(super) fn end_game(&mut self, now: Timestamp, lineup: &mut Lineup) {
        let class = DemandClass::Background;
        if !lineup.has_room(class) || !self.is_end_game() {
            return;
        }
        let finish = |unit: &Unit| lineup.finish_us(now, self.roster.at(unit.provider), unit, unit.rest_bytes());
        let lagging = self.units.iter().filter(|(_, unit)| !unit.rest.is_empty());
        let mut lagging: Vec<(u64, UnitId)> = lagging.map(|(id, unit)| (finish(unit), id)).collect();
        lagging.sort_unstable_by(|a, b| b.cmp(a));
        for (_, unit) in lagging {
            self.rescue(now, unit, class, 0, lineup);
        }
    }

    /// Gets the end of a unit from somebody else, if it would come late for `needed_us` from now and earlier from there.
    /// What another helper brings already is that one's unit, and looked after as such.
    fn rescue(&mut self, now: Timestamp, id: UnitId, class: DemandClass, needed_us: u64, lineup: &mut Lineup) {
        let Some(unit) = self.units.get(id) else { return };
        let end = self.units.helper_of(unit).map_or(unit.rest.end, |(_, from)| from.min(unit.rest.end));
        let run = unit.rest.start..end;
        if run.is_empty() {
            return;
        }
        let slow = self.roster.at(unit.provider);
        let finish_us = lineup.finish_us(now, slow, unit, bytes_in(&run));
        let quarters =
            if needed_us == 0 && class < DemandClass::Background { BLOCKING_QUARTERS } else { LATE_QUARTERS };
        let is_late = |for_us: u64| finish_us > for_us / 4 * quarters + self.options.duplicate_ms * 1_000;
        if !is_late(needed_us) || !(needed_us == 0 || self.tally.allows_more() || self.is_end_game()) {
            return;
        }
        let Some((seat, arrival_us)) = self.helper_for(unit.provider, &run, class, lineup) else { return };
        if !is_late(arrival_us.max(needed_us)) {
            return;
        }
        let may_overfill =
            needed_us == 0 && class < DemandClass::Background && lineup.seats[seat].has_slot(bytes_in(&run));
        if !may_overfill && !lineup.fits(&lineup.seats[seat], bytes_in(&run), class) {
            return lineup.reserve(seat, bytes_in(&run));
        }
        let share = lineup.rate_of(now, slow) / slow.in_flight().max(1) as u64;
        let own_groups = match slow.overdue_ms(now) {
            0 => share.saturating_mul(arrival_us) / 1_000_000 / GROUP_BYTES,
            _ => 0,
        };
        let helper = lineup.seats[seat].provider;
        let held = self.roster.at(helper).holdings.first_in(run.start + own_groups..run.end);
        let Some(piece) = held else { return };
        lineup.take(seat, bytes_in(&piece), class);
        let from = piece.start;
        let helping = self.request(now, helper, piece, class);
        if let Some(unit) = self.units.get_mut(id) {
            unit.helper = Some((helping, from));
        }
    }

    /// The seat that would bring `run` of `slow`'s unit first, full or not, and when.
    fn helper_for(&self, slow: usize, run: &Range<u64>, class: DemandClass, lineup: &Lineup) -> Option<(usize, u64)> {
        let slow_cost = self.roster.at(slow).cost;
        let can_help = |seat: &super::lineup::Seat| {
            seat.serves(class)
                && (class < DemandClass::Background || seat.cost <= slow_cost)
                && self.roster.at(seat.provider).holdings.may_have(run.start)
                && self.units.within(run.clone()).all(|(_, other)| other.provider != seat.provider)
        };
        let helpers = lineup.seats.iter().enumerate().filter(|(_, seat)| can_help(seat));
        helpers.map(|(at, seat)| (at, seat.arrival_us(bytes_in(run)))).min_by_key(|(_, arrival_us)| *arrival_us)
    }
}
