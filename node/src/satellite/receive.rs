//! The receiving shell of the carousel: from a socket, as long as the node runs, or from a recorded stream.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use mhc_protocol::{
    BlobHash, NodeId, Timestamp,
    bundle::{MAX_SPAN_BYTES, Span},
    network::{Authority, When},
};
use mhc_satellite::carousel::{
    About, Decoded, Delivered, Judge, MAX_PACKET_BYTES, Object, Receiver, ReceiverOptions, Unframer,
};
use mhc_storage::{kv::KeyRange, record::Private};
use serde::Serialize;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{net::UdpSocket, runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::intake::{Intake, Taken};
use crate::{
    author::now,
    bundle::{JobError, Reporter},
};

/// Objects of records that were taken in, so that they aren't collected again after a restart.
const DONE_TABLE: &str = "carousel-done";
/// Of them, most that are remembered; the oldest go.
const MAX_DONE: usize = 4_096;
/// How long what the governing records say is believed without looking again.
const AUTHORITY_FOR_MS: u64 = 15_000;
/// What the system may hold for us while an object is stored; it gives what it allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 256 << 10;

/// What was received.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Received {
    /// Where, when it is a socket.
    pub(crate) listen: Option<SocketAddr>,
    /// Index pages of trusted senders.
    pub(crate) pages: u64,
    /// Symbols kept.
    pub(crate) symbols: u64,
    /// Packets that were forged, damaged, or by senders that aren't trusted.
    pub(crate) refused: u64,
    /// Packets that weren't needed.
    pub(crate) ignored: u64,
    /// Symbols for which there was no memory.
    pub(crate) no_room: u64,
    /// Objects decoded and right.
    pub(crate) decoded: u64,
    /// Times that an object wasn't what the index says.
    pub(crate) spoiled: u64,
    /// Bytes of a recorded stream that were no packets.
    pub(crate) skipped_bytes: u64,
    #[serde(flatten)]
    pub(crate) taken: Taken,
    /// What is on air and wanted, by how far it is.
    pub(crate) objects: Vec<OnAir>,
}

/// An object that is being collected or was.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OnAir {
    pub(crate) object: String,
    pub(crate) sender: NodeId,
    /// `records` or `blob`.
    pub(crate) kind: &'static str,
    pub(crate) bytes: u32,
    pub(crate) symbols: usize,
    pub(crate) needed: usize,
    pub(crate) done: bool,
}

/// What there is to say about the receiver at present.
pub(crate) type Shown = Arc<Mutex<Received>>;

/// What this node trusts and wants.
struct NodeJudge {
    intake: Intake,
    done: Private,
    trust: Vec<NodeId>,
    authority: Option<Authority>,
    /// Delivered, and being stored.
    storing: HashSet<[u8; 32]>,
}

impl Judge for NodeJudge {
    fn trusts(&self, sender: NodeId) -> bool {
        let when = When { at: now(), position: (u64::MAX, u64::MAX) };
        let granted =
            |authority: &Authority| authority.root() == sender.into() || authority.role(sender.into(), when).is_some();
        self.trust.contains(&sender) || self.authority.as_ref().is_some_and(granted)
    }

    fn wants(&self, object: &Object) -> bool {
        if self.storing.contains(&object.hash) {
            return false;
        }
        match object.about {
            About::Records => matches!(self.done.get(&object.hash), Ok(None)),
            About::Blob { hash, size_bytes, start, end } => {
                !self.has(hash, size_bytes, start, end)
                    && self.has_room(hash, size_bytes)
                    && self.intake.knows(hash).unwrap_or(false)
            }
        }
    }
}

impl NodeJudge {
    fn has(&self, hash: BlobHash, size_bytes: u64, start: u64, end: u64) -> bool {
        let mut starts = (start..end.max(start + 1)).step_by(usize::try_from(MAX_SPAN_BYTES).unwrap_or(usize::MAX));
        starts.all(|start| {
            let span = Span::new(size_bytes, start, end.min(start + MAX_SPAN_BYTES));
            span.is_ok_and(|span| self.intake.has(hash, &span))
        })
    }

    /// Whether all of the blob has room. What hasn't would push out what came before it, round and round.
    fn has_room(&self, hash: BlobHash, size_bytes: u64) -> bool {
        let blobs = &self.intake.stores.blobs;
        let here = blobs.status(hash).map_or(0, |status| status.local_bytes);
        let usage = blobs.usage();
        let with = usage.quota_used_bytes.saturating_add(size_bytes.saturating_sub(here));
        usage.quota_bytes.is_none_or(|quota| with <= quota)
    }
}

