//! How fast one provider is, and how much to ask of it at once.

use std::collections::VecDeque;

use super::{DemandClass, Options, groups::GROUP_BYTES};
use crate::Timestamp;

/// Measurements older than about this much busy time weigh less than half.
const MEMORY_MS: u64 = 1_000;
/// Busy time below which bytes say nothing about a rate: they may have waited in somebody's buffer.
const MIN_SAMPLE_MS: u64 = 20;
/// A provider's limit is cut into so many units, so that one that ends leaves it with enough to go on.
const UNITS_OUTSTANDING: u64 = 4;
/// Units that are longer are multiples of this.
const UNIT_STEP_BYTES: u64 = 64 << 10;
/// Bytes by which the limit of a provider that proves itself grows with each byte that comes.
const GROWTH: u64 = 5;
/// The queue at a provider is at least the latency divided by this: what comes unevenly is evened out by it.
const LONG_PATH_QUEUE: u64 = 4;
/// While a provider's rate still grows it may have its bandwidth-delay product so many times, so that its congestion
/// window can grow as fast as the transport lets it.
const START_GAIN: u64 = 2;
/// The rate grows as long as a round trip adds at least a quarter to it; so many that don't end the start.
const FLAT_ROUNDS: u32 = 3;
/// Round trips are counted as if they took at least this long.
const MIN_ROUND_MS: u64 = 50;
/// The round trip is the least of so many that were measured last: others include queues, and asking for as much as
/// fills those would lengthen them.
const RTT_SAMPLES: usize = 10;
/// Bytes per second that a new provider is trusted with for a round trip.
const START_RATE: u64 = 400_000;
/// Taken for the round trip while nothing is known of it.
const UNKNOWN_RTT_MS: u64 = 100;

/// The rate is bytes over busy time. A provider is busy from when the first byte of its oldest unit could be here, for
/// as long as it has units: all of them share one link, so what a single one takes says little.
#[derive(Debug)]
pub(super) struct Pace {
    /// The latest round trips of the path, in milliseconds.
    path_rtts_ms: VecDeque<u64>,
    /// The shortest time from a request to its first bytes.
    first_bytes_ms: Option<u64>,
    bytes: u64,
    busy_ms: u64,
    last_arrival: Option<Timestamp>,
    /// What came since it joined or stalled: what is outstanding grows with it, so that a burst isn't taken for a rate.
    proven_bytes: u64,
    start: Start,
}

/// What a provider is to be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) class: DemandClass,
    /// Nobody else can be asked.
    pub(super) is_alone: bool,
}

/// Whether the rate still grows.
#[derive(Debug, Default)]
struct Start {
    round_began: Option<Timestamp>,
    best_rate: u64,
    flat_rounds: u32,
}

impl Start {
    fn is_over(&self) -> bool {
        self.flat_rounds >= FLAT_ROUNDS
    }

