//! A village with one line to the city. The line goes; the village notices and goes on by itself, as does the city; news
//! travels on a stick, and once the line is back everybody knows the same.
//!
//! `MHC_SOAK=1` has both write for ten minutes instead of some seconds.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{connected, lists, play_ranges, publish_film};
use crate::{
    Node, NodeOptions,
    node::text,
    preset::Preset,
    run::Scenario,
    story::{Host, Story},
};

const NEWS_BYTES: usize = 200_000;
const GATEWAY: &str = "10.77.4.254";
/// The city's node, as the village's nodes ask for it.
const CITY_ANCHOR: &str = "10.77.5.2:4480";
/// A node looks for a peer it lost at least every 30 s.
const MET_AGAIN: Duration = Duration::from_secs(45);
const SOON: Duration = Duration::from_secs(10);
/// Of anchors: so long silent, or back, until it counts.
const PATIENCE_S: u64 = 5;
/// That, the next question to the anchors after it, and what one may take to answer.
const NOTICED: Duration = Duration::from_secs(PATIENCE_S + 10);
/// How long the islands write.
const WRITING: Duration = Duration::from_secs(8);
const WRITING_IN_SOAK: Duration = Duration::from_secs(600);
const MESSAGE_EVERY: Duration = Duration::from_millis(500);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "shutdown",
    about: "a village of five nodes loses its line to the city, goes on, gets news on a stick, and meets the city again",
    // In a soak it writes for ten minutes.
    limit: Duration::from_secs(900),
    tell: |story| {
        let [router, city] = [story.host("router")?, story.host("city")?];
        let uplink = Preset::steady("uplink", Duration::from_millis(15), 20_000_000);
        let uplink = story.wire((&router, "10.77.5.1/30"), (&city, "10.77.5.2/30"), uplink)?;
        let village = village(story, &router, &city)?;

        let at_city = story.node(&city, |options| options)?;
        let invitation = at_city.ticket()?;
        let mut nodes = vec![];
        for host in &village {
            nodes.push(story.node(host, |options| {
                let options = NodeOptions { mdns: true, ..options }.peer(&invitation);
                let patience = PATIENCE_S.to_string();
                let options = options.env("MHC_CONTINUITY__ANCHORS", CITY_ANCHOR);
                options.env("MHC_CONTINUITY__SILENT_S", &patience).env("MHC_CONTINUITY__BACK_S", &patience)
            })?);
        }
        story.within("everybody is connected to everybody", SOON, || {
            let all: Vec<&Node> = nodes.iter().chain([&at_city]).collect();
            all.iter().try_for_each(|node| connected(node, &others(&all, node)))
        })?;

        let mayor = text(&nodes[2].json(&["network", "show"])?, "author")?;
        at_city.json(&["network", "grant", &mayor, "admin"])?;
        story.within("one in the village may alert", SOON, || {
            let roles = nodes[2].json(&["network", "show"])?["roles"].clone();
            ensure!(roles.to_string().contains("admin"), "{roles}");
            Ok(())
        })?;
        let modes = |mode: &str| nodes.iter().try_for_each(|node| is_in_mode(node, mode));
        story.within("all five are in normal mode, their anchor answers", SOON, || modes("normal"))?;

        uplink.unplug(true)?;
        story.say("the line to the city is down");
        story.within("all five notice and are in shutdown mode", NOTICED, || modes("shutdown"))?;
        let alert = nodes[2].json(&["emergency", "send", "The line is down. Meet at the school at noon."])?;
        let alert = text(&alert, "id")?;
        story.within("an alert is all over the village", SOON, || {
            nodes.iter().try_for_each(|node| shows(node, &alert))
        })?;
        let published = publish_film(story, &village[0], &nodes[0])?;
        for (host, node) in village.iter().zip(&nodes).skip(1) {
            story.within(&format!("{} lists the film", host.name()), SOON, || lists(node, &published.content))?;
            story.check(&format!("{} plays it, byte for byte", host.name()), play_ranges(host, node, &published))?;
        }

        let city_news = news(story, &city, &at_city, 1)?;
        let village_news = news(story, &village[1], &nodes[1], 2)?;
        let everywhere = |content: &str| nodes.iter().try_for_each(|node| lists(node, content));
        story.within("the village has its own news", SOON, || everywhere(&village_news))?;
        story.holds("and not the city's", nodes.iter().all(|node| lists(node, &city_news).is_err()))?;
        both_write(story, &nodes, &at_city)?;

        let stick = story.dir().join("stick");
        carry(&stick, &at_city, &nodes[4])?;
        story.say(format!("a stick was carried from the city to {}", village[4].name()));
        story.within("the city's news is all over the village", SOON, || everywhere(&city_news))?;
        story.holds("the city knows nothing of the village's", lists(&at_city, &village_news).is_err())?;

        uplink.unplug(false)?;
        way_back(&city)?;
        story.say("the line is back");
        story.within("all six know the same", MET_AGAIN, || {
            let known = nodes.iter().chain([&at_city]).map(known).collect::<Result<Vec<_>>>()?;
            ensure!(known.windows(2).all(|pair| pair[0] == pair[1]), "{known:?}");
            Ok(())
        })?;
        story.within("by the hash of all they know", SOON, || {
            let hosts = village.iter().chain([&city]).zip(nodes.iter().chain([&at_city]));
            let hashes = hosts.map(|(host, node)| digest(host, node)).collect::<Result<Vec<_>>>()?;
            ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
            Ok(())
        })?;
        story.within("the city shows the village's alert", SOON, || shows(&at_city, &alert))?;
        story.within("all five are in normal mode again", NOTICED, || modes("normal"))?;
        let changes = nodes.iter().map(mode_changes).collect::<Result<Vec<_>>>()?;
        story.holds("each noted both changes in its journal", changes.iter().all(|changes| *changes == 2))?;
        story.within("the city has the village's news and film", SOON, || {
            lists(&at_city, &village_news)?;
            lists(&at_city, &published.content)
        })?;
        story.check("the city plays the village's film", play_ranges(&city, &at_city, &published))?;
        Ok(Box::new((nodes, at_city, uplink)))
    },
};

