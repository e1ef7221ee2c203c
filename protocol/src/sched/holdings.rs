//! What one provider has of the blob, as far as we know.

use std::ops::Range;

use super::{
    Options,
    groups::{Groups, overlap},
    spans::Spans,
};
use crate::Timestamp;

/// Refused ranges remembered of one provider; older ones are forgotten first (and asked for again).
const MAX_REFUSED: usize = 256;

/// Its bitfield if it told us, and what it refused. Refusals are believed for a while only: it may be fetching too.
#[derive(Debug)]
pub(super) struct Holdings {
    /// What it said it has; everything when it said nothing.
    known: Option<Spans>,
    /// Single groups that it said it lacks.
    absent: Spans,
    /// Longer runs that it said it lacks; it may have parts of them.
    refused: Vec<Range<u64>>,
    /// The two above together.
    lacking: Spans,
    /// When they are forgotten.
    forget_at: Option<Timestamp>,
    /// How long they are remembered.
    forget_ms: u64,
    /// Refusals since it last brought something.
    streak: u32,
    /// At how many it is left alone.
    streak_limit: u32,
}

impl Holdings {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            known: None,
            absent: Spans::default(),
            refused: Vec::new(),
            lacking: Spans::default(),
            forget_at: None,
            forget_ms: options.missing_ms,
            streak: 0,
            streak_limit: options.missing_streak.max(1),
        }
    }

    /// It has exactly `groups` of the blob's `count`. What it refused stays refused for its time, whatever it says.
    pub(super) fn set(&mut self, groups: &Groups, count: u64) {
        self.known = Some(Spans::of(groups, count));
    }

    /// The connection is gone: what it lacked it may have when it comes back.
    pub(super) fn unset(&mut self) {
        self.known = None;
        self.forget();
    }

    /// It has less than everything, and told us so.
    pub(super) fn is_partial(&self, count: u64) -> bool {
        self.known.as_ref().is_some_and(|known| !known.covers(&(0..count)))
    }

    /// It may have `group`.
    pub(super) fn may_have(&self, group: u64) -> bool {
        self.known.as_ref().is_none_or(|known| known.contains(group)) && !self.lacking.contains(group)
    }

    /// The first run in `within` that it may have.
    pub(super) fn first_in(&self, mut within: Range<u64>) -> Option<Range<u64>> {
        if self.known.is_none() && self.forget_at.is_none() {
            return Some(within).filter(|all| !all.is_empty()); // Most providers, most of the time.
        }
        while !within.is_empty() {
            let held = match &self.known {
                Some(known) => known.first_in(within.clone())?,
                None => within.clone(),
            };
            match self.lacking.first_in(held.clone()) {
                None => return Some(held),
                Some(gap) if gap.start > held.start => return Some(held.start..gap.start),
                Some(gap) => within.start = gap.end,
            }
        }
        None
    }

    /// The runs that it refused as a whole.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Range<u64>> {
        self.refused.iter()
    }

    /// The first part of a refused run that it may have nevertheless, shorter than every refused run around it.
    pub(super) fn finer_in(&self, mut within: Range<u64>) -> Option<Range<u64>> {
        while !within.is_empty() {
            let held = match &self.known {
                Some(known) => known.first_in(within.clone())?,
                None => within.clone(),
            };
            match self.absent.first_in(held.clone()) {
                Some(gap) if gap.start == held.start => within.start = gap.end,
                gap => return Some(self.shorten(held.start..gap.map_or(held.end, |gap| gap.start))),
            }
        }
        None
    }

    fn shorten(&self, run: Range<u64>) -> Range<u64> {
        let around = self.refused.iter().filter(|refused| refused.contains(&run.start));
        let shortest = around.map(|refused| refused.end - refused.start).min().unwrap_or(2);
        overlap(&run, &(run.start..run.start + (shortest / 2).max(1)))
    }

    /// It lacks `rest`. Returns until when it is to be left alone, if it has refused too often.
    pub(super) fn lacks(&mut self, now: Timestamp, rest: Range<u64>) -> Option<Timestamp> {
        self.lacking.insert(rest.clone());
        match rest.end.saturating_sub(rest.start) {
            0 => {}
            1 => self.absent.insert(rest),
            _ => self.refused.push(rest),
        }
        if self.refused.len() > MAX_REFUSED {
            self.refused.drain(..MAX_REFUSED / 2);
            self.lacking = self.absent.clone();
            self.refused.iter().for_each(|run| self.lacking.insert(run.clone()));
        }
        let forget_at = *self.forget_at.get_or_insert(now.saturating_add_ms(self.forget_ms));
        self.streak += 1;
        (self.streak >= self.streak_limit).then_some(forget_at)
    }

    /// It brought something, so it is no mere refuser.
    pub(super) fn brought(&mut self, options: &Options) {
        (self.streak, self.streak_limit, self.forget_ms) = (0, options.missing_streak.max(1), options.missing_ms);
    }

    /// Forgets refusals whose time has come; true if it did.
    pub(super) fn refresh(&mut self, now: Timestamp, options: &Options) -> bool {
        if self.forget_at.is_none_or(|at| at > now) {
            return false;
        }
        self.forget();
        if self.streak > 0 {
            self.forget_ms = (self.forget_ms * 2).min(options.max_missing_ms);
            self.streak_limit = self.streak_limit.saturating_mul(2);
            self.streak = 0;
        }
        true
    }

    pub(super) fn forget_at(&self) -> Option<Timestamp> {
        self.forget_at
    }

    fn forget(&mut self) {
        (self.absent, self.lacking) = (Spans::default(), Spans::default());
        self.refused.clear();
        self.forget_at = None;
    }
}
