//! Looks at what moves over each path, and carries out what the ladder decides.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use iroh::endpoint::{Connection, PathId};
use mhc_protocol::{
    NodeId,
    link::{Effect, Route, Sample, Switch, TICK_MS},
};
use tokio::task::JoinSet;

use super::{local_ip, route_of};
use crate::net::{
    actor::Command,
    endpoint,
    shared::{CLOSE_STOPPING, Shared, without},
};

/// A question that the other end's transport answers and its program never sees.
const QUESTION: &[u8] = b"?";
/// How long a look takes: both ends try each other's addresses for some seconds.
const LOOK: Duration = Duration::from_secs(4);
/// Looks at once.
const MAX_LOOKS: usize = 32;

/// Counters of one path of one connection.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    in_bytes: u64,
    out_bytes: u64,
    sent_packets: u64,
    lost_packets: u64,
}

/// A path of a peer, over all its connections.
#[derive(Debug, Default)]
struct Seen {
    sample: Sample,
    /// This machine's ends.
    local: BTreeSet<IpAddr>,
}

/// Looks every half a second, or when something happened.
pub(in crate::net) async fn run(shared: Arc<Shared>) {
    let mut watch = Watch { shared, counters: HashMap::new(), looks: JoinSet::new(), looking: HashSet::new() };
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = watch.shared.links.poke.notified() => {}
            Some(done) = watch.looks.join_next() => {
                if let Ok(node) = done {
                    watch.looking.remove(&node);
                }
                continue;
            }
        }
        watch.look();
    }
}

struct Watch {
    shared: Arc<Shared>,
    counters: HashMap<(usize, PathId), Counters>,
    looks: JoinSet<NodeId>,
    looking: HashSet<NodeId>,
}

impl Watch {
    fn look(&mut self) {
        let peers = self.connections();
        let mut open: BTreeSet<(usize, PathId)> = BTreeSet::new();
        let mut seen: Vec<(NodeId, BTreeMap<Route, Seen>)> = vec![];
        for (node, connections) in &peers {
            let mut routes: BTreeMap<Route, Seen> = BTreeMap::new();
            for connection in connections {
                self.count(connection, &mut routes, &mut open);
            }
            seen.push((*node, routes));
        }
        self.counters.retain(|key, _| open.contains(key));
        for effect in self.decide(&seen) {
            self.carry_out(effect, &peers);
        }
        self.close_stranded(&peers);
    }

    fn connections(&self) -> BTreeMap<NodeId, Vec<Connection>> {
        let book = self.shared.book();
        let open = |link: &iroh::endpoint::WeakConnectionHandle| {
            link.upgrade().filter(|connection| connection.close_reason().is_none())
        };
        let peers = book.iter().map(|(node, peer)| (node, peer.iroh_links.iter().filter_map(open).collect::<Vec<_>>()));
        peers.filter(|(_, connections)| !connections.is_empty()).collect()
    }

    fn count(
        &mut self,
        connection: &Connection,
        routes: &mut BTreeMap<Route, Seen>,
        open: &mut BTreeSet<(usize, PathId)>,
    ) {
        for path in &connection.paths() {
            let Some(route) = route_of(path.remote_addr()) else { continue };
            let stats = path.stats();
            let is = Counters {
                in_bytes: stats.udp_rx.bytes,
                out_bytes: stats.udp_tx.bytes,
                sent_packets: stats.sent_packets,
                lost_packets: stats.lost_packets,
            };
            let key = (connection.stable_id(), path.id());
            let was = self.counters.insert(key, is).unwrap_or_default();
            open.insert(key);
            let seen = routes.entry(route).or_default();
            seen.local.extend(local_ip(path.local_addr()));
            let sample = &mut seen.sample;
            // Saturating: an id may be used again by another connection.
            sample.in_bytes += is.in_bytes.saturating_sub(was.in_bytes);
            sample.out_bytes += is.out_bytes.saturating_sub(was.out_bytes);
            sample.sent_packets += is.sent_packets.saturating_sub(was.sent_packets);
            sample.lost_packets += is.lost_packets.saturating_sub(was.lost_packets);
            let rtt_ms = u64::try_from(stats.rtt.as_millis()).ok();
            sample.rtt_ms = sample.rtt_ms.into_iter().chain(rtt_ms).min();
        }
    }

