//! wrk: a load generator.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    bench::{READY, root},
    proc::run,
};

/// What the lua script asks for each time.
pub(crate) const RANGE_BYTES: u64 = 256 << 10;
const SCRIPT: &str = "bench/src/scenario/ranges.lua";

/// What a run of it saw.
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    /// Its own processor time.
    pub(crate) cpu_s: f64,
}

/// Asks for random ranges of the file of `bytes` at `url`, on so many connections that stay open. Fails when any
/// request does, or when less came than was asked for.
pub(crate) fn random_ranges(url: &str, bytes: u64, connections: usize, time: Duration) -> Result<Load> {
    let mut command = Command::new("wrk");
    command.args(["-t2", &format!("-c{connections}"), &format!("-d{}s", time.as_secs()), "-s"]);
    command.arg(root()?.join(SCRIPT)).args([url, "--", &bytes.to_string()]);
    let finished = run(&command, time + READY)?;
    let counts = finished.stdout.lines().find_map(|line| line.strip_prefix("counted "));
    let counts: Vec<u64> = counts.context("wrk: no counts")?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, received, duration_us, failed] = counts[..] else { anyhow::bail!("wrk: {counts:?}") };
    ensure!(failed == 0, "wrk: {failed} requests of {requests} failed");
    ensure!(received >= requests * RANGE_BYTES, "wrk: {received} bytes of {requests} ranges");
    let seconds = Duration::from_micros(duration_us).as_secs_f64();
    Ok(Load { requests: requests as f64, seconds, cpu_s: finished.cpu_s })
}
