//! Relays: this node's own, if it has the role, and those through which it can be reached itself.
//!
//! A node uses relays that members of its networks name, and those of tickets that its operator gave it: a few at a
//! time, in the endpoint's map. iroh measures them and stays connected to the nearest, its home.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use iroh::{
    EndpointAddr, NetReportConfig, RelayConfig, RelayMap, RelayMode, TransportAddr, Watcher,
    dns::DnsResolver,
    endpoint::{Builder, Connection, Side},
};
use iroh_relay::RelayQuicConfig;
use libp2p::Multiaddr;
use mhc_protocol::{
    NetworkId, NodeId,
    link::LinkClass,
    network::{Membership as Rule, When},
    relay::{MAX_RELAYS, Relay, RelayUrl, write_token},
};
use mhc_relay::{Members, Pins, Reasons, Refusal, RelayOptions, RelayServer};
use tokio::{sync::Notify, time::timeout};

use super::{
    NetError,
    actor::Command,
    book::Book,
    endpoint::SYNC_ALPN,
    ids,
    peers::Membership,
    shared::{CLOSE_STOPPING, Shared},
};

/// How often the choice is made anew when nothing is heard.
const PERIOD: Duration = Duration::from_secs(10);
/// Changes within this time are looked at together.
const PAUSE: Duration = Duration::from_millis(100);
/// How soon whoever uses circuits must have greeted.
const MOMENT: Duration = Duration::from_secs(2);
/// How often a way past the relays is looked for.
const PROD_EVERY: Duration = Duration::from_secs(10);
/// For most so many peers at a time.
const MAX_PRODDED: usize = 16;

/// How a node's own relay is set up.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Its server.
    pub options: RelayOptions,
    /// Where others find it. Without it, at this node's own best address.
    pub public_url: Option<RelayUrl>,
}

/// The relays of a node.
#[derive(Default)]
pub(super) struct Relays {
    pins: Pins,
    /// In the endpoint's map, with the token that they are shown.
    used: Mutex<BTreeMap<RelayUrl, (NodeId, String)>>,
    own: OnceLock<Own>,
    pub(super) poke: Notify,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays").field("used", &self.used()).finish_non_exhaustive()
    }
}

/// What is known of this node's own relay.
#[derive(Debug)]
struct Own {
    addr: SocketAddr,
    is_https: bool,
    public_url: Option<RelayUrl>,
}

impl Relays {
    /// An endpoint that can use relays, though it knows none yet, and asks nobody outside: names of relays are looked up
    /// at the system's own resolvers only.
    pub(super) fn prepare(&self, builder: Builder) -> Builder {
        let mut reports = NetReportConfig::default();
        reports.captive_portal_check = false;
        builder
            .relay_mode(RelayMode::Custom(RelayMap::empty()))
            .ca_tls_config(self.pins.tls())
            .net_report_config(reports)
            .dns_resolver(DnsResolver::builder().with_system_defaults().disable_fallback().build())
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<RelayUrl, (NodeId, String)>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_use(&self) -> Vec<Relay> {
        self.used().iter().map(|(url, (node, _))| Relay { url: url.clone(), node: *node }).collect()
    }
}

/// Starts this node's own relay.
pub(super) async fn serve(shared: &Arc<Shared>, settings: RelaySettings) -> Result<RelayServer, NetError> {
    let members = Arc::new(MembersOf(Arc::downgrade(shared)));
    let server = RelayServer::start(&settings.options, members, shared.metrics.relay.clone()).await?;
    let (addr, is_https, public_url) = (server.addr(), server.is_https(), settings.public_url);
    let _ = shared.relays.own.set(Own { addr, is_https, public_url });
    shared.relays.poke.notify_one();
    Ok(server)
}

/// This node's own relay, where others find it. None while it has no address.
fn own(shared: &Shared) -> Option<Relay> {
    let own = shared.relays.own.get()?;
    let url = match &own.public_url {
        Some(url) => url.clone(),
        None => own_url(own, &shared.p2p_addrs())?,
    };
    Some(Relay { url, node: shared.node })
}

/// The one address of this node that most can reach. Just one: two names of one relay would look like two relays.
fn own_url(own: &Own, addrs: &[SocketAddr]) -> Option<RelayUrl> {
    let rank = |addr: &&SocketAddr| {
        let class = match LinkClass::of_ip(addr.ip()) {
            LinkClass::Direct => 0,
            LinkClass::Lan => 1,
            _ => 2,
        };
        (addr.ip().is_loopback(), class, addr.is_ipv6(), **addr)
    };
    let ip = match own.addr.ip().is_unspecified() {
        true => addrs.iter().filter(|addr| addr.is_ipv4() || own.addr.is_ipv6()).min_by_key(rank)?.ip(),
        false => own.addr.ip(),
    };
    let scheme = if own.is_https { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, own.addr.port())).parse().ok()
}