    fn decide(&self, peers: &[(NodeId, BTreeMap<Route, Seen>)]) -> Vec<Effect> {
        let shared = &self.shared;
        let ours = shared.links.own_addresses();
        let sockets = shared.iroh_addrs();
        let known: Vec<(NodeId, Vec<Route>)> = {
            let book = shared.book();
            let theirs = |node: NodeId| book.get(node).map(|peer| without(peer.iroh.clone(), &sockets));
            let routes = |node: NodeId| theirs(node).unwrap_or_default().into_iter().map(Route::Ip).collect();
            peers.iter().map(|(node, _)| (*node, routes(*node))).collect()
        };
        let now = shared.links.now();
        let mut ladder = shared.links.ladder();
        for (node, routes) in &known {
            routes.iter().for_each(|route| ladder.learn(now, *node, route));
        }
        let mut gone = vec![];
        for (node, routes) in peers {
            for (route, seen) in routes {
                ladder.sample(now, *node, route, seen.sample);
                let lost = |ip: &IpAddr| !ours.is_empty() && !is_link_local(ip) && !ours.contains(ip);
                if !seen.local.is_empty() && seen.local.iter().all(lost) {
                    gone.push((*node, route.clone()));
                }
            }
            let open: Vec<Route> = routes.keys().cloned().collect();
            ladder.only_open(now, *node, &open);
        }
        let connected: BTreeSet<NodeId> = peers.iter().map(|(node, _)| *node).collect();
        for node in ladder.open_peers().into_iter().filter(|node| !connected.contains(node)) {
            ladder.only_open(now, node, &[]);
        }
        if !gone.is_empty() {
            ladder.kick(now, &gone);
        }
        ladder.tick(now)
    }

    fn carry_out(&mut self, effect: Effect, peers: &BTreeMap<NodeId, Vec<Connection>>) {
        let connections = |node: &NodeId| peers.get(node).map(Vec::as_slice).unwrap_or_default();
        match effect {
            Effect::Ask(node, route) => {
                let carries = |connection: &&Connection| carries(connection, &route);
                let mut carrying = connections(&node).iter().filter(carries);
                if carrying.any(|connection| connection.send_datagram(Bytes::from_static(QUESTION)).is_ok()) {
                    let links = &self.shared.links;
                    links.ladder().asked(links.now(), node, &route);
                }
            }
            Effect::Redial(node) => {
                tracing::info!(peer = %node, "no path answers: dialling anew");
                self.begin_anew(node, connections(&node));
            }
            Effect::Probe(node, route) => {
                tracing::debug!(peer = %node, %route, "looking for a better path");
                self.start_look(node);
            }
            Effect::Switched(node, Switch { from, to, class, why, .. }) => {
                let from = from.map(|route| route.to_string()).unwrap_or_default();
                tracing::info!(peer = %node, %class, %to, from, %why, "another path carries");
            }
        }
    }

    /// Closes connections that have only dead paths while others to the same peer go on: they would wait for their own
    /// time-out, and with them whoever asked for something on them.
    fn close_stranded(&self, peers: &BTreeMap<NodeId, Vec<Connection>>) {
        let ladder = self.shared.links.ladder();
        for (node, connections) in peers {
            for connection in connections {
                let routes = routes(connection);
                if !routes.is_empty() && routes.iter().all(|route| ladder.is_down(*node, route)) {
                    connection.close(CLOSE_STOPPING.into(), b"silent");
                }
            }
        }
    }

    /// Closes what leads nowhere, in both stacks, and dials: the first packets go to every address that is known.
    fn begin_anew(&mut self, node: NodeId, connections: &[Connection]) {
        let mut silent = BTreeSet::new();
        for connection in connections {
            silent.extend(connection.paths().iter().filter_map(|path| match path.remote_addr() {
                iroh::TransportAddr::Ip(addr) => Some(addr.ip()),
                _ => None,
            }));
            connection.close(CLOSE_STOPPING.into(), b"silent");
        }
        self.shared.pool.forgive(node);
        // When the queue is full, libp2p's own pings tell.
        let _ = self.shared.commands.try_send(Command::Silent(node, silent));
        self.start_look(node);
    }

    /// Opens a connection for some seconds: with none open before it races all addresses, else both ends look for better
    /// ones.
    fn start_look(&mut self, node: NodeId) {
        if self.looks.len() >= MAX_LOOKS || !self.looking.insert(node) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.looks.spawn(async move {
            if let Ok(connection) = endpoint::dial(&shared, node, endpoint::SYNC_ALPN).await
                && shared.admit(&connection)
            {
                tokio::time::sleep(LOOK).await;
                connection.close(CLOSE_STOPPING.into(), b"looked");
            }
            node
        });
    }
}

fn routes(connection: &Connection) -> Vec<Route> {
    connection.paths().iter().filter_map(|path| route_of(path.remote_addr())).collect()
}

/// Whether what is sent on this connection goes this way.
fn carries(connection: &Connection, route: &Route) -> bool {
    let paths = connection.paths();
    let only = paths.len() == 1;
    paths.iter().any(|path| (path.is_selected() || only) && route_of(path.remote_addr()).as_ref() == Some(route))
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}
