//! The program as its users meet it: real `mhc` processes on loopback, driven by the command line, HTTP, a browser
//! and another project's tool. `docs/faults.md` says which fault is tried where.

// A test that can't go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_http;
mod bad_input;
mod browser;
mod bundle;
mod carousel;
mod cli;
mod emergency;
mod flood;
mod hostile;
mod kill9;
mod lan;
mod network;
mod networks;
mod sendme;
mod sync;
mod three_nodes;
mod upgrade;
mod uplink;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use mhc_testnet::{Node, NodeOptions, Rng, eventually, node::text};

/// How long what crosses the network may take where no promise is made.
const SOON: Duration = Duration::from_secs(30);

/// The program under test.
fn mhc() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mhc"))
}

/// Where fixtures are kept between runs.
fn fixtures() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn options(name: &str) -> NodeOptions {
    NodeOptions::new(mhc(), name)
}

fn start(name: &str) -> Result<Node> {
    options(name).start()
}

fn join(name: &str, ticket: &str) -> Result<Node> {
    options(name).peer(ticket).start()
}

/// A file of `len` random bytes beside the node's home, and the bytes.
fn random_file(node: &Node, name: &str, rng: &mut Rng, len: usize) -> Result<(PathBuf, Vec<u8>)> {
    let bytes = rng.bytes(len);
    let path = node.home().with_file_name(name);
    std::fs::write(&path, &bytes)?;
    Ok((path, bytes))
}

/// Waits until the node lists the content.
fn lists(node: &Node, content: &str, within: Duration) -> Result<()> {
    eventually("the content is listed", within, || {
        let listed = node.list()?;
        ensure!(listed.iter().any(|item| text(item, "content").is_ok_and(|id| id == content)), "listed: {listed:?}");
        Ok(())
    })
}

/// Waits until the node's peers include `other`.
fn knows(node: &Node, other: &Node) -> Result<()> {
    let id = other.ready()?.node.clone();
    eventually("the peer is listed", SOON, || {
        let peers = node.json(&["peers"])?;
        ensure!(peers.to_string().contains(&id), "peers: {peers}");
        Ok(())
    })
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Says loudly that a test couldn't be done here, and why.
fn skipped(test: &str, why: &str) {
    eprintln!("\n!!! SKIPPED {test}: {why}\n");
}

fn sha(bytes: &[u8]) -> String {
    mhc_protocol::BlobHash::of(bytes).to_string()
}
