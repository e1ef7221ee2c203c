//! Whom to ask for what that nobody has been asked for.
//!
//! Urgent bytes are planned by list scheduling: in the order in which they are needed, each goes to the provider that
//! would bring it first, counting what that one has to bring before. A unit is asked for if the provider has room, and
//! only meant for it otherwise: so a slow provider gets bytes that are needed about when it brings them, instead of
//! the next ones, on which everything would wait. What room is left goes to the background.

use std::ops::Range;

use super::{
    Cost, DemandClass, DemandId, Scheduler,
    groups::{GROUP_BYTES, bytes_in, overlap},
    lineup::Lineup,
};
use crate::Timestamp;

/// Deadlines within so many milliseconds are taken as equal, and shares decide.
const DEADLINE_STEP_MS: u64 = 256;
/// While bytes at a playhead are missing, no more of the lookahead is asked for than comes in this time: the way to us
/// may be the bottleneck, and they would share it.
const NEAR_MS: u64 = 500;
/// But so much in any case.
const NEAR_BYTES: u64 = 1 << 20;
/// Places compared for rarity with the first missing one.
const RARITY_TRIES: usize = 4;
/// Those places are multiples of this, in groups, so that missing runs stay long.
const PLACE_GROUPS: u64 = 64;

/// How far a plan has come with one demand.
#[derive(Debug)]
pub(super) struct Cursor {
    demand: DemandId,
    /// What of it hasn't been looked at.
    pub(super) run: Range<u64>,
    /// In steps; the past is all one.
    deadline: u64,
    /// What it was given lately, in bytes.
    served: u64,
    /// Until its first byte is needed.
    spare_us: u64,
    /// Groups that are missing in what has been looked at.
    missing: u64,
}

impl Cursor {
    fn key(&self) -> (u64, u64, DemandId) {
        (self.deadline, self.served, self.demand)
    }
}

impl Scheduler {
    /// The demands of a class, unordered.
    pub(super) fn cursors(&self, now: Timestamp, class: DemandClass) -> Vec<Cursor> {
        let of_class = self.demands.iter().filter(|(_, wanted)| wanted.demand.class == class);
        let cursor = |(&demand, wanted): (&DemandId, &super::Wanted)| Cursor {
            demand,
            run: wanted.run.clone(),
            deadline: deadline_step(now, class, wanted.demand.deadline),
            served: wanted.served.max(self.turn[class as usize]),
            spare_us: wanted.demand.deadline.map_or(0, |at| at.saturating_ms_since(now).saturating_mul(1_000)),
            missing: 0,
        };
        of_class.map(cursor).collect()
    }

    /// Walks through the demands of a class as long as anybody has room: units in flight that lag are helped, open bytes
    /// are asked for, in the order in which they are needed.
    pub(super) fn assign_urgent(&mut self, now: Timestamp, class: DemandClass, lineup: &mut Lineup, ahead: u64) {
        let mut cursors = self.cursors(now, class);
        let somebody_waits = class == DemandClass::Playhead || ahead > 0;
        if class == DemandClass::Lookahead && somebody_waits {
            let near = (lineup.total_rate / 1_000 * NEAR_MS).max(NEAR_BYTES) / GROUP_BYTES;
            cursors.iter_mut().for_each(|cursor| cursor.run.end = cursor.run.end.min(cursor.run.start + near));
        }
        let readers = cursors.len() as u64;
        while lineup.has_room(class) {
            let Some(at) = (0..cursors.len()).min_by_key(|at| cursors[*at].key()) else { return };
            let cursor = &mut cursors[at];
            let open = self.open.first_in(cursor.run.clone());
            let gap = cursor.run.start..open.as_ref().map_or(cursor.run.end, |open| open.start);
            let before = ahead + cursor.missing * readers;
            cursor.missing += self.missing_in(gap.clone());
            self.rescue_within(now, class, gap, cursor.spare_us, before, lineup);
            let Some(run) = open else {
                cursors.swap_remove(at);
                continue;
            };
            let Some((seat, piece)) = lineup.best(&self.roster, class, &run, somebody_waits) else {
                cursor.run.start = run.end;
                continue;
            };
            cursor.run.start = piece.end;
            cursor.missing += piece.end - run.start;
            cursor.served += bytes_in(&piece);
            let demand = cursor.demand;
            self.ask_or_reserve(now, class, demand, seat, piece, lineup);
        }
    }

