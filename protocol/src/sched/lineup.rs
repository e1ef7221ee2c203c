//! The providers as one poll sees them: what each can still take, and when it would bring it.

use super::{
    Cost, DemandClass, Options,
    groups::{GROUP_BYTES, bytes_in, overlap},
    pace::Ask,
    provider::{Provider, Roster},
    units::Unit,
};
use crate::Timestamp;
use std::ops::Range;

/// Bytes per second taken for a provider's rate while no provider's was measured.
const PRIOR_RATE: u64 = 1 << 20;
/// Afterwards it is the mean rate through this: new ones are measured with bytes that aren't needed next.
const PRIOR_DIVISOR: u64 = 2;
/// The slowest that bring less than one in so many bytes together aren't asked while somebody waits.
const SLOW_SHARE: u64 = 10;
/// Urgent bytes that may be outstanding at providers that haven't been measured, all together: a crowd of new ones
/// would fill the way to us with bytes that aren't needed first.
const EXPLORE_BYTES: u64 = 2 << 20;

/// A provider that can be asked.
#[derive(Debug)]
pub(super) struct Seat {
    /// Index in the roster.
    pub(super) provider: usize,
    pub(super) cost: Cost,
    rate: u64,
    is_measured: bool,
    /// One of the slowest, which bring little together.
    is_slow: bool,
    latency_us: u64,
    /// Until what it has, and what the plan meant for it, is here.
    queue_us: u64,
    /// What it can take of each class up to its limit, and up to the limit of all providers.
    room_bytes: [u64; 3],
    hard_room_bytes: u64,
    slots: usize,
    in_flight_at: [usize; 3],
    unit_groups: [u64; 3],
    salt: u64,
}

const CLASSES: [DemandClass; 3] = [DemandClass::Playhead, DemandClass::Lookahead, DemandClass::Background];

impl Seat {
    fn new(
        now: Timestamp,
        index: usize,
        provider: &Provider,
        prior_rate: u64,
        asks: [Ask; 3],
        options: &Options,
    ) -> Self {
        let outstanding = provider.outstanding_bytes;
        let overdue_ms = provider.overdue_ms(now);
        let measured = provider.pace.rate_after(overdue_ms);
        let rate = measured.unwrap_or(prior_rate);
        Self {
            provider: index,
            cost: provider.cost,
            rate,
            is_measured: measured.is_some(),
            is_slow: false,
            latency_us: provider.pace.latency_ms().saturating_mul(1_000),
            queue_us: time_us(outstanding, rate).saturating_add(overdue_ms * 1_000),
            room_bytes: asks.map(|ask| provider.pace.limit_bytes(options, ask).saturating_sub(outstanding)),
            hard_room_bytes: options.max_outstanding_bytes.saturating_sub(outstanding),
            slots: provider.free_slots(options),
            in_flight_at: CLASSES.map(|class| provider.in_flight_at(class)),
            unit_groups: asks.map(|ask| (provider.pace.unit_bytes(options, ask) / GROUP_BYTES).max(1)),
            salt: provider.salt,
        }
    }

    /// It can take a unit of `bytes` now. Two are always allowed, and two urgent ones beside any others.
    pub(super) fn fits(&self, bytes: u64, class: DemandClass) -> bool {
        let below_limit = self.room_bytes[class as usize] >= bytes || self.in_flight_at[class as usize] < 2;
        let below_hard_limit = self.hard_room_bytes >= bytes || self.in_flight_at[2] == 0;
        self.slots > 0 && below_limit && below_hard_limit
    }

    /// It can have one more unit at all, of any length.
    pub(super) fn has_slot(&self, bytes: u64) -> bool {
        self.slots > 0 && self.hard_room_bytes >= bytes
    }

    /// The length of its next unit, in groups.
    pub(super) fn unit_groups(&self, class: DemandClass) -> u64 {
        self.unit_groups[class as usize]
    }

    pub(super) fn has_room(&self, class: DemandClass) -> bool {
        self.fits(self.unit_groups(class) * GROUP_BYTES, class)
    }

    /// Microseconds until a further `bytes` would be here.
    pub(super) fn arrival_us(&self, bytes: u64) -> u64 {
        self.latency_us.max(self.queue_us).saturating_add(time_us(bytes, self.rate))
    }

    /// Bytes of this class may come over its path at all.
    pub(super) fn serves(&self, class: DemandClass) -> bool {
        self.cost < Cost::Precious || class == DemandClass::Playhead
    }

