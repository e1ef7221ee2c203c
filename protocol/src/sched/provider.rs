//! What the scheduler knows about one provider.

use std::ops::Range;

use super::{
    DemandClass, Options,
    groups::{GROUP_BYTES, Groups, first_run, runs},
};
use crate::Timestamp;

/// Refused ranges remembered of one provider; older ones are forgotten first (and asked for again).
const MAX_REFUSED: usize = 256;

/// A unit that came faster than this makes the provider's next ones longer.
const QUICK_UNIT_MS: u64 = 250;

#[derive(Debug)]
pub(super) struct Provider {
    /// Connected.
    here: bool,
    /// It lied.
    pub(super) banned: bool,
    /// What it said it has; everything when it said nothing.
    pub(super) known: Option<Groups>,
    pub(super) in_flight: usize,
    /// Units it may have in flight.
    window: usize,
    /// Length of its next units.
    unit_bytes: u64,
    /// Measured bytes per second of one unit's stream, smoothed; `None` before the first.
    rate: Option<u64>,
    /// Single groups that it said it lacks.
    absent: Groups,
    /// Longer runs that it said it lacks; it may have parts of them.
    refused: Vec<Range<u64>>,
    /// When the two above are forgotten.
    forget_at: Option<Timestamp>,
    /// How long they are remembered.
    forget_ms: u64,
    /// Refusals since it last brought something.
    streak: u32,
    /// At how many it is left alone.
    streak_limit: u32,
    /// Stalls and broken streams since it last brought a unit.
    failures: u32,
    /// Isn't asked before.
    resting_until: Option<Timestamp>,
}

impl Provider {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            here: false,
            banned: false,
            known: None,
            in_flight: 0,
            window: options.start_units.clamp(1, options.max_units.max(1)),
            unit_bytes: options.min_unit_bytes,
            rate: None,
            absent: Groups::empty(),
            refused: Vec::new(),
            forget_at: None,
            forget_ms: options.missing_ms,
            streak: 0,
            streak_limit: options.missing_streak.max(1),
            failures: 0,
            resting_until: None,
        }
    }

    pub(super) fn join(&mut self) {
        self.here = true;
    }

    /// What it lacked it may have when it comes back.
    pub(super) fn leave(&mut self) {
        self.here = false;
        self.known = None;
        self.forget();
    }

    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.here && !self.banned && self.resting_until.is_none_or(|until| until <= now)
    }

    pub(super) fn is_free(&self, now: Timestamp) -> bool {
        self.is_usable(now) && self.in_flight < self.window
    }

    /// Which of `groups` it may have as far as we know.
    pub(super) fn eligible(&self, groups: &Groups) -> Groups {
        let mut eligible = self.plausible(groups);
        for run in &self.refused {
            eligible.difference_with(&Groups::from(run.clone()));
        }
        eligible
    }

    /// A piece of the first of `groups` that is shorter than every refused run around it: it may have a part of what
    /// it refused as a whole.
    pub(super) fn finer(&self, groups: &Groups) -> Option<Groups> {
        let run = first_run(&self.plausible(groups))?;
        let around = self.refused.iter().filter(|refused| refused.contains(&run.start));
        let shortest = around.map(|refused| refused.end - refused.start).min().unwrap_or(2);
        let end = run.end.min(run.start + (shortest / 2).max(1));
        Some(Groups::from(run.start..end))
    }

    fn plausible(&self, groups: &Groups) -> Groups {
        let rest: Groups = groups.difference(&self.absent);
        match &self.known {
            Some(known) => rest.intersection(known),
            None => rest,
        }
    }

    /// Milliseconds until a further unit would be there, by what was measured; new providers are tried early.
    pub(super) fn wait_ms(&self, options: &Options) -> u64 {
        let queued = (self.in_flight as u64 + 1).saturating_mul(options.min_unit_bytes);
        queued.saturating_mul(1000) / self.rate.unwrap_or(16 << 20).max(1)
    }

    /// Short units for the playhead, so that its bytes come from several providers at once.
    pub(super) fn unit_bytes(&self, options: &Options, class: DemandClass) -> u64 {
        match class {
            DemandClass::Playhead => options.min_unit_bytes,
            DemandClass::Lookahead | DemandClass::Background => self.unit_bytes,
        }
        .max(GROUP_BYTES)
    }

    pub(super) fn succeeded(&mut self, options: &Options, bytes: u64, took_ms: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.brought_something(options);
        (self.failures, self.resting_until) = (0, None);
        let rate = bytes.saturating_mul(1000) / took_ms.max(1);
        self.rate = Some(self.rate.map_or(rate, |old| (old / 4).saturating_mul(3).saturating_add(rate / 4)));
        self.window = (self.window + 1).min(options.max_units.max(1));
        self.unit_bytes = match took_ms {
            0..QUICK_UNIT_MS => (self.unit_bytes * 2).min(options.max_unit_bytes),
            _ => (self.unit_bytes / 2).max(options.min_unit_bytes),
        };
    }

    /// It answered that it lacks `rest`. `fed`: but it brought something before.
    pub(super) fn lacks(&mut self, now: Timestamp, options: &Options, rest: &Groups, fed: bool) {
        self.window = (self.window / 2).max(1);
        if fed {
            self.brought_something(options);
        }
        for run in runs(rest) {
            match run.end - run.start {
                1 => self.absent.union_with(&Groups::from(run)),
                _ => self.refused.push(run),
            }
        }
        let surplus = self.refused.len().saturating_sub(MAX_REFUSED);
        self.refused.drain(..surplus);
        let forget_at = *self.forget_at.get_or_insert(now.saturating_add_ms(self.forget_ms));
        self.streak += 1;
        if self.streak >= self.streak_limit {
            self.rest_until(forget_at);
        }
    }

    fn brought_something(&mut self, options: &Options) {
        (self.streak, self.streak_limit, self.forget_ms) = (0, options.missing_streak.max(1), options.missing_ms);
    }

    fn forget(&mut self) {
        self.absent = Groups::empty();
        self.refused.clear();
        self.forget_at = None;
    }

    pub(super) fn stalled(&mut self, now: Timestamp, options: &Options) {
        self.window = 1;
        self.unit_bytes = options.min_unit_bytes;
        self.rate = self.rate.map(|rate| rate / 4);
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

    fn rest_until(&mut self, until: Timestamp) {
        self.resting_until = self.resting_until.max(Some(until));
    }

    /// Time has passed.
    pub(super) fn refresh(&mut self, now: Timestamp, options: &Options) {
        self.resting_until = self.resting_until.filter(|until| *until > now);
        if self.forget_at.is_some_and(|at| at <= now) {
            self.forget();
            if self.streak > 0 {
                self.forget_ms = (self.forget_ms * 2).min(options.max_missing_ms);
                self.streak_limit = self.streak_limit.saturating_mul(2);
                self.streak = 0;
            }
        }
    }

    /// When time alone makes it askable (again).
    pub(super) fn next_change(&self) -> Option<Timestamp> {
        if !self.here || self.banned {
            return None;
        }
        [self.forget_at, self.resting_until].into_iter().flatten().min()
    }
}