/// A receiver with its stores, driven by a socket or a file.
struct Core {
    receiver: Receiver,
    judge: NodeJudge,
    taken: Taken,
    authority_at_ms: Option<u64>,
}

impl Core {
    fn new(intake: Intake, trust: Vec<NodeId>, memory_bytes: usize) -> Self {
        let receiver = Receiver::new(ReceiverOptions { network: intake.stores.network, memory_bytes });
        let done = intake.stores.records.private(DONE_TABLE);
        let judge = NodeJudge { intake, done, trust, authority: None, storing: HashSet::new() };
        Self { receiver, judge, taken: Taken::default(), authority_at_ms: None }
    }

    fn packet(&mut self, now_ms: u64, datagram: &[u8]) {
        if self.authority_at_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= AUTHORITY_FOR_MS) {
            self.authority_at_ms = Some(now_ms);
            let stores = &self.judge.intake.stores;
            self.judge.authority = stores.records.authority(stores.network).ok();
        }
        // It is counted by the receiver; anybody may throw in anything.
        if let Err(error) = self.receiver.packet(now_ms, datagram, &self.judge) {
            tracing::trace!(%error, "a packet was refused");
        }
    }

    /// What to store, when decoding brought something.
    fn finished(&mut self, decoded: Decoded) -> Option<Delivered> {
        let delivered = self.receiver.finished(decoded)?;
        self.judge.storing.insert(delivered.object.hash);
        Some(delivered)
    }

    fn stored(&mut self, hash: [u8; 32], taken: Result<Taken, JobError>) {
        self.judge.storing.remove(&hash);
        match taken {
            Ok(taken) => self.taken = self.taken.and(taken),
            Err(error) => tracing::warn!(%error, "an object of the carousel wasn't stored"),
        }
        // Its records may say whom to trust.
        self.authority_at_ms = None;
    }

    fn shown(&self, listen: Option<SocketAddr>) -> Received {
        let counters = self.receiver.counters();
        let mut objects: Vec<OnAir> = self.receiver.progress().iter().map(on_air).collect();
        objects.sort_by(|a, b| (a.done, a.kind, &a.object).cmp(&(b.done, b.kind, &b.object)));
        Received {
            listen,
            pages: counters.pages,
            symbols: counters.symbols,
            refused: counters.refused,
            ignored: counters.ignored,
            no_room: counters.no_room,
            decoded: counters.decoded,
            spoiled: counters.spoiled,
            skipped_bytes: 0,
            taken: self.taken,
            objects,
        }
    }
}

fn on_air(progress: &mhc_satellite::carousel::Progress) -> OnAir {
    OnAir {
        object: data_encoding::HEXLOWER.encode(&progress.object.hash),
        sender: progress.sender,
        kind: if progress.object.about == About::Records { "records" } else { "blob" },
        bytes: progress.object.bytes,
        symbols: progress.symbols,
        needed: progress.needed,
        done: progress.done,
    }
}

/// Stores an object and remembers that of records; blocks, on a thread of the runtime that may.
fn store(intake: &Intake, delivered: &Delivered, at: Timestamp) -> Result<Taken, JobError> {
    let taken = intake.take(&Bytes::copy_from_slice(&delivered.bytes), at)?;
    // What waits or can't be taken yet may be taken when it comes round again.
    if delivered.object.about == About::Records && taken.waiting_records == 0 {
        let done = intake.stores.records.private(DONE_TABLE);
        let mut changes = vec![(delivered.object.hash.to_vec(), Some(at.as_millis().to_be_bytes().to_vec()))];
        let known = done.scan(KeyRange::all(), 2 * MAX_DONE)?;
        if known.len() >= MAX_DONE {
            let by_age: BTreeMap<_, _> = known.into_iter().map(|(key, value)| ((value, key.clone()), key)).collect();
            changes.extend(by_age.into_values().take(MAX_DONE / 4).map(|key| (key, None)));
        }
        Handle::current().block_on(done.update(changes))?;
    }
    Ok(taken)
}

/// Where and how the node receives.
#[derive(Debug, Clone)]
pub(crate) struct ListenOptions {
    pub(crate) listen: SocketAddr,
    pub(crate) interface: Option<IpAddr>,
    pub(crate) trust: Vec<NodeId>,
    pub(crate) memory_bytes: usize,
}

