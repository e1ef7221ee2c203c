//! Catching up with a node that has many records, through kills and on a disk that fills up.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mhc_protocol::{
    BlobHash, NetworkId, SecretKey, Timestamp,
    manifest::{BlobRef, MANIFEST, Manifest, MediaKind},
    record::{Body, Draft, VerifiedRecord},
};
use mhc_storage::record::{Projection, Records, RecordsOptions};
use mhc_testnet::{Node, Rng, eventually, node::text};

use super::{bad_input::SmallDisk, options, skipped};

const AUTHORS: u64 = 20;
const EACH: u64 = 500;
const TOTAL: u64 = AUTHORS * EACH;
const AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(120);

/// A node that has [`TOTAL`] records of many authors.
fn full_node(dir: &Path) -> Result<Node> {
    let mut node = Node::prepare(options("full"), dir.join("home"));
    let network: NetworkId = text(&node.json(&["network", "create"])?, "network")?.parse()?;
    let services = mhc_platform::services().into_iter().map(|service| service as std::sync::Arc<dyn Projection>);
    let store = Records::open(&node.home().join("records"), RecordsOptions::default(), services.collect())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for author in 0..AUTHORS {
            store.append(log(network, author)?).await?;
        }
        store.close().await;
        anyhow::Ok(())
    })?;
    drop(store);
    node.restart()?;
    ensure!(records(&node)? == TOTAL);
    Ok(node)
}

fn log(network: NetworkId, author: u64) -> Result<Vec<VerifiedRecord>> {
    let key = SecretKey::from_seed(BlobHash::of(&author.to_le_bytes()).as_bytes());
    let mut prev = None;
    let write = |seq: u64| {
        let hash = BlobHash::of(&(author * EACH + seq).to_le_bytes());
        let original = BlobRef { hash, bytes: 8, content_type: "video/mp4".into(), name: None };
        let title = format!("Film {seq} of {author}");
        let manifest = Manifest { description: "x".repeat(400), ..Manifest::new(title, MediaKind::Video, original) };
        let body = Body { salt: [0; 16], bytes: manifest.encode()? };
        let record = Draft { network, epoch: 0, seq, prev, at: AT, kind: MANIFEST, body }.sign(&key)?;
        prev = Some(record.id());
        Ok(record)
    };
    (0..EACH).map(write).collect()
}

fn records(node: &Node) -> Result<u64> {
    node.json(&["status"])?["records"].as_u64().context("no count")
}

fn has_caught_up(node: &Node) -> Result<()> {
    eventually("it catches up", CATCHES_UP_WITHIN, || {
        let count = records(node)?;
        ensure!(count == TOTAL, "{count} of {TOTAL}");
        Ok(())
    })?;
    let doctor = node.run(&["doctor", "--json"])?;
    ensure!(doctor.code == 0, "{doctor:?}");
    Ok(())
}

#[test]
fn a_node_that_is_killed_again_and_again_catches_up() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let full = full_node(dir.path())?;
    let mut rng = Rng::from_env();
    let mut late = Node::prepare(options("late").peer(&full.ticket()?), dir.path().join("late"));
    let mut before = 0;
    for round in 0..5 {
        late.restart()?;
        let kept = records(&late)?;
        ensure!(kept >= before, "round {round}: {kept} records after a kill, {before} before");
        // Not a wait for anything: the moment of the kill is what this test varies.
        thread::sleep(Duration::from_millis(rng.below(700)));
        before = records(&late)?;
        late.kill();
    }
    late.restart()?;
    has_caught_up(&late)
}

#[test]
fn a_node_whose_disk_fills_up_while_it_catches_up_goes_on_when_there_is_room() -> Result<()> {
    let Some(disk) = SmallDisk::new(128)? else {
        skipped(
            "a_node_whose_disk_fills_up_while_it_catches_up_goes_on_when_there_is_room",
            "a tmpfs can't be mounted here",
        );
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let full = full_node(dir.path())?;
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 110 << 20])?;
    let options = options("late").peer(&full.ticket()?).env("MHC_STORAGE__MIN_FREE_BYTES", "1048576");
    let mut late = Node::prepare(options, disk.0.path().join("home"));
    late.restart()?;
    eventually("the disk is full", CATCHES_UP_WITHIN, || {
        let status = late.json(&["status"])?;
        ensure!(status["mode"] == "read_only", "{status}");
        Ok(())
    })?;
    ensure!(records(&late)? < TOTAL, "the disk was large enough");
    ensure!(!late.list()?.is_empty(), "what came before is shown");
    fs::remove_file(ballast)?;
    has_caught_up(&late)
}
