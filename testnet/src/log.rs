//! What a process logs, kept while it runs.

use std::{
    io::Read,
    sync::{Arc, Mutex, PoisonError},
};

const TAIL_BYTES: usize = 64 * 1024;

/// The log of a process. Clones are the same log, which stays when the process is gone.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes in everything that comes from `from`, until its end.
    pub(crate) fn collect(&self, mut from: impl Read) {
        let mut buffer = [0; 8192];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
    }

    /// The end of it.
    pub fn tail(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(log.get(log.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default()).into_owned()
    }

    /// Its last lines, at most so many.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let tail = self.tail();
        let lines: Vec<&str> = tail.lines().collect();
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().iter().map(|line| (*line).into()).collect()
    }
}
