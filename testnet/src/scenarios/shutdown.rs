//! A village with one line to the city. The line goes; both go on by themselves, news travels on a stick, and once the
//! line is back everybody knows the same.

use std::{path::Path, time::Duration};

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
/// A node looks for a peer it lost at least every 30 s.
const MET_AGAIN: Duration = Duration::from_secs(45);
const SOON: Duration = Duration::from_secs(10);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "shutdown",
    about: "a village of five nodes loses its line to the city, goes on, gets news on a stick, and meets the city again",
    limit: Duration::from_secs(180),
    tell: |story| {
        let [router, city] = [story.host("router")?, story.host("city")?];
        let uplink = Preset::steady("uplink", Duration::from_millis(15), 20_000_000);
        let uplink = story.wire((&router, "10.77.5.1/30"), (&city, "10.77.5.2/30"), uplink)?;
        let village = village(story, &router, &city)?;

        let at_city = story.node(&city, |options| options)?;
        let invitation = at_city.ticket()?;
        let mut nodes = vec![];
        for host in &village {
            nodes.push(story.node(host, |options| NodeOptions { mdns: true, ..options }.peer(&invitation))?);
        }
        story.within("everybody is connected to everybody", SOON, || {
            let all: Vec<&Node> = nodes.iter().chain([&at_city]).collect();
            all.iter().try_for_each(|node| connected(node, &others(&all, node)))
        })?;

        uplink.unplug(true)?;
        story.say("the line to the city is down");
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
        story.within("the city has the village's news and film", SOON, || {
            lists(&at_city, &village_news)?;
            lists(&at_city, &published.content)
        })?;
        story.check("the city plays the village's film", play_ranges(&city, &at_city, &published))?;
        Ok(Box::new((nodes, at_city, uplink)))
    },
};

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
