//! The iroh side: the endpoint, who may connect, and the pool of connections we opened.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use iroh::{
    Endpoint, SecretKey,
    endpoint::{Connection, Incoming, PortmapperConfig, QuicTransportConfig, VarInt, presets},
};
use mhc_protocol::NodeId;
use noq_proto::congestion::CubicConfig;
use tokio::sync::Semaphore;

use super::{
    NetError, NetOptions,
    actor::Command,
    ids,
    links::{LadderSelector, Links},
    metrics::Stacks,
    provider,
    relays::{self, Relays},
    shared::{CLOSE_LIMIT, CLOSE_STOPPING, Shared, without},
    swarm::{Udp, free_port},
    sync,
};
use crate::fetch::ConnectError;

/// Bytes: the protocol of iroh-blobs, so that its tools interoperate.
pub(super) const BYTES_ALPN: &[u8] = iroh_blobs::ALPN;
/// Records.
pub(super) const SYNC_ALPN: &[u8] = b"/mhc/sync/2";
const MAX_STREAMS: u32 = 128;
const MAX_INCOMING: usize = 256;
/// What a new connection may send before the first acknowledgement: a chunk group with its proof (16 KiB and some 20
/// hash pairs) must arrive in one round trip, and 10 packets (RFC 9002) don't hold it. 32 packets is what CDNs use.
const INITIAL_WINDOW_BYTES: u64 = 32 * 1_200;
/// With so many connections, newcomers must first prove their address.
const RETRY_ABOVE: usize = MAX_INCOMING / 4;
/// Room for datagrams, which are dropped unread.
const DATAGRAM_BYTES: usize = 4 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// After a failure, callers are told so for as long without another attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long another address than relays is waited for.
const GREETING_TIMEOUT_WITH_RELAYS: Duration = Duration::from_millis(500);

/// Opens the endpoint: no relay but those that peers name, no look-up at anybody's servers, no port mapping.
pub(super) async fn bind(options: &NetOptions, links: Arc<Links>, relays: &Relays) -> Result<Endpoint, NetError> {
    let port = free_port(&options.listen, options.iroh_port, "--p2p-port", Udp)?;
    // With 0, each family may have a port of its own: the sockets' own choice can't be taken by others.
    let port = if options.iroh_port == 0 { 0 } else { port };
    let mut builder = relays
        .prepare(Endpoint::builder(presets::Minimal))
        .secret_key(SecretKey::from_bytes(&options.key.seed()))
        .alpns(vec![BYTES_ALPN.to_vec(), SYNC_ALPN.to_vec()])
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(transport())
        .path_selector(Arc::new(LadderSelector(links)))
        .clear_ip_transports();
    for ip in &options.listen {
        let addr = SocketAddr::new(*ip, port);
        let optional = ip.is_ipv6() && options.listen.len() > 1;
        let opts = iroh::endpoint::BindOpts::default().set_prefix_len(0).set_is_required(!optional);
        builder = builder
            .bind_addr_with_opts(addr, opts)
            .map_err(|error| NetError::Listen { addr, reason: error.to_string() })?;
    }
    let ip = options.listen.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let failed = |error: iroh::endpoint::BindError| NetError::Listen {
        addr: SocketAddr::new(ip, port),
        reason: error.to_string(),
    };
    builder.bind().await.map_err(failed)
}

/// Units are requests of a megabyte at most, several at a time, so the default window of a stream (1.25 MB) holds
/// nobody up on any path; how much is in flight is the scheduler's choice.
fn transport() -> QuicTransportConfig {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .congestion_controller_factory(Arc::new(congestion))
        // One answer after the other: side by side they would all end at once, and then nothing is under way.
        .send_fairness(false)
        // Nobody sends any but questions whether a path works, whose answer is the transport's acknowledgement.
        .datagram_receive_buffer_size(Some(DATAGRAM_BYTES))
        .build()
}

/// Accepts connections until the endpoint closes.
pub(super) async fn accept(shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_INCOMING));
    while let Some(incoming) = shared.endpoint.accept().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        if places.available_permits() < MAX_INCOMING - RETRY_ABOVE && !incoming.remote_addr_validated() {
            let _ = incoming.retry();
            continue;
        }
        let task = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            serve(task, incoming).await;
            drop(place);
        });
    }
}

async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let Ok(accepting) = incoming.accept() else { return };
    let Ok(Ok(conn)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await else { return };
    if !shared.admit(&conn) {
        return;
    }
    match conn.alpn() {
        alpn if alpn == BYTES_ALPN => provider::serve(&shared, conn).await,
        alpn if alpn == SYNC_ALPN => sync::serve(&shared, conn).await,
        _ => conn.close(CLOSE_LIMIT.into(), b"unknown protocol"),
    }
}

type Slot = Arc<tokio::sync::Mutex<Pooled>>;

/// What the pool knows of one peer and protocol.
#[derive(Debug, Default)]
struct Pooled {
    conn: Option<Connection>,
    failed: Option<(Instant, ConnectError)>,
}

impl Pooled {
    fn open(&self) -> Option<Connection> {
        self.conn.clone().filter(|conn| conn.close_reason().is_none())
    }

    /// The failure of an attempt so recent that another one would fail too.
    fn just_failed(&self) -> Option<ConnectError> {
        self.failed.as_ref().filter(|(at, _)| at.elapsed() < RETRY_PAUSE).map(|(_, error)| error.clone())
    }
}

