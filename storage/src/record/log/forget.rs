//! Forgetting whole logs that the node has no interest in any more.

use super::LogTx;
use crate::{
    kv::{KeyRange, KvError},
    record::{
        Forgotten,
        tables::{HEADS, LogId, METERS, Position, QUARANTINE},
    },
};

impl LogTx<'_> {
    /// Drops these logs from their ends on, some `budget` records of them, as if they had never been here. What is left
    /// after each call are whole logs, one of which may be shorter.
    pub(in crate::record) fn forget(&mut self, logs: &[LogId], budget: usize) -> Result<Forgotten, KvError> {
        let before = self.count;
        let mut done = 0;
        for log in logs {
            let left = budget.saturating_sub(usize::try_from(before - self.count).unwrap_or(usize::MAX));
            if left == 0 || !self.forget_end(*log, left)? {
                break;
            }
            done += 1;
        }
        Ok(Forgotten { records: before - self.count, logs: done })
    }

    /// Drops the last records of a log; returns whether none is left.
    fn forget_end(&mut self, log: LogId, budget: usize) -> Result<bool, KvError> {
        let (start, end) = (Position::START.key(log), super::log_end(log));
        let last = self.keys(KeyRange::new(&start, &end).reversed(), budget)?;
        let is_all = last.len() < budget;
        let Some(first) = last.last() else { return self.forget_traces(log).map(|()| true) };
        let from = if is_all { start } else { first.position.key(log) };
        self.cut_from(log, &from)?;
        match is_all {
            true => self.forget_traces(log)?,
            false => self.set_head_before(first)?,
        }
        Ok(is_all)
    }

    fn forget_traces(&mut self, log: LogId) -> Result<(), KvError> {
        let key = log.key();
        self.tx.delete(HEADS, &key)?;
        self.tx.delete(METERS, &key)?;
        let aside = self.tx.scan(QUARANTINE, KeyRange::prefix(&key), usize::MAX)?;
        aside.iter().try_for_each(|(key, _)| self.tx.delete(QUARANTINE, key))
    }
}
