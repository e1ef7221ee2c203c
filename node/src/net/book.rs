//! The peer book: everything this node knows of its peers, over both stacks. Pure: callers bring the clock and
//! carry out what it decides.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use iroh::endpoint::WeakConnectionHandle;
use libp2p::swarm::ConnectionId;
use mhc_protocol::{
    NetworkId, NodeId, Timestamp,
    relay::Relay,
    wire::{Follows, Hello},
};

use super::peers::Membership;

/// At this score a peer is cut off for [`BAN`].
pub const CUT_OFF_SCORE: i32 = -100;
/// How long a peer stays cut off.
pub(super) const BAN: Duration = Duration::from_secs(10 * 60);
/// A peer that was cut off starts again from here.
const SCORE_AFTER_BAN: i32 = -50;
/// Longest pause between attempts to reach a wanted peer.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(30);
const RECOVERY: Duration = Duration::from_secs(3);
const MAX_PEERS: usize = 1024;
const MAX_WANTED: usize = 128;
const MAX_ADDRS: usize = 32;
const MAX_IROH_CONNECTIONS: usize = 16;

/// What a peer did that no honest one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It sent bytes that aren't the blob's; the text says of which.
    BadBytes(String),
    /// It brought a record that doesn't verify.
    BadRecord(String),
    /// It gossiped something that isn't a message.
    JunkGossip(String),
    /// Its greeting isn't one.
    JunkHello(String),
    /// Its part of a sync isn't what the protocol says.
    JunkSync(String),
    /// It asked more than it may, again and again.
    Flood,
}

impl Fault {
    /// The label of the metric.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::BadBytes(_) => "bad_bytes",
            Self::BadRecord(_) => "bad_record",
            Self::JunkGossip(_) => "junk_gossip",
            Self::JunkHello(_) => "junk_hello",
            Self::JunkSync(_) => "junk_sync",
            Self::Flood => "flood",
        }
    }

    fn penalty(&self) -> i32 {
        match self {
            // Can't happen by accident: cut off at once.
            Self::BadBytes(_) => 100,
            // Once may be a bug; twice within a minute or so isn't. (gossipsub graylists soon after.)
            Self::JunkHello(_) | Self::JunkSync(_) | Self::BadRecord(_) | Self::JunkGossip(_) => 60,
            Self::Flood => 20,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::BadBytes(what) => what.clone(),
            Self::BadRecord(what) => format!("bad record: {what}"),
            Self::JunkGossip(what) => format!("junk gossip: {what}"),
            Self::JunkHello(what) => format!("junk greeting: {what}"),
            Self::JunkSync(what) => format!("junk in sync: {what}"),
            Self::Flood => "flood of requests".into(),
        }
    }
}

/// A connection of libp2p.
#[derive(Debug)]
pub(super) struct P2pLink {
    pub(super) id: ConnectionId,
    pub(super) addr: Option<SocketAddr>,
    pub(super) rtt_ms: Option<u64>,
}

/// What is known of one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) p2p: Vec<SocketAddr>,
    pub(super) iroh: Vec<SocketAddr>,
    /// Relays through which it can be reached, as it says.
    pub(super) relays: Vec<Relay>,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) membership: Membership,
    /// What it follows, as it says.
    pub(super) follows: Vec<Follows>,
    /// Which run of its program greeted, as it says.
    pub(super) run: Option<u64>,
    pub(super) p2p_links: Vec<P2pLink>,
    pub(super) iroh_links: Vec<WeakConnectionHandle>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) last_seen: Timestamp,
    pub(super) score: i32,
    pub(super) cut_off: Option<CutOff>,
    /// Dialled again whenever it isn't there.
    pub(super) wanted: bool,
    /// Changed since it was last saved.
    pub(super) dirty: bool,
    redial: Redial,
}

/// Why and until when a peer is cut off.
#[derive(Debug, Clone)]
pub(super) struct CutOff {
    pub(super) reason: String,
    pub(super) until: Instant,
}