    /// What [`Seat::arrival_us`] counts like, so that cheap ones are preferred.
    fn weighted_us(&self, bytes: u64) -> u64 {
        let quarters = match self.cost {
            Cost::Free => 4,
            Cost::Metered => 6,
            Cost::Precious => 16,
        };
        self.arrival_us(bytes).saturating_mul(quarters) / 4
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Lineup {
    pub(super) seats: Vec<Seat>,
    /// Bytes per second of all measured providers together.
    pub(super) total_rate: u64,
    /// The mean of those.
    mean_rate: u64,
    explore_bytes: u64,
}

impl Lineup {
    pub(super) fn new(now: Timestamp, roster: &Roster, options: &Options) -> Self {
        let (mut total_rate, mut measured, mut exploring) = (0, 0, 0);
        for (_, provider) in roster.usable(now) {
            match provider.pace.rate() {
                Some(rate) => (total_rate, measured) = (total_rate + rate, measured + 1),
                None => exploring += provider.outstanding_bytes,
            }
        }
        let mean_rate = total_rate.checked_div(measured).unwrap_or(PRIOR_RATE).max(1);
        let prior_rate = total_rate.checked_div(measured * PRIOR_DIVISOR).unwrap_or(PRIOR_RATE).max(1);
        let is_alone = roster.usable(now).nth(1).is_none();
        let asks = CLASSES.map(|class| Ask { class, is_alone });
        let seat = |(index, provider)| Seat::new(now, index, provider, prior_rate, asks, options);
        let mut seats: Vec<Seat> = roster.usable(now).map(seat).collect();
        mark_slow(&mut seats, total_rate);
        let explore_bytes = EXPLORE_BYTES.max(total_rate / 1_000 * options.queue_ms).saturating_sub(exploring);
        Self { seats, total_rate, mean_rate, explore_bytes }
    }

    /// Somebody can be given a unit.
    pub(super) fn has_room(&self, class: DemandClass) -> bool {
        self.seats.iter().any(|seat| self.fits(seat, seat.unit_groups(class) * GROUP_BYTES, class))
    }

    /// Somebody can be given a unit of some class.
    pub(super) fn has_any_room(&self) -> bool {
        CLASSES.iter().any(|class| self.has_room(*class))
    }

    /// [`Seat::fits`], and there is no crowd of unmeasured ones already.
    pub(super) fn fits(&self, seat: &Seat, bytes: u64, class: DemandClass) -> bool {
        let explorable = seat.is_measured || class == DemandClass::Background || self.explore_bytes >= bytes;
        explorable && seat.serves(class) && seat.fits(bytes, class)
    }

    /// The seat that would bring the earliest available group of `run` first, full or not, and the unit it would take.
    /// While `somebody_waits`, the slowest are taken for what nobody else has.
    pub(super) fn best(
        &self,
        roster: &Roster,
        class: DemandClass,
        run: &Range<u64>,
        somebody_waits: bool,
    ) -> Option<(usize, Range<u64>)> {
        let offers = self.seats.iter().enumerate().filter(|(_, seat)| seat.serves(class)).filter_map(|(at, seat)| {
            let held = roster.at(seat.provider).holdings.first_in(run.clone())?;
            let piece = overlap(&held, &(held.start..held.start.saturating_add(seat.unit_groups(class))));
            let is_last = seat.is_slow && somebody_waits;
            Some(((piece.start, is_last, seat.weighted_us(bytes_in(&piece)), seat.salt), at, piece))
        });
        offers.min_by_key(|(key, ..)| *key).map(|(_, at, piece)| (at, piece))
    }

    /// Means `bytes` for the seat, without asking yet.
    pub(super) fn reserve(&mut self, at: usize, bytes: u64) {
        let seat = &mut self.seats[at];
        seat.queue_us = seat.queue_us.saturating_add(time_us(bytes, seat.rate));
    }

    /// The seat was given a unit.
    pub(super) fn take(&mut self, at: usize, bytes: u64, class: DemandClass) {
        self.reserve(at, bytes);
        let seat = &mut self.seats[at];
        seat.room_bytes.iter_mut().for_each(|room| *room = room.saturating_sub(bytes));
        seat.hard_room_bytes = seat.hard_room_bytes.saturating_sub(bytes);
        seat.slots = seat.slots.saturating_sub(1);
        seat.in_flight_at[class as usize..].iter_mut().for_each(|count| *count += 1);
        if !seat.is_measured {
            self.explore_bytes = self.explore_bytes.saturating_sub(bytes);
        }
    }

    /// Bytes per second of `provider`, by measurement or likelihood.
    pub(super) fn rate_of(&self, now: Timestamp, provider: &Provider) -> u64 {
        provider.pace.rate_after(provider.overdue_ms(now)).unwrap_or(self.mean_rate)
    }

    /// Microseconds until the next `bytes` of `unit` are here, if its provider goes on as it did: its units share what
    /// it brings. Who has been silent for long is expected to be so for as long again.
    pub(super) fn finish_us(&self, now: Timestamp, provider: &Provider, unit: &Unit, bytes: u64) -> u64 {
        let shared = bytes.saturating_mul(provider.in_flight() as u64).min(provider.outstanding_bytes);
        let first = unit.asked.saturating_add_ms(provider.pace.latency_ms());
        let latency_ms = if unit.has_begun() { 0 } else { first.saturating_ms_since(now) };
        let wait_ms = latency_ms + 2 * provider.overdue_ms(now);
        time_us(shared, self.rate_of(now, provider)).saturating_add(wait_ms.saturating_mul(1_000))
    }
}

/// Marks the slowest that bring less than [`SLOW_SHARE`] of everything together.
fn mark_slow(seats: &mut [Seat], total_rate: u64) {
    let mut order: Vec<usize> = (0..seats.len()).filter(|at| seats[*at].is_measured).collect();
    order.sort_unstable_by_key(|at| seats[*at].rate);
    let mut sum = 0;
    for at in order {
        sum += seats[at].rate;
        seats[at].is_slow = sum * SLOW_SHARE < total_rate;
    }
}

/// Microseconds that `bytes` take at `rate` bytes per second.
pub(super) fn time_us(bytes: u64, rate: u64) -> u64 {
    bytes.saturating_mul(1_000_000) / rate.max(1)
}
