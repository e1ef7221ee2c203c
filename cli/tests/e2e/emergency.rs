//! Alerts: sent on one node, shown on every other, by whatever link.

use anyhow::{Context, Result, ensure};
use mhc_testnet::{Node, eventually, node::text};
use serde_json::{Value, json};

use super::{SOON, browser, join, knows, start};

const USAGE: i32 = 2;
const CONFLICT: i32 = 3;
const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 5;

/// Waits until exactly these alerts hold on the node, by their short lines.
fn holds(node: &Node, lines: &[&str]) -> Result<Vec<Value>> {
    eventually("the alerts hold", SOON, || {
        let list = node.json(&["emergency", "list"])?;
        let list = list.as_array().context("a list")?;
        let shown: Vec<_> = list.iter().filter_map(|alert| alert["short"].as_str()).collect();
        ensure!(shown == lines, "{shown:?}");
        Ok(list.clone())
    })
}

fn fails(node: &Node, code: i32, words: &str, args: &[&str]) -> Result<()> {
    let output = node.run(&[&["emergency"], args].concat())?;
    ensure!(output.code == code && output.stderr.contains(words), "{args:?}: {output:?}");
    Ok(())
}

#[test]
fn an_alert_is_sent_updated_called_back_and_only_by_its_issuers() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let also = ["--also", "fr=Le barrage a cédé.", "--area", "Valley", "--expires", "2h"];
    let sent = a.json(&[&["emergency", "send", "The dam has broken."], &also[..]].concat())?;
    ensure!(sent["state"] == "in_force" && sent["severity"] == "critical" && sent["drill"] == false, "{sent:#}");
    holds(&b, &["The dam has broken."])?;
    // The long form follows.
    let long = eventually("its record has come", SOON, || {
        let list = b.json(&["emergency", "list"])?;
        ensure!(list[0]["record"] == sent["record"] && sent["record"].is_string(), "{list}");
        Ok(list)
    })?;
    ensure!(long[0]["texts"]["fr"] == "Le barrage a cédé." && long[0]["areas"] == json!(["Valley"]), "{long:#}");
    let id = text(&sent, "id")?;
    let update = a.json(&["emergency", "send", "It is over.", "--update", &id, "--severity", "normal"])?;
    holds(&b, &["It is over."])?;
    a.json(&["emergency", "send", "Practise", "--drill"])?;
    let list = holds(&b, &["It is over.", "Practise"])?;
    ensure!(list[1]["drill"] == true && list[1]["status"] == "exercise", "drills come last: {list:#?}");
    let people = b.run(&["emergency", "list"])?;
    ensure!(people.stdout.contains("DRILL, nothing has happened"), "{people:?}");
    a.json(&["emergency", "cancel", &text(&update, "id")?])?;
    holds(&b, &["Practise"])?;
    let all = b.json(&["emergency", "list", "--all"])?;
    ensure!(all.as_array().is_some_and(|all| all.len() == 4), "{all:#}");

    // What isn't right is refused with a reason.
    fails(&b, REFUSED, "only the network's root", &["send", "I am not an issuer"])?;
    fails(&a, USAGE, "texts", &["send", " "])?;
    fails(&a, USAGE, "texts", &["send", "x", "--lang", "../x"])?;
    fails(&a, USAGE, "text", &["send", "x", "--short", &"x".repeat(86)])?;
    fails(&a, NOT_FOUND, "no such alert", &["cancel", &"0".repeat(32)])?;
    fails(&b, REFUSED, "only", &["cancel", &id])?;
    fails(&b, CONFLICT, "cancelled or replaced", &["take", &text(&sent, "compact")?])?;
    fails(&b, USAGE, "compact", &["take", "!"])?;
    fails(&b, USAGE, "no alert", &["take", "AQ"])?;
    let sent = (0..6).map(|n| a.run(&["emergency", "send", &format!("{n}")])).collect::<Result<Vec<_>>>()?;
    ensure!(sent.iter().filter(|sent| sent.code == 0).count() == 3, "three before, six in all: {sent:?}");
    ensure!(sent[5].code == REFUSED && sent[5].stderr.contains("at most 6 alerts"), "{:?}", sent[5]);
    let journal = a.json(&["emergency", "journal"])?;
    let events = journal.as_array().context("a list")?.iter();
    ensure!(events.clone().any(|entry| entry["event"] == "alert-sent"), "{journal:#}");
    ensure!(events.clone().any(|entry| entry["facts"]["why"] == "too_many"), "{journal:#}");
    ensure!(events.clone().all(|entry| entry["fits"] == true), "{journal:#}");
    Ok(())
}