/// Through which relays this node can be reached now: its own, and those it is connected to.
pub(super) fn told(shared: &Shared) -> Vec<Relay> {
    let home = shared.endpoint.home_relay_status().get();
    let connected: HashSet<String> =
        home.iter().filter(|status| status.is_connected()).map(|status| status.url().to_string()).collect();
    let used = shared.relays.in_use().into_iter().filter(|relay| connected.contains(relay.url.as_str()));
    let mut unique = HashSet::new();
    own(shared).into_iter().chain(used).filter(|relay| unique.insert(relay.url.clone())).take(MAX_RELAYS).collect()
}

/// Where to look for a peer beside its addresses: at those of the relays it named that this node uses, else, unless it
/// can be reached without, at all that this node uses. Others would be asked without a token, and that once for all.
pub(super) fn towards(shared: &Shared, node: NodeId) -> Vec<iroh::RelayUrl> {
    leading_to(shared, node).iter().map(|relay| iroh_url(&relay.url)).collect()
}

fn leading_to(shared: &Shared, node: NodeId) -> Vec<Relay> {
    let (named, is_here) = {
        let book = shared.book();
        let peer = book.get(node);
        let named: Vec<_> = peer.map(|peer| peer.relays.clone()).unwrap_or_default();
        (named, peer.is_some_and(|peer| !peer.p2p_links.is_empty()))
    };
    let mut relays = shared.relays.in_use();
    match relays.iter().any(|relay| named.contains(relay)) {
        true => relays.retain(|relay| named.contains(relay)),
        false if is_here => return vec![],
        false => {}
    }
    relays
}

fn iroh_url(url: &RelayUrl) -> iroh::RelayUrl {
    url.url().clone().into()
}

/// How libp2p reaches a peer through circuits: of the relays it named, else, unless it is here, of all that this node uses.
pub(super) fn circuits_to(shared: &Shared, node: NodeId) -> Vec<Multiaddr> {
    let relays: BTreeSet<_> = leading_to(shared, node).into_iter().map(|relay| relay.node).collect();
    let book = shared.book();
    let through = relays.into_iter().filter(|relay| *relay != node && *relay != shared.node);
    let here = through.filter_map(|relay| Some((ids::peer_of(relay)?, book.get(relay)?)));
    let here = here.filter(|(_, peer)| !peer.p2p_links.is_empty());
    here.filter_map(|(relay, peer)| ids::circuits(relay, &peer.p2p).into_iter().next()).collect()
}

/// Closes the connections to a node that uses circuits of this one and hasn't shown within a moment that it is a member.
pub(super) async fn keep_strangers_out(shared: Arc<Shared>, node: NodeId) {
    tokio::time::sleep(MOMENT).await;
    let asked = Arc::clone(&shared);
    let is_member = tokio::task::spawn_blocking(move || {
        let follows = asked.book().get(node).map(|peer| peer.follows.clone()).unwrap_or_default();
        let networks: Vec<_> = follows.into_iter().map(|follows| follows.network).collect();
        MembersOf(Arc::downgrade(&asked)).is_member(node, &networks)
    });
    if !is_member.await.ok().flatten().unwrap_or_default() {
        let refused = &shared.metrics.relay.refused;
        refused.get_or_create(&Reasons { reason: Refusal::NotAMember.kind() }).inc();
        tracing::info!(peer = %node, "no circuits: it is no member of a network of this relay");
        let _ = shared.commands.send(Command::Disconnect(node)).await;
    }
}

