//! The libp2p side: which protocols run, within which limits, and where they listen.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder,
    allow_block_list::{self, BlockedPeers},
    autonat, connection_limits, dcutr,
    gossipsub::{self, MessageAuthenticity, MessageId, PeerScoreParams, TopicScoreParams, ValidationMode},
    identify, identity, kad, mdns, noise, ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
    tcp, yamux,
};
use mhc_protocol::{
    NodeId,
    wire::{MAX_GOSSIP_BYTES, MAX_HELLO_BYTES, MAX_NETWORKS, Topic},
};

use super::{NetError, NetOptions, ids};

const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/mhc/kad/1");
/// The greeting, and its earlier versions.
pub(super) const HELLO_PROTOCOL: StreamProtocol = StreamProtocol::new("/mhc/hello/3");
pub(super) const SECOND_HELLO_PROTOCOL: StreamProtocol = StreamProtocol::new("/mhc/hello/2");
pub(super) const FIRST_HELLO_PROTOCOL: StreamProtocol = StreamProtocol::new("/mhc/hello/1");
const IDENTIFY_PROTOCOL: &str = "/mhc/1";
const MAX_PEERS: u32 = 256;
const MAX_PENDING: u32 = 64;
const MAX_CONNECTIONS_PER_PEER: u32 = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Three for each network that a peer may follow.
const MAX_TOPICS: usize = 3 * MAX_NETWORKS;
/// Most blobs this node announces in the DHT; the rest is found by haves and by asking connected peers.
pub(super) const MAX_PROVIDED: usize = 1024;

/// The gossipsub behaviour: only topics of networks, and only so many.
pub(super) type Gossip =
    gossipsub::Behaviour<gossipsub::IdentityTransform, gossipsub::MaxCountSubscriptionFilter<TopicsOfNetworks>>;

/// Lets peers subscribe to the topics of any network: they do so once, and this node may follow theirs later.
#[derive(Debug, Clone, Copy)]
pub(super) struct TopicsOfNetworks;

impl gossipsub::TopicSubscriptionFilter for TopicsOfNetworks {
    fn can_subscribe(&mut self, topic: &gossipsub::TopicHash) -> bool {
        Topic::parse(topic.as_str()).is_some()
    }
}

/// All protocols of the swarm. Limits and bans come first: they refuse before the others see a connection.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) blocked: allow_block_list::Behaviour<BlockedPeers>,
    ping: ping::Behaviour,
    pub(super) identify: identify::Behaviour,
    autonat_client: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
    relay_client: relay::client::Behaviour,
    pub(super) relay_server: Toggle<relay::Behaviour>,
    dcutr: dcutr::Behaviour,
    pub(super) kad: kad::Behaviour<kad::store::MemoryStore>,
    pub(super) gossip: Gossip,
    pub(super) hello: request_response::Behaviour<HelloCodec>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// Builds the swarm and waits until it listens.
pub(super) async fn start(options: &NetOptions) -> Result<Swarm<Behaviour>, NetError> {
    let port = free_port(&options.listen, options.p2p_port, "--p2p-port", Both)?;
    let mut swarm = build(options)?;
    listen(&mut swarm, &options.listen, port).await?;
    Ok(swarm)
}

fn build(options: &NetOptions) -> Result<Swarm<Behaviour>, NetError> {
    let keypair = identity::Keypair::ed25519_from_bytes(options.key.seed()).map_err(internal)?;
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(internal)?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(internal)?
        .with_behaviour(|keypair, relay_client| behaviour(keypair, relay_client, options))
        .map_err(internal)?;
    Ok(builder.with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT).with_smart_dial()).build())
}

type BehaviourResult = Result<Behaviour, Box<dyn std::error::Error + Send + Sync>>;

fn behaviour(
    keypair: &identity::Keypair,
    relay_client: relay::client::Behaviour,
    options: &NetOptions,
) -> BehaviourResult {
    let peer = keypair.public().to_peer_id();
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.into(), keypair.public())
        .with_agent_version(format!("mhc/{}", options.version))
        // The book has the addresses. What a peer lists includes its loopback, and a dial ends at the first that answers:
        // this node itself.
        .with_cache_size(0);
    let mdns = match options.mdns {
        true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), peer)?),
        false => None,
    };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        blocked: allow_block_list::Behaviour::default(),
        ping: ping::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        relay_client,
        relay_server: options.relay.as_ref().map(|_| relay::Behaviour::new(peer, circuits())).into(),
        dcutr: dcutr::Behaviour::new(peer),
        kad: kad(peer),
        gossip: gossip(keypair)?,
        hello: request_response::Behaviour::with_codec(
            HelloCodec,
            [HELLO_PROTOCOL, SECOND_HELLO_PROTOCOL, FIRST_HELLO_PROTOCOL]
                .map(|protocol| (protocol, ProtocolSupport::Full)),
            request_response::Config::default().with_max_concurrent_streams(8),
        ),
        mdns: mdns.into(),
    })
}