#[derive(Debug, Default)]
struct Redial {
    failures: u32,
    not_before: Option<Instant>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            p2p: vec![],
            iroh: vec![],
            relays: vec![],
            name: String::new(),
            version: String::new(),
            membership: Membership::Unknown,
            follows: vec![],
            run: None,
            p2p_links: vec![],
            iroh_links: vec![],
            bytes_in: 0,
            bytes_out: 0,
            last_seen: Timestamp::default(),
            score: 0,
            cut_off: None,
            wanted: false,
            dirty: false,
            redial: Redial::default(),
        }
    }
}

impl Peer {
    /// Whether either stack has a connection.
    pub(super) fn is_connected(&self) -> bool {
        !self.p2p_links.is_empty()
            || self.iroh_links.iter().any(|link| link.upgrade().is_some_and(|c| c.close_reason().is_none()))
    }

    fn is_forgettable(&self) -> bool {
        !self.wanted && self.cut_off.is_none() && !self.is_connected()
    }
}

/// All peers.
#[derive(Debug)]
pub(super) struct Book {
    own: NodeId,
    /// What this node follows.
    networks: BTreeSet<NetworkId>,
    peers: HashMap<NodeId, Peer>,
    recovered_at: Option<Instant>,
}

impl Book {
    pub(super) fn new(own: NodeId, networks: BTreeSet<NetworkId>) -> Self {
        Self { own, networks, peers: HashMap::new(), recovered_at: None }
    }

