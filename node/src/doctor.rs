//! What can be checked about a node's surroundings without the node: disk, keys, clock, ports, programs, limits.
//! What needs its services (the index against the log, the blobs) is checked by the running node.

mod ports;
mod programs;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mhc_config::Config;
use serde::{Deserialize, Serialize};

use crate::home;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// The node runs, and something is worse than it could be.
    Warn,
    /// The node doesn't run, or not right, until this is mended.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `disk`, `keys`, `clock`...
    pub check: String,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do about it, when there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    /// `check` is as it should be.
    pub fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Ok, detail: detail.into(), mend: None }
    }

    /// `check` could be better.
    pub fn warn(check: &str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Warn, detail: detail.into(), mend: Some(mend.into()) }
    }

    /// `check` must be mended.
    pub fn fail(check: &str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Fail, detail: detail.into(), mend: Some(mend.into()) }
    }
}

/// 2024-01-01T00:00:00Z: a clock before it was never set.
const EARLIEST: Duration = Duration::from_secs(1_704_067_200);
/// How far a file may lie in the future before the clock is doubted.
const SKEW: Duration = Duration::from_secs(300);
/// Receive buffer QUIC wants, in bytes: with less, packets are lost at some 100 Mbit/s.
const UDP_BUFFER_BYTES: u64 = 2_500_000;
/// File handles a busy node needs, and those without which none runs.
const FILES_WANTED: u64 = 4096;
const FILES_NEEDED: u64 = 256;

/// All checks of the home `dir`. `now` is the system's clock; `running` whether a node serves on this home, which
/// then has the ports. Blocks: it touches the disk and starts programs to ask for their versions.
pub fn check(dir: &Path, config: &Config, now: SystemTime, running: bool) -> Vec<Check> {
    let mut checks = vec![writable(dir), space(dir, config.storage.min_free_bytes)];
    checks.extend(keys(dir));
    checks.push(clock(now, newest(dir)));
    checks.extend(ports::check(config, running));
    checks.extend(programs::check());
    checks.push(udp_buffer(read_number("/proc/sys/net/core/rmem_max")));
    // A node raises its limit to this by itself.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    checks.push(file_handles(files));
    checks
}

/// Writes and removes a file, in the home or in what it would be made in.
fn writable(dir: &Path) -> Check {
    let place = nearest_there(dir);
    let probe = place.join(format!(".mhc-doctor-{}", std::process::id()));
    let written = fs::write(&probe, b"written by `mhc doctor`");
    let removed = fs::remove_file(&probe);
    match written.and(removed) {
        Ok(()) => Check::ok("home", format!("{} can be written", place.display())),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Check::fail(
            "home",
            format!("{}: the disk is full", place.display()),
            "free space; until then the node only reads",
        ),
        Err(error) => {
            let mend = "give the user that runs mhc the right to write there, or choose another --home";
            Check::fail("home", format!("{} can't be written: {error}", place.display()), mend)
        }
    }
}

/// `dir`, or the lowest folder above it that exists.
fn nearest_there(dir: &Path) -> PathBuf {
    let there = dir.ancestors().find(|dir| dir.is_dir());
    there.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn space(dir: &Path, min_free_bytes: u64) -> Check {
    let place = nearest_there(dir);
    match rustix::fs::statvfs(&place) {
        Ok(stat) => space_of(stat.f_bavail.saturating_mul(stat.f_frsize), min_free_bytes),
        Err(error) => Check::warn("disk", format!("free space isn't known: {error}"), "look with `df`"),
    }
}

fn space_of(free_bytes: u64, min_free_bytes: u64) -> Check {
    let mib = |bytes: u64| bytes >> 20;
    let detail = format!("{} MiB free", mib(free_bytes));
    if free_bytes < min_free_bytes {
        let mend = format!(
            "free at least {} MiB (`mhc gc` helps), or lower storage.min_free_bytes; until then the node only reads",
            mib(min_free_bytes - free_bytes) + 1
        );
        return Check::fail("disk", detail, mend);
    }
    if free_bytes < min_free_bytes.saturating_mul(4) {
        return Check::warn("disk", detail, "free some space soon, or set storage.quota_bytes");
    }
    Check::ok("disk", detail)
}

fn keys(dir: &Path) -> Vec<Check> {
    let wrong = home::inspect(dir);
    if wrong.is_empty() {
        let there = dir.join("keys/node.key").exists();
        let detail =
            if there { "the keys are there and nobody else can read them" } else { "no keys yet: `mhc up` makes them" };
        return vec![Check::ok("keys", detail)];
    }
    let check = |error: &home::HomeError| {
        let text = error.to_string();
        let (detail, mend) = text.split_once(": ").unwrap_or((&text, "see above"));
        Check::fail("keys", detail, mend)
    };
    wrong.iter().map(check).collect()
}

/// When the youngest file of the home was written.
fn newest(dir: &Path) -> Option<SystemTime> {
    let modified = |entry: io::Result<fs::DirEntry>| entry.ok()?.metadata().ok()?.modified().ok();
    fs::read_dir(dir).ok()?.filter_map(modified).max()
}

fn clock(now: SystemTime, newest: Option<SystemTime>) -> Check {
    const MEND: &str = "set the clock (`timedatectl set-ntp true`); records with a wrong time are refused by others";
    if now.duration_since(UNIX_EPOCH).unwrap_or_default() < EARLIEST {
        return Check::fail("clock", "the clock says it is before 2024", MEND);
    }
    let ahead = newest.and_then(|newest| newest.duration_since(now).ok()).unwrap_or_default();
    if ahead > SKEW {
        return Check::warn("clock", format!("files of the home are {} s in the future", ahead.as_secs()), MEND);
    }
    Check::ok("clock", "plausible")
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn udp_buffer(most_bytes: Option<u64>) -> Check {
    match most_bytes {
        None => Check::ok("udp_buffer", "this system doesn't tell"),
        Some(most) if most < UDP_BUFFER_BYTES => Check::warn(
            "udp_buffer",
            format!("receive buffers are limited to {most} bytes; fast transfers lose packets"),
            format!("sysctl -w net.core.rmem_max={UDP_BUFFER_BYTES} net.core.wmem_max={UDP_BUFFER_BYTES}"),
        ),
        Some(most) => Check::ok("udp_buffer", format!("{most} bytes")),
    }
}

fn file_handles(limit: Option<u64>) -> Check {
    let detail = limit.map_or("no limit".into(), |limit| format!("{limit} files may be open"));
    let mend = format!("raise the hard limit: `ulimit -Hn {FILES_WANTED}`, or LimitNOFILE= in the service file");
    match limit {
        Some(limit) if limit < FILES_NEEDED => Check::fail("file_handles", detail, mend),
        Some(limit) if limit < FILES_WANTED => Check::warn("file_handles", detail, mend),
        _ => Check::ok("file_handles", detail),
    }
}

#[cfg(test)]
mod tests;
