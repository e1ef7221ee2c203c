//! Another project's tool fetches from an `mhc` node: the bytes travel by the public protocol.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{media, node::text};

use super::{fixtures, skipped, start};

/// Where scripts/setup-test.sh puts it, or the one on the PATH.
fn sendme() -> Option<PathBuf> {
    let ours = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/bin/sendme"));
    let found = Command::new("sendme").arg("--version").output().is_ok_and(|output| output.status.success());
    ours.exists().then_some(ours).or_else(|| found.then(|| "sendme".into()))
}

#[test]
fn sendme_receives_a_published_blob() -> Result<()> {
    let Some(sendme) = sendme() else {
        skipped("sendme_receives_a_published_blob", "sendme isn't installed; scripts/setup-test.sh does it");
        return Ok(());
    };
    let a = start("a")?;
    let film = media::video(fixtures())?;
    let blob = text(&a.publish(&film, &[])?, "blob")?;
    let ticket = text(&a.json(&["ticket", "--blob", &blob])?, "ticket")?;

    let dir = tempfile::tempdir()?;
    let output = Command::new(sendme)
        .args(["receive", "--relay", "disabled", "--no-progress", &ticket])
        .current_dir(dir.path())
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let received = std::fs::read(dir.path().join("film.mp4")).with_context(|| format!("{output:?}"))?;
    ensure!(received == std::fs::read(&film)?, "other bytes: {}", received.len());
    Ok(())
}
