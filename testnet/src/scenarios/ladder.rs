//! A viewer and an artist with three ways between them: a switch, an internet path, and Yggdrasil through a third machine.
//! While a film plays they are cut one after the other, silently, and come back in reverse.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mhc_protocol::BlobHash;
use serde_json::Value;

use super::{connected, lists, publish};
use crate::{
    Node, media,
    player::Player,
    preset::Preset,
    run::{Scenario, fixtures},
    story::{Host, Story},
};

/// How long each state of the network lasts. With `MHC_SOAK=1` the film plays for three minutes and more.
const PHASE: Duration = Duration::from_secs(14);
const FULL_PHASE: Duration = Duration::from_secs(26);
/// A silent cut is noticed within this time: questions for some seconds, and a loaded machine.
const DETECTED: Duration = Duration::from_secs(5);
/// Most that the film may stand still beyond that.
const STALL: Duration = Duration::from_secs(6);
/// When the kernel knows, nobody has to wait for an answer.
const TOLD: Duration = Duration::from_secs(3);
/// A better way that is there again is taken within this time: it must have kept up for a while.
const TAKEN_AGAIN: Duration = Duration::from_secs(30);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "ladder",
    about: "a film of 3 Mbit/s plays on while lan, direct path and Yggdrasil are cut one after the other and come back",
    limit: Duration::from_secs(420),
    tell: |story| {
        let phase = if std::env::var_os("MHC_SOAK").is_some() { FULL_PHASE } else { PHASE };
        let [a, b, c] = [story.host("a")?, story.host("b")?, story.host("c")?];
        let lan = story.switch("hub")?;
        story.plug(&a, &lan, "10.77.8.1/24")?;
        let plug = story.plug(&c, &lan, "10.77.8.3/24")?;
        let internet = Preset::steady("internet", Duration::from_millis(15), 12_000_000);
        let direct = story.wire((&a, "203.0.113.1/30"), (&c, "203.0.113.2/30"), internet)?;
        let hop = || Preset::steady("hop", Duration::from_millis(20), 12_000_000);
        let near = story.wire((&a, "198.51.100.1/30"), (&b, "198.51.100.2/30"), hop())?;
        let far = story.wire((&b, "198.51.100.5/30"), (&c, "198.51.100.6/30"), hop())?;
        let ygg_b = story.yggdrasil(&b, &["tcp://0.0.0.0:9001"], &[])?;
        let ygg_a = story.yggdrasil(&a, &[], &["tcp://198.51.100.2:9001"])?;
        let ygg_c = story.yggdrasil(&c, &[], &["tcp://198.51.100.5:9001"])?;

        let at_a = story.node(&a, |options| options)?;
        let admin = ygg_c.admin().to_string_lossy().into_owned();
        let at_c = story.node(&c, |options| {
            options.peer(&at_a.ticket().unwrap_or_default()).env("MHC_LINKS__YGGDRASIL__ADMIN", &admin)
        })?;
        story.within("C is connected to A", Duration::from_secs(10), || connected(&at_c, &[&at_a]))?;
        story.within("the daemon's peers are shown", Duration::from_secs(15), || daemon_shown(&at_c))?;
        let film = media::three_mbit_video(&fixtures())?;
        let published = publish(story, &a, &at_a, &film, media::THREE_MBIT_S)?;
        story.within("C lists it", Duration::from_secs(10), || lists(&at_c, &published.content))?;

        let player = Player::start(c.netns(), &at_c.http()?, &published.film);
        story.within("C plays", Duration::from_secs(5), || {
            ensure!(player.progress().bytes > 0, "nothing yet: {:?}", player.progress().broken);
            Ok(())
        })?;
        story.within("the film comes over the lan", Duration::from_secs(20), || carries(&at_c, "lan"))?;
        let mut scene = Scene { node: &at_c, player: &player, phase };
        story.pass(phase)?;

        lan.silence(true)?;
        scene.cut(story, "the switch forwards nothing any more", "direct")?;
        direct.silence(true);
        scene.cut(story, "the internet path is cut", "yggdrasil")?;
        far.silence(true);
        story.say("the overlay is cut, too: nothing is left");
        story.pass(Duration::from_secs(6))?;
        far.silence(false);
        scene.healed(story, "the overlay is healed", "yggdrasil")?;
        direct.silence(false);
        scene.healed(story, "the internet path is healed", "direct")?;
        lan.silence(false)?;
        scene.healed(story, "the switch forwards again", "lan")?;
        let since = Instant::now();
        c.netns().ip(&format!("link set {plug} down"))?;
        story.say("C's cable to the switch is pulled");
        story.within_since(since, "direct carries at once", TOLD, || carries(&at_c, "direct"))?;
        c.netns().ip(&format!("link set {plug} up"))?;
        story.say("and put back");
        story.within("lan carries again", TAKEN_AGAIN, || carries(&at_c, "lan"))?;

        story.measured("seconds of film played", player.progress().bytes as f64 / published.film.bytes_per_s, "s");
        player.hurry();
        let played = story.within("it plays to the end", Duration::from_secs(60), || player.played(&published.film))?;
        story.holds("byte for byte", BlobHash::of(&played) == published.hash)?;
        let progress = player.progress();
        story.holds("in one go, from one request", progress.requests == 1 && progress.broken.is_empty())?;
        let fetched = fetched_bytes(&c, &at_c, &published.hash)?;
        story.measured("fetched for a byte of film", fetched as f64 / published.film.bytes as f64, "bytes");
        story
            .holds("nothing was fetched from zero again", fetched < published.film.bytes + published.film.bytes / 10)?;
        story.check("each change is explained", explained(story_links(&at_c)?))?;
        story.check("and is in the log", logged(&at_c))?;
        Ok(Box::new((at_a, at_c, (ygg_a, ygg_b, ygg_c), (direct, near, far))))
    },
};

