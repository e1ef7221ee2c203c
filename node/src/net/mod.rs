//! The network of a node: a libp2p swarm for discovery and gossip, an iroh endpoint for bytes and sync, and one
//! peer book over both. One Ed25519 key is the identity of both stacks; see `docs/decisions/0003-two-stacks.md`.
//!
//! | file | does |
//! |---|---|
//! | `swarm` | which libp2p protocols run, within which limits, where they listen |
//! | `actor` | the task that owns the swarm |
//! | `gossip` | records: what arrives to the log, the outbox to the network |
//! | `alerts` | alerts: what arrives waits for a verdict |
//! | `announce`, `haves` | who holds which blobs: ours told, theirs remembered |
//! | `endpoint` | iroh: who may connect, the pool of connections |
//! | `provider`, `upload` | answers `/iroh-bytes/4`; in which order and how fast |
//! | `relays` | this node's own relay, and those that it uses |
//! | `networks` | which networks are followed, and how much of each |
//! | `sync` | pulls missed records, answers `/mhc/sync/2` |
//! | `links` | which way bytes take to each peer: the shell of the ladder |
//! | `book`, `cache`, `peers` | what is known of peers, what is kept of it, how it is shown |
//!
//! Records of a network are exchanged with peers that follow it, too: gossip topics and sync requests name the network.
//! A peer that follows none of ours may stay connected; it takes part in discovery, and that is all. Blobs are public:
//! whoever knows a hash may ask for it.

mod actor;
mod alerts;
mod announce;
mod book;
mod cache;
mod endpoint;
mod error;
mod gossip;
mod haves;
mod ids;
mod links;
mod metrics;
mod networks;
mod peers;
mod provider;
mod relays;
mod shared;
mod swarm;
mod sync;
#[cfg(test)]
mod tests;
mod throttle;
mod upload;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use iroh::endpoint::Connection;
use mhc_protocol::{
    BlobHash, NetworkId, NodeId, SecretKey,
    link::LinkPolicy,
    network::{Interest, Scope},
    ticket::{MAX_TICKET_ADDRS, Ticket},
    wire::{Follows, MAX_NAME_BYTES, MAX_VERSION_BYTES},
};
use mhc_relay::RelayServer;
use mhc_storage::{
    blob::BlobStore,
    record::{Records, RecordsError},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::{
    actor::{Actor, Channels, Command},
    book::Fault,
    links::Links,
    networks::{Followed, Networks},
    relays::Relays,
    shared::{Parts, Shared},
};
pub use self::{
    alerts::IncomingAlert,
    book::CUT_OFF_SCORE,
    error::NetError,
    links::{AdminState, ClassReport, LinkReport, OverlayState, PeerReport},
    metrics::{Kinds, Metrics, Outcomes, Stacks},
    peers::{LinkAddr, LinkInfo, Membership, PeerInfo},
    relays::RelaySettings,
};
use crate::fetch::{ConnectError, Misbehaviour, Peers};

const COMMANDS: usize = 1024;
const ARRIVALS: usize = 1024;
const VERDICTS: usize = 64;
const SYNC_POKES: usize = 64;
/// How long the DHT is waited for: shorter while there are peers to ask.
const DHT_WAIT: Duration = Duration::from_secs(3);
const DHT_WAIT_WITH_PEERS: Duration = Duration::from_secs(1);
/// Most providers named for one blob.
const MAX_CANDIDATES: usize = 32;
/// Shutdown in phases: answers under way may end, peers are told, tasks are dropped, sockets close, the relay ends.
/// Together under 6 s.
const DRAIN: Duration = Duration::from_secs(1);
const LEAVE: Duration = Duration::from_millis(500);
const STOP: Duration = Duration::from_secs(1);
const CLOSE: Duration = Duration::from_secs(2);

/// How the network is set up.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// The node's key: its PeerId and its EndpointId.
    pub key: SecretKey,
    /// The home network. Others may be followed beside it.
    pub network: NetworkId,
    /// Port of libp2p, TCP and UDP; 0 for any free one.
    pub p2p_port: u16,
    /// UDP port of iroh; 0 for any free one.
    pub iroh_port: u16,
    /// Addresses to listen on; usually the two unspecified ones.
    pub listen: Vec<IpAddr>,
    /// Whether to find peers on the local network by multicast DNS.
    pub mdns: bool,
    /// What the node calls itself towards its peers; cut to 64 bytes, without control characters.
    pub name: String,
    /// The program's version, as peers see it.
    pub version: String,
    /// Most bytes of blobs a second that are sent to peers; none for no limit.
    pub upload_bytes_per_s: Option<u64>,
    /// This node relays for others, too.
    pub relay: Option<RelaySettings>,
    /// Admin socket of the Yggdrasil daemon, a path or `tcp://address:port`; none for where daemons listen by themselves.
    pub yggdrasil_admin: Option<PathBuf>,
}

