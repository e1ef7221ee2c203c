//! What the tasks of the network share, and how they end.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use iroh::{Endpoint, endpoint::Connection};
use mhc_protocol::{
    NetworkId, NodeId,
    wire::{Hello, MAX_HELLO_ADDRS},
};
use mhc_storage::{blob::BlobStore, record::Records};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    actor::Command,
    book::{Book, Fault},
    endpoint::Pool,
    haves::HaveTable,
    ids,
    links::Links,
    metrics::{Kinds, Metrics},
    networks::Networks,
    provider::Provider,
    relays::{self, Relays},
};

/// Close code of connections to peers that are cut off.
pub(super) const CLOSE_CUT_OFF: u32 = 0x6d01;
/// Close code of connections beyond a limit.
pub(super) const CLOSE_LIMIT: u32 = 0x6d02;
/// Close code of connections of a node that stops.
pub(super) const CLOSE_STOPPING: u32 = 0;

/// Tasks that end with the network: each is dropped at its next await once `cancel` is cancelled.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) cancel: CancellationToken,
}

impl Tasks {
    pub(super) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            cancel.run_until_cancelled(task).await;
        });
    }
}

/// Everything the tasks share.
pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) networks: Networks,
    /// Drawn when the process started: tells peers whether it is still the same.
    run: u64,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) records: Records,
    pub(super) blobs: BlobStore,
    pub(super) endpoint: Endpoint,
    pub(super) relays: Relays,
    pub(super) links: Arc<Links>,
    pub(super) pool: Pool,
    pub(super) provider: Provider,
    pub(super) sync_server: super::sync::Server,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: Tasks,
    pub(super) commands: mpsc::Sender<Command>,
    /// Peers to sync with as soon as possible, each about a network.
    pub(super) sync_pokes: mpsc::Sender<(NodeId, NetworkId)>,
    /// A peer subscribed or the outbox grew.
    pub(super) outbox_poke: Notify,
    /// A peer subscribed: tell what we hold.
    pub(super) haves_poke: Notify,
    /// A peer subscribed to alerts: tell it those that hold.
    pub(super) alerts_poke: Notify,
    /// Counts greetings, for whoever waits for one.
    pub(super) greetings: watch::Sender<u64>,
    book: Mutex<Book>,
    haves: Mutex<HaveTable>,
    p2p_addrs: Mutex<Vec<SocketAddr>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("node", &self.node).field("home", &self.networks.home()).finish_non_exhaustive()
    }
}

