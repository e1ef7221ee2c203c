//! A node that follows several networks, or little of one.

use std::time::Duration;

use anyhow::{Result, ensure};
use mhc_testnet::{Node, Rng, eventually, node::text};
use serde_json::Value;

use super::{SOON, join, lists, random_file, start};

const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 5;
const CONFLICT: i32 = 3;

fn network_of(node: &Node) -> Result<String> {
    Ok(node.ready()?.network.clone())
}

fn titles(node: &Node, network: &str) -> Result<Vec<String>> {
    let listed = node.json(&["ls", "--network", network])?;
    let items = listed.as_array().into_iter().flatten();
    items
        .map(|item| {
            ensure!(item["network"] == network, "{item}");
            text(item, "title")
        })
        .collect()
}

fn has_titles(node: &Node, network: &str, expected: &[&str]) -> Result<()> {
    eventually("its contents are listed", SOON, || {
        let mut titles = titles(node, network)?;
        titles.sort();
        ensure!(titles == expected, "{titles:?}, {expected:?} expected");
        Ok(())
    })
}

fn publish(node: &Node, title: &str, args: &[&str]) -> Result<Value> {
    let (file, _) = random_file(node, "file.bin", &mut Rng::new(title.len() as u64), 2000)?;
    node.publish(&file, &[&["--title", title], args].concat())
}

fn records(node: &Node) -> Result<u64> {
    Ok(node.json(&["status"])?["records"].as_u64().unwrap_or_default())
}

/// A in X, C in Y, and B, at home in X, that follows Y, too.
struct Three {
    a: Node,
    b: Node,
    c: Node,
    x: String,
    y: String,
}

impl Three {
    fn start() -> Result<Self> {
        let (a, c) = (start("a")?, start("c")?);
        let b = join("b", &a.ticket()?)?;
        let (x, y) = (network_of(&a)?, network_of(&c)?);
        let followed = b.json(&["network", "follow", &c.ticket()?])?;
        ensure!(followed["network"] == *y && followed["home"] == false, "{followed}");
        Ok(Self { a, b, c, x, y })
    }
}

#[test]
fn a_node_between_two_networks_sees_both_and_mixes_nothing() -> Result<()> {
    let Three { a, mut b, c, x, y } = Three::start()?;
    publish(&a, "of x", &[])?;
    let of_y = text(&publish(&c, "of y", &[])?, "content")?;
    has_titles(&b, &x, &["of x"])?;
    has_titles(&b, &y, &["of y"])?;
    ensure!(b.list()?.len() == 1, "the home is what is listed");
    ensure!(b.json(&["show", &of_y])?["network"] == *y);
    let copy = b.home().with_file_name("copy.bin");
    ensure!(b.run(&["get", &of_y, "-o", copy.to_str().unwrap()])?.code == 0, "its bytes come, too");

    // B writes in both, each under the rules of where it writes.
    publish(&b, "b in x", &[])?;
    publish(&b, "b in y", &["--network", &y])?;
    has_titles(&a, &x, &["b in x", "of x"])?;
    has_titles(&c, &y, &["b in y", "of y"])?;
    a.json(&["network", "policy", "--membership", "curated", "--name", "Village"])?;
    eventually("X is closed", SOON, || {
        let network = b.json(&["network", "show"])?;
        ensure!(network["membership"] == "curated", "{network}");
        Ok(())
    })?;
    let (file, _) = random_file(&b, "more.bin", &mut Rng::new(9), 100)?;
    let refused = b.run(&["publish", file.to_str().unwrap()])?;
    ensure!(refused.code == REFUSED, "{refused:?}");
    ensure!(b.json(&["network", "show", "--network", &y])?["membership"] == "open");
    publish(&b, "b in open y", &["--network", &y])?;
    has_titles(&c, &y, &["b in open y", "b in y", "of y"])?;
    // What was published in X without a grant is hidden in X, and nowhere else.
    has_titles(&b, &x, &["of x"])?;

    // A never sees anything of Y.
    ensure!(a.run(&["ls", "--network", &y])?.code == NOT_FOUND && a.run(&["show", &of_y])?.code == NOT_FOUND);
    ensure!(a.json(&["network", "list"])?.as_array().is_some_and(|list| list.len() == 1));
    // The policy, the grant that goes with it, and two publications.
    let of_x = records(&a)?;
    ensure!(of_x == 4, "{of_x} records");

    // All of that is still so after a restart.
    b.stop()?;
    publish(&c, "while b was away", &[])?;
    b.restart()?;
    has_titles(&b, &y, &["b in open y", "b in y", "of y", "while b was away"])?;
    let listed = b.json(&["network", "list"])?;
    ensure!(listed[0]["home"] == true && listed[0]["name"] == "Village" && listed[1]["network"] == *y, "{listed}");
    let doctor = b.run(&["doctor", "--json"])?;
    ensure!(doctor.code == 0, "{doctor:?}");
    ensure!(records(&a)? == of_x);
    Ok(())
}