/// Says in which mode the node is, unless it is this one.
fn is_in_mode(node: &Node, mode: &str) -> Result<()> {
    let shown = node.json(&["shutdown-mode", "status"])?;
    let answers = shown["anchors"][0]["answers"].as_bool();
    ensure!(shown["mode"] == mode && answers == Some(mode == "normal"), "{shown}");
    Ok(())
}

/// How often the mode changed, by the node's journal.
fn mode_changes(node: &Node) -> Result<usize> {
    let journal = node.json(&["emergency", "journal"])?;
    Ok(journal.as_array().context("a list")?.iter().filter(|entry| entry["event"] == "mode").count())
}

fn shows(node: &Node, alert: &str) -> Result<()> {
    let list = node.json(&["emergency", "list"])?;
    ensure!(list.as_array().is_some_and(|list| list.iter().any(|shown| shown["id"] == alert)), "{list}");
    Ok(())
}

/// What the node knows, in one hash.
fn digest(host: &Host, node: &Node) -> Result<Value> {
    let http = node.http()?;
    host.netns().enter(|| http.get("/api/v1/node/digest")?.json())
}

/// City and village go on talking among themselves. There is no service for chat yet: a message is a short text that is
/// published, a record like every other.
fn both_write(story: &mut Story, nodes: &[Node], at_city: &Node) -> Result<()> {
    let time = if std::env::var_os("MHC_SOAK").is_some() { WRITING_IN_SOAK } else { WRITING };
    let (started, mut sent, mut last) = (Instant::now(), 0usize, None);
    while started.elapsed() < time {
        for (node, who) in [(&nodes[sent % nodes.len()], "village"), (at_city, "city")] {
            let file = story.dir().join(format!("message-{who}-{sent}.txt"));
            std::fs::write(&file, format!("message {sent} of the {who}"))?;
            let content = text(&node.publish(&file, &["--tag", "chat"])?, "content")?;
            if who == "village" {
                last = Some(content);
            }
        }
        sent += 1;
        story.pass(MESSAGE_EVERY)?;
    }
    story.measured("messages that each side wrote", sent, "");
    let last = last.context("no message")?;
    story.within("the village reads its own", SOON, || nodes.iter().try_for_each(|node| lists(node, &last)))
}

/// Five hosts on a switch with the router, which leads to the city.
fn village(story: &mut Story, router: &Host, city: &Host) -> Result<Vec<Host>> {
    let switch = story.switch("switch")?;
    story.plug(router, &switch, &format!("{GATEWAY}/24"))?;
    router.netns().sysctl("net/ipv4/ip_forward", "1")?;
    way_back(city)?;
    let mut hosts = vec![];
    for number in 1..=5 {
        let host = story.host(&format!("v{number}"))?;
        story.plug(&host, &switch, &format!("10.77.4.{number}/24"))?;
        host.netns().ip(&format!("route add default via {GATEWAY}"))?;
        hosts.push(host);
    }
    Ok(hosts)
}

/// The way back from the city, which it loses with the line.
fn way_back(city: &Host) -> Result<()> {
    city.netns().ip("route replace 10.77.4.0/24 via 10.77.5.1").map(drop)
}

fn others<'a>(all: &[&'a Node], node: &Node) -> Vec<&'a Node> {
    all.iter().copied().filter(|other| !std::ptr::eq(*other, node)).collect()
}

/// A small file that the node publishes. Returns its content id.
fn news(story: &mut Story, host: &Host, node: &Node, number: u64) -> Result<String> {
    let file = story.dir().join(format!("news-of-{}.bin", host.name()));
    let mut rng = story.rng();
    let seed = (0..number).fold(0, |_, _| rng.next_u64());
    std::fs::write(&file, crate::Rng::new(seed).bytes(NEWS_BYTES))?;
    let content = text(&node.publish(&file, &[])?, "content")?;
    story.say(format!("{}: published news", host.name()));
    Ok(content)
}

/// Carries everything on a stick.
fn carry(stick: &Path, from: &Node, to: &Node) -> Result<()> {
    std::fs::create_dir_all(stick)?;
    let stick = stick.to_str().context("UTF-8")?;
    from.json(&["bundle", "export", stick])?;
    to.json(&["bundle", "import", stick]).map(drop)
}

/// What a node knows of its network: how many records, and every content with its title.
fn known(node: &Node) -> Result<(Option<u64>, Vec<[String; 2]>)> {
    let records = node.json(&["status"])?.get("records").and_then(Value::as_u64);
    let listed = node.json(&["ls", "--all"])?;
    let row = |item: &Value| Ok([text(item, "content")?, text(item, "title")?]);
    let mut rows = listed.as_array().context("a list")?.iter().map(row).collect::<Result<Vec<_>>>()?;
    rows.sort();
    Ok((records, rows))
}