/// Connections we opened, one for each peer and protocol.
#[derive(Debug, Default)]
pub(super) struct Pool {
    slots: Mutex<HashMap<(NodeId, &'static [u8]), Slot>>,
}

impl Pool {
    fn slot(&self, node: NodeId, alpn: &'static [u8]) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // A slot nobody waits for and that holds nothing is of no use.
        slots.retain(|_, slot| {
            let holds = |slot: &Pooled| slot.open().is_some() || slot.just_failed().is_some();
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| holds(&slot))
        });
        Arc::clone(slots.entry((node, alpn)).or_default())
    }

    /// Lets the peer be dialled at once, whatever came of it before.
    pub(super) fn forgive(&self, node: NodeId) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, slot) in slots.iter().filter(|((other, _), _)| *other == node) {
            if let Ok(mut slot) = slot.try_lock() {
                slot.failed = None;
            }
        }
    }

    /// Drops every connection.
    pub(super) fn clear(&self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A connection to `node`, pooled. Concurrent callers for one peer share one attempt, and its failure.
pub(super) async fn connect(shared: &Shared, node: NodeId, alpn: &'static [u8]) -> Result<Connection, ConnectError> {
    may_connect(shared, node)?;
    let slot = shared.pool.slot(node, alpn);
    let mut slot = slot.lock().await;
    if let Some(conn) = slot.open() {
        return Ok(conn);
    }
    if let Some(error) = slot.just_failed() {
        return Err(error);
    }
    match dial(shared, node, alpn).await {
        Ok(conn) if shared.admit(&conn) => {
            *slot = Pooled { conn: Some(conn.clone()), failed: None };
            Ok(conn)
        }
        Ok(_) => Err(ConnectError::Refused("cut off, or too many connections".into())),
        Err(error) => {
            shared.metrics.dial_failures.get_or_create(&Stacks { stack: "iroh" }).inc();
            *slot = Pooled { conn: None, failed: Some((Instant::now(), error.clone())) };
            Err(error)
        }
    }
}

fn may_connect(shared: &Shared, node: NodeId) -> Result<(), ConnectError> {
    if shared.tasks.cancel.is_cancelled() {
        return Err(ConnectError::Closed);
    }
    let book = shared.book();
    match book.get(node) {
        Some(peer) if peer.cut_off.is_some() => Err(ConnectError::Refused("it is cut off".into())),
        Some(peer) if peer.membership == super::Membership::OtherNetwork => {
            Err(ConnectError::Refused("it follows other networks".into()))
        }
        _ => Ok(()),
    }
}

/// A connection of its own to `node`, which isn't in the pool.
pub(super) async fn dial(shared: &Shared, node: NodeId, alpn: &'static [u8]) -> Result<Connection, ConnectError> {
    may_connect(shared, node)?;
    let relays = relays::towards(shared, node);
    let patience = if relays.is_empty() { GREETING_TIMEOUT } else { GREETING_TIMEOUT_WITH_RELAYS };
    let addrs = iroh_addrs(shared, node, patience).await;
    let unreachable = |why: &str| ConnectError::Unreachable(why.into());
    if addrs.is_empty() && relays.is_empty() {
        return Err(unreachable("no address is known"));
    }
    let addr = ids::endpoint_addr(node, &addrs, &relays).ok_or_else(|| unreachable("its id isn't a key"))?;
    match tokio::time::timeout(CONNECT_TIMEOUT, shared.endpoint.connect(addr, alpn)).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(unreachable(&format!("{error:#}"))),
        Err(_) => Err(unreachable("none of its addresses answered in time")),
    }
}

/// Where `node`'s iroh listens. When that isn't known yet, libp2p is asked to find the node, which then greets, and that
/// is waited for.
///
/// Addresses that are ours too (loopback, or a private network like another one, at the default port) lead to ourselves,
/// and the first answer would end the attempt: of the wrong node.
async fn iroh_addrs(shared: &Shared, node: NodeId, patience: Duration) -> Vec<SocketAddr> {
    let known = || {
        let addrs = shared.book().get(node).map(|peer| peer.iroh.clone()).unwrap_or_default();
        without(addrs, &shared.iroh_addrs())
    };
    let addrs = known();
    if !addrs.is_empty() || shared.commands.send(Command::Dial(node)).await.is_err() {
        return addrs;
    }
    let mut greetings = shared.greetings.subscribe();
    let greeted = async { while known().is_empty() && greetings.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(patience, greeted).await;
    known()
}

/// Closes what is open to `node`, whose process has gone or started anew. It would take the idle time-out to notice,
/// and until then iroh sends even the first packets of new connections where the old ones led.
pub(super) fn close_gone(shared: &Shared, node: NodeId) {
    for conn in shared.connections(node) {
        conn.close(CLOSE_STOPPING.into(), b"gone");
    }
}

/// Tells every peer that this node stops.
pub(super) fn close_all(shared: &Shared) {
    let nodes: Vec<_> = shared.book().iter().map(|(node, _)| node).collect();
    for conn in nodes.into_iter().flat_map(|node| shared.connections(node)) {
        conn.close(CLOSE_STOPPING.into(), b"stopping");
    }
    shared.pool.clear();
}