/// Opens the socket; never sends with it.
pub(crate) fn listen(options: &ListenOptions) -> io::Result<UdpSocket> {
    let ListenOptions { listen, interface, .. } = options;
    let socket = Socket::new(Domain::for_address(*listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.ip().is_multicast() {
        // Several receivers of one machine may join a group.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&(*listen).into())?;
    match (listen, interface) {
        (SocketAddr::V4(group), _) if group.ip().is_multicast() => {
            let interface = match interface {
                Some(IpAddr::V4(interface)) => *interface,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            socket.join_multicast_v4(group.ip(), &interface)?;
        }
        (SocketAddr::V6(group), _) if group.ip().is_multicast() => {
            socket.join_multicast_v6(group.ip(), group.scope_id())?;
        }
        _ => {}
    }
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket.into())?;
    // With less, packets are lost while the node is busy, as on any bad day: the next round brings others.
    let _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

/// What a thread that may be busy was doing.
enum Done {
    Decoded(Decoded),
    Stored([u8; 32], Result<Taken, JobError>),
}

/// Receives until `stop`; what is being stored by then is stored.
pub(crate) async fn run(
    socket: UdpSocket,
    options: ListenOptions,
    intake: Intake,
    shown: Shown,
    stop: CancellationToken,
) {
    let address = socket.local_addr().ok();
    let mut core = Core::new(intake.clone(), options.trust, options.memory_bytes);
    let mut busy: JoinSet<Done> = JoinSet::new();
    let (started, mut buffer) = (Instant::now(), vec![0; MAX_PACKET_BYTES + 1]);
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    *lock(&shown) = core.shown(address);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, _)) => {
                    let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    core.packet(now_ms, buffer.get(..length).unwrap_or_default());
                }
                Err(error) => {
                    tracing::debug!(%error, "the carousel's socket");
                    tokio::task::yield_now().await;
                }
            },
            Some(done) = busy.join_next() => match done {
                Ok(Done::Decoded(decoded)) => {
                    if let Some(delivered) = core.finished(decoded) {
                        let (intake, at) = (intake.clone(), now());
                        busy.spawn_blocking(move || Done::Stored(delivered.object.hash, store(&intake, &delivered, at)));
                    }
                    *lock(&shown) = core.shown(address);
                }
                Ok(Done::Stored(hash, taken)) => {
                    core.stored(hash, taken);
                    *lock(&shown) = core.shown(address);
                }
                Err(error) => tracing::error!(%error, "a thread of the carousel"),
            },
            _ = ticks.tick() => *lock(&shown) = core.shown(address),
        }
        if let Some(job) = core.receiver.next_job() {
            busy.spawn_blocking(move || Done::Decoded(job.run()));
        }
    }
    while busy.join_next().await.is_some() {}
}

fn lock(shown: &Shown) -> MutexGuard<'_, Received> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes in a recorded stream.
pub(super) fn import(
    intake: &Intake,
    trust: Vec<NodeId>,
    memory_bytes: usize,
    path: &Path,
    reporter: &mut Reporter,
) -> Result<Received, JobError> {
    if !path.is_absolute() {
        return Err(JobError::BadRequest("path must be absolute".into()));
    }
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => JobError::NotFound(format!("there is no file {}", path.display())),
        _ => JobError::io("open", path)(error),
    })?;
    let total_bytes = file.metadata().map_err(JobError::io("read", path))?.len();
    reporter.started()?;
    // What is wanted is known only when the records are in, and they may come last: a second pass brings the rest.
    let mut core = Core::new(intake.clone(), trust, memory_bytes);
    let mut skipped_bytes = 0;
    for pass in 0..2 {
        let before = core.receiver.counters().decoded;
        reporter.phase("importing", total_bytes)?;
        skipped_bytes = one_pass(&mut core, &mut file, path, pass * total_bytes, reporter)?;
        if core.receiver.counters().decoded == before {
            break;
        }
        io::Seek::rewind(&mut file).map_err(JobError::io("read", path))?;
    }
    Ok(Received { skipped_bytes, ..core.shown(None) })
}

/// Reads the file once. Time passes as bytes do. Returns the bytes that were no packets.
fn one_pass(
    core: &mut Core,
    file: &mut File,
    path: &Path,
    from_ms: u64,
    reporter: &mut Reporter,
) -> Result<u64, JobError> {
    let (mut unframer, mut buffer, mut at_ms) = (Unframer::default(), vec![0; READ_BYTES], from_ms);
    loop {
        let length = file.read(&mut buffer).map_err(JobError::io("read", path))?;
        if length == 0 {
            return Ok(unframer.skipped_bytes());
        }
        unframer.push(buffer.get(..length).unwrap_or_default());
        while let Some(packet) = unframer.take() {
            at_ms += 1;
            core.packet(at_ms, packet);
            while let Some(job) = core.receiver.next_job() {
                if let Some(delivered) = core.finished(job.run()) {
                    let taken = store(&core.judge.intake, &delivered, now());
                    core.stored(delivered.object.hash, taken);
                }
            }
        }
        reporter.advance(length as u64)?;
    }
}
