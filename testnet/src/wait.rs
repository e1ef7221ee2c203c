//! Waiting for what comes about by itself.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const POLL_EVERY: Duration = Duration::from_millis(50);

/// Asks `check` again and again until it answers, for at most `timeout`. A check says why it isn't satisfied yet by
/// its error; the last of these is in the error that this returns.
pub fn eventually<T>(what: &str, timeout: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        let error = match check() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if started.elapsed() >= timeout {
            bail!("{what}: not within {timeout:?}: {error:#}");
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Asks `check` for the whole of `time` and fails with the first refusal.
pub fn holds_for(what: &str, time: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        if let Err(error) = check() {
            bail!("{what}: held only for {:?}: {error:#}", started.elapsed());
        }
        thread::sleep(POLL_EVERY);
    }
    Ok(())
}
