//! sendme: iroh-blobs as people use it, without its relays.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    bench::Bench,
    peers::program,
    proc::{Finished, Proc, run},
};

const COMMON: [&str; 5] = ["--relay", "disabled", "--no-progress", "--magic-ipv4-addr", "127.0.0.1:0"];

/// A process that sends one file.
pub(crate) struct Sender {
    pub(crate) proc: Proc,
    ticket: String,
    _dir: TempDir,
}

impl Sender {
    pub(crate) fn start(bench: &Bench, file: &Path, ready: Duration) -> Result<Self> {
        let dir = bench.fresh_dir("sendme")?;
        let mut command = Command::new(program("sendme")?);
        command.arg("send").args(COMMON).args(["--ticket-type", "addresses"]).arg(file).current_dir(dir.path());
        let mut proc = Proc::spawn(dir.path(), "send", &command)?;
        let line = proc.wait_for("sendme receive", ready)?;
        let ticket = line.split_whitespace().last().context("no ticket")?.to_owned();
        Ok(Self { proc, ticket, _dir: dir })
    }

    /// Receives the file into `dir` and ends.
    pub(crate) fn receive(&self, dir: &Path, timeout: Duration) -> Result<Finished> {
        let mut command = Command::new(program("sendme")?);
        command.arg("receive").args(COMMON).arg(&self.ticket).current_dir(dir);
        run(&command, timeout)
    }
}
