//! The provider of bytes: ALPN `/iroh-bytes/4` of iroh-blobs, answered from our own store.
//!
//! A request is one bidirectional stream. Each blob of the answer is its size (8 bytes, little-endian) and the
//! bao encoding of the ranges asked for, validated while it is read; one more byte behind the request says how
//! urgent it is. Each piece of an answer passes the gate of [`super::upload`]. What can't be answered resets the stream
//! with a code of the protocol. Everything a stranger can ask for is bounded: the request's size, blobs in a
//! request, streams at a time, tiny requests per second, and how long a slow reader is waited for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bao_tree::ChunkRanges;
use bytes::Bytes;
use futures::StreamExt;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use iroh_blobs::protocol::{
    ChunkRangesSeq, ERR_INTERNAL, ERR_LIMIT, ERR_PERMISSION, GetManyRequest, GetRequest, ObserveItem, ObserveRequest,
    Request,
};
use mhc_protocol::{BlobHash, NodeId, sched::DemandClass, upload::class_of_urgency};
use mhc_storage::blob::BlobError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    ids,
    shared::{Shared, Tasks},
    throttle::{Rate, Throttle},
    upload::Gate,
};

/// Longest request. Decoding takes time quadratic in the number of ranges, so this bounds that too.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Most blobs in one request: children of a hash sequence, or blobs of a get-many. Sequences aren't followed
/// further: a child is always answered as plain bytes, so there is no depth.
const MAX_BLOBS: u64 = 4096;
/// The first byte of a push request. The rest of it has a framing of its own, which nobody needs here.
const PUSH: u8 = 8;
/// Answers at a time: for one node over all its connections, and for everybody. Each holds up to three quarters of a
/// megabyte of the blob.
const MAX_STREAMS_PER_NODE: usize = 32;
const MAX_STREAMS: usize = 128;
const MAX_OBSERVERS_PER_CONNECTION: usize = 16;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader that takes nothing for so long is dropped.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const OBSERVE_PAUSE: Duration = Duration::from_millis(100);
/// Requests a node may send; those that move at least [`WORTHWHILE_BYTES`] don't count.
const RATE: Rate = Rate { burst: 512.0, per_s: 128.0 };
const WORTHWHILE_BYTES: u64 = 64 * 1024;
/// A node that is this far above the rate is refused rather than delayed.
const MAX_WAIT: Duration = Duration::from_secs(5);
const MAX_THROTTLED: usize = 4096;

/// What all connections to the provider share.
#[derive(Debug)]
pub(super) struct Provider {
    /// Where pieces of answers wait for their turn.
    gate: Gate,
    streams: Arc<Semaphore>,
    by_node: Mutex<HashMap<NodeId, Weak<Semaphore>>>,
    throttle: Mutex<Throttle<NodeId>>,
}

impl Provider {
    /// Sends at most so many bytes a second, if there is a cap.
    pub(super) fn new(upload_bytes_per_s: Option<u64>) -> Self {
        Self {
            gate: Gate::new(upload_bytes_per_s),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            by_node: Mutex::default(),
            throttle: Mutex::new(Throttle::new(RATE, MAX_THROTTLED)),
        }
    }

    /// Whether an answer is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.streams.available_permits() < MAX_STREAMS
    }

    /// The places of a node, shared by its connections.
    fn places(&self, node: NodeId) -> Arc<Semaphore> {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.retain(|_, places| places.strong_count() > 0);
        let places = by_node.get(&node).and_then(Weak::upgrade);
        let places = places.unwrap_or_else(|| Arc::new(Semaphore::new(MAX_STREAMS_PER_NODE)));
        by_node.insert(node, Arc::downgrade(&places));
        places
    }

    fn throttle(&self) -> std::sync::MutexGuard<'_, Throttle<NodeId>> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a request isn't answered.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the stream or connection is gone")]
    Gone,
    #[error("not a request")]
    Malformed,
    #[error("pushing isn't allowed")]
    Push,
    #[error("over a limit")]
    Limit,
    #[error("the reader takes nothing")]
    Stalled,
    #[error("the blob isn't a hash sequence")]
    NotASequence,
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl Refusal {
    fn code(&self) -> VarInt {
        match self {
            Self::Push => ERR_PERMISSION,
            Self::Limit | Self::Stalled => ERR_LIMIT,
            _ => ERR_INTERNAL,
        }
    }
}

