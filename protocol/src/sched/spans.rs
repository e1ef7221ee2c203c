//! Sets of chunk groups that change a little at a time.

use std::{collections::BTreeMap, ops::Range};

use super::groups::{Groups, runs};

/// Disjoint runs that don't touch each other, by start. Every operation costs the logarithm of the number of runs, plus
/// the runs that it touches: a blob fetched rarest first may have a hundred thousand of them, where merging whole
/// [`Groups`] for each stored batch would cost more than the batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    runs: BTreeMap<u64, u64>,
}

impl Spans {
    /// What of `groups` lies below `end`.
    pub(super) fn of(groups: &Groups, end: u64) -> Self {
        let within = runs(groups).map(|run| run.start..run.end.min(end));
        Self { runs: within.filter(|run| !run.is_empty()).map(|run| (run.start, run.end)).collect() }
    }

    pub(super) fn insert(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        let Range { mut start, mut end } = run;
        if let Some((&before, &before_end)) = self.runs.range(..start).next_back()
            && before_end >= start
        {
            (start, end) = (before, end.max(before_end));
        }
        while let Some((&inner, &inner_end)) = self.runs.range(start..=end).next() {
            self.runs.remove(&inner);
            end = end.max(inner_end);
        }
        self.runs.insert(start, end);
    }

    pub(super) fn remove(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        if let Some((&before, &before_end)) = self.runs.range(..run.start).next_back()
            && before_end > run.start
        {
            self.runs.insert(before, run.start);
            self.keep_behind(before_end, run.end);
        }
        while let Some((&inner, &inner_end)) = self.runs.range(run.clone()).next() {
            self.runs.remove(&inner);
            self.keep_behind(inner_end, run.end);
        }
    }

    /// What a run up to `run_end` leaves when everything before `cut` goes.
    fn keep_behind(&mut self, run_end: u64, cut: u64) {
        if run_end > cut {
            self.runs.insert(cut, run_end);
        }
    }

    /// The parts of the runs that lie in `within`, ascending.
    pub(super) fn runs_in(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = within.end.max(within.start);
        let before = self.runs.range(..within.start).next_back();
        let parts = before.into_iter().chain(self.runs.range(within.start..end));
        parts.map(move |(&start, &run_end)| start.max(within.start)..run_end.min(end)).filter(|part| !part.is_empty())
    }

    /// The first of [`Spans::runs_in`].
    pub(super) fn first_in(&self, within: Range<u64>) -> Option<Range<u64>> {
        self.runs_in(within).next()
    }

    /// How many groups lie in `within`.
    pub(super) fn count_in(&self, within: Range<u64>) -> u64 {
        self.runs_in(within).map(|run| run.end - run.start).sum()
    }

    pub(super) fn contains(&self, group: u64) -> bool {
        self.runs.range(..=group).next_back().is_some_and(|(_, &end)| end > group)
    }

    pub(super) fn covers(&self, run: &Range<u64>) -> bool {
        run.is_empty() || self.first_in(run.clone()).is_some_and(|first| first == *run)
    }

    pub(super) fn to_groups(&self) -> Groups {
        self.runs.iter().fold(Groups::empty(), |mut all, (&start, &end)| {
            all.union_with(&Groups::from(start..end));
            all
        })
    }
}