fn limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established(Some(MAX_PEERS))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
}

/// Circuits carry greetings and gossip between two that can't reach each other otherwise; bytes and sync go through the
/// relay of iroh.
fn circuits() -> relay::Config {
    relay::Config {
        max_reservations: MAX_PEERS as usize,
        max_circuits: MAX_PEERS as usize,
        max_circuits_per_peer: 16,
        max_circuit_duration: Duration::from_secs(60 * 60),
        max_circuit_bytes: 16 << 20,
        ..relay::Config::default()
    }
}

fn kad(peer: libp2p::PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(Duration::from_secs(10))
        .set_provider_record_ttl(Some(Duration::from_secs(3600)))
        // A provider that starts alone reaches nobody; without this it would try again after 12 hours.
        .set_provider_publication_interval(Some(Duration::from_secs(600)))
        // Nobody may store values with us; providers are bounded by the actor before they are stored.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_max_packet_size(16 * 1024);
    let limits = kad::store::MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 8,
        // Keys of others that are kept for them, and ours.
        max_provided_keys: 8 * MAX_PROVIDED,
    };
    let mut kad = kad::Behaviour::with_config(peer, kad::store::MemoryStore::with_config(peer, limits), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn gossip(keypair: &identity::Keypair) -> Result<Gossip, Box<dyn std::error::Error + Send + Sync>> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(MAX_GOSSIP_BYTES)
        .message_id_fn(message_id)
        .build()?;
    let filter = gossipsub::MaxCountSubscriptionFilter {
        filter: TopicsOfNetworks,
        max_subscribed_topics: MAX_TOPICS,
        max_subscriptions_per_request: 4 * MAX_TOPICS,
    };
    let signed = MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = Gossip::new_with_subscription_filter(signed, config, filter)?;
    gossip.with_peer_score(score_params(), score_thresholds())?;
    Ok(gossip)
}

/// BLAKE3 of the data, so that a record is the same message whoever brings it. A list of blobs only counts
/// from the node it names: with its signer in the id, nobody can burn it in advance under a name of their own.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    if matches!(Topic::parse(message.topic.as_str()), Some(Topic::Haves(_))) {
        hasher.update(&message.source.map(|peer| peer.to_bytes()).unwrap_or_default());
    }
    hasher.update(&message.data);
    MessageId::from(hasher.finalize().as_bytes().to_vec())
}

/// Peers gain a little by bringing news first and lose much by bringing what doesn't verify. There is no
/// penalty for silence: quiet networks are normal.
pub(super) fn topic_score_params() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 100.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.9,
        first_message_deliveries_cap: 50.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.95,
        ..Default::default()
    }
}

fn score_params() -> PeerScoreParams {
    PeerScoreParams {
        // Our own score of a peer counts one to one.
        app_specific_weight: 1.0,
        // Several nodes behind one router, or on one machine, are normal.
        ip_colocation_factor_threshold: 32.0,
        ip_colocation_factor_whitelist: [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]
            .into(),
        ..Default::default()
    }
}

fn score_thresholds() -> gossipsub::PeerScoreThresholds {
    gossipsub::PeerScoreThresholds {
        gossip_threshold: -30.0,
        publish_threshold: -60.0,
        graylist_threshold: -90.0,
        ..Default::default()
    }
}