/// A network that this node follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedNetwork {
    /// Which.
    pub network: NetworkId,
    /// Whether it is the home: where this node writes unless it is told otherwise.
    pub home: bool,
    /// How much of it.
    pub interest: Interest,
    /// Peers there with a connection now.
    pub peers: usize,
}

/// The running network. Clones share it; it stops with [`Net::shutdown`], or abruptly when the last clone is
/// dropped.
#[derive(Debug, Clone)]
pub struct Net(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Cancelled first when the node stops: no new connections, no new work.
    accepting: CancellationToken,
    /// This node's own relay.
    relay: tokio::sync::Mutex<Option<RelayServer>>,
    /// Until somebody takes it.
    incoming_alerts: Mutex<Option<mpsc::Receiver<IncomingAlert>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.shared.tasks.cancel.cancel();
    }
}

impl Net {
    /// Opens the sockets and starts everything. Returns once both stacks listen.
    pub async fn start(options: NetOptions, records: Records, blobs: BlobStore) -> Result<Self, NetError> {
        // Both stacks bring rustls; without a choice made before, the first to need one would make it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let swarm = swarm::start(&options).await?;
        let (links, relays) = (Arc::new(Links::new()), Relays::default());
        let endpoint = endpoint::bind(&options, Arc::clone(&links), &relays).await?;
        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let (sync_pokes, poke_queue) = mpsc::channel(SYNC_POKES);
        let networks = Networks::load(options.network, options.key.author(), records.clone())
            .map_err(|error| NetError::Internal(error.to_string()))?;
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|error| NetError::Internal(error.to_string()))?;
        let shared = Arc::new(Shared::new(Parts {
            node: options.key.node(),
            networks,
            run: u64::from_le_bytes(run),
            name: plain(&options.name, MAX_NAME_BYTES),
            version: plain(&options.version, MAX_VERSION_BYTES),
            records,
            blobs,
            endpoint,
            relays,
            links,
            commands,
            sync_pokes,
            upload_bytes_per_s: options.upload_bytes_per_s,
        }));
        match cache::load(&shared) {
            Ok(known) => tracing::info!(known, "peers of earlier runs"),
            Err(error) => tracing::warn!(%error, "known peers not read"),
        }
        let (arrivals, arrival_queue) = mpsc::channel(ARRIVALS);
        let (verdicts, verdict_queue) = mpsc::channel(VERDICTS);
        let (alerts, alert_queue) = mpsc::channel(alerts::WAITING);
        let judged = verdicts.clone();
        let channels = Channels { commands: command_queue, arrivals, verdicts: verdict_queue, judged, alerts };
        let actor = Actor::new(Arc::clone(&shared), swarm, channels);
        let accepting = shared.tasks.cancel.child_token();
        let relay = match options.relay {
            Some(settings) => Some(relays::serve(&shared, settings).await?),
            None => None,
        };
        let incoming_alerts = Mutex::new(Some(alert_queue));
        let net =
            Self(Arc::new(Inner { shared: Arc::clone(&shared), accepting, relay: relay.into(), incoming_alerts }));
        shared.tasks.spawn(actor.run());
        shared.tasks.spawn(gossip::ingest(Arc::clone(&shared), arrival_queue, verdicts));
        net.spawn_until_stopping(gossip::outbox(Arc::clone(&shared)));
        net.spawn_until_stopping(announce::run(Arc::clone(&shared)));
        net.spawn_until_stopping(cache::keep(Arc::clone(&shared)));
        net.spawn_until_stopping(sync::drive(Arc::clone(&shared), poke_queue));
        net.spawn_until_stopping(links::run(Arc::clone(&shared)));
        net.spawn_until_stopping(links::watch_interfaces(Arc::clone(&shared)));
        net.spawn_until_stopping(links::watch_overlay(Arc::clone(&shared), options.yggdrasil_admin));
        net.spawn_until_stopping(endpoint::accept(Arc::clone(&shared)));
        net.spawn_until_stopping(relays::keep(Arc::clone(&shared)));
        net.spawn_until_stopping(relays::look_for_ways(Arc::clone(&shared)));
        Ok(net)
    }

    fn spawn_until_stopping(&self, task: impl Future<Output = ()> + Send + 'static) {
        let accepting = self.0.accepting.clone();
        self.0.shared.tasks.spawn(async move {
            accepting.run_until_cancelled(task).await;
        });
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.shared.node
    }

    /// The home network.
    pub fn network(&self) -> NetworkId {
        self.0.shared.networks.home()
    }

    /// The networks that are followed, the home among them.
    pub fn networks(&self) -> Vec<FollowedNetwork> {
        let shared = &self.0.shared;
        let home = shared.networks.home();
        let show = |followed: Arc<Followed>| FollowedNetwork {
            network: followed.network,
            home: followed.network == home,
            interest: followed.interest.clone(),
            peers: shared.book().members_of(followed.network).len(),
        };
        shared.networks.all().into_iter().map(show).collect()
    }

    /// Whether this node follows a network.
    pub fn follows(&self, network: NetworkId) -> bool {
        self.0.shared.networks.follows(network)
    }

    /// Whose logs of a network are wanted here; none when it isn't followed. Blocks while the store is read.
    pub fn scope(&self, network: NetworkId) -> Result<Option<Scope>, RecordsError> {
        self.0.shared.networks.get(network).map(|followed| followed.scope()).transpose()
    }

    /// Follows the ticket's network from now on, with the node that made the ticket as the first peer there. Durable when
    /// it returns.
    pub async fn follow(&self, ticket: Ticket, interest: Interest) -> Result<(), NetError> {
        if ticket.node == self.0.shared.node {
            return Err(NetError::OwnTicket);
        }
        self.0.shared.networks.follow(ticket.network, interest).await?;
        self.networks_changed().await?;
        self.add_peer(ticket).await
    }

    /// Follows more or less of a network from now on. What is here stays.
    pub async fn set_interest(&self, network: NetworkId, interest: Interest) -> Result<(), NetError> {
        if !self.follows(network) {
            return Err(NetError::NotFollowed);
        }
        self.0.shared.networks.follow(network, interest).await?;
        self.networks_changed().await
    }

    /// Stops following a network: nothing of it is gossiped, synced or answered any more. What is here stays.
    pub async fn unfollow(&self, network: NetworkId) -> Result<(), NetError> {
        match self.0.shared.networks.unfollow(network).await? {
            true => self.networks_changed().await,
            false => Err(NetError::NotFollowed),
        }
    }

    async fn networks_changed(&self) -> Result<(), NetError> {
        let shared = &self.0.shared;
        let followed = shared.networks.told();
        shared.book().follow(followed.iter().map(|follows| follows.network).collect());
        shared.commands.send(Command::Networks).await.map_err(|_| NetError::Stopped)?;
        shared.outbox_poke.notify_one();
        shared.haves_poke.notify_one();
        shared.relays.poke.notify_one();
        for Follows { network, .. } in followed {
            for node in shared.book().members_of(network) {
                let _ = shared.sync_pokes.try_send((node, network));
            }
        }
        Ok(())
    }

    /// Records have come in by another way than peers: within a second all peers are told to look.
    pub fn tell_news(&self) {
        // When the queue is full, the next sync brings them.
        let _ = self.0.shared.commands.try_send(Command::News);
    }

    /// An invitation to this node: its id, home network and every address it can be reached at, loopback last.
    pub fn ticket(&self) -> Ticket {
        self.ticket_of(self.network())
    }

    /// The same for another network that it follows.
    pub fn ticket_of(&self, network: NetworkId) -> Ticket {
        let limit = |mut addrs: Vec<SocketAddr>| {
            addrs.truncate(MAX_TICKET_ADDRS);
            addrs
        };
        let (p2p, iroh) = (limit(self.p2p_addrs()), limit(self.iroh_addrs()));
        Ticket { node: self.node(), network, p2p, iroh, relays: relays::told(&self.0.shared) }
    }

    /// Remembers the peer durably and dials it, again and again until it is there.
    pub async fn add_peer(&self, ticket: Ticket) -> Result<(), NetError> {
        let shared = &self.0.shared;
        if ticket.node == shared.node {
            return Err(NetError::OwnTicket);
        }
        if !shared.networks.follows(ticket.network) {
            return Err(NetError::OtherNetwork { theirs: ticket.network, ours: self.network() });
        }
        if ids::peer_of(ticket.node).is_none() {
            return Err(NetError::NotAKey);
        }
        {
            let mut book = shared.book();
            book.learn_addrs(ticket.node, &ticket.p2p, &ticket.iroh);
            book.learn_relays(ticket.node, &ticket.relays);
            book.want(ticket.node);
        }
        shared.relays.poke.notify_one();
        cache::save(shared).await.map_err(|error| NetError::Internal(error.to_string()))?;
        shared.commands.send(Command::Dial(ticket.node)).await.map_err(|_| NetError::Stopped)
    }

    /// All known peers: connected ones first, then by when they were last seen.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let mut peers: Vec<_> = {
            let book = self.0.shared.book();
            book.iter().map(|(node, peer)| peers::info(&book, node, peer)).collect()
        };
        peers.sort_by_key(|peer| (!peer.connected, std::cmp::Reverse(peer.last_seen), peer.node));
        peers
    }

    /// The ways to each peer, which of them carries, and why.
    pub fn link_report(&self) -> LinkReport {
        links::report(&self.0.shared)
    }

    /// Which way the ladder leans.
    pub fn link_policy(&self) -> LinkPolicy {
        self.0.shared.links.policy()
    }

    /// Leans another way from now on, without breaking what works. Kept until it is set again or the node ends.
    pub fn set_link_policy(&self, policy: LinkPolicy) {
        self.0.shared.links.set_policy(policy);
    }

    /// Peers with a connection now.
    pub fn connected_count(&self) -> usize {
        self.0.shared.book().connected_count()
    }

    /// Where libp2p listens (QUIC and TCP share the port); no unspecified addresses.
    pub fn p2p_addrs(&self) -> Vec<SocketAddr> {
        self.0.shared.p2p_addrs()
    }

    /// Where iroh listens (UDP); no unspecified addresses.
    pub fn iroh_addrs(&self) -> Vec<SocketAddr> {
        self.0.shared.iroh_addrs()
    }

    /// The counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.0.shared.metrics)
    }

    /// Stops in phases within 6 s: takes nothing new, lets answers under way end, tells the peers, drops every
    /// task, closes the sockets.
    pub async fn shutdown(&self) {
        let shared = &self.0.shared;
        self.0.accepting.cancel();
        shared.tasks.tracker.close();
        if let Err(error) = cache::save(shared).await {
            tracing::warn!(%error, "known peers not saved");
        }
        let served = async {
            while shared.provider.is_busy() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, served).await;
        let (reply, left) = oneshot::channel();
        if shared.commands.try_send(Command::Leave(reply)).is_ok() {
            let _ = tokio::time::timeout(LEAVE, left).await;
        }
        shared.tasks.cancel.cancel();
        endpoint::close_all(shared);
        if tokio::time::timeout(STOP, shared.tasks.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = shared.tasks.tracker.len(), "tasks are slow to stop");
        }
        let _ = tokio::time::timeout(CLOSE, shared.endpoint.close()).await;
        if let Some(relay) = self.0.relay.lock().await.take() {
            let _ = tokio::time::timeout(STOP, relay.shutdown()).await;
        }
    }

    /// Who says to have the blob, then the members of our networks, who may without having said so.
    fn known(&self, hash: BlobHash) -> Vec<NodeId> {
        let shared = &self.0.shared;
        let likely = shared.haves().providers(hash, std::time::Instant::now());
        let members = shared.book().members();
        self.usable(likely.into_iter().chain(members))
    }

    fn usable(&self, nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
        let shared = &self.0.shared;
        let mut unique = HashSet::from([shared.node]);
        let book = shared.book();
        nodes.filter(|node| unique.insert(*node) && !book.is_cut_off(*node)).take(MAX_CANDIDATES).collect()
    }

    async fn find_in_dht(&self, hash: BlobHash, wait: Duration) -> Vec<NodeId> {
        let (reply, found) = oneshot::channel();
        if self.0.shared.commands.send(Command::Providers(hash, reply)).await.is_err() {
            return vec![];
        }
        match tokio::time::timeout(wait, found).await {
            Ok(Ok(nodes)) => nodes,
            _ => vec![],
        }
    }
}

