//! One path: what is known of it, told from what moved and from questions that were or weren't answered.

use std::collections::VecDeque;

use super::{
    LinkClass,
    budget::Budget,
    types::{Capability, Closed, Demand, LinkCost, LinkPolicy, Offer, Options, PathState, Sample, Traffic},
};
use crate::Timestamp;

/// Failures that are remembered of a path.
const MAX_FAILURES: usize = 8;
/// A path that nothing was heard of for so long has to prove itself anew.
const KEEPS_MS: u64 = 15_000;
/// Weight of a new sample in the average of the rate: one in so many.
const RATE_SMOOTHING: u64 = 4;
/// The same for losses, which come in bursts when a path is filled.
const LOSS_SMOOTHING: u64 = 20;

/// Why a path is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DownWhy {
    /// Nobody has tried it yet.
    Untried,
    /// It didn't answer for so long.
    Silent { ms: u64 },
    /// The transport has it no more.
    Closed(Closed),
    /// An interface of this machine went.
    Interface,
}

#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) class: LinkClass,
    pub(super) state: PathState,
    pub(super) since: Timestamp,
    pub(super) down_why: DownWhy,
    /// The transport has it open.
    pub(super) open: bool,
    pub(super) rtt_ms: Option<u64>,
    pub(super) loss_per_mille: u64,
    pub(super) in_bytes: u64,
    pub(super) out_bytes: u64,
    /// Bytes a second of the last samples, the better direction.
    pub(super) rate_bytes_per_s: u64,
    pub(super) budget: Option<Budget>,
    pub(super) cost: LinkCost,
    capability: Capability,
    /// When it first moved bytes since it last failed.
    proven: Option<Timestamp>,
    /// When it last moved bytes either way, or was asked about.
    heard: Timestamp,
    sampled: Timestamp,
    busy: Option<Timestamp>,
    /// When the oldest unanswered question was asked.
    asked: Option<Timestamp>,
    /// When it was last looked for while it wasn't open.
    looked: Option<Timestamp>,
    /// Something says that the other end has gone.
    doubted: bool,
    /// When the last question was asked.
    last_asked: Option<Timestamp>,
    failures: VecDeque<Timestamp>,
}

impl Path {
    pub(super) fn new(now: Timestamp, class: LinkClass) -> Self {
        Self {
            class,
            state: PathState::Down,
            since: now,
            down_why: DownWhy::Untried,
            open: false,
            rtt_ms: None,
            loss_per_mille: 0,
            in_bytes: 0,
            out_bytes: 0,
            rate_bytes_per_s: 0,
            budget: None,
            cost: LinkCost::Free,
            capability: Capability::TwoWay,
            proven: None,
            heard: now,
            sampled: now,
            busy: None,
            asked: None,
            looked: None,
            doubted: false,
            last_asked: None,
            failures: VecDeque::new(),
        }
    }