    fn ask_or_reserve(
        &mut self,
        now: Timestamp,
        class: DemandClass,
        demand: DemandId,
        seat: usize,
        piece: Range<u64>,
        lineup: &mut Lineup,
    ) {
        let bytes = bytes_in(&piece);
        if !lineup.fits(&lineup.seats[seat], bytes, class) {
            return lineup.reserve(seat, bytes);
        }
        lineup.take(seat, bytes, class);
        self.charge(class, demand, bytes);
        self.request(now, lineup.seats[seat].provider, piece, class);
    }

    /// `demand` was given `bytes`. Start-time fair queueing: who wanted nothing for a while has no claim from it.
    fn charge(&mut self, class: DemandClass, demand: DemandId, bytes: u64) {
        let Some(wanted) = self.demands.get_mut(&demand) else { return };
        let turn = &mut self.turn[class as usize];
        *turn = wanted.served.max(*turn);
        wanted.served = *turn + bytes;
    }

    // ---- the background ----

    /// Fills every provider to its limit, the fastest first: what little is left at the end suits them best.
    pub(super) fn assign_background(&mut self, now: Timestamp, lineup: &mut Lineup) {
        let class = DemandClass::Background;
        let mut cursors = self.cursors(now, class);
        let free = |at: &usize| lineup.seats[*at].serves(class) && lineup.seats[*at].has_room(class);
        let mut order: Vec<usize> = (0..lineup.seats.len()).filter(free).collect();
        if cursors.is_empty() || order.is_empty() {
            return;
        }
        let is_uneven = self.roster.usable(now).any(|(_, provider)| provider.holdings.is_partial(self.group_count));
        order.sort_by_key(|at| lineup.seats[*at].arrival_us(0));
        for at in order {
            while lineup.seats[at].has_room(class) && self.ask_background(now, at, is_uneven, &mut cursors, lineup) {}
        }
    }

    /// Asks the seat for one unit of the demand whose turn it is; false if nothing is open for it.
    fn ask_background(
        &mut self,
        now: Timestamp,
        at: usize,
        is_uneven: bool,
        cursors: &mut [Cursor],
        lineup: &mut Lineup,
    ) -> bool {
        let (provider, units) = (lineup.seats[at].provider, lineup.seats[at].unit_groups(DemandClass::Background));
        if self.roster.at(provider).barren_at == Some(self.epoch) {
            return false;
        }
        cursors.sort_unstable_by_key(Cursor::key);
        for cursor in cursors {
            let Some(run) = self.pick(now, provider, cursor.run.clone(), is_uneven) else { continue };
            let piece = overlap(&run, &(run.start..run.start.saturating_add(units)));
            let bytes = bytes_in(&piece);
            cursor.served += bytes;
            lineup.take(at, bytes, DemandClass::Background);
            self.charge(DemandClass::Background, cursor.demand, bytes);
            self.request(now, provider, piece, DemandClass::Background);
            return true;
        }
        // What free providers can be asked for changes with their rests, which no epoch counts.
        if lineup.seats[at].cost == Cost::Free {
            self.roster.at_mut(provider).barren_at = Some(self.epoch);
        }
        false
    }

    /// An open run for the background from `provider`: the first one, or a rarer one if bitfields differ.
    fn pick(&mut self, now: Timestamp, provider: usize, within: Range<u64>, is_uneven: bool) -> Option<Range<u64>> {
        let first = self.open_for_background(now, provider, within.clone())?;
        if !is_uneven {
            return Some(first);
        }
        let mut best = (self.holders(now, first.start), first.clone());
        for _ in 0..RARITY_TRIES {
            let place = first.start + self.rng.below(within.end - first.start);
            let place = (place / PLACE_GROUPS * PLACE_GROUPS).max(first.start);
            let Some(run) = self.open_for_background(now, provider, place..within.end) else { continue };
            let holders = self.holders(now, run.start);
            if holders < best.0 {
                best = (holders, run);
            }
        }
        Some(best.1)
    }

    /// The first open run in `within` that `provider` may have and may be asked for.
    fn open_for_background(&self, now: Timestamp, provider: usize, mut within: Range<u64>) -> Option<Range<u64>> {
        loop {
            let run = self.open_at(provider, within.clone())?;
            if self.roster.at(provider).cost == Cost::Free {
                return Some(run);
            }
            within.start = run.end;
            if let Some(run) = self.without_free(now, run) {
                return Some(run);
            }
        }
    }

