//! Homes that earlier releases wrote.

use std::process::Command;

use anyhow::{Result, ensure};
use mhc_testnet::{Node, node::text};

use super::options;

/// Two files, published by the release whose records had layout 1: `tar` of a home without reserves and lock.
const LAYOUT_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/home-layout-1.tar.gz");

#[test]
fn a_home_of_an_earlier_release_opens_and_goes_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let unpacked = Command::new("tar").args(["-xzpf", LAYOUT_1, "-C"]).arg(dir.path()).status()?;
    ensure!(unpacked.success(), "{unpacked}");
    let mut node = Node::prepare(options("old"), dir.path().join("home"));
    node.restart()?;
    for _ in 0..2 {
        let mut titles: Vec<_> = node.list()?.iter().map(|item| text(item, "title")).collect::<Result<_>>()?;
        titles.sort();
        ensure!(titles[..2] == ["An old poem", "An old song"], "{titles:?}");
        let doctor = node.run(&["doctor", "--json"])?;
        ensure!(doctor.code == 0, "{doctor:?}");
        // And again, once it has the layout of today.
        node.restart()?;
    }
    let song = node.list()?.into_iter().find(|item| item["title"] == "An old song").unwrap();
    let reply = node.http()?.anonymous().get(&text(&song, "url")?)?;
    ensure!(reply.body == b"a song, more or less", "{}", reply.text());
    let file = dir.path().join("new.txt");
    std::fs::write(&file, "a new one")?;
    node.publish(&file, &["--title", "A new one"])?;
    ensure!(node.list()?.len() == 3);
    // The log goes on where the earlier release ended it.
    let status = node.json(&["status"])?;
    ensure!(status["records"] == 3, "{status}");
    Ok(())
}
