//! The page in Chromium: watched on a node that has nothing of the film at first.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Node, media, node::text};
use serde_json::Value;

use super::{SOON, fixtures, join, knows, lists, start};

/// Markup, which must be shown as text; but not in the picture for the README.
fn title() -> &'static str {
    if takes_screenshot() { "Test pattern with a tone" } else { "A <b>film</b> & more" }
}

fn takes_screenshot() -> bool {
    std::env::var_os("MHC_SCREENSHOT").is_some()
}

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A node that publishes a film, another that only knows of it, and the film's id.
fn cinema() -> Result<(Node, Node, String)> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let film = media::long_video(fixtures())?;
    let content = text(&a.publish(&film, &["--title", title()])?, "content")?;
    lists(&b, &content, SOON)?;
    Ok((a, b, content))
}

/// Runs the browser's script and checks what holds in every mode: nothing failed, nothing asked of other hosts.
fn watch(node: &Node, content: &str, mode: &str) -> Result<Value> {
    let screenshot = tree().join("docs/img/player.png").display().to_string();
    let found = drive(node, content, mode, (takes_screenshot() && mode == "play").then_some(screenshot.as_str()))?;
    ensure!(found["console"] == serde_json::json!([]), "the page complained: {found:#}");
    ensure!(found["title"] == title(), "markup in a title must be shown as text: {found:#}");
    Ok(found)
}

/// Runs the browser's script.
pub(super) fn drive(node: &Node, content: &str, mode: &str, more: Option<&str>) -> Result<Value> {
    let mut command = Command::new("node");
    command.arg(tree().join("testnet/browser/watch.js")).args([&node.ready()?.http, content, mode]).args(more);
    let output = command.output().context("node can't be started; scripts/setup-test.sh installs it")?;
    ensure!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(found.get("error").is_none(), "{found:#}");
    ensure!(found["outside"] == serde_json::json!([]), "the page asked other hosts: {found:#}");
    Ok(found)
}

#[test]
fn the_page_makes_checks_and_takes_in_bundles() -> Result<()> {
    let a = start("a")?;
    a.publish(&media::png(fixtures())?, &[])?;
    let stick = tempfile::tempdir()?;
    let token = std::fs::read_to_string(a.home().join("api.token"))?;
    let found = drive(&a, stick.path().to_str().context("UTF-8")?, "bundles", Some(token.trim()))?;
    let says = |key: &str, text: &str| found[key].as_str().is_some_and(|said| said.contains(text));
    ensure!(says("nothing", "there is no bundle"), "{found:#}");
    ensure!(says("exported", "1 record and 1 blob"), "{found:#}");
    ensure!(says("verified", "1 record"), "{found:#}");
    ensure!(says("imported", "0 new, 1 known"), "{found:#}");
    ensure!(found["width"].as_u64().is_some_and(|pixels| pixels <= 360), "it scrolls sideways: {found:#}");
    Ok(())
}

#[test]
fn the_page_lists_plays_and_seeks_what_another_node_has() -> Result<()> {
    let (_a, b, content) = cinema()?;
    let found = watch(&b, &content, "play")?;
    ensure!(found["advances"] == true, "the film doesn't play: {found:#}");
    let share = found["local_share_before_seek"].as_f64().context("local_share_before_seek")?;
    ensure!(share < 0.5, "the middle was there before it was asked for: {found:#}");
    ensure!(found["advances_after_seek"] == true, "it doesn't play on after a seek: {found:#}");
    let media = found["media"].as_array().context("media")?;
    ensure!(media.iter().any(|answer| answer["status"] == 206), "no 206: {found:#}");
    ensure!(media.iter().all(|answer| answer["status"] == 206 || answer["status"] == 200), "{found:#}");

    let found = watch(&b, &content, "narrow")?;
    for width in ["width_of_list", "width_of_player"] {
        ensure!(found[width].as_u64().is_some_and(|pixels| pixels <= 360), "it scrolls sideways: {found:#}");
    }

    let found = watch(&b, &content, "keyboard")?;
    ensure!(["reached", "advances", "paused_by_key"].iter().all(|key| found[key] == true), "by keyboard: {found:#}");
    Ok(())
}