    /// This node follows these networks from now on: peers that follow one of them, too, become members, others cease
    /// to be.
    pub(super) fn follow(&mut self, networks: BTreeSet<NetworkId>) {
        self.networks = networks;
        for peer in self.peers.values_mut().filter(|peer| !peer.follows.is_empty()) {
            let membership = membership(&self.networks, &peer.follows);
            peer.dirty |= peer.membership != membership;
            peer.membership = membership;
            // Whom the operator named, or the cache, is no longer looked for when there is nothing to exchange.
            peer.wanted = membership == Membership::Member;
        }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(node, peer)| (*node, peer))
    }

    /// The peer's entry, made when there is none. None for this node itself and when the book is full of peers
    /// that matter.
    pub(super) fn entry(&mut self, node: NodeId) -> Option<&mut Peer> {
        if node == self.own {
            return None;
        }
        if !self.peers.contains_key(&node) && self.peers.len() >= MAX_PEERS {
            let oldest = self.peers.iter().filter(|(_, peer)| peer.is_forgettable()).min_by_key(|(_, p)| p.last_seen);
            let oldest = oldest.map(|(node, _)| *node)?;
            self.peers.remove(&oldest);
        }
        Some(self.peers.entry(node).or_default())
    }

    /// Takes over addresses, the newest first. Returns whether any was new.
    pub(super) fn learn_addrs(&mut self, node: NodeId, p2p: &[SocketAddr], iroh: &[SocketAddr]) -> bool {
        let Some(peer) = self.entry(node) else { return false };
        let news = merge(&mut peer.p2p, p2p) | merge(&mut peer.iroh, iroh);
        peer.dirty |= news;
        if news {
            peer.redial = Redial::default();
        }
        news
    }

    /// Takes over through which relays a peer can be reached now.
    pub(super) fn learn_relays(&mut self, node: NodeId, relays: &[Relay]) {
        if let Some(peer) = self.entry(node)
            && peer.relays != relays
        {
            (peer.relays, peer.dirty) = (relays.to_vec(), true);
        }
    }

    /// Marks a peer as one to be dialled until it is there.
    pub(super) fn want(&mut self, node: NodeId) {
        let wanted = self.peers.values().filter(|peer| peer.wanted).count();
        if let Some(peer) = self.entry(node)
            && wanted < MAX_WANTED
        {
            peer.dirty |= !peer.wanted;
            peer.wanted = true;
        }
    }

    /// Takes over a greeting that came over a connection from `observed`.
    pub(super) fn hello(
        &mut self,
        node: NodeId,
        hello: &Hello,
        observed: Option<SocketAddr>,
        at: Timestamp,
    ) -> Membership {
        let membership = membership(&self.networks, &hello.networks);
        let ip = observed.map(|addr| addr.ip());
        self.learn_addrs(node, &reachable(&hello.p2p, ip), &reachable(&hello.iroh, ip));
        self.learn_relays(node, &hello.relays);
        if membership == Membership::Member {
            self.want(node);
        }
        if let Some(peer) = self.entry(node) {
            peer.dirty |= peer.membership != membership || peer.name != hello.name;
            (peer.name, peer.version) = (hello.name.clone(), hello.version.clone());
            (peer.follows, peer.run) = (hello.networks.clone(), hello.run);
            (peer.membership, peer.last_seen) = (membership, at);
        }
        membership
    }

    /// A libp2p connection was opened. Returns whether it is the first to this peer.
    pub(super) fn p2p_opened(
        &mut self,
        node: NodeId,
        id: ConnectionId,
        addr: Option<SocketAddr>,
        at: Timestamp,
    ) -> bool {
        let Some(peer) = self.entry(node) else { return false };
        peer.p2p_links.push(P2pLink { id, addr, rtt_ms: None });
        (peer.redial, peer.last_seen) = (Redial::default(), at);
        peer.p2p_links.len() == 1
    }

    /// Whether a libp2p connection to the peer is open that is older than `id`.
    fn has_older_link(&self, node: NodeId, id: ConnectionId) -> bool {
        self.get(node).and_then(|peer| peer.p2p_links.first()).is_some_and(|first| first.id != id)
    }

    /// A libp2p connection was closed. Returns whether it was the last to this peer.
    pub(super) fn p2p_closed(&mut self, node: NodeId, id: ConnectionId, at: Timestamp) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        peer.p2p_links.retain(|link| link.id != id);
        peer.last_seen = at;
        peer.p2p_links.is_empty()
    }

    /// A round trip was measured.
    pub(super) fn p2p_rtt(&mut self, node: NodeId, id: ConnectionId, rtt: Duration, at: Timestamp) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.last_seen = at;
            for link in peer.p2p_links.iter_mut().filter(|link| link.id == id) {
                link.rtt_ms = Some(u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX));
            }
        }
    }

    /// An iroh connection was opened. False when the peer has too many.
    pub(super) fn iroh_opened(&mut self, node: NodeId, link: WeakConnectionHandle, at: Timestamp) -> bool {
        let Some(peer) = self.entry(node) else { return false };
        peer.iroh_links.retain(|link| link.upgrade().is_some_and(|conn| conn.close_reason().is_none()));
        peer.last_seen = at;
        let room = peer.iroh_links.len() < MAX_IROH_CONNECTIONS;
        if room {
            peer.iroh_links.push(link);
        }
        room
    }

    /// Wanted peers to dial now. Each is given its next pause, which a success resets.
    pub(super) fn due(&mut self, now: Instant, limit: usize) -> Vec<NodeId> {
        let due = |peer: &Peer| {
            peer.wanted
                && peer.p2p_links.is_empty()
                && peer.cut_off.is_none()
                && !peer.p2p.is_empty()
                && peer.redial.not_before.is_none_or(|at| at <= now)
        };
        let mut nodes = vec![];
        for (node, peer) in self.peers.iter_mut().filter(|(_, peer)| due(peer)).take(limit) {
            let pause = Duration::from_secs(1 << peer.redial.failures.min(5)).min(MAX_BACKOFF);
            peer.redial = Redial { failures: peer.redial.failures.saturating_add(1), not_before: Some(now + pause) };
            nodes.push(*node);
        }
        nodes
    }

    /// The peer is dialled at the next look, however often it wasn't reached.
    pub(super) fn dial_soon(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.redial = Redial::default();
        }
    }

    /// The same for all.
    pub(super) fn dial_all_soon(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.redial = Redial::default());
    }

    /// Scores a fault down. Returns whether the peer is cut off by it now.
    pub(super) fn report(&mut self, node: NodeId, fault: &Fault, now: Instant) -> bool {
        let Some(peer) = self.entry(node) else { return false };
        peer.score = peer.score.saturating_sub(fault.penalty()).max(2 * CUT_OFF_SCORE);
        if peer.score > CUT_OFF_SCORE || peer.cut_off.is_some() {
            return false;
        }
        peer.cut_off = Some(CutOff { reason: fault.reason(), until: now + BAN });
        true
    }

    /// Whether the peer is cut off.
    pub(super) fn is_cut_off(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.cut_off.is_some())
    }

    /// Time passes: scores recover, bans end. Returns the peers whose ban ended.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<NodeId> {
        let steps = match self.recovered_at {
            Some(at) => now.saturating_duration_since(at).as_secs() / RECOVERY.as_secs(),
            None => 0,
        };
        if steps > 0 || self.recovered_at.is_none() {
            self.recovered_at = Some(now);
        }
        let mut ended = vec![];
        for (node, peer) in &mut self.peers {
            if peer.cut_off.is_none() {
                let up = i32::try_from(steps).unwrap_or(i32::MAX);
                peer.score = peer.score.saturating_add(up).min(0);
            }
            if peer.cut_off.as_ref().is_some_and(|cut| cut.until <= now) {
                (peer.cut_off, peer.score) = (None, SCORE_AFTER_BAN);
                ended.push(*node);
            }
        }
        ended
    }

    /// Peers that follow one of our networks, are connected now and not cut off.
    pub(super) fn members(&self) -> Vec<NodeId> {
        self.present().filter(|(_, peer)| peer.membership == Membership::Member).map(|(node, _)| node).collect()
    }

    /// Those of them that follow this network.
    pub(super) fn members_of(&self, network: NetworkId) -> Vec<NodeId> {
        let follows = |peer: &Peer| peer.follows.iter().any(|follows| follows.network == network);
        self.present().filter(|(_, peer)| follows(peer)).map(|(node, _)| node).collect()
    }

    fn present(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.iter().filter(|(_, peer)| peer.cut_off.is_none() && !peer.p2p_links.is_empty())
    }

    /// Whether the peer keeps all of a network, as it says. One that hasn't said is taken to.
    pub(super) fn keeps_all(&self, node: NodeId, network: NetworkId) -> bool {
        let follows = self.get(node).map(|peer| peer.follows.as_slice()).unwrap_or_default();
        follows.iter().find(|follows| follows.network == network).is_none_or(|follows| follows.whole)
    }

    /// The networks that a peer and this node both follow.
    pub(super) fn shared_with(&self, peer: &Peer) -> Vec<NetworkId> {
        let networks = peer.follows.iter().map(|follows| follows.network);
        networks.filter(|network| self.networks.contains(network)).collect()
    }

    /// The network that a peer is told about whose greeting names one only: its own if this node follows it.
    pub(super) fn first_told(&self, node: NodeId, home: NetworkId) -> NetworkId {
        self.get(node).and_then(|peer| self.shared_with(peer).first().copied()).unwrap_or(home)
    }

    /// Whether a greeting comes from another run of the peer's program than the one before, as far as can be told: then
    /// what is open to that one is gone.
    pub(super) fn started_anew(&self, node: NodeId, hello: &Hello, link: ConnectionId) -> bool {
        let before = self.get(node).and_then(|peer| peer.run);
        match (hello.run, before) {
            (Some(run), before) => before.is_some_and(|before| before != run),
            // Nodes of the first version greet once, on their first connection.
            (None, _) => self.has_older_link(node, link),
        }
    }

    /// How many peers are connected.
    pub(super) fn connected_count(&self) -> usize {
        self.peers.values().filter(|peer| peer.is_connected()).count()
    }
}