#[test]
fn what_is_unfollowed_grows_no_more_and_goes_when_room_is_made() -> Result<()> {
    let Three { a, b, c, x, y } = Three::start()?;
    publish(&c, "one", &[])?;
    publish(&a, "of x", &[])?;
    has_titles(&b, &y, &["one"])?;
    has_titles(&b, &x, &["of x"])?;
    publish(&b, "by b", &["--network", &y])?;
    has_titles(&c, &y, &["by b", "one"])?;
    ensure!(b.run(&["network", "unfollow", &x])?.code == CONFLICT, "the home stays");
    b.json(&["network", "unfollow", &y])?;
    ensure!(b.run(&["network", "unfollow", &y])?.code == NOT_FOUND);
    ensure!(b.run(&["ls", "--network", &y])?.code == NOT_FOUND, "unseen");
    ensure!(records(&b)? == 3, "and kept");
    publish(&c, "two", &[])?;
    // What comes after it in X has had the time to come.
    let after = text(&publish(&a, "after", &[])?, "content")?;
    lists(&b, &after, SOON)?;
    ensure!(records(&b)? == 4, "nothing more of Y");
    let freed = b.json(&["gc"])?;
    ensure!(freed["forgotten_records"] == 1, "all but b's own: {freed}");
    ensure!(b.run(&["doctor", "--json"])?.code == 0);
    // Followed again, everything comes back, and b's own log goes on.
    b.json(&["network", "follow", &c.ticket()?])?;
    has_titles(&b, &y, &["by b", "one", "two"])?;
    publish(&b, "again", &["--network", &y])?;
    has_titles(&c, &y, &["again", "by b", "one", "two"])
}

#[test]
fn a_node_with_little_interest_keeps_little() -> Result<()> {
    let a = start("a")?;
    let network = network_of(&a)?;
    let authors = [join("one", &a.ticket()?)?, join("two", &a.ticket()?)?];
    for (author, title) in authors.iter().zip(["one", "two"]) {
        publish(author, title, &[])?;
    }
    let content = text(&publish(&a, "of a", &[])?, "content")?;
    has_titles(&a, &network, &["of a", "one", "two"])?;
    let wanted = text(&authors[0].json(&["network", "show"])?, "author")?;

    let narrow = start("narrow")?;
    narrow.json(&["network", "follow", &a.ticket()?, "--channel", &wanted])?;
    has_titles(&narrow, &network, &["one"])?;
    let seen = text(&publish(&authors[0], "one more", &[])?, "content")?;
    eventually("news of the channel come", Duration::from_secs(60), || {
        ensure!(narrow.run(&["show", &seen])?.code == 0);
        Ok(())
    })?;
    publish(&authors[1], "two more", &[])?;
    // It is heard, too, where it writes.
    publish(&narrow, "by the narrow one", &["--network", &network])?;
    has_titles(&a, &network, &["by the narrow one", "of a", "one", "one more", "two", "two more"])?;
    ensure!(records(&narrow)? == 3, "{}", records(&narrow)?);

    // Essential content is what the policy names.
    let policy = narrow.home().with_file_name("policy.json");
    std::fs::write(&policy, serde_json::json!({ "essential": [content] }).to_string())?;
    a.json(&["network", "policy", "--file", policy.to_str().unwrap()])?;
    narrow.json(&["network", "interest", "--network", &network, "essential"])?;
    has_titles(&narrow, &network, &["by the narrow one", "of a", "one", "one more"])?;
    narrow.json(&["gc"])?;
    has_titles(&narrow, &network, &["by the narrow one", "of a"])?;
    narrow.json(&["network", "interest", "--network", &network, "whole"])?;
    has_titles(&narrow, &network, &["by the narrow one", "of a", "one", "one more", "two", "two more"])
}