/// Answers the requests of one connection.
pub(super) async fn serve(shared: &Arc<Shared>, conn: Connection) {
    let node = ids::node_of_endpoint(conn.remote_id());
    let places = shared.provider.places(node);
    let observers = Arc::new(Semaphore::new(MAX_OBSERVERS_PER_CONNECTION));
    // Ends with this connection, and with the network.
    let tasks = Tasks { cancel: shared.tasks.cancel.child_token(), tracker: shared.tasks.tracker.clone() };
    let _stop = tasks.cancel.clone().drop_guard();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((send, recv)) = conn.accept_bi().await else { return };
        let stream = Stream {
            shared: Arc::clone(shared),
            observers: Arc::clone(&observers),
            node,
            send,
            class: DemandClass::Background,
            sent_bytes: 0,
        };
        tasks.spawn(async move {
            stream.answer(recv, place).await;
        });
    }
}

struct Stream {
    shared: Arc<Shared>,
    observers: Arc<Semaphore>,
    node: NodeId,
    send: SendStream,
    /// How urgent the answer is, once the request was read.
    class: DemandClass,
    sent_bytes: u64,
}

impl Stream {
    async fn answer(mut self, mut recv: RecvStream, place: OwnedSemaphorePermit) {
        let result = self.try_answer(&mut recv, place).await;
        let metrics = &self.shared.metrics;
        match &result {
            Ok(()) => drop(metrics.blob_requests_served.inc()),
            Err(refusal) => {
                metrics.blob_requests_refused.inc();
                tracing::debug!(peer = %self.node, %refusal, "request for bytes not answered");
                let _ = self.send.reset(refusal.code());
                let _ = recv.stop(refusal.code());
            }
        }
        if self.sent_bytes >= WORTHWHILE_BYTES {
            self.shared.provider.throttle().refund(&self.node);
        }
    }

    async fn try_answer(&mut self, recv: &mut RecvStream, place: OwnedSemaphorePermit) -> Result<(), Refusal> {
        self.wait_for_turn().await?;
        let (request, class) = read_request(recv).await?;
        self.class = class;
        // Among the answers to one node; the gate sees to the rest.
        let _ = self.send.set_priority(-(class as i32));
        let streams = Arc::clone(&self.shared.provider.streams);
        let overall = streams.acquire_owned().await.map_err(|_| Refusal::Gone)?;
        match request {
            Request::Get(request) => self.get(request).await,
            Request::GetMany(request) => self.get_many(request).await,
            Request::Observe(request) => {
                let _observer = Arc::clone(&self.observers).try_acquire_owned().map_err(|_| Refusal::Limit)?;
                // Observers last long; they mustn't keep anybody from getting bytes.
                drop((place, overall));
                self.observe(request).await
            }
            _ => Err(Refusal::Malformed),
        }
    }

    /// Delays a node that sends many tiny requests.
    async fn wait_for_turn(&self) -> Result<(), Refusal> {
        let wait = self.shared.provider.throttle().take(&self.node, Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        self.shared.metrics.blob_requests_throttled.inc();
        if wait > MAX_WAIT {
            self.shared.provider.throttle().refund(&self.node);
            return Err(Refusal::Limit);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn get(&mut self, request: GetRequest) -> Result<(), Refusal> {
        let root = BlobHash::from_bytes(*request.hash.as_bytes());
        let ranges = &request.ranges[0];
        let children = match request.ranges.is_blob() {
            true => vec![],
            false => self.children(root, &request.ranges).await?,
        };
        if !ranges.is_empty() {
            self.blob(root, ranges.clone()).await?;
        }
        for (child, ranges) in children {
            self.blob(child, ranges).await?;
        }
        self.finish()
    }

    /// The children of a hash sequence that are asked for, and what of each.
    async fn children(&self, root: BlobHash, ranges: &ChunkRangesSeq) -> Result<Vec<(BlobHash, ChunkRanges)>, Refusal> {
        let size_bytes = self.shared.blobs.status(root).ok_or(BlobError::Missing)?.size_bytes;
        if size_bytes % 32 != 0 {
            return Err(Refusal::NotASequence);
        }
        let count = size_bytes / 32;
        if last_step(ranges)? > MAX_BLOBS + 1 || (count > MAX_BLOBS && ranges.is_infinite()) {
            return Err(Refusal::Limit);
        }
        let hashes = self.read_small(root, count.min(MAX_BLOBS) * 32).await?;
        let asked = hashes.chunks_exact(32).zip(1..).filter_map(|(hash, n)| {
            let ranges: &ChunkRanges = &ranges[n];
            let hash = BlobHash::from_bytes(hash.try_into().ok()?);
            (!ranges.is_empty()).then(|| (hash, ranges.clone()))
        });
        Ok(asked.collect())
    }

    async fn read_small(&self, hash: BlobHash, len: u64) -> Result<Vec<u8>, Refusal> {
        let mut stream = self.shared.blobs.read_local(hash, 0..len);
        let mut bytes = vec![];
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|_| BlobError::Missing)?);
        }
        Ok(bytes)
    }