/// The viewer.
struct Scene<'a> {
    node: &'a Node,
    player: &'a Player,
    phase: Duration,
}

impl Scene<'_> {
    /// Something was cut just now: another way takes over, and the film goes on.
    fn cut(&mut self, story: &mut Story, what: &str, next: &str) -> Result<()> {
        let since = Instant::now();
        self.player.look_anew();
        let before = moved(self.node, next)?;
        story.say(what);
        story.within_since(since, &format!("{next} carries"), DETECTED + STALL, || carries(self.node, next))?;
        story.pass(self.phase.saturating_sub(since.elapsed()))?;
        self.look(story, next, before)
    }

    /// Something works again: it is taken, and the film isn't disturbed.
    fn healed(&mut self, story: &mut Story, what: &str, better: &str) -> Result<()> {
        let since = Instant::now();
        let before = moved(self.node, better)?;
        story.say(what);
        story.within_since(since, &format!("{better} carries again"), TAKEN_AGAIN, || carries(self.node, better))?;
        self.player.look_anew();
        story.pass(self.phase)?;
        self.look(story, better, before)
    }

    fn look(&self, story: &mut Story, class: &str, before: u64) -> Result<()> {
        let behind = self.player.progress().behind;
        story.measured("the film stood still for", behind.as_secs_f64(), "s");
        story.holds("no longer than noticing takes, and six seconds", behind <= DETECTED + STALL)?;
        let moved = moved(self.node, class)?.saturating_sub(before);
        story.measured(&format!("came by {class}"), moved, "bytes");
        story.holds("the film came that way", moved > 500_000)
    }
}

fn story_links(node: &Node) -> Result<Value> {
    node.json(&["links"])
}

fn peer(links: &Value) -> Result<&Value> {
    links.get("peers").and_then(|peers| peers.get(0)).with_context(|| format!("no peer in {links}"))
}

/// Says what carries instead, if this kind of link doesn't.
fn carries(node: &Node, class: &str) -> Result<()> {
    let links = story_links(node)?;
    let peer = peer(&links)?;
    ensure!(peer.get("class").and_then(Value::as_str) == Some(class), "{peer}");
    Ok(())
}

/// Bytes that came by this kind of link.
fn moved(node: &Node, class: &str) -> Result<u64> {
    let links = story_links(node)?;
    let classes = links.get("classes").and_then(Value::as_array).into_iter().flatten();
    let mut of = classes.filter(|link| link.get("class").and_then(Value::as_str) == Some(class));
    of.next().and_then(|link| link.get("in_bytes")?.as_u64()).with_context(|| format!("no {class} in {links}"))
}

fn fetched_bytes(host: &Host, node: &Node, hash: &BlobHash) -> Result<u64> {
    let http = node.http()?;
    let blob = host.netns().enter(|| http.get(&format!("/api/v1/node/blobs/{hash}"))?.json())?;
    let sources = blob.get("sources").and_then(Value::as_array).with_context(|| format!("no sources: {blob}"))?;
    Ok(sources.iter().filter_map(|source| source.get("bytes")?.as_u64()).sum())
}

fn daemon_shown(node: &Node) -> Result<()> {
    let links = story_links(node)?;
    let admin = links.get("yggdrasil").and_then(|yggdrasil| yggdrasil.get("admin")).context("no overlay")?;
    let peers = admin.get("peers").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(peers == 1, "{admin}");
    Ok(())
}

/// The changes that are told go down the ladder and up again, each with a reason in words.
fn explained(links: Value) -> Result<()> {
    let switches = peer(&links)?.get("switches").and_then(Value::as_array).context("no switches")?;
    let of = |switch: &Value, key: &str| switch.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    ensure!(switches.iter().all(|switch| !of(switch, "why").is_empty()), "{switches:?}");
    let mut wanted = ["lan", "direct", "yggdrasil", "direct", "lan"].into_iter().peekable();
    for switch in switches {
        wanted.next_if(|class| of(switch, "class") == *class);
    }
    ensure!(wanted.peek().is_none(), "{:?} is missing in {switches:?}", wanted.peek());
    Ok(())
}

fn logged(node: &Node) -> Result<()> {
    let log = node.log();
    for text in ["another path carries", "lan stopped answering", "direct stopped answering", "better than yggdrasil"] {
        ensure!(log.contains(text), "{text:?} isn't in the log");
    }
    Ok(())
}
