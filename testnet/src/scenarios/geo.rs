//! A node whose only way out is a metered geostationary link: news first, then what somebody wants to see, within the
//! budget, through blackouts and a power cut.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::{BlobHash, NetworkId, Timestamp};
use serde_json::Value;

use super::{lists, ticket};
use crate::{
    Node, archive,
    netns::Netns,
    node::text,
    preset::Preset,
    run::Scenario,
    story::{Host, Story},
};

const STATION: &str = "10.77.2.2";
const BUDGET_BYTES: u64 = 20_000_000;
/// Records of the network, and how many of them are of the last day.
const RECORDS: usize = 10_000;
const OF_THE_LAST_DAY: usize = 300;
const FILM_BYTES: usize = 8_000_000;
/// The power is cut when so much of the film is there.
const CUT_AT_BYTES: u64 = 2_000_000;
/// What the exchange that is cut may take at most.
const FIRST_PART_BYTES: &str = "4000000";
const DAY: Duration = Duration::from_secs(86_400);
/// Share of the bytes on the link that has to be of use.
const OF_USE: f64 = 0.8;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "geo",
    about: "a node behind a metered geostationary link of 20 MB gets a day's news of 10,000 records, then a film",
    limit: Duration::from_secs(300),
    tell: |story| {
        let [dish, station] = [story.host("dish")?, story.host("station")?];
        let preset = Preset::geo();
        let wire = story.wire((&dish, "10.77.2.1/30"), (&station, &format!("{STATION}/30")), preset.clone())?;
        let dark: Duration = preset.blackouts.iter().map(|dark| dark.end - dark.start).sum();
        let rate_bits_s = preset.there.rate_bits_s.context("the preset has a rate")?;

        let (mut at_station, mut at_dish) = nodes(story, &station, &dish)?;
        let uplink = uplink(dish.netns())?;
        let carried = || counters(dish.netns(), &uplink);
        at_dish.options_mut().env.extend(
            [("BUDGET_BYTES", BUDGET_BYTES.to_string()), ("UPLINK_INTERFACE", uplink.clone())]
                .map(|(name, value)| (format!("MHC_LINKS__SATELLITE__{name}"), value)),
        );
        at_station.restart()?;
        let film = story.dir().join("film.bin");
        let bytes = story.rng().bytes(FILM_BYTES);
        fs::write(&film, &bytes)?;
        let published = at_station.publish(&film, &["--title", "The film"])?;
        let (content, blob) = (text(&published, "content")?, text(&published, "blob")?);
        at_dish.restart()?;
        story.say("the dish knows all but the last day");
        let before = carried()?;

        let url = at_station.ready()?.http.clone();
        let news = at_dish.json(&["satellite", "exchange", &url])?;
        story.say(format!("news: {news}"));
        let expected = OF_THE_LAST_DAY as u64 + 1;
        story.measured("bytes on the link for the news", carried()? - before, "B");
        story
            .holds("all news of the last day is here, and the film's announcement", news["new_records"] == expected)?;
        story.check("the film is listed", lists(&at_dish, &content))?;
        story.holds("not one byte of the film came with it", news["new_bytes"] == 0)?;

        let spent = spent(&at_dish)?;
        let exchange = ["satellite", "exchange", &url, "--content", &content];
        let mut command = at_dish.command();
        command.args(exchange).args(["--max-bytes", FIRST_PART_BYTES]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut fetching = command.spawn()?;
        story.within("a part of the film is here", Duration::from_secs(60), || {
            let here = local_bytes(&dish, &at_dish, &blob)?;
            ensure!(here >= CUT_AT_BYTES, "{here}");
            Ok(())
        })?;
        at_dish.kill();
        fetching.wait()?;
        story.say("the dish lost power");
        at_dish.restart()?;
        let debited = self::spent(&at_dish)?;
        story.measured("debited for what was cut", debited - spent, "B");
        story.holds("what was carried before the cut isn't forgotten", debited >= carried()? - before)?;

        let here = local_bytes(&dish, &at_dish, &blob)?;
        story.measured("of the film survived", here, "B");
        story.holds("what was verified before the cut is still here", here > 0)?;
        let (started, at_start) = (Instant::now(), carried()?);
        wire.black_out();
        story.say("two blackouts are to come");
        let done = at_dish.json(&exchange)?;
        let (took, on_link) = (started.elapsed(), carried()? - at_start);
        story.holds("the film is whole", done["incomplete"] == 0)?;
        story.check("it is what was published", same(&dish, &at_dish, &blob, &bytes))?;
        let useful = FILM_BYTES as u64 - here;
        let dark = dark.min(took);
        let could = rate_bits_s as f64 / 8.0 * (took - dark).as_secs_f64();
        story.measured("time for the rest, blackouts included", took.as_secs_f64(), "s");
        story.measured("of the bytes on the link were of use", useful as f64 / on_link as f64, "x");
        story.holds("that is 80 % at least", useful as f64 >= OF_USE * on_link as f64)?;
        // TCP waits for up to as long as a blackout took before it tries again.
        story.measured("of what the link could carry outside blackouts was of use", useful as f64 / could, "x");
        story.measured("bytes on the link in all, by the interface", carried()? - before, "B");
        story.holds("they are within the budget", carried()? - before <= BUDGET_BYTES)?;
        Ok(Box::new((at_station, at_dish, wire)))
    },
};