#[test]
fn an_alert_crosses_on_a_stick_or_by_hand_where_no_network_reaches() -> Result<()> {
    let mut a = start("a")?;
    let ticket = a.ticket()?;
    let sent = a.json(&["emergency", "send", "Boil the water", "--severity", "high"])?;
    let stick = tempfile::tempdir()?;
    let stick = stick.path().to_str().context("UTF-8")?;
    a.json(&["bundle", "export", stick])?;
    a.kill();
    let b = join("b", &ticket)?;
    ensure!(b.json(&["emergency", "list"])? == json!([]));
    b.json(&["bundle", "import", stick])?;
    let list = holds(&b, &["Boil the water"])?;
    ensure!(list[0]["record"] == sent["record"], "{list:#?}");
    let mut c = join("c", &ticket)?;
    let compact = text(&sent, "compact")?;
    ensure!(compact.len() <= 200 * 4 / 3 + 1, "{compact}");
    c.json(&["emergency", "take", &compact])?;
    holds(&c, &["Boil the water"])?;
    c.restart()?;
    holds(&c, &["Boil the water"])?;
    Ok(())
}

#[test]
fn the_page_shows_alerts_in_the_readers_language_until_they_are_dismissed() -> Result<()> {
    let a = start("a")?;
    a.json(&["emergency", "send", "The dam <b>has</b> broken", "--also", "de=Der Damm ist gebrochen"])?;
    a.json(&["emergency", "send", "Practise", "--also", "de=Üben", "--drill"])?;
    let found = browser::drive(&a, "2", "alerts", None)?;
    ensure!(found["console"] == json!([]), "{found:#}");
    ensure!(found["roles"] == json!(["alert", "alert"]), "{found:#}");
    let said = |place: usize, words: &str| found["texts"][place].as_str().is_some_and(|text| text.contains(words));
    ensure!(said(0, "Der Damm ist gebrochen") && said(0, "Notfall") && !said(0, "Übung"), "{found:#}");
    ensure!(said(1, "Üben") && said(1, "Übung: es ist nichts passiert"), "{found:#}");
    ensure!(found["left"] == 1 && found["left_after_reload"] == 1, "{found:#}");
    ensure!(found["width"].as_u64().is_some_and(|pixels| pixels <= 360), "it scrolls sideways: {found:#}");
    Ok(())
}

/// Waits until the node is in this mode for this reason.
fn is_in_mode(node: &Node, mode: &str, cause: &str) -> Result<()> {
    eventually("the mode", SOON, || {
        let shown = node.json(&["shutdown-mode", "status"])?;
        ensure!(shown["mode"] == mode && shown["cause"] == cause, "{shown}");
        ensure!(node.json(&["status"])?["mode"] == mode, "mhc status says otherwise");
        Ok(())
    })
}

#[test]
fn shutdown_mode_is_chosen_by_hand_or_ordered_by_an_alert_and_kept() -> Result<()> {
    let a = start("a")?;
    let mut b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    is_in_mode(&b, "normal", "nothing")?;
    let order = a.json(&["emergency", "send", "The line will be cut", "--order", "shutdown_on"])?;
    is_in_mode(&b, "shutdown", "order")?;
    b.json(&["shutdown-mode", "off"])?;
    is_in_mode(&b, "normal", "hand")?;
    b.restart()?;
    is_in_mode(&b, "normal", "hand")?;
    b.json(&["shutdown-mode", "auto"])?;
    is_in_mode(&b, "shutdown", "order")?;
    // A drill orders nothing; an end does.
    a.json(&["emergency", "send", "Practise", "--drill", "--order", "shutdown_off"])?;
    a.json(&["emergency", "cancel", &text(&order, "id")?])?;
    is_in_mode(&a, "normal", "nothing")?;
    is_in_mode(&b, "normal", "nothing")?;
    a.json(&["shutdown-mode", "on"])?;
    is_in_mode(&a, "shutdown", "hand")?;
    let journal = b.json(&["emergency", "journal"])?;
    let modes = journal.as_array().context("a list")?.iter().filter(|entry| entry["event"] == "mode").count();
    ensure!(modes >= 3, "{journal:#}");
    Ok(())
}

#[test]
fn a_silent_anchor_brings_shutdown_mode_and_its_return_ends_it() -> Result<()> {
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = gone.local_addr()?;
    let options = super::options("a").env("MHC_CONTINUITY__ANCHORS", &address.to_string());
    let options = options.env("MHC_CONTINUITY__SILENT_S", "1").env("MHC_CONTINUITY__BACK_S", "1");
    let a = options.start()?;
    is_in_mode(&a, "normal", "nothing")?;
    drop(gone);
    is_in_mode(&a, "shutdown", "anchors")?;
    let _back = std::net::TcpListener::bind(address)?;
    is_in_mode(&a, "normal", "nothing")
}
