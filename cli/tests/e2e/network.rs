//! Networks with rules: who may do what is decided by the root's records, on every node alike.

use std::time::Duration;

use anyhow::{Result, ensure};
use mhc_testnet::{Node, Rng, eventually, node::text};

use super::{SOON, join, knows, lists, options, random_file, start};

const REFUSED: i32 = 5;
const CONFLICT: i32 = 3;

fn is_not_listed(node: &Node, content: &str) -> Result<()> {
    eventually("it isn't listed any more", SOON, || {
        let listed = node.list()?;
        ensure!(!listed.iter().any(|item| item["content"] == content), "listed: {listed:?}");
        Ok(())
    })
}

fn membership_is(node: &Node, membership: &str) -> Result<()> {
    eventually("the policy has come", SOON, || {
        let network = node.json(&["network", "show"])?;
        ensure!(network["membership"] == membership, "{network}");
        Ok(())
    })
}

#[test]
fn a_network_is_closed_opened_to_an_artist_and_closed_to_it_again() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    a.json(&["network", "policy", "--membership", "curated", "--name", "Village"])?;
    membership_is(&b, "curated")?;

    let (file, _) = random_file(&b, "song.bin", &mut Rng::new(1), 1000)?;
    let refused = b.run(&["publish", file.to_str().unwrap()])?;
    ensure!(refused.code == REFUSED && refused.stderr.contains("grant"), "{refused:?}");
    let refused = b.run(&["network", "policy", "--membership", "open"])?;
    ensure!(refused.code == REFUSED, "{refused:?}");

    let artist = text(&b.json(&["network", "show"])?, "author")?;
    let grant = text(
        &a.json(&["network", "grant", &artist, "artist", "--days", "30", "--note", "plays on Sunday"])?,
        "record",
    )?;
    eventually("the grant has come", SOON, || {
        let roles = b.json(&["network", "show"])?["roles"].clone();
        ensure!(roles == serde_json::json!(["artist"]), "{roles}");
        Ok(())
    })?;
    let first = text(&b.publish(&file, &["--title", "First"])?, "content")?;
    lists(&a, &first, SOON)?;

    // What was published stays, nothing more comes.
    a.json(&["network", "revoke", &grant, "--reason", "the season is over"])?;
    eventually("the revocation has come", SOON, || {
        let roles = b.json(&["network", "show"])?["roles"].clone();
        ensure!(roles == serde_json::json!([]), "{roles}");
        Ok(())
    })?;
    let refused = b.run(&["publish", file.to_str().unwrap(), "--title", "Second"])?;
    ensure!(refused.code == REFUSED, "{refused:?}");
    lists(&b, &first, Duration::ZERO)?;

    // Unless all of it is to go; on a node that comes later, too.
    a.json(&["network", "revoke", &grant, "--void"])?;
    is_not_listed(&a, &first)?;
    is_not_listed(&b, &first)?;
    let c = join("c", &b.ticket()?)?;
    membership_is(&c, "curated")?;
    is_not_listed(&c, &first)?;
    for node in [&a, &b, &c] {
        let doctor = node.run(&["doctor", "--json"])?;
        ensure!(doctor.code == 0, "{doctor:?}");
    }
    Ok(())
}

#[test]
fn what_is_withdrawn_is_gone_everywhere() -> Result<()> {
    let a = start("a")?;
    let b = join("b", &a.ticket()?)?;
    knows(&b, &a)?;
    let (file, _) = random_file(&a, "film.bin", &mut Rng::new(2), 1000)?;
    let content = text(&a.publish(&file, &["--title", "A secret"])?, "content")?;
    lists(&b, &content, SOON)?;
    let refused = b.run(&["withdraw", &content])?;
    ensure!(refused.code == REFUSED, "{refused:?}");
    a.json(&["withdraw", &content])?;
    is_not_listed(&a, &content)?;
    is_not_listed(&b, &content)?;
    ensure!(b.run(&["show", &content])?.code == 4, "shown");
    // It can be published again, as something new.
    let again = text(&a.publish(&file, &["--title", "No secret"])?, "content")?;
    ensure!(again != content);
    lists(&b, &again, SOON)
}

#[test]
fn homes_are_made_for_a_network_of_their_own_or_of_a_ticket() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut founder = Node::prepare(options("founder"), dir.path().join("founder"));
    let made = founder.json(&["network", "create"])?;
    let again = founder.run(&["network", "create"])?;
    ensure!(again.code == CONFLICT && again.stderr.contains("already"), "{again:?}");
    founder.restart()?;
    ensure!(founder.json(&["network", "show"])?["network"] == made["network"]);
    ensure!(founder.run(&["network", "create"])?.code == CONFLICT, "while it runs");

    let ticket = founder.ticket()?;
    let mut joiner = Node::prepare(options("joiner"), dir.path().join("joiner"));
    let joined = joiner.json(&["network", "join", &ticket])?;
    ensure!(joined["network"] == made["network"], "{joined}");
    joiner.restart()?;
    knows(&joiner, &founder)?;

    let other = start("other")?;
    let refused = Node::prepare(options("joiner"), dir.path().join("founder2"));
    refused.json(&["network", "create"])?;
    let refused = refused.run(&["network", "join", &other.ticket()?])?;
    ensure!(refused.code == REFUSED && refused.stderr.contains("another --home"), "{refused:?}");
    Ok(())
}
