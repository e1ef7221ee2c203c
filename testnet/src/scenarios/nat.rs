//! Two nodes behind routers that translate addresses, of which neither can be reached from outside, and a public one
//! that relays. With its help the two find a way past it where their routers let them, and go through it where not; it
//! holds nothing of what passes.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::{BlobHash, link::LinkClass, ticket::Ticket};

use super::{Published, connected, lists, publish_film};
use crate::{
    Node,
    nat::{self, NatKind},
    player::Player,
    run::{Scenario, Stage},
    story::{Host, Story, Void},
};

const LIMIT: Duration = Duration::from_secs(90);

const fn scenario(name: &'static str, about: &'static str, tell: fn(&mut Story) -> Result<Stage>) -> Scenario {
    Scenario { name, about, limit: LIMIT, tell }
}

pub(super) const FULL_CONE: Scenario =
    scenario("nat-full-cone", "two nodes behind full-cone NATs find a direct way with a relay's help", |story| {
        tell(story, NatKind::FullCone)
    });
pub(super) const RESTRICTED_CONE: Scenario =
    scenario("nat-restricted-cone", "the same with restricted-cone NATs", |story| tell(story, NatKind::RestrictedCone));
pub(super) const PORT_RESTRICTED_CONE: Scenario =
    scenario("nat-port-restricted-cone", "the same with port-restricted-cone NATs", |story| {
        tell(story, NatKind::PortRestrictedCone)
    });
pub(super) const SYMMETRIC: Scenario =
    scenario("nat-symmetric", "two nodes behind symmetric NATs go through the relay", |story| {
        tell(story, NatKind::Symmetric)
    });
pub(super) const UPGRADE: Scenario =
    scenario("nat-upgrade", "a film that plays through a relay goes on directly when the way opens", upgrade);

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const WAN_OF_A: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const WAN_OF_B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);
/// How long the two may take to find each other.
const FOUND: Duration = Duration::from_secs(10);
/// A way that opens is tried for again within this time.
const NOTICED: Duration = Duration::from_secs(40);
const PLAYED: Duration = Duration::from_secs(15);
/// A little more than the film needs, so that it comes while it plays.
const UPLINK_BYTES_PER_S: u64 = 200_000;

/// The hosts, each behind its router but the public one.
struct Hosts {
    public: Host,
    a: Host,
    b: Host,
    routers: [Host; 2],
}

/// Their nodes, and a film at A.
struct Nodes {
    public: Node,
    a: Node,
    b: Node,
    published: Published,
}

fn tell(story: &mut Story, kind: NatKind) -> Result<Stage> {
    let hosts = hosts(story, kind)?;
    let nodes = nodes(story, &hosts, None)?;
    let way = if kind == NatKind::Symmetric { LinkClass::Relay } else { LinkClass::Direct };
    let player = play(story, &hosts, &nodes, way)?;
    story.within("they have greeted each other, and exchange records", FOUND, || greeted(&nodes.b, &nodes.a))?;
    player.hurry();
    to_the_end(story, &hosts, &nodes, &player)?;
    story.check("the same way to the end", carried(&nodes.b, &nodes.a, way))?;
    Ok(Box::new(nodes))
}

fn upgrade(story: &mut Story) -> Result<Stage> {
    let hosts = hosts(story, NatKind::PortRestrictedCone)?;
    let [router_a, router_b] = &hosts.routers;
    nat::bar(router_a.netns(), WAN_OF_B)?;
    nat::bar(router_b.netns(), WAN_OF_A)?;
    story.say("the routers pass nothing on between A and B");
    let nodes = nodes(story, &hosts, Some(UPLINK_BYTES_PER_S))?;
    let player = play(story, &hosts, &nodes, LinkClass::Relay)?;
    story.pass(PLAYED)?;
    story.check("still through the relay", carried(&nodes.b, &nodes.a, LinkClass::Relay))?;
    [router_a, router_b].into_iter().try_for_each(|router| nat::unbar(router.netns()))?;
    story.say(format!("the way is open; {} bytes played", player.progress().bytes));
    story.within("directly", NOTICED, || carried(&nodes.b, &nodes.a, LinkClass::Direct))?;
    let relayed = relayed_bytes(&hosts.public, &nodes.public)?;
    let left = nodes.published.film.bytes.saturating_sub(local_bytes(&nodes.b, &nodes.published)?);
    story.measured("bytes still to come", left, "B");
    story.holds("in mid-film", left > nodes.published.film.bytes / 8)?;
    player.hurry();
    to_the_end(story, &hosts, &nodes, &player)?;
    let relayed = relayed_bytes(&hosts.public, &nodes.public)? - relayed;
    story.holds("the rest went past the relay", relayed < left / 4)?;
    let progress = player.progress();
    story.holds("the player noticed nothing", progress.requests == 1 && progress.broken.is_empty())?;
    Ok(Box::new(nodes))
}