    fn enter(&mut self, now: Timestamp, state: PathState) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
    }

    /// What the shell knows to be there, and may go over it. Nothing else tells its state.
    pub(super) fn offer(&mut self, now: Timestamp, offer: Offer) {
        (self.cost, self.capability) = (offer.cost, offer.capability);
        self.budget = (offer.cost != LinkCost::Free).then(|| Budget::new(offer.budget_bytes));
        self.enter(now, PathState::Up);
        self.proven.get_or_insert(now);
    }

    /// The transport has it open: the other end answered there.
    pub(super) fn opened(&mut self, now: Timestamp) {
        if !self.open {
            // What it did long ago says nothing about the time between.
            let lately = now.saturating_ms_since(self.heard) < KEEPS_MS;
            // An answer to a probe is bytes moved, small as they are.
            self.proven = self.proven.filter(|_| lately).or(Some(now));
            (self.open, self.heard, self.sampled) = (true, now, now);
            (self.asked, self.last_asked, self.doubted) = (None, None, false);
            self.enter(now, PathState::Probing);
        }
    }

    pub(super) fn closed(&mut self, now: Timestamp, why: Closed) {
        if !self.open {
            return;
        }
        self.open = false;
        if self.state != PathState::Down {
            if why == Closed::Broken || self.state == PathState::Suspect {
                self.fail(now, DownWhy::Closed(Closed::Broken));
            } else {
                self.down_why = DownWhy::Closed(why);
                self.enter(now, PathState::Down);
            }
        }
        (self.asked, self.busy, self.rate_bytes_per_s) = (None, None, 0);
    }

    pub(super) fn fail(&mut self, now: Timestamp, why: DownWhy) {
        if self.state != PathState::Suspect {
            self.note_failure(now);
        }
        self.enter(now, PathState::Down);
        (self.down_why, self.proven, self.asked) = (why, None, None);
    }

    fn note_failure(&mut self, now: Timestamp) {
        if self.failures.len() == MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
    }

    pub(super) fn sample(&mut self, now: Timestamp, sample: Sample, options: &Options) {
        self.in_bytes = self.in_bytes.saturating_add(sample.in_bytes);
        self.out_bytes = self.out_bytes.saturating_add(sample.out_bytes);
        let time_ms = now.saturating_ms_since(self.sampled).max(1);
        self.sampled = now;
        let rate = sample.in_bytes.max(sample.out_bytes).saturating_mul(1000) / time_ms;
        self.rate_bytes_per_s = smooth(self.rate_bytes_per_s, rate, RATE_SMOOTHING);
        self.rtt_ms = sample.rtt_ms.or(self.rtt_ms);
        let lost = sample.lost_packets.min(sample.sent_packets).saturating_mul(1000);
        if let Some(lost) = lost.checked_div(sample.sent_packets) {
            self.loss_per_mille = smooth(self.loss_per_mille, lost, LOSS_SMOOTHING);
        }
        if sample.in_bytes.max(sample.out_bytes) >= options.busy_bytes {
            self.busy = Some(now);
        }
        if sample.in_bytes > 0 {
            self.heard = now;
            (self.asked, self.last_asked, self.doubted) = (None, None, false);
            if self.state != PathState::Up {
                self.enter(now, PathState::Up);
            }
            self.proven.get_or_insert(now);
        }
    }

    pub(super) fn was_asked(&mut self, now: Timestamp) {
        self.asked.get_or_insert(now);
        self.last_asked = Some(now);
    }

    /// The transport looks for it now. When the look before found nothing, it hasn't kept up.
    pub(super) fn look(&mut self, now: Timestamp) {
        if !self.open {
            if self.looked.is_some_and(|at| at > self.heard) {
                self.proven = None;
            }
            self.looked = Some(now);
        }
    }

    /// Time in which this process didn't run isn't silence.
    pub(super) fn forgive(&mut self, ms: u64) {
        self.heard = self.heard.saturating_add_ms(ms);
        self.asked = self.asked.map(|at| at.saturating_add_ms(ms));
    }

    pub(super) fn is_busy(&self, now: Timestamp, options: &Options) -> bool {
        self.busy.is_some_and(|at| now.saturating_ms_since(at) < options.busy_ms)
    }

    pub(super) fn doubt(&mut self) {
        self.doubted = self.open;
    }

    /// Whether it should be asked now whether it is there.
    pub(super) fn wants_asking(&self, now: Timestamp, options: &Options) -> bool {
        let patience = match self.is_busy(now, options) {
            _ if self.doubted => 0,
            true => options.ask_busy_ms,
            false => options.ask_idle_ms,
        };
        self.open
            && now.saturating_ms_since(self.heard) >= patience
            && self.last_asked.is_none_or(|at| now.saturating_ms_since(at) + 1 >= super::TICK_MS)
    }

    /// Time passes. `alone`: no other way to the peer is known. Returns whether it is dead now, and wasn't before.
    pub(super) fn tick(&mut self, now: Timestamp, alone: bool, options: &Options) -> bool {
        let Some(asked) = self.asked.filter(|_| self.open && self.state != PathState::Down) else { return false };
        let silent_ms = now.saturating_ms_since(asked);
        let rtt_ms = self.rtt_ms.unwrap_or_default();
        let dead_ms = match alone {
            _ if self.doubted => options.suspect_ms,
            true => options.dead_alone_ms,
            false => options.dead_ms,
        };
        if silent_ms >= dead_ms.max(8 * rtt_ms) {
            self.fail(now, DownWhy::Silent { ms: now.saturating_ms_since(self.heard) });
            return true;
        }
        if silent_ms >= options.suspect_ms.max(4 * rtt_ms) && self.state != PathState::Suspect {
            self.note_failure(now);
            self.enter(now, PathState::Suspect);
            self.proven = None;
        }
        false
    }

    /// How long the other end has been silent.
    pub(super) fn silent_ms(&self, now: Timestamp) -> u64 {
        now.saturating_ms_since(self.heard)
    }

    pub(super) fn is_usable(&self) -> bool {
        matches!(self.state, PathState::Up | PathState::Probing)
    }

    /// Whether it worked before: then it is worth another look.
    pub(super) fn has_worked(&self) -> bool {
        self.in_bytes > 0
    }

    /// Whether it was lost because it failed, and wasn't put aside.
    pub(super) fn has_failed(&self) -> bool {
        self.state == PathState::Down && !matches!(self.down_why, DownWhy::Untried | DownWhy::Closed(Closed::Reserve))
    }

    fn recent_failures(&self, now: Timestamp, options: &Options) -> u32 {
        let recent = self.failures.iter().filter(|at| now.saturating_ms_since(**at) < options.memory_ms);
        recent.count().min(MAX_FAILURES) as u32
    }

    /// Whether it has kept up for long enough since it last failed to be preferred to one that works.
    pub(super) fn is_settled(&self, now: Timestamp, options: &Options) -> bool {
        let Some(proven) = self.proven else { return false };
        let failures = self.recent_failures(now, options);
        let needed_ms = match failures {
            0 => 0,
            n => options.settle_ms.saturating_mul(1 << (n - 1)).min(options.max_settle_ms),
        };
        now.saturating_ms_since(proven) >= needed_ms
    }

    /// What a path of this class is worth before anything is measured, in milliseconds; less is better.
    pub(super) fn base_ms(class: LinkClass, policy: LinkPolicy) -> u64 {
        match (class, policy) {
            (LinkClass::Lan, _) => 0,
            (LinkClass::Direct, LinkPolicy::Normal) => 60,
            (LinkClass::Yggdrasil, LinkPolicy::Normal) => 150,
            (LinkClass::Relay, LinkPolicy::Normal) => 300,
            (LinkClass::Yggdrasil, LinkPolicy::PreferMesh) => 60,
            (LinkClass::Direct, LinkPolicy::PreferMesh) => 600,
            (LinkClass::Relay, LinkPolicy::PreferMesh) => 1_200,
            (LinkClass::Satellite, _) => 10_000,
            (LinkClass::Bundle, _) => 1_000_000,
        }
    }

    /// Base, round trip, and a percent of loss counted as twenty milliseconds; less is better.
    pub(super) fn score(&self, policy: LinkPolicy) -> u64 {
        Self::base_ms(self.class, policy) + self.rtt_ms.unwrap_or_default() + 2 * self.loss_per_mille
    }

    /// Whether bytes of this kind may go over it at all, whatever its state and budget.
    pub(super) fn may_carry(&self, demand: &Demand) -> bool {
        let affordable = match self.cost {
            LinkCost::Free => true,
            LinkCost::Metered => demand.traffic <= Traffic::Waited,
            LinkCost::Precious => {
                demand.traffic <= Traffic::Record || (demand.traffic == Traffic::Waited && demand.user_asked)
            }
        };
        let able = match self.capability {
            Capability::TwoWay => true,
            Capability::InOnly => false,
            Capability::StoreForward => !demand.needs_answer,
        };
        affordable && able
    }

    /// How many bytes of this kind it may carry now.
    pub(super) fn room(&self, demand: &Demand) -> u64 {
        self.budget.as_ref().map_or(u64::MAX, |budget| budget.room(demand.traffic))
    }
}

/// Rounded towards the new value, so that it gets there.
fn smooth(old: u64, new: u64, weight: u64) -> u64 {
    match old {
        old if new > old => old + (new - old).div_ceil(weight),
        old => old - (old - new).div_ceil(weight),
    }
}