async fn listen(swarm: &mut Swarm<Behaviour>, ips: &[IpAddr], port: u16) -> Result<(), NetError> {
    let mut waiting = HashSet::new();
    for ip in ips {
        let addr = SocketAddr::new(*ip, port);
        for multiaddr in ids::multiaddrs(addr) {
            match swarm.listen_on(multiaddr) {
                Ok(listener) => drop(waiting.insert(listener)),
                // A machine without IPv6 is fine as long as something else works.
                Err(error) if *ip == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) && ips.len() > 1 => {
                    tracing::info!(%addr, %error, "not listening");
                }
                Err(error) => return Err(NetError::Listen { addr, reason: error.to_string() }),
            }
        }
    }
    let all_listen = async {
        while !waiting.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(&listener_id)),
                SwarmEvent::ListenerClosed { reason: Err(error), .. } => return Err(error),
                SwarmEvent::ListenerClosed { listener_id, .. } => drop(waiting.remove(&listener_id)),
                _ => {}
            }
        }
        Ok(())
    };
    match tokio::time::timeout(LISTEN_TIMEOUT, all_listen).await {
        Ok(Err(error)) => Err(NetError::Internal(format!("listening on port {port}: {error}"))),
        // Unspecified addresses without an interface announce nothing; peers can still be dialled.
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// What a port must be free for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sockets {
    /// TCP and UDP.
    Both,
    /// UDP.
    Udp,
}
pub(super) use Sockets::{Both, Udp};

/// `port` when it is free on all of `ips`; any free one for 0. Asked before the stacks bind: libp2p's TCP
/// sockets share ports silently, and neither stack names the port in its error.
pub(super) fn free_port(ips: &[IpAddr], port: u16, flag: &'static str, sockets: Sockets) -> Result<u16, NetError> {
    const TRIES: usize = 32;
    for _ in 0..TRIES {
        let candidate = match (port, ips.first()) {
            (0, Some(ip)) => any_port(*ip)?,
            (port, _) => port,
        };
        match ips.iter().try_for_each(|ip| try_port(SocketAddr::new(*ip, candidate), sockets)) {
            Ok(()) => return Ok(candidate),
            Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse && port == 0 => {}
            Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(NetError::PortInUse { port, flag });
            }
            Err((addr, error)) => return Err(NetError::Listen { addr, reason: error.to_string() }),
        }
    }
    Err(NetError::Internal("no free port".into()))
}

fn any_port(ip: IpAddr) -> Result<u16, NetError> {
    let addr = SocketAddr::new(ip, 0);
    let bound = UdpSocket::bind(addr).and_then(|socket| socket.local_addr());
    bound.map(|addr| addr.port()).map_err(|error| NetError::Listen { addr, reason: error.to_string() })
}

fn try_port(addr: SocketAddr, sockets: Sockets) -> Result<(), (SocketAddr, io::Error)> {
    let udp = UdpSocket::bind(addr).map(drop);
    let tcp = || match sockets {
        Both => TcpListener::bind(addr).map(drop),
        Udp => Ok(()),
    };
    match udp.and_then(|()| tcp()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err((addr, error)),
        // The unspecified IPv6 address on a machine without IPv6.
        Err(_) if addr.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) => Ok(()),
        result => result.map_err(|error| (addr, error)),
    }
}

/// A greeting as it travels. One that was received is in `latest`, whichever version it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Greeting {
    pub(super) latest: Vec<u8>,
    /// The same for peers that only know the second version.
    pub(super) second: Vec<u8>,
    /// The same for peers that only know the first version.
    pub(super) first: Vec<u8>,
}

impl Greeting {
    fn read(latest: Vec<u8>) -> Self {
        Self { latest, ..Self::default() }
    }

    fn bytes_for(&self, protocol: &StreamProtocol) -> &[u8] {
        match () {
            () if *protocol == FIRST_HELLO_PROTOCOL => &self.first,
            () if *protocol == SECOND_HELLO_PROTOCOL => &self.second,
            () => &self.latest,
        }
    }
}

/// The greeting's codec: one bounded blob each way. It is decoded by the actor, which knows whom to blame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HelloCodec;

impl request_response::Codec for HelloCodec {
    type Protocol = StreamProtocol;
    type Request = Greeting;
    type Response = Greeting;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Greeting> {
        read_bounded(io).await.map(Greeting::read)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Greeting> {
        read_bounded(io).await.map(Greeting::read)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        greeting: Greeting,
    ) -> io::Result<()> {
        io.write_all(greeting.bytes_for(protocol)).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        greeting: Greeting,
    ) -> io::Result<()> {
        io.write_all(greeting.bytes_for(protocol)).await
    }
}

/// Reads to the end of the stream, one byte more than allowed at most, so that too much is noticed.
async fn read_bounded<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(MAX_HELLO_BYTES as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn internal(error: impl std::fmt::Display) -> NetError {
    NetError::Internal(error.to_string())
}

/// For logs.
pub(super) fn short(node: Option<NodeId>) -> String {
    node.map_or_else(|| "a stranger".into(), |node| node.short())
}