impl Peers for Net {
    fn candidates(&self, hash: BlobHash) -> BoxFuture<'_, Vec<NodeId>> {
        let known = self.known(hash);
        Box::pin(async { known })
    }

    fn search(&self, hash: BlobHash) -> BoxFuture<'_, Vec<NodeId>> {
        Box::pin(async move {
            let wait = if self.known(hash).is_empty() { DHT_WAIT } else { DHT_WAIT_WITH_PEERS };
            let found = self.find_in_dht(hash, wait).await;
            self.usable(found.into_iter())
        })
    }

    fn connect(&self, node: NodeId) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        Box::pin(endpoint::connect(&self.0.shared, node, endpoint::BYTES_ALPN))
    }

    fn misbehaved(&self, node: NodeId, what: Misbehaviour) {
        self.0.shared.report(node, &Fault::BadBytes(what.to_string()));
    }

    fn received(&self, node: NodeId, bytes: u64) {
        let shared = &self.0.shared;
        shared.metrics.blob_bytes_received.inc_by(bytes);
        if let Some(peer) = shared.book().entry(node) {
            peer.bytes_in += bytes;
        }
    }
}

/// At most `limit_bytes` of `text`, without control characters.
fn plain(text: &str, limit_bytes: usize) -> String {
    let mut plain = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if plain.len() + c.len_utf8() > limit_bytes {
            break;
        }
        plain.push(c);
    }
    plain
}
