//! The task that owns the libp2p swarm. It never waits for anything but events: verification, storage and sync
//! have tasks of their own.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    PeerId, Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, PublishError},
    identify, kad,
    kad::store::RecordStore,
    mdns, ping, relay, request_response as rr,
    swarm::{
        ConnectionId, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use mhc_protocol::{
    BlobHash, NetworkId, NodeId,
    relay::MAX_RELAYS,
    wire::{Haves, Hello, Topic, WireError},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    alerts::IncomingAlert,
    book::Fault,
    endpoint, ids,
    metrics::Stacks,
    peers::Membership,
    relays,
    shared::{Shared, tidy, without},
    swarm::{Behaviour, BehaviourEvent, Greeting, short, topic_score_params},
    throttle::{Rate, Throttle},
};

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const TICK: Duration = Duration::from_secs(1);
const MAX_DIALS_PER_TICK: usize = 8;
const MAX_QUERIES: usize = 64;
const MAX_PROVIDER_ADDRS: usize = 8;
/// Lists of blobs a node may gossip: a burst when it has many, then one every two seconds.
const HAVES_RATE: Rate = Rate { burst: 32.0, per_s: 0.5 };
const MAX_ANNOUNCERS: usize = 1024;

/// What others ask of the swarm.
#[derive(Debug)]
pub(super) enum Command {
    /// Dial this peer at its known addresses.
    Dial(NodeId),
    /// Gossip. The answer says whether somebody got it.
    Publish(Topic, Vec<u8>, oneshot::Sender<Published>),
    /// The networks that this node follows have changed, or how much of them.
    Networks,
    /// Records have come in that peers can't have heard of.
    News,
    /// Announce a complete blob in the DHT.
    Provide(BlobHash),
    /// Take the announcement back.
    Unprovide(BlobHash),
    /// Who announced a blob in the DHT?
    Providers(BlobHash, oneshot::Sender<Vec<NodeId>>),
    /// Interfaces of this machine came or went.
    Interfaces,
    /// Nothing comes from this peer over connections to these addresses.
    Silent(NodeId, BTreeSet<IpAddr>),
    /// Keep this peer out.
    Block(NodeId),
    /// Close the connections to this peer.
    Disconnect(NodeId),
    /// Say goodbye to everybody; answered when all connections are closed.
    Leave(oneshot::Sender<()>),
}

/// What became of a message to gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// At least one subscribed peer was sent it, or had it.
    Sent,
    /// Nobody listens now.
    Nobody,
    /// It will never go through.
    Never,
}

/// A gossiped record on its way to the log.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) message: MessageId,
    pub(super) from: PeerId,
    /// The network of the topic.
    pub(super) network: NetworkId,
    pub(super) data: Vec<u8>,
}

/// What the log made of it.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) message: MessageId,
    pub(super) from: PeerId,
    pub(super) acceptance: MessageAcceptance,
}

/// The actor's ends of its channels.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) arrivals: mpsc::Sender<Arrived>,
    pub(super) verdicts: mpsc::Receiver<Verdict>,
    /// For whoever takes in alerts: the other end of the same.
    pub(super) judged: mpsc::Sender<Verdict>,
    pub(super) alerts: mpsc::Sender<IncomingAlert>,
}

/// The owner of the swarm.
pub(super) struct Actor {
    shared: Arc<Shared>,
    swarm: Swarm<Behaviour>,
    channels: Channels,
    /// What this node listens to.
    topics: BTreeSet<Topic>,
    queries: HashMap<kad::QueryId, Query>,
    /// Greetings that wait for an answer, and the network that those of the first version name.
    greetings: HashMap<rr::OutboundRequestId, NetworkId>,
    /// Relays that were asked for circuits.
    reservations: HashMap<NodeId, ListenerId>,
    haves_rate: Throttle<NodeId>,
    has_news: bool,
    left: Option<oneshot::Sender<()>>,
}

