//! Kill -9 at random moments while nodes publish, gossip and fetch. Whatever was acknowledged is there afterwards.
//!
//! `MHC_SOAK=1` kills 100 times instead of 6; `MHC_SEED` repeats a run.

use std::{
    io::Read,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Http, Node, Rng, eventually, http::Part, node::text};
use serde_json::Value;

use super::{SOON, join, knows, lists, mhc, options, random_file, sha, start};

const LONGEST_ROUND_MS: u64 = 1_500;
const LARGEST_FILE_BYTES: u64 = 1 << 20;

fn rounds() -> usize {
    if std::env::var_os("MHC_SOAK").is_some() { 100 } else { 6 }
}

/// A publication that the node acknowledged.
#[derive(Clone)]
struct Acknowledged {
    content: String,
    blob: String,
    bytes: Vec<u8>,
}

#[test]
fn everything_acknowledged_survives_kills_at_random_moments() -> Result<()> {
    let mut rng = Rng::from_env();
    let mut a = start("a")?;
    let mut b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    a.keep_ports()?;
    b.keep_ports()?;
    let mut all: Vec<Acknowledged> = vec![];
    for round in 0..rounds() {
        let kill_publisher = rng.below(2) == 0;
        let seen = one_round(&mut a, &mut b, kill_publisher, &mut rng, &mut all)
            .with_context(|| format!("round {round}, the publisher killed: {kill_publisher}"))?;
        check_publisher(&a, recent(&all)).with_context(|| format!("publisher after round {round}"))?;
        check_reader(&b, &seen, recent(&all)).with_context(|| format!("reader after round {round}"))?;
    }
    check_publisher(&a, &all)?;
    ensure!(all.len() >= rounds(), "only {} publications were acknowledged: the test does too little", all.len());
    eprintln!("{} kills, {} acknowledged publications", rounds(), all.len());
    Ok(())
}

/// What is checked after every round; all of it is checked at the end.
fn recent(all: &[Acknowledged]) -> &[Acknowledged] {
    &all[all.len().saturating_sub(40)..]
}

/// Publishes on A and reads on B until one of them is killed; starts it again. Returns what B had listed and held
/// completely before.
fn one_round(
    a: &mut Node,
    b: &mut Node,
    kill_publisher: bool,
    rng: &mut Rng,
    all: &mut Vec<Acknowledged>,
) -> Result<Seen> {
    let (publisher, reader) = (a.http()?, b.http()?.anonymous());
    let acknowledged = Mutex::new(vec![]);
    let seen = Mutex::new(Seen::default());
    let stop = AtomicBool::new(false);
    let after = Duration::from_millis(rng.below(LONGEST_ROUND_MS));
    let mut files = Rng::new(rng.next_u64());
    let known = all.clone();
    thread::scope(|scope| {
        scope.spawn(|| publish_until(&publisher, &mut files, &stop, &acknowledged));
        scope.spawn(|| read_until(&reader, &known, &stop, &seen));
        // Not a wait for anything: the moment of the kill is what this test varies.
        thread::sleep(after);
        if kill_publisher {
            a.kill()
        } else {
            b.kill()
        };
        stop.store(true, Ordering::Relaxed);
    });
    all.extend(acknowledged.into_inner().unwrap());
    if kill_publisher {
        a.restart()?
    } else {
        b.restart()?
    };
    Ok(seen.into_inner().unwrap())
}

fn publish_until(http: &Http, rng: &mut Rng, stop: &AtomicBool, acknowledged: &Mutex<Vec<Acknowledged>>) {
    while !stop.load(Ordering::Relaxed) {
        let len = 1 + rng.below(LARGEST_FILE_BYTES) as usize;
        let bytes = rng.bytes(len);
        let parts = [Part::File("file", "f.bin", "application/octet-stream", &bytes)];
        let Ok(reply) = http.post_parts("/api/v1/videos/upload", &parts) else { continue };
        // An answer that came only in part acknowledges nothing.
        let Ok(body) = reply.json() else { continue };
        if let (201, Ok(content), Ok(blob)) = (reply.status, text(&body, "content"), text(&body, "blob")) {
            acknowledged.lock().unwrap().push(Acknowledged { content, blob, bytes });
        }
    }
}

/// What the reader's node answered before it was killed.
#[derive(Default)]
struct Seen {
    listed: Vec<String>,
    complete: Vec<String>,
}