fn membership(ours: &BTreeSet<NetworkId>, theirs: &[Follows]) -> Membership {
    match theirs.iter().any(|follows| ours.contains(&follows.network)) {
        true => Membership::Member,
        false => Membership::OtherNetwork,
    }
}

/// Adds `new` in front of `known`, without repeats, keeping the newest. Returns whether any was new.
fn merge(known: &mut Vec<SocketAddr>, new: &[SocketAddr]) -> bool {
    let before: BTreeSet<_> = known.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let merged = new.iter().copied().chain(std::mem::take(known)).filter(|addr| seen.insert(*addr));
    *known = merged.take(MAX_ADDRS).collect();
    new.iter().any(|addr| !before.contains(addr))
}

/// The announced addresses that make sense to us, with the observed one in front: behind a router, or with a
/// stale list, it is the one that works. Loopback addresses only make sense on the same machine.
fn reachable(announced: &[SocketAddr], observed: Option<IpAddr>) -> Vec<SocketAddr> {
    let observed = observed.map(|ip| ip.to_canonical());
    let ports: BTreeSet<_> = announced
        .iter()
        .filter(|addr| observed.is_some_and(|ip| ip.is_ipv4() == addr.is_ipv4()))
        .map(SocketAddr::port)
        .collect();
    let seen = observed
        .filter(|ip| !ip.is_unspecified())
        .into_iter()
        .flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)));
    let local = observed.is_none_or(|ip| ip.is_loopback());
    let told = announced.iter().copied().filter(|addr| local || !addr.ip().is_loopback());
    let mut unique = BTreeSet::new();
    seen.chain(told).filter(|addr| unique.insert(*addr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn book() -> Book {
        Book::new(node(0), [NetworkId::from_bytes([9; 32])].into())
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| addr(text)).collect()
    }

    #[test]
    fn announced_addresses_are_checked_against_what_was_seen() {
        let cases: [(&[&str], Option<&str>, &[&str]); 6] = [
            (&["127.0.0.1:1", "10.0.0.2:1"], Some("0.0.0.0"), &["10.0.0.2:1"]),
            (&["127.0.0.1:1"], None, &["127.0.0.1:1"]),
            (&["127.0.0.1:1", "10.0.0.2:1"], Some("127.0.0.1"), &["127.0.0.1:1", "10.0.0.2:1"]),
            (&["127.0.0.1:1", "10.0.0.2:1"], Some("10.0.0.2"), &["10.0.0.2:1"]),
            (&["10.0.0.2:1", "[fd00::2]:7"], Some("203.0.113.5"), &["203.0.113.5:1", "10.0.0.2:1", "[fd00::2]:7"]),
            (&["10.0.0.2:1"], Some("::ffff:10.0.0.9"), &["10.0.0.9:1", "10.0.0.2:1"]),
        ];
        for (announced, observed, expected) in cases {
            let observed = observed.map(|ip| ip.parse().unwrap());
            assert_eq!(reachable(&addrs(announced), observed), addrs(expected), "{announced:?} from {observed:?}");
        }
    }

    #[test]
    fn redials_slow_down_to_the_cap_and_new_addresses_start_again() {
        let start = Instant::now();
        let mut book = book();
        book.learn_addrs(node(1), &addrs(&["127.0.0.1:1"]), &[]);
        assert_eq!(book.due(start, 8), [], "only wanted peers are dialled");
        book.want(node(1));
        let mut now = start;
        let mut pauses = vec![];
        for _ in 0..8 {
            assert_eq!(book.due(now, 8), [node(1)]);
            let pause = (1..=60).find(|s| {
                let at = now + Duration::from_secs(*s);
                book.peers[&node(1)].redial.not_before.is_none_or(|due| due <= at)
            });
            pauses.push(pause.unwrap());
            now += Duration::from_secs(pause.unwrap());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(book.due(now, 8).len() == 1 && book.due(now, 8).is_empty());
        book.learn_addrs(node(1), &addrs(&["127.0.0.1:2"]), &[]);
        assert_eq!(book.due(now, 8), [node(1)]);
        book.p2p_opened(node(1), ConnectionId::new_unchecked(1), None, AT);
        assert_eq!(book.due(now + BAN, 8), [], "it is there");
    }

    #[test]
    fn faults_add_up_to_a_ban_that_ends() {
        let cases = [
            (Fault::BadBytes("bad bytes".into()), 1),
            (Fault::JunkSync("x".into()), 2),
            (Fault::BadRecord("x".into()), 2),
            (Fault::JunkGossip("x".into()), 2),
            (Fault::Flood, 5),
        ];
        for (fault, strikes) in cases {
            let start = Instant::now();
            let mut book = book();
            book.tick(start);
            let struck = (1..).find(|_| book.report(node(1), &fault, start));
            assert_eq!(struck, Some(strikes), "{fault:?}");
            assert!(book.is_cut_off(node(1)));
            assert!(!book.report(node(1), &fault, start), "told once");
            assert_eq!(book.tick(start + BAN - Duration::from_secs(1)), []);
            assert_eq!(book.tick(start + BAN), [node(1)]);
            assert!(!book.is_cut_off(node(1)) && book.get(node(1)).unwrap().score == SCORE_AFTER_BAN);
            book.tick(start + BAN + Duration::from_secs(600));
            assert_eq!(book.get(node(1)).unwrap().score, 0, "scores recover");
        }
    }

    #[test]
    fn greetings_tell_members_from_others() {
        let mut book = book();
        let network = |n| NetworkId::from_bytes([n; 32]);
        let hello = |n| Hello {
            networks: vec![Follows { network: network(n), whole: true }],
            run: Some(n.into()),
            iroh: addrs(&["127.0.0.1:4481"]),
            p2p: addrs(&["127.0.0.1:4480"]),
            relays: vec![],
            name: "n".into(),
            version: "1".into(),
        };
        assert_eq!(book.hello(node(1), &hello(9), Some(addr("127.0.0.1:50000")), AT), Membership::Member);
        assert_eq!(book.hello(node(2), &hello(8), Some(addr("127.0.0.1:50000")), AT), Membership::OtherNetwork);
        assert_eq!(book.get(node(1)).unwrap().iroh, addrs(&["127.0.0.1:4481"]));
        assert!(book.get(node(1)).unwrap().wanted && !book.get(node(2)).unwrap().wanted);
        for n in [1, 2] {
            book.p2p_opened(node(n), ConnectionId::new_unchecked(n.into()), None, AT);
        }
        assert_eq!((book.members(), book.connected_count()), (vec![node(1)], 2));
        assert!(book.entry(node(0)).is_none(), "this node isn't its own peer");
        book.follow([network(8), network(9)].into());
        assert_eq!((book.members().len(), book.members_of(network(8))), (2, vec![node(2)]));
        assert_eq!(
            (book.first_told(node(2), network(9)), book.first_told(node(3), network(9))),
            (network(8), network(9))
        );
        book.follow([network(8)].into());
        assert_eq!(book.members(), [node(2)]);
        assert!(!book.get(node(1)).unwrap().wanted);
        let second = ConnectionId::new_unchecked(7);
        assert!(!book.started_anew(node(2), &hello(8), second), "the same run");
        assert!(book.started_anew(node(2), &Hello { run: Some(1), ..hello(8) }, second));
    }

    #[test]
    fn the_book_is_bounded_and_keeps_who_matters() {
        let mut book = book();
        book.want(node(1));
        for n in 0..2 * MAX_PEERS as u64 {
            let mut bytes = [0xff; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            book.learn_addrs(NodeId::from_bytes(bytes), &addrs(&["127.0.0.1:1"]), &[]);
        }
        assert!(book.peers.len() <= MAX_PEERS && book.peers.contains_key(&node(1)));
        let crowd: Vec<_> = (1..=100).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        book.learn_addrs(node(1), &crowd, &crowd);
        assert_eq!(book.get(node(1)).unwrap().p2p.len(), MAX_ADDRS);
    }
}