/// A station that has all records, and a dish that has those older than a day. Neither runs, and no peer of either is
/// where it says: the link isn't for gossip.
fn nodes(story: &mut Story, station: &Host, dish: &Host) -> Result<(Node, Node)> {
    let mut at_station = story.node(station, |options| options.http(&format!("{STATION}:8480")))?;
    let network: NetworkId = at_station.ready()?.network.parse()?;
    let nowhere = ticket(&at_station, |ticket| {
        ticket.p2p.clear();
        ticket.iroh.clear();
    })?;
    let mut at_dish = story.node(dish, |options| options.peer(&nowhere))?;
    at_station.stop()?;
    at_dish.stop()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let at = |days: u32| Timestamp::from_millis((now - DAY * days).as_millis() as u64);
    let old = archive::records(network, RECORDS - OF_THE_LAST_DAY, at(60), at(1), 1)?;
    let new = archive::records(network, OF_THE_LAST_DAY, at(1), at(0), 2)?;
    archive::fill(at_station.home(), &old)?;
    archive::fill(at_station.home(), &new)?;
    archive::fill(at_dish.home(), &old)?;
    Ok((at_station, at_dish))
}

/// The name of the host's device that isn't its loopback.
fn uplink(netns: &Netns) -> Result<String> {
    let devices: Value = serde_json::from_str(&netns.ip("-json link")?)?;
    let mut names = devices.as_array().into_iter().flatten().filter_map(|device| device["ifname"].as_str());
    names.find(|name| *name != "lo").map(str::to_owned).with_context(|| format!("{devices}"))
}

/// Bytes that the device carried, both ways together.
fn counters(netns: &Netns, device: &str) -> Result<u64> {
    let devices: Value = serde_json::from_str(&netns.ip(&format!("-json -statistics link show {device}"))?)?;
    let of = |way: &str| devices[0]["stats64"][way]["bytes"].as_u64().with_context(|| format!("{devices}"));
    Ok(of("rx")? + of("tx")?)
}

fn spent(node: &Node) -> Result<u64> {
    let status = node.json(&["satellite", "status"])?;
    status["spent_bytes"].as_u64().with_context(|| format!("{status}"))
}

fn local_bytes(host: &Host, node: &Node, blob: &str) -> Result<u64> {
    let (http, path) = (node.http()?, format!("/api/v1/node/blobs/{blob}"));
    let reply = host.netns().enter(|| http.get(&path))?;
    Ok(reply.json()?["local_bytes"].as_u64().unwrap_or(0))
}

fn same(host: &Host, node: &Node, blob: &str, bytes: &[u8]) -> Result<()> {
    let (http, path) = (node.http()?, format!("/blobs/{blob}"));
    let reply = host.netns().enter(|| http.get(&path))?;
    ensure!(reply.status == 200 && BlobHash::of(&reply.body) == BlobHash::of(bytes), "{}", reply.status);
    Ok(())
}