    /// The first open run in `within` that `provider` may have.
    pub(super) fn open_at(&self, provider: usize, mut within: Range<u64>) -> Option<Range<u64>> {
        let holdings = &self.roster.at(provider).holdings;
        while let Some(run) = self.open.first_in(within.clone()) {
            let held = holdings.first_in(run.start..within.end)?;
            let piece = overlap(&held, &run);
            if !piece.is_empty() {
                return Some(piece);
            }
            within.start = held.start;
        }
        None
    }

    /// The first part of `run` that no free provider may have.
    fn without_free(&self, now: Timestamp, mut run: Range<u64>) -> Option<Range<u64>> {
        while !run.is_empty() {
            let free = self.roster.usable(now).filter(|(_, provider)| provider.cost == Cost::Free);
            let first = free.filter_map(|(_, provider)| provider.holdings.first_in(run.clone()));
            match first.min_by_key(|held| held.start) {
                Some(held) if held.start == run.start => run.start = held.end,
                held => return Some(run.start..held.map_or(run.end, |held| held.start)),
            }
        }
        None
    }

    /// How many providers may have `group`.
    fn holders(&self, now: Timestamp, group: u64) -> usize {
        self.roster.usable(now).filter(|(_, provider)| provider.holdings.may_have(group)).count()
    }

    // ---- what was refused ----

    /// A playhead whose next bytes everybody refused within a longer range: asks for less before anything else.
    pub(super) fn probe_heads(&mut self, now: Timestamp, lineup: &mut Lineup) {
        for cursor in self.cursors(now, DemandClass::Playhead) {
            let Some(head) = self.open.first_in(cursor.run.clone()) else { continue };
            let may_have = |provider: usize| self.roster.at(provider).holdings.may_have(head.start);
            if !lineup.seats.iter().any(|seat| may_have(seat.provider)) {
                self.probe(now, DemandClass::Playhead, head.start..cursor.run.end, lineup, |_| true, Some(head.start));
            }
        }
    }

    /// What nobody who could be asked has as a whole may be there in part: asks those who have nothing else to do, one
    /// unit at a time, for less.
    pub(super) fn probe_lacking(&mut self, now: Timestamp, lineup: &mut Lineup) {
        for class in [DemandClass::Playhead, DemandClass::Lookahead, DemandClass::Background] {
            for cursor in self.cursors(now, class) {
                self.probe(now, class, cursor.run, lineup, |in_flight| in_flight == 0, None);
            }
        }
    }

    /// Asks every provider whose units in flight are `few` for a piece of `within` that it hasn't refused as such; with
    /// `head`, only one of them, and only for a piece that starts there.
    fn probe(
        &mut self,
        now: Timestamp,
        class: DemandClass,
        within: Range<u64>,
        lineup: &mut Lineup,
        few: impl Fn(usize) -> bool,
        head: Option<u64>,
    ) {
        for at in 0..lineup.seats.len() {
            let Some(open) = self.open.first_in(within.clone()) else { return };
            let provider = self.roster.at(lineup.seats[at].provider);
            if !few(provider.in_flight()) || !lineup.seats[at].has_room(class) || !lineup.seats[at].serves(class) {
                continue;
            }
            let piece = self.finer_at(lineup.seats[at].provider, open.start..within.end);
            let Some(piece) = piece.filter(|piece| head.is_none_or(|head| piece.start == head)) else { continue };
            lineup.take(at, bytes_in(&piece), class);
            self.request(now, lineup.seats[at].provider, piece, class);
            if head.is_some() {
                return;
            }
        }
    }

    /// The first open piece in `within` of what `provider` refused, finer than that.
    fn finer_at(&self, provider: usize, within: Range<u64>) -> Option<Range<u64>> {
        let holdings = &self.roster.at(provider).holdings;
        let parts = holdings.refused().map(|refused| overlap(refused, &within));
        let open = parts.filter_map(|part| self.open.runs_in(part).find_map(|run| holdings.finer_in(run)));
        open.min_by_key(|piece| piece.start)
    }
}

/// A playhead without a deadline is needed now, anything else without one after all that have one.
fn deadline_step(now: Timestamp, class: DemandClass, deadline: Option<Timestamp>) -> u64 {
    match (deadline, class) {
        (Some(at), _) => at.saturating_ms_since(now) / DEADLINE_STEP_MS,
        (None, DemandClass::Playhead) => 0,
        (None, DemandClass::Lookahead | DemandClass::Background) => u64::MAX,
    }
}