fn read_until(http: &Http, known: &[Acknowledged], stop: &AtomicBool, seen: &Mutex<Seen>) {
    for one in known.iter().rev().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = http.get(&format!("/blobs/{}", one.blob));
        let Ok(feed) = http.get("/api/v1/videos/feed?limit=200").and_then(|reply| reply.json()) else { continue };
        let items = feed.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_complete = |item: &Value| item.pointer("/local/complete").and_then(Value::as_bool) == Some(true);
        let mut seen = seen.lock().unwrap();
        seen.listed = items.iter().filter_map(|item| text(item, "content").ok()).collect();
        seen.complete =
            items.iter().filter(|item| is_complete(item)).filter_map(|item| text(item, "content").ok()).collect();
    }
}

fn item(http: &Http, content: &str) -> Result<Value> {
    let reply = http.get(&format!("/api/v1/videos/{content}"))?;
    ensure!(reply.status == 200, "{content}: {} {}", reply.status, reply.text());
    reply.json()
}

fn check_publisher(a: &Node, all: &[Acknowledged]) -> Result<()> {
    let http = a.http()?;
    for one in all {
        let item = item(&http, &one.content).context("an acknowledged record is gone")?;
        ensure!(item.pointer("/local/complete") == Some(&Value::Bool(true)), "not complete: {item}");
        let reply = http.get(&format!("/blobs/{}", one.blob))?;
        ensure!(reply.status == 200 && reply.body == one.bytes, "{}: {} {}", one.blob, reply.status, reply.body.len());
    }
    Ok(())
}

fn check_reader(b: &Node, seen: &Seen, all: &[Acknowledged]) -> Result<()> {
    let http = b.http()?;
    for content in &seen.listed {
        item(&http, content).context("a record that was listed is gone")?;
    }
    for content in &seen.complete {
        let item = item(&http, content)?;
        ensure!(item.pointer("/local/complete") == Some(&Value::Bool(true)), "was complete, now isn't: {item}");
    }
    // And what it may have missed while it was down comes by itself.
    for one in all {
        eventually("a missed record arrives", SOON, || item(&http, &one.content).map(drop))?;
    }
    Ok(())
}

#[test]
fn a_fetch_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let a = start("a")?;
    let mut b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let (file, bytes) = random_file(&a, "big.bin", &mut Rng::new(2), 96 << 20)?;
    let published = a.publish(&file, &[])?;
    let (content, blob) = (text(&published, "content")?, text(&published, "blob")?);
    lists(&b, &content, SOON)?;

    let mut opened = b.http()?.anonymous().open("GET", &format!("/blobs/{blob}"), &[], &[])?;
    let mut first = vec![0; 40 << 20];
    opened.body.read_exact(&mut first)?;
    b.kill();
    drop(opened);
    b.restart()?;
    let info = b.http()?.get(&format!("/api/v1/node/blobs/{blob}"))?.json()?;
    let kept = info.get("local_bytes").and_then(Value::as_u64).with_context(|| info.to_string())?;
    // What has arrived is made durable every 16 MiB; what was durable isn't fetched again.
    ensure!(kept >= 8 << 20, "of {} bytes {kept} were kept", first.len());
    let out = b.home().with_file_name("out.bin").display().to_string();
    let got = b.json(&["get", &content, "-o", &out])?;
    let fetched: u64 = got
        .get("sources")
        .and_then(Value::as_array)
        .with_context(|| got.to_string())?
        .iter()
        .filter_map(|source| source.get("bytes").and_then(Value::as_u64))
        .sum();
    ensure!(fetched + kept <= bytes.len() as u64 + (4 << 20), "kept {kept}, fetched {fetched} of {}", bytes.len());
    let reply = b.http()?.get(&format!("/blobs/{blob}"))?;
    ensure!(reply.body == bytes, "other bytes");
    Ok(())
}

#[test]
fn a_kill_while_a_home_is_made_leaves_one_that_can_be_used() -> Result<()> {
    let mut rng = Rng::from_env();
    for _ in 0..rounds() {
        let dir = tempfile::tempdir()?;
        let node = Node::prepare(options("new"), dir.path().join("home"));
        let mut child = node
            .command()
            .args(["up", "--no-mdns", "--http", "127.0.0.1:0", "--p2p-port", "0"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let after = Duration::from_millis(rng.below(600));
        thread::sleep(after);
        child.kill()?;
        child.wait()?;
        let mut node = node;
        node.restart().with_context(|| format!("killed {after:?} after its first start"))?;
        let (file, bytes) = random_file(&node, "f.bin", &mut rng, 1000)?;
        let published = node.publish(&file, &[])?;
        ensure!(text(&published, "blob")? == sha(&bytes), "{published}");
        ensure!(node.stop()?.success(), "{} didn't stop cleanly", mhc().display());
    }
    Ok(())
}