fn hosts(story: &mut Story, kind: NatKind) -> Result<Hosts> {
    let internet = story.switch("internet")?;
    let [public, other] = [story.host("public")?, story.host("other")?];
    let [a, b] = [story.host("a")?, story.host("b")?];
    story.plug(&public, &internet, &format!("{PUBLIC}/24"))?;
    story.plug(&other, &internet, &format!("{OTHER}/24"))?;
    let outside = |wan: Ipv4Addr| format!("{wan}/24");
    let routers = [
        story.nat(kind, (&a, "10.1.0.2/24", "10.1.0.1/24"), (&internet, &outside(WAN_OF_A)))?,
        story.nat(kind, (&b, "10.2.0.2/24", "10.2.0.1/24"), (&internet, &outside(WAN_OF_B)))?,
    ];
    for host in [&a, &b] {
        let seen = nat::probe(host.netns(), [(public.netns(), PUBLIC), (other.netns(), OTHER)])?;
        let is = seen.kind().map_or("none of the four", NatKind::name);
        story.say(format!("{} is behind a NAT that behaves like {is}: {seen:?}", host.name()));
        if seen.kind() != Some(kind) {
            return Err(Void(format!("the NAT of {} is {is}, not {}", host.name(), kind.name())).into());
        }
    }
    story.holds(&format!("both NATs behave like {}", kind.name()), true)?;
    Ok(Hosts { public, a, b, routers })
}

/// Starts them. A sends at most so many bytes a second.
fn nodes(story: &mut Story, hosts: &Hosts, uplink_bytes_per_s: Option<u64>) -> Result<Nodes> {
    let public = story.node(&hosts.public, |options| options.env("MHC_ROLES", "relay"))?;
    let invitation = public.ticket()?;
    let uplink = uplink_bytes_per_s.map(|rate| rate.to_string()).unwrap_or_default();
    let a = story.node(&hosts.a, |options| options.peer(&invitation).env("MHC_P2P__UPLOAD_BYTES_PER_S", &uplink))?;
    let b = story.node(&hosts.b, |options| options.peer(&invitation))?;
    story.within("both are connected to the public node", FOUND, || connected(&public, &[&a, &b]))?;
    story.within("both can be reached through its relay", FOUND, || {
        [&a, &b].into_iter().try_for_each(reached_through_relay)
    })?;
    let published = publish_film(story, &hosts.a, &a)?;
    story.within("B lists what A published", FOUND, || lists(&b, &published.content))?;
    Ok(Nodes { public, a, b, published })
}

/// Plays at B what is at A, and waits until it comes this way.
fn play(story: &mut Story, hosts: &Hosts, nodes: &Nodes, way: LinkClass) -> Result<Player> {
    let (asked, Nodes { a, b, published, .. }) = (Instant::now(), nodes);
    let player = Player::start(hosts.b.netns(), &b.http()?, &published.film);
    story.within_since(asked, "B plays", FOUND, || {
        ensure!(player.progress().bytes > 0, "nothing yet: {:?}", player.progress().broken);
        Ok(())
    })?;
    let what = match way {
        LinkClass::Relay => "what it plays comes through the relay",
        _ => "what it plays comes directly from A",
    };
    story.within_since(asked, what, FOUND, || carried(b, a, way))?;
    Ok(player)
}

fn to_the_end(story: &mut Story, hosts: &Hosts, nodes: &Nodes, player: &Player) -> Result<()> {
    let Nodes { public, published, .. } = nodes;
    let played = story.within("it plays to the end", Duration::from_secs(60), || player.played(&published.film))?;
    story.holds("byte for byte", BlobHash::of(&played) == published.hash)?;
    story.check("the public node holds nothing of it", holds_nothing(public, published))?;
    story.measured("bytes that the relay passed on", relayed_bytes(&hosts.public, public)?, "B");
    Ok(())
}

/// Says why others aren't told of a relay that leads to this node, if they aren't.
fn reached_through_relay(node: &Node) -> Result<()> {
    let ticket: Ticket = node.ticket()?.parse()?;
    ensure!(!ticket.relays.is_empty(), "no relay in its ticket");
    Ok(())
}

/// Says which ways bytes take from `other`, if it isn't this one.
fn carried(node: &Node, other: &Node, way: LinkClass) -> Result<()> {
    let (peers, id) = (node.json(&["peers"])?, &other.ready()?.node);
    let peer = peers.as_array().into_iter().flatten().find(|peer| peer["node"] == **id).context("not connected")?;
    let links = peer["links"].as_array().map(Vec::as_slice).unwrap_or_default();
    let selected: Vec<_> = links.iter().filter(|link| link["selected"] == true).map(|link| &link["class"]).collect();
    let way = serde_json::to_value(way)?;
    ensure!(selected == [&way], "links: {links:?}");
    Ok(())
}

/// Says why the node doesn't take `other` for a member of its network, which those are who greeted, if it doesn't.
fn greeted(node: &Node, other: &Node) -> Result<()> {
    let (peers, id) = (node.json(&["peers"])?, &other.ready()?.node);
    let peer = peers.as_array().into_iter().flatten().find(|peer| peer["node"] == **id).context("not connected")?;
    ensure!(peer["membership"] == "member", "{peer}");
    Ok(())
}

fn holds_nothing(node: &Node, published: &Published) -> Result<()> {
    let bytes = local_bytes(node, published)?;
    ensure!(bytes == 0, "{bytes} bytes");
    Ok(())
}

fn local_bytes(node: &Node, published: &Published) -> Result<u64> {
    let shown = node.json(&["show", &published.content])?;
    shown["local"]["bytes"].as_u64().with_context(|| format!("local: {}", shown["local"]))
}

fn relayed_bytes(host: &Host, node: &Node) -> Result<u64> {
    let http = node.http()?;
    let metrics = host.netns().enter(|| http.get("/metrics"))?.text();
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("mhc_relay_bytes_total ")).context("not counted")?;
    Ok(bytes.parse()?)
}
