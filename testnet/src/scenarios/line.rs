//! A in one valley, C in another, and B between them that both reach. A and C have no route to each other but the
//! Yggdrasil overlay, which B carries without being part of the network.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mhc_protocol::{BlobHash, link::LinkClass};

use super::{connected, lists, publish_film, ticket};
use crate::{Node, player::Player, preset::Preset, run::Scenario, story::Host};

const PORT: u16 = 7000;
const RATE: u64 = 2_500_000;
/// How long an answer over the overlay may take.
const PATIENCE: Duration = Duration::from_millis(200);
/// What is played before the cut. The film plays at less than half the rate, so most of it is still to come then.
const PLAYED: Duration = Duration::from_secs(6);
const RAN_DRY: Duration = Duration::from_secs(10);
const CUT: Duration = Duration::from_secs(45);
/// The overlay found its way again 37 to 47 s after a cut of 45 s, by itself.
const OVERLAY_BACK: Duration = Duration::from_secs(75);
const RESUMED: Duration = Duration::from_secs(10);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "line",
    about: "a film over Yggdrasil through a third machine, whose link is cut silently for 45 s while it plays",
    limit: Duration::from_secs(240),
    tell: |story| {
        let [a, b, c] = [story.host("a")?, story.host("b")?, story.host("c")?];
        let path = || Preset::steady("village", Duration::from_millis(10), RATE);
        let near = story.wire((&a, "10.77.3.1/30"), (&b, "10.77.3.2/30"), path())?;
        let far = story.wire((&b, "10.77.3.5/30"), (&c, "10.77.3.6/30"), path())?;
        let ygg_b = story.yggdrasil(&b, &["tcp://0.0.0.0:9001"], &[])?;
        let ygg_a = story.yggdrasil(&a, &[], &["tcp://10.77.3.2:9001"])?;
        let ygg_c = story.yggdrasil(&c, &[], &["tcp://10.77.3.5:9001"])?;
        let overlay = Echo::start(&c, ygg_c.address(), &a, ygg_a.address())?;
        story.within("the overlay reaches from C to A", Duration::from_secs(30), || overlay.answers())?;
        story.holds("there is no other route", c.netns().ip("route get 10.77.3.1").is_err())?;

        let at_a = story.node(&a, |options| options)?;
        let invitation = over_yggdrasil(&at_a)?;
        let at_c = story.node(&c, |options| options.peer(&invitation))?;
        story.within("C is connected to A", Duration::from_secs(10), || connected(&at_c, &[&at_a]))?;
        story.within("the node's links to A are the overlay's", Duration::from_secs(5), || by_overlay(&at_c))?;
        let published = publish_film(story, &a, &at_a)?;
        story.within("C lists it", Duration::from_secs(10), || lists(&at_c, &published.content))?;

        let player = Player::start(c.netns(), &at_c.http()?, &published.film);
        story.within("C plays", Duration::from_secs(5), || {
            ensure!(player.progress().bytes > 0, "nothing yet: {:?}", player.progress().broken);
            Ok(())
        })?;
        story.pass(PLAYED)?;
        far.silence(true);
        story.say(format!("the link from B to C is cut, without a word; {} bytes played", player.progress().bytes));
        story.pass(CUT)?;
        let stalled = player.progress();
        story.measured("the player has been waiting for", stalled.at.elapsed().as_secs_f64(), "s");
        story
            .holds("it ran dry in mid-film", stalled.at.elapsed() > RAN_DRY && stalled.bytes < published.film.bytes)?;

        far.silence(false);
        story.say("the link is healed");
        story.within("the overlay reaches again", OVERLAY_BACK, || overlay.answers())?;
        story.within("the player goes on by itself", RESUMED, || {
            let progress = player.progress();
            ensure!(progress.bytes > stalled.bytes, "still at {}: {:?}", progress.bytes, progress.broken);
            Ok(())
        })?;
        let quick = Preset::steady("village", Duration::from_millis(10), 10 * RATE);
        [&near, &far].into_iter().for_each(|wire| wire.reshape(quick.there, quick.back));
        player.hurry();
        let played = story.within("it plays to the end", Duration::from_secs(60), || player.played(&published.film))?;
        story.holds("byte for byte", BlobHash::of(&played) == published.hash)?;
        story.measured("connections to the gateway that broke", player.progress().broken.len(), "");
        Ok(Box::new((at_a, at_c, (ygg_a, ygg_b, ygg_c), (near, far))))
    },
};

/// An invitation of the node with only the address that the overlay gave its host.
fn over_yggdrasil(node: &Node) -> Result<String> {
    let in_overlay = |addr: &SocketAddr| LinkClass::of_ip(addr.ip()) == LinkClass::Yggdrasil;
    ticket(node, |ticket| {
        ticket.p2p.retain(in_overlay);
        ticket.iroh.retain(in_overlay);
    })
}

/// Says why the node's connections aren't all through the overlay, if they aren't.
fn by_overlay(node: &Node) -> Result<()> {
    let peers = node.json(&["peers"])?;
    let links = peers.as_array().into_iter().flatten().filter_map(|peer| peer.get("links")?.as_array()).flatten();
    let classes: Vec<_> = links.filter_map(|link| link.get("class")?.as_str()).collect();
    ensure!(!classes.is_empty() && classes.iter().all(|class| *class == "yggdrasil"), "links: {classes:?}");
    Ok(())
}

/// Asks over the overlay, without any node.
struct Echo {
    asking: UdpSocket,
    answering: UdpSocket,
}

impl Echo {
    fn start(from: &Host, from_ip: IpAddr, to: &Host, to_ip: IpAddr) -> Result<Self> {
        let answering = to.netns().enter(|| Ok(UdpSocket::bind((to_ip, PORT))?))?;
        let asking = from.netns().enter(|| {
            let socket = UdpSocket::bind((from_ip, PORT))?;
            socket.connect((to_ip, PORT))?;
            Ok(socket)
        })?;
        [&asking, &answering].into_iter().try_for_each(|socket| socket.set_read_timeout(Some(PATIENCE)))?;
        Ok(Self { asking, answering })
    }

    /// Says why nothing came back, if nothing did.
    fn answers(&self) -> Result<()> {
        let mut packet = [0; 16];
        self.asking.send(b"there?")?;
        let (bytes, from) = self.answering.recv_from(&mut packet).context("nothing arrives")?;
        self.answering.send_to(packet.get(..bytes).unwrap_or_default(), from)?;
        self.asking.recv(&mut packet).context("nothing comes back")?;
        Ok(())
    }
}
