//! The one-way carousel: into a file and out of it, and over a socket on loopback, to nodes that no peer reaches.

use std::{
    fs,
    net::UdpSocket,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::ticket::Ticket;
use mhc_testnet::{Node, NodeOptions, Rng, eventually, node::text};
use serde_json::Value;

use super::{SOON, lan::Lan, options, random_file, skipped, start};

const TRUST: &str = "MHC_LINKS__SATELLITE__CAROUSEL__TRUST";
const LISTEN: &str = "MHC_LINKS__SATELLITE__CAROUSEL__LISTEN";

/// A node of `of`'s network that can't reach it.
pub(super) fn remote(name: &str, of: &Node) -> Result<NodeOptions> {
    Ok(options(name).peer(&dead_ticket(of)?))
}

/// A ticket that says which network it is, and no address that answers.
fn dead_ticket(of: &Node) -> Result<String> {
    let mut ticket: Ticket = of.ticket()?.parse()?;
    ticket.p2p = vec!["127.0.0.1:1".parse()?];
    ticket.iroh = vec!["127.0.0.1:2".parse()?];
    Ok(ticket.to_string())
}

/// What the node has of a content: whether it is complete.
fn is_complete(node: &Node, content: &str) -> Result<bool> {
    let listed = node.list()?;
    let item = listed.iter().find(|item| text(item, "content").is_ok_and(|id| id == content));
    Ok(item.is_some_and(|item| item["local"]["complete"] == true))
}

fn bytes_of(node: &Node, blob: &str) -> Result<Vec<u8>> {
    let reply = node.http()?.get(&format!("/blobs/{blob}"))?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    Ok(reply.body)
}

/// Two files published: one that spans two objects, and a small one.
fn works(node: &Node, large: usize) -> Result<Vec<(Value, Vec<u8>)>> {
    let mut rng = Rng::new(5);
    let works = [("large", large), ("small", 40_000)].map(|(name, len)| {
        let (path, bytes) = random_file(node, name, &mut rng, len)?;
        Ok((node.publish(&path, &["--title", name])?, bytes))
    });
    works.into_iter().collect()
}

#[test]
fn a_recorded_carousel_brings_everything_to_who_trusts_its_sender_and_nothing_to_others() -> Result<()> {
    let a = start("a")?;
    let works = works(&a, 21 << 20)?;
    let file = a.home().with_file_name("stream");
    let file = file.to_str().context("UTF-8")?;
    let sent = a.json(&["carousel", "send", "--to-file", file])?;
    ensure!(sent["objects"].as_u64() >= Some(4) && sent["rounds"] == 1, "{sent}");
    let node = a.ready()?.node.clone();

    let stranger = remote("c", &a)?.start()?;
    let heard = stranger.json(&["carousel", "import", file])?;
    ensure!(heard["pages"] == 0 && heard["symbols"] == 0 && heard["refused"].as_u64() > Some(0), "{heard}");
    ensure!(stranger.list()?.is_empty());

    // Bits flip all over the file, some in its frames, and a piece of it is gone.
    let mut damaged = fs::read(file)?;
    let mut rng = Rng::new(9);
    for _ in 0..500 {
        let at = rng.below(damaged.len() as u64) as usize;
        damaged[at] ^= 1 << rng.below(8);
    }
    damaged.drain(3_000_000..4_000_001);
    fs::write(file, &damaged)?;
    let mut b = remote("b", &a)?.env(TRUST, &node).start()?;
    let heard = b.json(&["carousel", "import", file])?;
    for (work, bytes) in &works {
        ensure!(is_complete(&b, &text(work, "content")?)?, "{heard}");
        ensure!(bytes_of(&b, &text(work, "blob")?)? == *bytes, "other bytes");
    }
    // What is here isn't taken in again, not even after a restart.
    b.restart()?;
    let again = b.json(&["carousel", "import", file])?;
    ensure!(again["decoded"] == 0 && again["pages"].as_u64() > Some(0), "{again}");

    let missing = b.run(&["carousel", "import", "/nonexistent/stream"])?;
    ensure!(missing.code == 4, "{missing:?}");
    let wrong = b.run(&["carousel", "send", "--group", "127.0.0.1:0"])?;
    ensure!(wrong.code == 2 || wrong.code == 1, "{wrong:?}");
    Ok(())
}

/// A command that goes on until it is told to stop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(node: &Node, to: &str) -> Result<Running> {
    let mut command: Command = node.command();
    command.args(["carousel", "send", "--group", to, "--rate", "40M", "--json"]);
    Ok(Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

#[test]
fn a_node_that_only_listens_gets_what_is_on_air_though_it_is_killed_in_between() -> Result<()> {
    let a = start("a")?;
    let works = works(&a, 12 << 20)?;
    // A port that is free now; nobody else is told.
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let listen = port.to_string();
    let _sending = send(&a, &listen)?;
    // It tunes in when the sender is under way.
    let mut b = remote("b", &a)?.env(TRUST, &a.ready()?.node).env(LISTEN, &listen).start()?;
    let (large, small) = (&works[0], &works[1]);
    eventually("the records came", SOON, || {
        ensure!(b.list()?.len() == 2, "{:?}", b.list()?);
        Ok(())
    })?;
    b.kill();
    b.restart()?;
    ensure!(b.list()?.len() == 2, "what was decoded is there after a kill");
    for (work, bytes) in [small, large] {
        eventually("the blob came", SOON * 3, || {
            ensure!(is_complete(&b, &text(work, "content")?)?, "{}", b.json(&["carousel", "status"])?);
            Ok(())
        })?;
        ensure!(bytes_of(&b, &text(work, "blob")?)? == *bytes, "other bytes");
    }
    let status = b.json(&["carousel", "status"])?;
    ensure!(text(&status, "listen")? == listen && status["decoded"].as_u64() > Some(0), "{status}");
    ensure!(b.stop()?.success(), "a clean stop");
    Ok(())
}

#[test]
fn a_multicast_group_reaches_a_host_that_has_only_that() -> Result<()> {
    const GROUP: &str = "239.77.72.67:4490";
    let lan = match Lan::new("c") {
        Ok(lan) => lan,
        Err(error) => {
            let why = format!("no network namespaces here: {error:#}");
            skipped("a_multicast_group_reaches_a_host_that_has_only_that", &why);
            return Ok(());
        }
    };
    let a = lan.node(0, "sender").start()?;
    let (file, bytes) = random_file(&a, "f.bin", &mut Rng::new(4), 2_000_000)?;
    let content = text(&a.publish(&file, &[])?, "content")?;
    let mut command: Command = a.command();
    command.args(["carousel", "send", "--group", GROUP, "--interface", "10.77.13.1", "--rate", "20M"]);
    let _sending = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let b = lan.node(1, "listener").peer(&dead_ticket(&a)?).env(TRUST, &a.ready()?.node).env(LISTEN, GROUP);
    let b = b.env("MHC_LINKS__SATELLITE__CAROUSEL__INTERFACE", "10.77.13.2").start()?;
    eventually("the blob came", SOON * 2, || {
        ensure!(is_complete(&b, &content)?, "{}", b.json(&["carousel", "status"])?);
        Ok(())
    })?;
    let out = b.home().with_file_name("out.bin");
    b.json(&["get", &content, "-o", out.to_str().context("UTF-8")?])?;
    ensure!(fs::read(&out)? == bytes, "other bytes");
    ensure!(!b.json(&["peers"])?.to_string().contains("\"addr\""), "no peer was needed");
    Ok(())
}