/// Keeps the endpoint's map as it should be, and tells peers when this node is reached through other relays than before.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut greetings = shared.greetings.subscribe();
    let mut home = shared.endpoint.home_relay_status();
    let mut last = vec![];
    loop {
        update(&shared).await;
        let now = told(&shared);
        if now != last {
            tracing::info!(relays = ?now.iter().map(|relay| relay.url.as_str()).collect::<Vec<_>>(), "reached through relays");
            let _ = shared.commands.send(Command::News).await;
            last = now;
        }
        tokio::select! {
            _ = timeout(PERIOD, greetings.changed()) => {}
            _ = home.updated() => {}
            () = shared.relays.poke.notified() => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn update(shared: &Shared) {
    let relays = &shared.relays;
    let chosen = {
        let candidates = candidates(&shared.book());
        choose(own(shared), candidates, &relays.in_use())
    };
    let token = write_token(shared.networks.told().into_iter().map(|follows| follows.network));
    relays.pins.set(&chosen);
    let wanted: BTreeMap<_, _> = chosen.into_iter().map(|relay| (relay.url, (relay.node, token.clone()))).collect();
    let used = relays.used().clone();
    for (url, (node, token)) in &wanted {
        if used.get(url) != Some(&(*node, token.clone())) {
            tracing::info!(%url, %node, "relay used");
            let config = RelayConfig::new(iroh_url(url), Some(RelayQuicConfig::new(url.port())));
            shared.endpoint.insert_relay(iroh_url(url), Arc::new(config.with_auth_token(token))).await;
        }
    }
    // Only now: peers are looked for at relays that the endpoint has a token for.
    relays.used().clone_from(&wanted);
    for url in used.keys().filter(|url| !wanted.contains_key(url)) {
        tracing::info!(%url, "relay no longer used");
        shared.endpoint.remove_relay(&iroh_url(url)).await;
    }
}

/// Has iroh look for a way past the relays again and again. By itself it does once a minute, and whenever another
/// connection to the peer is opened: so that is done. Ends with the network.
pub(super) async fn look_for_ways(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(PROD_EVERY).await;
        let relayed = relayed(&shared);
        futures::future::join_all(relayed.into_iter().map(|addr| prod(&shared, addr))).await;
    }
}

/// Peers to which this node opened connections, and all that carry go through a relay now.
fn relayed(shared: &Shared) -> Vec<EndpointAddr> {
    let book = shared.book();
    let found = book.iter().filter_map(|(_, peer)| {
        let open =
            peer.iroh_links.iter().filter_map(|link| link.upgrade()).filter(|conn| conn.close_reason().is_none());
        let ours: Vec<_> = open.filter(|conn| conn.side() == Side::Client).collect();
        let ways: Vec<_> = ours.iter().filter_map(carries).collect();
        let only_relays = !ways.is_empty() && ways.iter().all(TransportAddr::is_relay);
        only_relays.then(|| Some(EndpointAddr::from_parts(ours.first()?.remote_id(), ways))).flatten()
    });
    found.take(MAX_PRODDED).collect()
}

/// The way that a connection takes now.
fn carries(conn: &Connection) -> Option<TransportAddr> {
    conn.paths().iter().find(|path| path.is_selected()).map(|path| path.remote_addr().clone())
}

async fn prod(shared: &Shared, addr: EndpointAddr) {
    tracing::debug!(peer = %ids::node_of_endpoint(addr.id), "looking for a way past the relay");
    let opened = timeout(PROD_EVERY, shared.endpoint.connect(addr, SYNC_ALPN)).await;
    if let Ok(Ok(conn)) = opened {
        conn.close(CLOSE_STOPPING.into(), b"that was all");
    }
}

/// A relay that somebody named.
#[derive(Debug, Clone)]
struct Candidate {
    relay: Relay,
    by: NodeId,
    /// Whether whoever named it is connected now.
    is_here: bool,
}

/// What members named, and those of whom a ticket told.
fn candidates(book: &Book) -> Vec<Candidate> {
    let believed = book.iter().filter(|(_, peer)| peer.cut_off.is_none() && peer.wanted);
    let believed = believed.filter(|(_, peer)| peer.membership != Membership::OtherNetwork);
    let named = believed.flat_map(|(by, peer)| {
        let is_here = !peer.p2p_links.is_empty();
        peer.relays.iter().map(move |relay| Candidate { relay: relay.clone(), by, is_here })
    });
    named.collect()
}

/// Which relays to use: the own one, then those that were named by who is here, by the relay itself, and that are used
/// already, so that the choice doesn't wander.
fn choose(own: Option<Relay>, mut candidates: Vec<Candidate>, used: &[Relay]) -> Vec<Relay> {
    candidates.sort_by_key(|Candidate { relay, by, is_here }| {
        (!is_here, *by != relay.node, !used.contains(relay), relay.clone())
    });
    let mut unique = HashSet::new();
    let relays = own.into_iter().chain(candidates.into_iter().map(|candidate| candidate.relay));
    relays.filter(|relay| unique.insert(relay.url.clone())).take(MAX_RELAYS).collect()
}

/// Members of the networks that this node follows, as their records say.
#[derive(Debug)]
struct MembersOf(Weak<Shared>);

impl Members for MembersOf {
    fn is_member(&self, node: NodeId, networks: &[NetworkId]) -> Option<bool> {
        let shared = self.0.upgrade()?;
        if shared.book().is_cut_off(node) {
            return Some(false);
        }
        for network in networks.iter().filter(|network| shared.networks.follows(**network)) {
            let authority = shared.records.authority(*network).ok()?;
            let when = When { at: ids::now(), position: (u64::MAX, u64::MAX) };
            let is_open = authority.latest().is_none_or(|policy| policy.membership == Rule::Open);
            if is_open
                || node == shared.node
                || authority.root() == node.into()
                || authority.role(node.into(), when).is_some()
            {
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn relay(n: u8) -> Relay {
        Relay { node: node(n), url: format!("http://203.0.113.{n}:4443").parse().unwrap() }
    }

    #[test]
    fn the_choice_is_bounded_steady_and_prefers_who_is_here() {
        let named = |by, of, is_here| Candidate { relay: relay(of), by: node(by), is_here };
        let candidates = || (1..=6).map(|n| named(n, n, n >= 5)).collect::<Vec<_>>();
        let of = |relays: Vec<Relay>| relays.iter().map(|relay| relay.node.as_bytes()[0]).collect::<Vec<_>>();
        assert_eq!(of(choose(None, candidates(), &[])), [5, 6, 1, 2]);
        assert_eq!(of(choose(None, candidates(), &[relay(4)])), [5, 6, 4, 1]);
        assert_eq!(of(choose(Some(relay(9)), candidates(), &[])), [9, 5, 6, 1]);
        let twice = vec![named(8, 1, true), named(1, 1, true), named(7, 2, true)];
        assert_eq!(of(choose(Some(relay(1)), twice, &[])), [1, 2], "each address once");
        let lie = Candidate { relay: Relay { node: node(8), ..relay(1) }, by: node(7), is_here: true };
        assert_eq!(of(choose(None, vec![lie, named(1, 1, true)], &[])), [1], "who runs it is believed first");
    }

    #[test]
    fn the_own_address_is_the_one_that_most_can_reach() {
        let any6 = "[::]:4443";
        let cases: [(&str, &[&str], Option<&str>); 7] = [
            (any6, &["192.168.1.2:1", "203.0.113.5:1", "[2001:db8::1]:1"], Some("http://203.0.113.5:4443/")),
            (any6, &["192.168.1.2:1", "[2001:db8::1]:1", "127.0.0.1:1"], Some("http://[2001:db8::1]:4443/")),
            (any6, &["127.0.0.1:1", "[200::1]:1", "192.168.1.2:1"], Some("http://192.168.1.2:4443/")),
            (any6, &["127.0.0.1:1"], Some("http://127.0.0.1:4443/")),
            ("0.0.0.0:4443", &["[2001:db8::1]:1"], None),
            ("198.51.100.7:80", &["203.0.113.5:1"], Some("http://198.51.100.7/")),
            (any6, &[], None),
        ];
        for (listen, addrs, expected) in cases {
            let own = Own { addr: listen.parse().unwrap(), is_https: false, public_url: None };
            let addrs: Vec<_> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
            let url = own_url(&own, &addrs);
            assert_eq!(url.as_ref().map(RelayUrl::as_str), expected, "{listen} {addrs:?}");
        }
    }
}