struct Query {
    found: HashSet<NodeId>,
    reply: oneshot::Sender<Vec<NodeId>>,
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, swarm: Swarm<Behaviour>, channels: Channels) -> Self {
        let (topics, queries, greetings, reservations) =
            (BTreeSet::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let haves_rate = Throttle::new(HAVES_RATE, MAX_ANNOUNCERS);
        let mut actor = Self {
            shared,
            swarm,
            channels,
            topics,
            queries,
            greetings,
            reservations,
            haves_rate,
            has_news: false,
            left: None,
        };
        actor.offer_circuits();
        actor.update_topics();
        actor.update_addrs();
        actor
    }

    /// Runs until it is dropped; with it go the sockets.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = self.channels.commands.recv() => self.on_command(command),
                Some(verdict) = self.channels.verdicts.recv() => self.on_verdict(verdict),
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    // # Time and commands

    fn on_tick(&mut self) {
        let now = Instant::now();
        let (unbanned, due, banned, scores, connected) = {
            let mut book = self.shared.book();
            let unbanned = book.tick(now);
            let due = book.due(now, MAX_DIALS_PER_TICK);
            let banned: Vec<_> = book.iter().filter(|(_, p)| p.cut_off.is_some()).map(|(node, _)| node).collect();
            let scores: Vec<_> =
                book.iter().filter(|(_, p)| !p.p2p_links.is_empty()).map(|(n, p)| (n, p.score)).collect();
            (unbanned, due, banned, scores, book.connected_count())
        };
        self.shared.metrics.peers_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        for peer in unbanned.into_iter().filter_map(ids::peer_of) {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        banned.into_iter().for_each(|node| self.block(node));
        if self.left.is_none() {
            due.into_iter().for_each(|node| self.dial(node));
        }
        if std::mem::take(&mut self.has_news) {
            self.greet_everybody();
        }
        for (node, score) in scores {
            if let Some(peer) = ids::peer_of(node) {
                self.swarm.behaviour_mut().gossip.set_application_score(&peer, f64::from(score));
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial(node) => self.dial(node),
            Command::Publish(topic, data, reply) => drop(reply.send(self.publish(topic, data))),
            Command::Networks => self.on_networks(),
            Command::News => self.has_news = true,
            Command::Provide(hash) => {
                if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(kad_key(hash)) {
                    tracing::debug!(%hash, %error, "not announced in the DHT");
                }
            }
            Command::Unprovide(hash) => self.swarm.behaviour_mut().kad.stop_providing(&kad_key(hash)),
            Command::Providers(hash, reply) if self.queries.len() < MAX_QUERIES => {
                let id = self.swarm.behaviour_mut().kad.get_providers(kad_key(hash));
                self.queries.insert(id, Query { found: HashSet::new(), reply });
            }
            Command::Providers(..) => {}
            Command::Interfaces => self.on_interfaces(),
            Command::Silent(node, ips) => self.drop_silent(node, &ips),
            Command::Block(node) => self.block(node),
            Command::Disconnect(node) => {
                if let Some(peer) = ids::peer_of(node) {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Command::Leave(left) => self.leave(left),
        }
    }

    /// Connections to the addresses that bytes don't come from any more; libp2p's own pings would take longer to tell.
    fn drop_silent(&mut self, node: NodeId, ips: &BTreeSet<IpAddr>) {
        let connections: Vec<_> = {
            let book = self.shared.book();
            let links = book.get(node).map(|peer| peer.p2p_links.as_slice()).unwrap_or_default();
            let silent = links.iter().filter(|link| link.addr.is_some_and(|addr| ips.contains(&addr.ip())));
            silent.map(|link| link.id).collect()
        };
        for connection in connections {
            let _ = self.swarm.close_connection(connection);
        }
        self.shared.book().dial_soon(node);
    }

    fn leave(&mut self, left: oneshot::Sender<()>) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        self.left = Some(left);
        self.tell_left();
    }

    fn tell_left(&mut self) {
        if self.swarm.connected_peers().next().is_none()
            && let Some(left) = self.left.take()
        {
            let _ = left.send(());
        }
    }

    fn publish(&mut self, topic: Topic, data: Vec<u8>) -> Published {
        match self.swarm.behaviour_mut().gossip.publish(IdentTopic::new(topic.to_string()), data) {
            Ok(_) | Err(PublishError::Duplicate) => Published::Sent,
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::AllQueuesFull(_)) => Published::Nobody,
            Err(error) => {
                tracing::error!(%error, %topic, "can't be gossiped");
                Published::Never
            }
        }
    }

    fn on_networks(&mut self) {
        self.update_topics();
        self.greet_everybody();
    }

    /// Whoever is greeted compares its records with ours.
    fn greet_everybody(&mut self) {
        let present: Vec<_> = {
            let book = self.shared.book();
            let linked = book.iter().filter(|(_, peer)| !peer.p2p_links.is_empty());
            linked.filter_map(|(node, _)| Some((node, ids::peer_of(node)?))).collect()
        };
        present.iter().for_each(|(node, peer)| self.greet(*node, peer));
    }

    /// Listens to the topics of the networks that are followed whole, and to the alerts of all. Of others only what is
    /// wanted is synced; what this node itself has to say it can say without listening.
    fn update_topics(&mut self) {
        let followed = self.shared.networks.told();
        let of = |network| [Topic::Records(network), Topic::Haves(network)];
        let whole = followed.iter().filter(|follows| follows.whole).flat_map(|follows| of(follows.network));
        let wanted = whole.chain(followed.iter().map(|follows| Topic::Alerts(follows.network))).collect();
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        for topic in self.topics.difference(&wanted) {
            gossip.unsubscribe(&IdentTopic::new(topic.to_string()));
        }
        for topic in wanted.difference(&self.topics) {
            let name = IdentTopic::new(topic.to_string());
            let listens =
                gossip.set_topic_params(name.clone(), topic_score_params()).map_err(|error| error.to_string());
            let listens = listens.and_then(|_| gossip.subscribe(&name).map_err(|error| error.to_string()));
            if let Err(error) = listens {
                tracing::error!(%topic, error, "not listened to");
            }
        }
        self.topics = wanted;
    }

    fn dial(&mut self, node: NodeId) {
        let addrs = match self.shared.book().get(node) {
            Some(peer) if peer.cut_off.is_some() => return,
            Some(peer) => without(peer.p2p.clone(), &self.shared.p2p_addrs()),
            None => vec![],
        };
        let Some(peer) = ids::peer_of(node) else { return };
        let circuits = relays::circuits_to(&self.shared, node);
        let condition = match circuits.is_empty() {
            true => PeerCondition::DisconnectedAndNotDialing,
            // A dial by the DHT, at addresses that lead nowhere from here, mustn't keep a circuit from being tried.
            false => PeerCondition::Disconnected,
        };
        let opts = DialOpts::peer_id(peer)
            .condition(condition)
            .addresses(addrs.into_iter().flat_map(ids::multiaddrs).chain(circuits).collect())
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(peer = %node, %error, "not dialled");
        }
    }

    fn block(&mut self, node: NodeId) {
        let Some(peer) = ids::peer_of(node) else { return };
        if self.swarm.behaviour_mut().blocked.block_peer(peer) {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    // # Connections

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                if let Some(node) = ids::node_of(&peer_id) {
                    let last = self.shared.book().p2p_closed(node, connection_id, ids::now());
                    if last {
                        // A transfer isn't ended because discovery lost sight of a peer: its own path may be another.
                        self.shared.links.doubt(node);
                    }
                }
                self.tell_left();
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                self.shared.metrics.dial_failures.get_or_create(&Stacks { stack: "libp2p" }).inc();
                tracing::debug!(peer = short(peer_id.as_ref().and_then(ids::node_of)), %error, "dial failed");
            }
            SwarmEvent::NewListenAddr { address, .. } | SwarmEvent::ExpiredListenAddr { address, .. }
                if ids::socket_addr(&address).is_some() =>
            {
                self.offer_circuits();
                self.update_addrs();
                self.on_interfaces();
            }
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => self.update_addrs(),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let before = self.reservations.len();
                self.reservations.retain(|_, listener| *listener != listener_id);
                match reason {
                    Err(error) if self.reservations.len() < before => tracing::debug!(%error, "no circuits any more"),
                    Err(error) => tracing::error!(%error, "a listener closed"),
                    Ok(()) => {}
                }
            }
            _ => {}
        }
    }

    /// Whoever is away may be reached now, and peers are told where this node is.
    fn on_interfaces(&mut self) {
        self.shared.book().dial_all_soon();
        self.has_news = true;
    }

    fn update_addrs(&self) {
        let addrs = self.swarm.listeners().chain(self.swarm.external_addresses());
        self.shared.set_p2p_addrs(tidy(addrs.filter_map(ids::socket_addr).collect()));
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(node) = ids::node_of(&peer) else {
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        self.shared.metrics.connections.get_or_create(&Stacks { stack: "libp2p" }).inc();
        let addr = ids::socket_addr(endpoint.get_remote_address());
        if self.shared.book().p2p_opened(node, connection, addr, ids::now()) {
            self.greet(node, &peer);
        }
    }

    fn greet(&mut self, node: NodeId, peer: &PeerId) {
        if let Some(greeting) = self.greeting_for(node) {
            let request = self.swarm.behaviour_mut().hello.send_request(peer, greeting);
            self.greetings.insert(request, self.first_told(node));
        }
    }

    fn first_told(&self, node: NodeId) -> NetworkId {
        self.shared.book().first_told(node, self.shared.networks.home())
    }

    fn greeting_for(&self, node: NodeId) -> Option<Greeting> {
        let (hello, first) = (self.shared.hello(), self.first_told(node));
        match (hello.encode(), hello.encode_second(), hello.encode_first(first)) {
            (Ok(latest), Ok(second), Ok(first)) => Some(Greeting { latest, second, first }),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                tracing::error!(%error, "our own greeting");
                None
            }
        }
    }

    // # Protocols

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Hello(event) => self.on_hello_event(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identify(peer_id, info)
            }
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::RelayServer(event) => self.on_relayed(event),
            _ => {}
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => {
                if let Some(node) = ids::node_of(&event.peer) {
                    self.shared.book().p2p_rtt(node, event.connection, rtt, ids::now());
                }
            }
            Err(ping::Failure::Unsupported) => {}
            // A silent cut: without this a TCP connection would look alive for minutes.
            Err(_) => drop(self.swarm.close_connection(event.connection)),
        }
    }

    /// Circuits, too, are for members: who isn't one loses the connection to this node, and its circuits with it.
    fn on_relayed(&mut self, event: relay::Event) {
        let (relay::Event::ReservationReqAccepted { src_peer_id, renewed: false }
        | relay::Event::CircuitReqAccepted { src_peer_id, .. }) = event
        else {
            return;
        };
        if let Some(node) = ids::node_of(&src_peer_id) {
            self.shared.tasks.spawn(relays::keep_strangers_out(Arc::clone(&self.shared), node));
        }
    }

    /// A relay gives whoever wants circuits its addresses: without any it gives none.
    fn offer_circuits(&mut self) {
        if self.swarm.behaviour().relay_server.is_enabled() {
            let addrs: Vec<_> = self.swarm.listeners().cloned().collect();
            addrs.into_iter().for_each(|addr| self.swarm.add_external_address(addr));
        }
    }

    /// Asks a node that relays to pass on what comes for this one, once for each run of either.
    fn reserve(&mut self, node: NodeId) {
        let addrs = match self.shared.book().get(node) {
            Some(peer) if peer.relays.iter().any(|relay| relay.node == node) => peer.p2p.clone(),
            _ => return,
        };
        let Some(peer) = ids::peer_of(node).filter(|_| !self.reservations.contains_key(&node)) else { return };
        let through = ids::circuits(peer, &without(addrs, &self.shared.p2p_addrs()));
        if self.reservations.len() >= MAX_RELAYS {
            return;
        }
        // One address will do: the relay is found by its connection.
        match through.into_iter().next().map(|addr| self.swarm.listen_on(addr)) {
            Some(Ok(listener)) => drop(self.reservations.insert(node, listener)),
            Some(Err(error)) => tracing::debug!(peer = %node, %error, "no circuits through it"),
            None => {}
        }
    }

    fn on_identify(&mut self, peer: PeerId, info: identify::Info) {
        if info.protocols.iter().any(|protocol| protocol.as_ref() == "/mhc/kad/1") {
            let ours = self.shared.p2p_addrs();
            let leads_to_us = |addr: &_| ids::socket_addr(addr).is_some_and(|addr| ours.contains(&addr));
            let theirs = info.listen_addrs.into_iter().filter(|addr| !leads_to_us(addr));
            for addr in theirs.take(MAX_PROVIDER_ADDRS) {
                self.swarm.behaviour_mut().kad.add_address(&peer, addr);
            }
        }
    }

    fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (peer, addr) in found {
            let Some((node, addr)) = ids::node_of(&peer).zip(ids::socket_addr(&addr)) else { continue };
            let mut book = self.shared.book();
            if book.learn_addrs(node, &[addr], &[]) {
                book.want(node);
            }
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(mut record) } } => {
                record.addresses.truncate(MAX_PROVIDER_ADDRS);
                if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add_provider(record) {
                    tracing::debug!(%error, "provider not stored");
                }
            }
            kad::Event::OutboundQueryProgressed {
                id, result: kad::QueryResult::GetProviders(result), step, ..
            } => {
                self.on_providers(id, result, step.last);
            }
            _ => {}
        }
    }

    fn on_providers(&mut self, id: kad::QueryId, result: kad::GetProvidersResult, last: bool) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = result {
            query.found.extend(providers.iter().filter_map(ids::node_of));
        }
        let done = last || query.found.len() >= MAX_PROVIDER_ADDRS || query.reply.is_closed();
        if done && let Some(query) = self.queries.remove(&id) {
            let _ = query.reply.send(query.found.into_iter().collect());
            if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
                query.finish();
            }
        }
    }

    // # Greetings

    fn on_hello_event(&mut self, event: rr::Event<Greeting, Greeting>) {
        let (peer, connection_id, message) = match event {
            rr::Event::Message { peer, connection_id, message } => (peer, connection_id, message),
            rr::Event::OutboundFailure { request_id, .. } => {
                self.greetings.remove(&request_id);
                return;
            }
            _ => return,
        };
        let Some(node) = ids::node_of(&peer) else { return };
        match message {
            rr::Message::Request { request, channel, .. } => {
                let hello = self.read_hello(node, &request.latest);
                if let Some(hello) = &hello {
                    // A peer greets on its first connection to us: where it has an older one here, that was another
                    // process's, and so were its connections for bytes and records.
                    let started_anew = self.shared.book().started_anew(node, hello, connection_id);
                    if started_anew {
                        endpoint::close_gone(&self.shared, node);
                    }
                    self.on_hello(node, connection_id, hello);
                }
                if let Some(greeting) = self.greeting_for(node) {
                    let _ = self.swarm.behaviour_mut().hello.send_response(channel, greeting);
                }
            }
            rr::Message::Response { response, request_id } => {
                let told = self.greetings.remove(&request_id);
                // Nothing at all is what a peer sends that is about to leave.
                let answer = Some(response.latest).filter(|bytes| !bytes.is_empty());
                let Some(hello) = answer.and_then(|bytes| self.read_hello(node, &bytes)) else { return };
                self.on_hello(node, connection_id, &hello);
                // A peer of the first version was told of another network than the one it follows: once more.
                if hello.run.is_none() && told != Some(self.first_told(node)) {
                    self.greet(node, &peer);
                }
            }
        }
    }

    fn read_hello(&self, node: NodeId, bytes: &[u8]) -> Option<Hello> {
        match Hello::decode(bytes) {
            Ok(hello) => return Some(hello),
            Err(error) if error.is_misbehaviour() => self.shared.report(node, &Fault::JunkHello(error.to_string())),
            Err(error) => tracing::info!(peer = %node, %error, "greeting not understood"),
        }
        None
    }

    fn on_hello(&mut self, node: NodeId, connection: ConnectionId, hello: &Hello) {
        let (membership, shared) = {
            let mut book = self.shared.book();
            let link = book.get(node).and_then(|peer| peer.p2p_links.iter().find(|link| link.id == connection));
            // A circuit shows no address, but isn't of this machine either.
            let observed = link.map(|link| link.addr.unwrap_or(NOWHERE));
            let membership = book.hello(node, hello, observed, ids::now());
            (membership, book.get(node).map(|peer| book.shared_with(peer)).unwrap_or_default())
        };
        tracing::debug!(peer = %node, ?membership, "greeted");
        self.shared.greetings.send_modify(|count| *count += 1);
        for network in shared {
            let _ = self.shared.sync_pokes.try_send((node, network));
        }
        if membership == Membership::Member {
            self.reserve(node);
        }
    }

    // # Gossip

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.on_message(propagation_source, message_id, message);
            }
            gossipsub::Event::Subscribed { topic, .. } => match Topic::parse(topic.as_str()) {
                Some(topic) if !self.shared.networks.follows(topic.network()) => {}
                Some(Topic::Records(_)) => self.shared.outbox_poke.notify_one(),
                Some(Topic::Haves(_)) => self.shared.haves_poke.notify_one(),
                Some(Topic::Alerts(_)) => self.shared.alerts_poke.notify_one(),
                None => {}
            },
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = short(ids::node_of(&peer_id)), "slow peer: messages dropped");
            }
            _ => {}
        }
    }

    fn on_message(&mut self, from: PeerId, message: MessageId, content: gossipsub::Message) {
        let network = match Topic::parse(content.topic.as_str()) {
            Some(Topic::Records(network)) => network,
            Some(Topic::Haves(_)) => {
                let acceptance = self.on_haves(&from, content.source.as_ref(), &content.data);
                return self.on_verdict(Verdict { message, from, acceptance });
            }
            Some(Topic::Alerts(network)) => {
                let verdicts = self.channels.judged.clone();
                let alert = IncomingAlert { network, bytes: content.data, message, from, verdicts };
                if let Err(error) = self.channels.alerts.try_send(alert) {
                    let IncomingAlert { message, from, .. } = error.into_inner();
                    self.on_verdict(Verdict { message, from, acceptance: MessageAcceptance::Ignore });
                }
                return;
            }
            None => return self.on_verdict(Verdict { message, from, acceptance: MessageAcceptance::Ignore }),
        };
        let arrived = Arrived { message, from, network, data: content.data };
        if let Err(error) = self.channels.arrivals.try_send(arrived) {
            // Overloaded: sync brings it later.
            let Arrived { message, from, .. } = error.into_inner();
            self.on_verdict(Verdict { message, from, acceptance: MessageAcceptance::Ignore });
        }
    }

    fn on_haves(&mut self, from: &PeerId, source: Option<&PeerId>, data: &[u8]) -> MessageAcceptance {
        let source = source.and_then(ids::node_of);
        let haves = match Haves::decode(data) {
            Ok(haves) if Some(haves.node) == source => haves,
            Ok(_) => return self.junk(from, "a list of blobs in another node's name"),
            Err(WireError::Version(_)) => return MessageAcceptance::Ignore,
            Err(error) => return self.junk(from, &error.to_string()),
        };
        let now = Instant::now();
        if !self.haves_rate.take(&haves.node, now).is_zero() || self.shared.book().is_cut_off(haves.node) {
            return MessageAcceptance::Ignore;
        }
        match self.shared.haves().learn(&haves, ids::now(), now) {
            true => {
                self.shared.metrics.gossip_haves_received.inc();
                MessageAcceptance::Accept
            }
            false => MessageAcceptance::Ignore,
        }
    }

    fn junk(&self, from: &PeerId, what: &str) -> MessageAcceptance {
        if let Some(node) = ids::node_of(from) {
            self.shared.report(node, &Fault::JunkGossip(what.into()));
        }
        MessageAcceptance::Reject
    }

    fn on_verdict(&mut self, Verdict { message, from, acceptance }: Verdict) {
        self.swarm.behaviour_mut().gossip.report_message_validation_result(&message, &from, acceptance);
    }
}

fn kad_key(hash: BlobHash) -> kad::RecordKey {
    kad::RecordKey::new(hash.as_bytes())
}
