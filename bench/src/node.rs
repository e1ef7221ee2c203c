//! An `mhc` node under measurement.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Http, eventually, node::text};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bench::{Bench, LONGEST, READY, command_in},
    proc::{Finished, Proc, run, run_with},
};

const POLL_EVERY: Duration = Duration::from_millis(5);

/// How to start a node.
#[derive(Default)]
pub(crate) struct Start<'a> {
    /// Tickets of nodes to connect to.
    pub(crate) peers: &'a [String],
    /// Where to start it; on loopback otherwise.
    pub(crate) netns: Option<&'a str>,
    pub(crate) env: &'a [(&'a str, &'a str)],
}

/// A running node with a home of its own, which ends and goes with it.
pub(crate) struct Node {
    // Dropped in this order: the process before its home.
    proc: Proc,
    home: TempDir,
    mhc: PathBuf,
    netns: Option<String>,
    http: String,
}

impl Node {
    pub(crate) fn start(bench: &Bench, name: &str, start: &Start<'_>) -> Result<Self> {
        let home = bench.fresh_dir(name)?;
        let mut command = mhc(&bench.mhc(), home.path(), start.netns);
        command.args(["up", "--json", "--no-mdns", "--http", "127.0.0.1:0", "--p2p-port", "0"]);
        for ticket in start.peers {
            command.args(["--peer", ticket]);
        }
        command.env("MHC_LOG", "warn").envs(start.env.iter().copied());
        let mut proc = Proc::spawn(home.path(), "up", &command)?;
        let ready: Value = serde_json::from_str(&proc.wait_for("\"ready\"", READY)?)?;
        let http = text(&ready, "http")?;
        Ok(Self { proc, home, mhc: bench.mhc(), netns: start.netns.map(str::to_owned), http })
    }

    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// The gateway as `host:port`, in the node's own network.
    pub(crate) fn gateway(&self) -> &str {
        self.http.trim_start_matches("http://")
    }

    /// A client of the gateway with the operator's token, for nodes on the machine's own network.
    pub(crate) fn http(&self) -> Result<Http> {
        let token = fs::read_to_string(self.home.path().join("api.token")).context("api.token")?;
        Ok(Http::new(&self.http, Some(token.trim().to_owned())))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = mhc(&self.mhc, self.home.path(), self.netns.as_deref());
        command.args(args).arg("--json");
        command
    }

    /// Runs a command line on this node and returns its document.
    fn json(&self, args: &[&str]) -> Result<Value> {
        let printed = run(&self.command(args), LONGEST)?.stdout;
        serde_json::from_str(&printed).with_context(|| format!("not JSON: {printed}"))
    }

    pub(crate) fn ticket(&self) -> Result<String> {
        text(&self.json(&["ticket"])?, "ticket")
    }

    /// Publishes a file and returns the blob's hash.
    pub(crate) fn publish(&self, file: &Path, further: &[&str]) -> Result<String> {
        text(&self.json(&[&["publish", path(file)?], further].concat())?, "blob")
    }

    /// `mhc publish`, timed.
    pub(crate) fn publish_timed(&self, file: &Path, further: &[&str]) -> Result<Finished> {
        run(&self.command(&[&["publish", path(file)?], further].concat()), LONGEST)
    }

    /// `mhc get`, timed. `meanwhile` is called while it goes on.
    pub(crate) fn get_timed(
        &self,
        blob: &str,
        to: &Path,
        timeout: Duration,
        meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Finished> {
        run_with(&self.command(&["get", blob, "-o", path(to)?]), timeout, meanwhile)
    }

    /// Asks the node to keep the blob and waits until it has all of it; seconds from the asking.
    pub(crate) fn pin_timed(&self, blob: &str) -> Result<f64> {
        let http = self.http()?;
        let started = Instant::now();
        let reply = http.request("PUT", &format!("/api/v1/node/pins/{blob}"), &[], &[])?;
        ensure!(reply.status == 200 || reply.status == 202, "pin: {} {}", reply.status, reply.text());
        loop {
            let status = http.get(&format!("/api/v1/node/blobs/{blob}"))?.json()?;
            if status.get("complete").and_then(Value::as_bool) == Some(true) {
                return Ok(started.elapsed().as_secs_f64());
            }
            ensure!(started.elapsed() < LONGEST, "pin: not complete: {status}");
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Waits until the node is connected with `count` members of its network.
    pub(crate) fn wait_for_peers(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} peers"), READY, || {
            let peers = self.json(&["peers"])?;
            let member = |peer: &&Value| {
                peer.get("connected").and_then(Value::as_bool) == Some(true)
                    && peer.get("membership").and_then(Value::as_str) == Some("member")
            };
            let found = peers.as_array().map_or(0, |peers| peers.iter().filter(member).count());
            ensure!(found >= count, "{found} of {count}: {peers}");
            Ok(())
        })
    }
}

/// `mhc` on a home, with nothing of the caller's environment that would change what it does.
fn mhc(program: &Path, home: &Path, netns: Option<&str>) -> Command {
    let mut command = command_in(netns, program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MHC_")) {
        command.env_remove(name);
    }
    if netns.is_none() {
        command.env("MHC_P2P__LISTEN", "127.0.0.1");
    }
    command.env("MHC_HOME", home);
    command
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} isn't UTF-8", path.display()))
}