/// What the parts of [`Shared`] that come from outside are.
pub(super) struct Parts {
    pub(super) node: NodeId,
    pub(super) networks: Networks,
    pub(super) run: u64,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) records: Records,
    pub(super) blobs: BlobStore,
    pub(super) endpoint: Endpoint,
    pub(super) relays: Relays,
    pub(super) links: Arc<Links>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) sync_pokes: mpsc::Sender<(NodeId, NetworkId)>,
    pub(super) upload_bytes_per_s: Option<u64>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { node, networks, run, name, version, records, blobs, .. } = parts;
        let Parts { endpoint, relays, links, commands, sync_pokes, upload_bytes_per_s, .. } = parts;
        Self {
            book: Mutex::new(Book::new(node, networks.told().iter().map(|follows| follows.network).collect())),
            node,
            networks,
            run,
            name,
            version,
            records,
            blobs,
            endpoint,
            relays,
            links,
            pool: Pool::default(),
            provider: Provider::new(upload_bytes_per_s),
            sync_server: super::sync::Server::default(),
            metrics: Arc::default(),
            tasks: Tasks::default(),
            commands,
            sync_pokes,
            outbox_poke: Notify::new(),
            haves_poke: Notify::new(),
            alerts_poke: Notify::new(),
            greetings: watch::Sender::new(0),
            haves: Mutex::default(),
            p2p_addrs: Mutex::default(),
        }
    }

    /// The peer book. Never held across an await.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of providers. Never held across an await.
    pub(super) fn haves(&self) -> MutexGuard<'_, HaveTable> {
        self.haves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where libp2p listens.
    pub(super) fn p2p_addrs(&self) -> Vec<SocketAddr> {
        self.p2p_addrs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_p2p_addrs(&self, addrs: Vec<SocketAddr>) {
        *self.p2p_addrs.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    /// Where iroh listens: its own addresses, and for unspecified ones every address that libp2p listens on.
    pub(super) fn iroh_addrs(&self) -> Vec<SocketAddr> {
        let ips: Vec<IpAddr> = self.p2p_addrs().iter().map(SocketAddr::ip).collect();
        let mut addrs = vec![];
        for socket in self.endpoint.bound_sockets() {
            let expand = ips.iter().filter(|ip| ip.is_ipv4() == socket.is_ipv4());
            match socket.ip().is_unspecified() {
                true => addrs.extend(expand.map(|ip| SocketAddr::new(*ip, socket.port()))),
                false => addrs.push(socket),
            }
        }
        tidy(addrs)
    }

    /// Our greeting.
    pub(super) fn hello(&self) -> Hello {
        let limit = |mut addrs: Vec<SocketAddr>| {
            addrs.truncate(MAX_HELLO_ADDRS);
            addrs
        };
        Hello {
            networks: self.networks.told(),
            run: Some(self.run),
            iroh: limit(self.iroh_addrs()),
            p2p: limit(self.p2p_addrs()),
            relays: relays::told(self),
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }

    /// Scores a fault down; at the limit the peer is disconnected and kept out for a time. Doesn't block.
    pub(super) fn report(&self, node: NodeId, fault: &Fault) {
        tracing::warn!(peer = %node, ?fault, "misbehaviour");
        let cut_off = self.book().report(node, fault, Instant::now());
        self.metrics.peer_misbehaviour.get_or_create(&Kinds { kind: fault.kind() }).inc();
        if matches!(fault, Fault::BadBytes(_)) {
            self.haves().forget(node);
        }
        if cut_off {
            self.cut_off(node);
        }
    }

    fn cut_off(&self, node: NodeId) {
        self.metrics.peers_cut_off.inc();
        tracing::warn!(peer = %node, "cut off");
        // When the queue is full the actor's next tick finds it in the book.
        let _ = self.commands.try_send(Command::Block(node));
        for conn in self.connections(node) {
            conn.close(CLOSE_CUT_OFF.into(), b"cut off");
        }
    }

    /// The iroh connections of a peer that are open now.
    pub(super) fn connections(&self, node: NodeId) -> Vec<Connection> {
        let book = self.book();
        let links = book.get(node).map(|peer| peer.iroh_links.as_slice()).unwrap_or_default();
        links.iter().filter_map(|link| link.upgrade()).filter(|conn| conn.close_reason().is_none()).collect()
    }

    /// Notes a new iroh connection; closes it when the peer is cut off or has too many.
    pub(super) fn admit(&self, conn: &Connection) -> bool {
        let node = ids::node_of_endpoint(conn.remote_id());
        let mut book = self.book();
        let refusal = match () {
            () if book.is_cut_off(node) => Some((CLOSE_CUT_OFF, "cut off")),
            () if !book.iroh_opened(node, conn.weak_handle(), ids::now()) => {
                Some((CLOSE_LIMIT, "too many connections"))
            }
            () => None,
        };
        if let Some((code, why)) = refusal {
            conn.close(code.into(), why.as_bytes());
            return false;
        }
        self.metrics.connections.get_or_create(&super::metrics::Stacks { stack: "iroh" }).inc();
        true
    }
}

/// Those of `addrs` that aren't in `ours`.
pub(super) fn without(mut addrs: Vec<SocketAddr>, ours: &[SocketAddr]) -> Vec<SocketAddr> {
    addrs.retain(|addr| !ours.contains(addr));
    addrs
}

/// Sorted, without repeats, and without addresses that mean nothing elsewhere (IPv6 link-local needs a zone).
pub(super) fn tidy(mut addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addrs.retain(|addr| match addr.ip() {
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified(),
        IpAddr::V4(ip) => !ip.is_unspecified(),
    });
    // Loopback last: it is of use on the same machine only.
    addrs.sort_by_key(|addr| (addr.ip().is_loopback(), addr.is_ipv6(), *addr));
    addrs.dedup();
    addrs
}
