//! The scenarios, a file each. docs/testnet.md says how to write one.

mod alert;
mod downlink;
mod edge;
mod geo;
mod geo_wire;
mod ladder;
mod lan;
mod line;
mod nat;
mod shutdown;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mhc_protocol::{BlobHash, ticket::Ticket};
use serde_json::Value;

use crate::{
    Node, media,
    node::text,
    player::Film,
    run::{Scenario, fixtures},
    story::{Host, Story},
};

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    lan::SCENARIO,
    geo_wire::SCENARIO,
    geo::SCENARIO,
    nat::FULL_CONE,
    nat::RESTRICTED_CONE,
    nat::PORT_RESTRICTED_CONE,
    nat::SYMMETRIC,
    nat::UPGRADE,
    shutdown::SCENARIO,
    line::SCENARIO,
    ladder::SCENARIO,
    edge::SCENARIO,
    alert::SCENARIO,
    downlink::SCENARIO,
];

/// Those of a name: one scenario, all whose names begin with `name-`, or `all`. The error names what there is.
pub fn named(name: &str) -> Result<Vec<Scenario>> {
    let group = format!("{name}-");
    let is = |scenario: &&Scenario| name == "all" || scenario.name == name || scenario.name.starts_with(&group);
    let found: Vec<_> = ALL.iter().filter(is).copied().collect();
    let names = || ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    ensure!(!found.is_empty(), "no scenario '{name}'; there are: {}", names());
    Ok(found)
}

/// A film that a node published.
struct Published {
    content: String,
    film: Film,
    hash: BlobHash,
}

/// A minute of video.
fn film() -> Result<PathBuf> {
    media::video(&fixtures())
}

/// Has the node publish a minute of video.
fn publish_film(story: &mut Story, host: &Host, node: &Node) -> Result<Published> {
    publish(story, host, node, &film()?, media::VIDEO_S)
}

/// Has the node publish a film that plays for so long.
fn publish(story: &mut Story, host: &Host, node: &Node, file: &Path, plays_s: u64) -> Result<Published> {
    let bytes = std::fs::read(file)?;
    let content = text(&node.publish(file, &["--title", "The film"])?, "content")?;
    story.say(format!("{}: published a film of {} bytes", host.name(), bytes.len()));
    let film = Film {
        path: format!("/api/v1/videos/{content}/stream"),
        bytes: bytes.len() as u64,
        bytes_per_s: bytes.len() as f64 / plays_s as f64,
    };
    Ok(Published { content, film, hash: BlobHash::of(&bytes) })
}

/// Says why the node doesn't list the content, if it doesn't.
fn lists(node: &Node, content: &str) -> Result<()> {
    let listed = node.list()?;
    ensure!(listed.iter().any(|item| item.get("content").and_then(Value::as_str) == Some(content)), "lists {listed:?}");
    Ok(())
}

/// Reads the whole film through the node's gateway in ranges, as a player that seeks does, and compares the bytes.
fn play_ranges(host: &Host, node: &Node, published: &Published) -> Result<()> {
    const RANGE_BYTES: u64 = 1 << 20;
    let (http, Published { film, hash, .. }) = (node.http()?, published);
    let bytes = host.netns().enter(|| {
        let mut bytes = vec![];
        for from in (0..film.bytes).step_by(RANGE_BYTES as usize) {
            let to = (from + RANGE_BYTES).min(film.bytes) - 1;
            let reply = http.get_range(&film.path, &format!("bytes={from}-{to}"))?;
            ensure!(
                reply.status == 206 && !reply.cut,
                "{from}-{to}: {} {}",
                reply.status,
                reply.problem().unwrap_or_default()
            );
            let expected = format!("bytes {from}-{to}/{}", film.bytes);
            ensure!(
                reply.header("content-range") == Some(&expected),
                "{:?}, not {expected}",
                reply.header("content-range")
            );
            bytes.extend(reply.body);
        }
        Ok(bytes)
    })?;
    ensure!(BlobHash::of(&bytes) == *hash, "other bytes were played");
    Ok(())
}

/// Says why the node isn't connected to all of these, if it isn't.
fn connected(node: &Node, others: &[&Node]) -> Result<()> {
    let peers = node.json(&["peers"])?;
    for other in others {
        let id = &other.ready()?.node;
        let is = |peer: &Value| {
            peer.get("node").and_then(Value::as_str) == Some(id) && peer.get("connected") == Some(&Value::Bool(true))
        };
        ensure!(peers.as_array().is_some_and(|peers| peers.iter().any(is)), "peers: {peers}");
    }
    Ok(())
}

/// The node's invitation, changed.
fn ticket(node: &Node, change: impl FnOnce(&mut Ticket)) -> Result<String> {
    let mut ticket: Ticket = node.ticket()?.parse().context("its own ticket")?;
    change(&mut ticket);
    Ok(ticket.to_string())
}