    async fn get_many(&mut self, request: GetManyRequest) -> Result<(), Refusal> {
        if request.hashes.len() as u64 > MAX_BLOBS {
            return Err(Refusal::Limit);
        }
        for (hash, n) in request.hashes.iter().zip(0..) {
            let ranges: &ChunkRanges = &request.ranges[n];
            if !ranges.is_empty() {
                self.blob(BlobHash::from_bytes(*hash.as_bytes()), ranges.clone()).await?;
            }
        }
        self.finish()
    }

    /// One blob: its size, then the encoding of `ranges`. Nothing is sent unless the store has them.
    async fn blob(&mut self, hash: BlobHash, ranges: ChunkRanges) -> Result<(), Refusal> {
        let size_bytes = self.shared.blobs.status(hash).ok_or(BlobError::Missing)?.size_bytes;
        let mut encoder = self.shared.blobs.encoder(hash, &ranges)?;
        let mut header = Some(Bytes::copy_from_slice(&size_bytes.to_le_bytes()));
        while let Some(piece) = encoder.next().await {
            let piece = piece?;
            if let Some(header) = header.take() {
                self.write(header).await?;
            }
            let shared = Arc::clone(&self.shared);
            let _turn = shared.provider.gate.turn(self.node, self.class, piece.len() as u64).await;
            self.write(piece).await?;
        }
        match header {
            // An empty blob has no encoding, but a size.
            Some(header) => self.write(header).await,
            None => Ok(()),
        }
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let mut pieces = [piece];
        let mut rest = &mut pieces[..];
        while !rest.is_empty() {
            let write = self.send.write_many_chunks(&mut rest);
            let written = tokio::time::timeout(STALL_TIMEOUT, write).await.map_err(|_| Refusal::Stalled)?;
            self.account(written.map_err(|_| Refusal::Gone)? as u64);
        }
        Ok(())
    }

    fn account(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
        self.shared.metrics.blob_bytes_served.inc_by(bytes);
        if let Some(peer) = self.shared.book().entry(self.node) {
            peer.bytes_out += bytes;
        }
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        self.send.finish().map_err(|_| Refusal::Gone)
    }

    /// Streams what is here of a blob, then what is added, until the peer loses interest.
    async fn observe(&mut self, request: ObserveRequest) -> Result<(), Refusal> {
        let hash = BlobHash::from_bytes(*request.hash.as_bytes());
        let mut watch = self.shared.blobs.watch(hash);
        let mut told = watch.borrow_and_update().clone();
        self.observed(hash, told.clone()).await?;
        loop {
            tokio::select! {
                changed = watch.changed() => changed.map_err(|_| Refusal::Gone)?,
                _ = self.send.stopped() => return Ok(()),
            }
            let ranges = watch.borrow_and_update().clone();
            let news: ChunkRanges = ranges.difference(&told);
            if !news.is_empty() {
                told = ranges;
                self.observed(hash, news).await?;
            }
            tokio::time::sleep(OBSERVE_PAUSE).await;
        }
    }

    async fn observed(&mut self, hash: BlobHash, ranges: ChunkRanges) -> Result<(), Refusal> {
        let size = self.shared.blobs.status(hash).map(|status| status.size_bytes).unwrap_or_default();
        let item = postcard::to_stdvec(&ObserveItem { size, ranges }).map_err(|_| Refusal::Malformed)?;
        let mut framed = postcard::to_stdvec(&(item.len() as u64)).map_err(|_| Refusal::Malformed)?;
        framed.extend(item);
        self.write(framed.into()).await
    }
}

/// Where a request's selection changes last, in blobs from its start. The type's own iterators count up to it
/// one by one, and a stranger chooses it.
fn last_step(ranges: &ChunkRangesSeq) -> Result<u64, Refusal> {
    let wire = postcard::to_stdvec(ranges).map_err(|_| Refusal::Malformed)?;
    let steps: Vec<(u64, Vec<u64>)> = postcard::from_bytes(&wire).map_err(|_| Refusal::Malformed)?;
    Ok(steps.iter().fold(0, |at, (step, _)| at.saturating_add(*step)))
}

async fn read_request(recv: &mut RecvStream) -> Result<(Request, DemandClass), Refusal> {
    tokio::time::timeout(REQUEST_TIMEOUT, read_whole_request(recv)).await.map_err(|_| Refusal::Stalled)?
}

async fn read_whole_request(recv: &mut RecvStream) -> Result<(Request, DemandClass), Refusal> {
    let mut bytes = vec![0];
    recv.read_exact(&mut bytes).await.map_err(|_| Refusal::Malformed)?;
    if bytes == [PUSH] {
        return Err(Refusal::Push);
    }
    bytes.extend(recv.read_to_end(MAX_REQUEST_BYTES).await.map_err(|_| Refusal::Malformed)?);
    let (request, rest) = postcard::take_from_bytes(&bytes).map_err(|_| Refusal::Malformed)?;
    Ok((request, class_of_urgency(rest.first().copied())))
}