    /// The rate is `rate` at `now`.
    fn look(&mut self, now: Timestamp, rate: u64, round_ms: u64) {
        let began = *self.round_began.get_or_insert(now);
        if self.is_over() || now.saturating_ms_since(began) < round_ms.max(MIN_ROUND_MS) {
            return;
        }
        self.round_began = Some(now);
        if rate >= self.best_rate.saturating_add(self.best_rate / 4) {
            (self.best_rate, self.flat_rounds) = (rate, 0);
        } else {
            self.flat_rounds += 1;
        }
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            path_rtts_ms: VecDeque::new(),
            first_bytes_ms: None,
            bytes: 0,
            busy_ms: 0,
            last_arrival: None,
            proven_bytes: 0,
            start: Start::default(),
        }
    }

    /// The path to the provider is another one, or another round trip was measured on it.
    pub(super) fn set_path_rtt(&mut self, rtt_ms: Option<u64>) {
        let before = self.path_rtt_ms();
        match rtt_ms {
            Some(rtt_ms) => self.path_rtts_ms.push_back(rtt_ms),
            None => self.path_rtts_ms.clear(),
        }
        if self.path_rtts_ms.len() > RTT_SAMPLES {
            self.path_rtts_ms.pop_front();
        }
        if self.path_rtt_ms() != before {
            self.first_bytes_ms = None;
        }
    }

    fn path_rtt_ms(&self) -> Option<u64> {
        self.path_rtts_ms.iter().min().copied()
    }

    /// The first bytes of a unit came, which was asked for `took_ms` ago.
    pub(super) fn began(&mut self, took_ms: u64) {
        self.first_bytes_ms = Some(self.first_bytes_ms.map_or(took_ms, |least| least.min(took_ms)));
    }

    /// `bytes` came at `now`; the oldest unit was asked for at `oldest`.
    pub(super) fn arrived(&mut self, now: Timestamp, oldest: Timestamp, bytes: u64) {
        let due = oldest.saturating_add_ms(self.path_rtt_ms().unwrap_or(0));
        let since = self.last_arrival.map_or(due, |last| last.max(due));
        self.last_arrival = Some(now);
        self.bytes = self.bytes.saturating_add(bytes);
        self.busy_ms += now.saturating_ms_since(since);
        if self.busy_ms > MEMORY_MS {
            self.bytes /= 2;
            self.busy_ms /= 2;
        }
        self.proven_bytes = self.proven_bytes.saturating_add(bytes);
        if let Some(rate) = self.rate() {
            self.start.look(now, rate, self.latency_ms());
        }
    }

    /// A unit was taken from it after it had been silent for `overdue_ms` beyond what is usual: that is busy time too.
    pub(super) fn gave_up_on(&mut self, now: Timestamp, overdue_ms: u64) {
        if overdue_ms > 0 {
            self.busy_ms += overdue_ms;
            self.last_arrival = Some(now);
        }
    }

    /// It stalled: it has to prove itself again.
    pub(super) fn restart(&mut self) {
        self.proven_bytes = 0;
        (self.bytes, self.busy_ms) = (self.bytes / 4, self.busy_ms / 2);
    }

    /// Measured bytes per second, at least 1.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate_after(0)
    }

    /// The same if it has been silent for `overdue_ms` on top.
    pub(super) fn rate_after(&self, overdue_ms: u64) -> Option<u64> {
        let busy_ms = self.busy_ms + overdue_ms;
        // Nothing at all after a while is a measurement as well.
        (busy_ms >= MIN_SAMPLE_MS).then(|| (self.bytes.max(GROUP_BYTES / 2).saturating_mul(1_000) / busy_ms).max(1))
    }

    /// From a request to its first bytes, in milliseconds.
    pub(super) fn latency_ms(&self) -> u64 {
        self.path_rtt_ms().max(self.first_bytes_ms).unwrap_or(UNKNOWN_RTT_MS)
    }

    /// When bytes came last.
    pub(super) fn last_arrival(&self) -> Option<Timestamp> {
        self.last_arrival
    }

    /// Bytes that it may have outstanding: the bandwidth-delay product and a short queue, once that is known.
    pub(super) fn limit_bytes(&self, options: &Options, ask: Ask) -> u64 {
        let queue_ms = match ask.class {
            DemandClass::Playhead | DemandClass::Lookahead => options.urgent_queue_ms,
            DemandClass::Background => options.queue_ms,
        };
        let product = |rate: u64, ms: u64| rate.saturating_mul(ms) / 1_000;
        let measured = self.rate().map_or(u64::MAX, |rate| {
            let queue_ms = queue_ms.max(self.latency_ms() / LONG_PATH_QUEUE);
            let queued = product(rate, queue_ms).min(options.max_queue_bytes);
            // Where others can be asked, what is urgent doesn't wait behind what is asked for to find a limit.
            let probes = !self.start.is_over() && (ask.is_alone || ask.class == DemandClass::Background);
            let gain = if probes { START_GAIN } else { 1 };
            product(rate, self.latency_ms()).saturating_mul(gain).saturating_add(queued)
        });
        measured.min(self.ceiling_bytes(options)).min(options.max_outstanding_bytes)
    }

    /// Fourfold in a round trip, from what fills a long path of a middling provider.
    fn ceiling_bytes(&self, options: &Options) -> u64 {
        let long_path = START_RATE * self.path_rtt_ms().unwrap_or(0) / 1_000;
        options.start_bytes.max(long_path).saturating_add(self.proven_bytes.saturating_mul(GROWTH))
    }

    /// Length of its next unit: all providers' units take about the same time, wherever they come from.
    pub(super) fn unit_bytes(&self, options: &Options, ask: Ask) -> u64 {
        let least = match ask.class {
            DemandClass::Playhead | DemandClass::Lookahead => GROUP_BYTES,
            DemandClass::Background => options.min_unit_bytes.max(GROUP_BYTES),
        };
        let share = self.limit_bytes(options, ask) / UNITS_OUTSTANDING;
        let step = if share < UNIT_STEP_BYTES { GROUP_BYTES } else { UNIT_STEP_BYTES };
        (share / step * step).clamp(least, options.max_unit_bytes.max(least))
    }
}
