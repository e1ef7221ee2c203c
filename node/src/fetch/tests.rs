//! Fetching over real endpoints on loopback, from honest, dying and hostile providers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bao_tree::{ChunkNum, ChunkRanges};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use iroh::{
    Endpoint, EndpointAddr, TransportAddr,
    endpoint::{Connection, VarInt, presets},
};
use iroh_blobs::protocol::Request;
use mhc_protocol::{BlobHash, NodeId, sched};
use mhc_storage::{
    blob::{BlobOptions, BlobStore},
    source::{RangeSource, SourceError},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    hostile::{HostileOptions, HostileProvider, Hostility, ranges_of},
    *,
};

const MIB: u64 = 1 << 20;
/// Nothing here takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Bytes without a pattern that could make a wrong place look right.
fn noise(length: u64, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length as usize).collect::<Vec<u8>>().into()
}

async fn endpoint() -> Endpoint {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let builder = Endpoint::builder(presets::Minimal).alpns(vec![iroh_blobs::ALPN.to_vec()]).clear_ip_transports();
    builder.bind_addr(loopback).unwrap().bind().await.unwrap()
}

fn node_of(endpoint: &Endpoint) -> NodeId {
    NodeId::from_bytes(*endpoint.id().as_bytes())
}

/// The network as a test lays it out.
#[derive(Default)]
struct TestPeers {
    endpoint: Mutex<Option<Endpoint>>,
    providers: Mutex<BTreeMap<NodeId, EndpointAddr>>,
    connections: Mutex<BTreeMap<NodeId, Connection>>,
    reports: Mutex<Vec<(NodeId, Misbehaviour)>>,
    received: Mutex<BTreeMap<NodeId, u64>>,
    lookups: AtomicU64,
}

impl TestPeers {
    fn add(&self, endpoint: &Endpoint) -> NodeId {
        let addrs = endpoint.bound_sockets().into_iter().map(TransportAddr::Ip);
        let node = node_of(endpoint);
        self.providers.lock().unwrap().insert(node, EndpointAddr::from_parts(endpoint.id(), addrs));
        node
    }

    fn reports(&self) -> Vec<(NodeId, Misbehaviour)> {
        self.reports.lock().unwrap().clone()
    }
}

impl Peers for TestPeers {
    fn candidates(&self, _: BlobHash) -> BoxFuture<'_, Vec<NodeId>> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let nodes = self.providers.lock().unwrap().keys().copied().collect();
        async { nodes }.boxed()
    }

    fn search(&self, _: BlobHash) -> BoxFuture<'_, Vec<NodeId>> {
        async { vec![] }.boxed()
    }

    fn connect(&self, node: NodeId) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        async move {
            let pooled = self.connections.lock().unwrap().get(&node).cloned();
            if let Some(connection) = pooled.filter(|connection| connection.close_reason().is_none()) {
                return Ok(connection);
            }
            let endpoint = self.endpoint.lock().unwrap().clone().unwrap();
            let addr = self.providers.lock().unwrap().get(&node).cloned();
            let addr = addr.ok_or_else(|| ConnectError::Unreachable("unknown".to_owned()))?;
            let connected = endpoint.connect(addr, iroh_blobs::ALPN).await;
            let connection = connected.map_err(|error| ConnectError::Unreachable(error.to_string()))?;
            self.connections.lock().unwrap().insert(node, connection.clone());
            Ok(connection)
        }
        .boxed()
    }

    fn misbehaved(&self, node: NodeId, what: Misbehaviour) {
        self.reports.lock().unwrap().push((node, what));
    }

    fn received(&self, node: NodeId, bytes: u64) {
        *self.received.lock().unwrap().entry(node).or_default() += bytes;
    }
}

/// A small honest provider over a store, which can be slowed down, and killed.
struct Honest {
    endpoint: Endpoint,
    served_bytes: Arc<AtomicU64>,
    streams: Arc<AtomicU64>,
    held: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Honest {
    /// Holds `range` of `bytes`, and the last chunk group.
    async fn with_range(bytes: &Bytes, range: Range<u64>) -> Self {
        let dir = TempDir::new().unwrap();
        let store = BlobStore::open(dir.path(), BlobOptions::default()).unwrap();
        if range == (0..bytes.len() as u64) {
            let stream = futures::stream::iter([Ok(bytes.clone())]);
            store.import_stream(stream, u64::MAX).await.unwrap();
        } else {
            fill(&store, bytes, &[range, bytes.len() as u64 - 1..bytes.len() as u64]).await;
        }
        Self::of(store, dir).await
    }

    async fn new(bytes: &Bytes) -> Self {
        Self::with_range(bytes, 0..bytes.len() as u64).await
    }

    async fn of(store: BlobStore, dir: TempDir) -> Self {
        let endpoint = endpoint().await;
        let served_bytes = Arc::new(AtomicU64::new(0));
        let streams = Arc::new(AtomicU64::new(0));
        let held = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let (accepting, served, open, hold) = (endpoint.clone(), served_bytes.clone(), streams.clone(), held.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = accepting.accept().await {
                let (store, served, open, hold) = (store.clone(), served.clone(), open.clone(), hold.clone());
                connections.spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let mut answers = JoinSet::new();
                    while let Ok((send, receive)) = connection.accept_bi().await {
                        let (store, served, open, hold) = (store.clone(), served.clone(), open.clone(), hold.clone());
                        answers.spawn(async move {
                            open.fetch_add(1, Ordering::Relaxed);
                            let _ = answer(&store, send, receive, &served, &hold).await;
                            open.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        Self { endpoint, served_bytes, streams, held, _tasks: tasks, _dir: dir }
    }

    /// Gone without a word of farewell to anybody's requests.
    async fn kill(&mut self) {
        self._tasks.abort_all();
        self.endpoint.close().await;
    }

    fn served_bytes(&self) -> u64 {
        self.served_bytes.load(Ordering::Relaxed)
    }
}

async fn answer(
    store: &BlobStore,
    mut send: iroh::endpoint::SendStream,
    mut receive: iroh::endpoint::RecvStream,
    served: &AtomicU64,
    held: &AtomicBool,
) -> Option<()> {
    let (Request::Get(request), _) = Request::read_async(&mut receive).await.ok()? else { return None };
    let hash = BlobHash::from_bytes(*request.hash.as_bytes());
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<Bytes>(4);
    let ranges = ranges_of(&request);
    let reset = VarInt::from_u32(3);
    let Some(status) = store.status(hash) else { return send.reset(reset).ok() };
    let to = &mut send;
    // It owns the pieces: when nobody takes them any more, the encoder ends.
    let pump = async move {
        let mut started = false;
        while let Some(piece) = pieces.recv().await {
            if !std::mem::replace(&mut started, true) {
                to.write_all(&status.size_bytes.to_le_bytes()).await.ok()?;
            }
            while held.load(Ordering::Relaxed) && served.load(Ordering::Relaxed) > 0 {
                // The stopped stream is the event; the pause only paces the look at the switch.
                if timeout(Duration::from_millis(5), to.stopped()).await.is_ok() {
                    return None;
                }
            }
            served.fetch_add(piece.len() as u64, Ordering::Relaxed);
            to.write_all(&piece).await.ok()?;
        }
        Some(())
    };
    let (encoded, sent) = tokio::join!(store.encode(hash, ranges, sender), pump);
    match (encoded, sent) {
        (Ok(_), Some(())) => send.finish().ok(),
        _ => send.reset(reset).ok(),
    }
}

/// Puts verified pieces of `bytes` into `store`.
async fn fill(store: &BlobStore, bytes: &Bytes, ranges: &[Range<u64>]) {
    use bao_tree::{
        BaoTree, ChunkNum,
        io::{
            BaoContentItem,
            outboard::PreOrderMemOutboard,
            sync::{DecodeResponseIter, encode_ranges_validated},
        },
    };
    let outboard = PreOrderMemOutboard::create(bytes, mhc_storage::blob::BLOCK_SIZE);
    let partial = store.partial(BlobHash::of(bytes), bytes.len() as u64).await.unwrap();
    for range in ranges {
        let groups = range.start / sched::GROUP_BYTES * 16..range.end.div_ceil(sched::GROUP_BYTES) * 16;
        let chunks = ChunkRanges::from(ChunkNum(groups.start)..ChunkNum(groups.end));
        let mut encoded = Vec::new();
        encode_ranges_validated(&bytes[..], &outboard, &chunks, &mut encoded).unwrap();
        let tree = BaoTree::new(bytes.len() as u64, mhc_storage::blob::BLOCK_SIZE);
        let decoded = DecodeResponseIter::new(outboard.root, tree, &encoded[..], &chunks);
        let items: Vec<BaoContentItem> = decoded.map(|item| item.unwrap()).collect();
        partial.write(items).await.unwrap();
    }
}

fn quick() -> FetchOptions {
    FetchOptions {
        scheduler: sched::Options { stall_ms: 700, ..sched::Options::default() },
        lookup_hungry_ms: 100,
        connect_timeout_ms: 1_000,
        no_source_ms: 2_500,
        lost_ms: 2_500,
        ..FetchOptions::default()
    }
}

/// A node that fetches.
struct Client {
    fetcher: Fetcher,
    store: BlobStore,
    peers: Arc<TestPeers>,
    dir: TempDir,
}

impl Client {
    async fn new() -> Self {
        Self::in_dir(TempDir::new().unwrap(), quick()).await
    }

    async fn in_dir(dir: TempDir, options: FetchOptions) -> Self {
        let store = BlobStore::open(dir.path(), BlobOptions::default()).unwrap();
        let peers = Arc::new(TestPeers::default());
        *peers.endpoint.lock().unwrap() = Some(endpoint().await);
        let fetcher = Fetcher::new(store.clone(), peers.clone(), options);
        Self { fetcher, store, peers, dir }
    }

    async fn read(&self, hash: BlobHash, range: Range<u64>) -> (Vec<u8>, Option<SourceError>) {
        let reading = async {
            let mut stream = self.fetcher.read(hash, range);
            let mut bytes = Vec::new();
            while let Some(piece) = stream.next().await {
                match piece {
                    Ok(piece) => bytes.extend_from_slice(&piece),
                    Err(error) => return (bytes, Some(error)),
                }
            }
            (bytes, None)
        };
        timeout(LIMIT, reading).await.expect("no hang")
    }

    async fn fetch_all(&self, hash: BlobHash) -> Result<u64, SourceError> {
        let (progress, _) = watch::channel(Progress::default());
        timeout(LIMIT, self.fetcher.fetch_all(hash, progress)).await.expect("no hang")
    }

    /// Whatever the store holds is right.
    async fn assert_store_is_true_to(&self, bytes: &Bytes) {
        let hash = BlobHash::of(bytes);
        let Some(status) = self.store.status(hash) else { return };
        assert_eq!(status.size_bytes, bytes.len() as u64);
        for group in 0..(bytes.len() as u64).div_ceil(sched::GROUP_BYTES) {
            let range = sched::bytes_of(group..group + 1, bytes.len() as u64);
            let pieces: Vec<_> = self.store.read_local(hash, range.clone()).collect().await;
            let local: Result<Vec<Bytes>, _> = pieces.into_iter().collect();
            match local {
                Ok(pieces) => assert!(pieces.concat() == bytes[range.start as usize..range.end as usize]),
                Err(error) => assert_eq!(error, SourceError::NoSource),
            }
        }
    }
}

/// Waits until `done`, which some other task makes true.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_ranges_equal_the_source() {
    let bytes = noise(5 * MIB + 12_345, 1);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let honest = Honest::new(&bytes).await;
    let client = Client::new().await;
    let node = client.peers.add(&honest.endpoint);
    assert_eq!(client.fetcher.size(hash).await, Ok(size));
    let mut seed = 7u64;
    for _ in 0..50 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let start = (seed >> 20) % size;
        let end = (start + (seed >> 7) % 300_000).min(size);
        let (got, error) = client.read(hash, start..end).await;
        assert_eq!(error, None);
        assert!(got == bytes[start as usize..end as usize], "{start}..{end}");
    }
    let (got, error) = client.read(hash, 0..size).await;
    assert!(error.is_none() && got == bytes);
    let out = client.read(hash, 5..size + 1).await;
    assert_eq!(out, (vec![], Some(SourceError::OutOfRange { size })));
    eventually("complete", || client.store.status(hash).is_some_and(|blob| blob.complete)).await;
    assert_eq!(client.fetcher.sources(hash), [SourceShare { node, bytes: size }]);
    assert_eq!(client.peers.received.lock().unwrap().get(&node), Some(&size));
    assert_eq!(client.fetcher.metrics().bytes.get(), size);
    assert_eq!(client.peers.reports(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_empty_blobs_arrive_whole() {
    for length in [0, 1, 1_000, 1_024, 16_384, 16_385, 300_000] {
        let bytes = noise(length, length + 1);
        let hash = BlobHash::of(&bytes);
        let honest = Honest::new(&bytes).await;
        let client = Client::new().await;
        client.peers.add(&honest.endpoint);
        assert_eq!(client.fetch_all(hash).await, Ok(length), "{length}");
        assert!(client.store.status(hash).is_some_and(|blob| blob.complete), "{length}");
        let (got, error) = client.read(hash, 0..length).await;
        assert!(error.is_none() && got == bytes, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_provider_alone_gives_no_wrong_byte_and_a_clear_error() {
    let bytes = noise(MIB + 77, 3);
    let hostilities = all_hostilities(bytes.len() as u64).into_iter();
    let cases = hostilities.flat_map(|hostility| [false, true].map(|proof| (hostility, proof)));
    let run = |(hostility, honest_size_proof)| alone(&bytes, HostileOptions { hostility, honest_size_proof });
    futures::stream::iter(cases).for_each_concurrent(8, run).await;
}

async fn alone(bytes: &Bytes, options: HostileOptions) {
    let HostileOptions { hostility, honest_size_proof } = options;
    let (client, provider, node) = beside(bytes, options).await;
    let hash = BlobHash::of(bytes);
    let (got, error) = client.read(hash, 0..bytes.len() as u64).await;
    assert!(bytes.starts_with(&got), "{hostility:?}");
    // Halves that are true are kept, so a truncating provider may give everything in the end.
    let completes = matches!(hostility, Hostility::Truncate | Hostility::Surplus) && honest_size_proof;
    match error {
        None => assert!(completes && got == *bytes, "{hostility:?}"),
        Some(SourceError::NoSource) => assert!(got.is_empty(), "{hostility:?}"),
        Some(error) => assert_eq!(error, SourceError::Lost, "{hostility:?}"),
    }
    client.assert_store_is_true_to(bytes).await;
    let lied = client.peers.reports();
    // One byte more than there is looks like an answer that ends early, as long as the size isn't proven.
    let unclear = matches!(hostility, Hostility::ClaimSize(_)) && !honest_size_proof;
    let named = lied.iter().any(|(who, _)| *who == node);
    assert!(unclear || named == is_lie(hostility), "{hostility:?} {lied:?}");
    assert!(lied.len() <= 1, "reported once");
    assert!(provider.requests() > 0);
    client.fetcher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_an_honest_provider_a_hostile_one_only_costs_its_units() {
    let bytes = noise(3 * MIB + 77, 4);
    let hash = BlobHash::of(&bytes);
    for hostility in all_hostilities(bytes.len() as u64) {
        let options = HostileOptions { hostility, honest_size_proof: true };
        let (client, provider, node) = beside(&bytes, options).await;
        // It is alone until it was asked.
        let reading = client.read(hash, 0..bytes.len() as u64);
        let helping = async {
            eventually("it is asked for a unit", || provider.requests() > 1).await;
            let honest = Honest::new(&bytes).await;
            client.peers.add(&honest.endpoint);
            honest
        };
        let ((got, error), _honest) = tokio::join!(reading, helping);
        assert!(error.is_none() && got == bytes, "{hostility:?} {error:?}");
        client.assert_store_is_true_to(&bytes).await;
        assert_eq!(client.peers.reports().iter().any(|(who, _)| *who == node), is_lie(hostility), "{hostility:?}");
        assert_eq!(client.fetcher.metrics().providers_cut_off.get(), u64::from(is_lie(hostility)));
        client.fetcher.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_not_asked_again_for_this_blob() {
    let bytes = noise(MIB, 5);
    let options = HostileOptions { hostility: Hostility::FlipLeaf, honest_size_proof: false };
    let (client, provider, _) = beside(&bytes, options).await;
    let hash = BlobHash::of(&bytes);
    assert_eq!(client.fetcher.size(hash).await, Err(SourceError::NoSource));
    assert_eq!(client.fetcher.size(hash).await, Err(SourceError::NoSource));
    assert_eq!((provider.requests(), client.peers.reports().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_for_a_blob_it_lacks_is_a_lie() {
    let bytes = noise(MIB, 6);
    let options = HostileOptions { hostility: Hostility::JunkForUnknown, honest_size_proof: false };
    let (client, _provider, node) = beside(&bytes, options).await;
    let unknown = BlobHash::of(b"somewhere else");
    assert_eq!(client.fetcher.size(unknown).await, Err(SourceError::NoSource));
    assert_eq!(client.peers.reports().first().map(|(who, _)| *who), Some(node));
    assert_eq!(client.store.status(unknown), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_come_with_the_proof_of_the_size() {
    let bytes = noise(4 * MIB + 5, 7);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let options = HostileOptions { hostility: Hostility::None, honest_size_proof: true };
    let group = sched::GROUP_BYTES;
    for (from, expected) in [(0, 0..group), (3 * MIB + 7, 3 * MIB..3 * MIB + group), (size - 1, 4 * MIB..size)] {
        let (client, provider, _) = beside(&bytes, options).await;
        assert_eq!(client.fetcher.size_and_start(hash, from).await, Ok(size));
        assert_eq!(provider.requests(), 1);
        let local = client.store.status(hash).map(|blob| blob.ranges).unwrap_or_default();
        let first = ChunkRanges::from(ChunkNum(expected.start >> 10)..ChunkNum(expected.end.div_ceil(1024)));
        assert!(local.is_superset(&first), "{from}: {local:?}");
        let (got, error) = client.read(hash, from..size.min(from + 100_000)).await;
        assert!(error.is_none() && bytes[from as usize..].starts_with(&got), "{from}");
    }
    // There is nothing behind the end, and whoever asks for it gets an error and costs little.
    for from in [size, u64::MAX] {
        let (client, _provider, _) = beside(&bytes, options).await;
        assert_eq!(client.fetcher.size_and_start(hash, from).await, Ok(size), "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_the_first_bytes_still_proves_the_size() {
    let bytes = noise(2 * MIB, 7);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let end = Honest::with_range(&bytes, MIB..size).await;
    let client = Client::new().await;
    client.peers.add(&end.endpoint);
    assert_eq!(client.fetcher.size_and_start(hash, 5).await, Ok(size));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_halves_make_a_whole() {
    let bytes = noise(4 * MIB, 8);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    // Off the unit grid, so that one unit needs both.
    let cut = 2 * MIB + 37 * sched::GROUP_BYTES;
    let first = Honest::with_range(&bytes, 0..cut).await;
    let second = Honest::with_range(&bytes, cut..size).await;
    let client = Client::new().await;
    let nodes = [client.peers.add(&first.endpoint), client.peers.add(&second.endpoint)];
    assert_eq!(client.fetch_all(hash).await, Ok(size));
    client.assert_store_is_true_to(&bytes).await;
    let sources = client.fetcher.sources(hash);
    assert!(nodes.iter().all(|node| sources.iter().any(|share| share.node == *node && share.bytes > MIB)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_goes_on_when_a_provider_dies() {
    let bytes = noise(6 * MIB, 9);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let mut dying = Honest::new(&bytes).await;
    let client = Client::new().await;
    client.peers.add(&dying.endpoint);
    dying.held.store(true, Ordering::Relaxed); // It stops sending after its first piece.
    let staying = Honest::new(&bytes).await;
    let reading = client.read(hash, 0..size);
    let killing = async {
        eventually("the first one serves", || dying.served_bytes() > 0).await;
        dying.kill().await;
        client.peers.add(&staying.endpoint);
    };
    let ((got, error), ()) = tokio::join!(reading, killing);
    assert!(error.is_none() && got == bytes, "{error:?}");
    assert_eq!(client.peers.reports(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_die_the_stream_is_cut_and_nothing_is_made_up() {
    let bytes = noise(40 * MIB, 10);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let mut provider = Honest::new(&bytes).await;
    let client = Client::new().await;
    client.peers.add(&provider.endpoint);
    let mut stream = client.fetcher.read(hash, 0..size);
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    // The reader stands still, so no more than its window comes.
    provider.kill().await;
    let reading = async {
        loop {
            match stream.next().await {
                Some(Ok(piece)) => got.extend_from_slice(&piece),
                end => return end,
            }
        }
    };
    let end = timeout(LIMIT, reading).await.expect("no hang");
    assert_eq!(end, Some(Err(SourceError::Lost)));
    assert!(bytes.starts_with(&got) && got.len() < bytes.len());
    client.assert_store_is_true_to(&bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_it() {
    let bytes = noise(MIB, 11);
    let other = Honest::new(&noise(10, 12)).await;
    let client = Client::new().await;
    assert_eq!(client.read(BlobHash::of(&bytes), 0..1).await, (vec![], Some(SourceError::NoSource)));
    client.peers.add(&other.endpoint);
    assert_eq!(client.fetch_all(BlobHash::of(&bytes)).await, Err(SourceError::NoSource));
    assert_eq!(client.peers.reports(), []);
    assert!(client.peers.lookups.load(Ordering::Relaxed) > 2, "it is looked for again and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_was_after_a_restart() {
    let bytes = noise(3 * MIB, 13);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let half = Honest::with_range(&bytes, 0..MIB + MIB / 2).await;
    let first = Client::new().await;
    first.peers.add(&half.endpoint);
    let (got, error) = first.read(hash, 0..size).await;
    assert_eq!((got.len() as u64, error), (MIB + MIB / 2, Some(SourceError::Lost)));
    let Client { fetcher, store, dir, .. } = first;
    fetcher.shutdown().await;
    store.shutdown().await;
    drop((fetcher, store));
    let whole = Honest::new(&bytes).await;
    let second = Client::in_dir(dir, quick()).await;
    let node = second.peers.add(&whole.endpoint);
    assert_eq!(second.fetch_all(hash).await, Ok(size));
    let missing = size - (MIB + MIB / 2) - sched::GROUP_BYTES;
    assert_eq!(second.fetcher.sources(hash), [SourceShare { node, bytes: missing }]);
    second.assert_store_is_true_to(&bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_reader_withdraws_its_demand_and_reads_no_further_ahead_than_its_window() {
    let bytes = noise(40 * MIB, 14);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let provider = Honest::new(&bytes).await;
    let client = Client::new().await;
    client.peers.add(&provider.endpoint);
    let mut stream = client.fetcher.read(hash, 0..size);
    let first = stream.next().await.unwrap().unwrap();
    let window = quick().playhead_bytes + quick().lookahead_bytes;
    eventually("the window is there", || client.store.status(hash).is_some_and(|b| b.local_bytes >= window)).await;
    eventually("no request is open", || client.fetcher.active().iter().all(|transfer| transfer.units == 0)).await;
    let local = client.store.status(hash).unwrap().local_bytes;
    assert!(local <= window + first.len() as u64 + 2 * MIB, "{local}");
    // A second reader far behind it is in the middle of a stalled unit when it leaves.
    provider.held.store(true, Ordering::Relaxed);
    let mut second = client.fetcher.read(hash, 30 * MIB..size);
    let open = || provider.streams.load(Ordering::Relaxed);
    let polled = timeout(Duration::from_millis(300), second.next()).await;
    assert!(polled.is_err(), "it waits");
    assert!(open() > 0);
    drop(second);
    drop(stream);
    timeout(Duration::from_secs(1), eventually("all are withdrawn", || open() == 0)).await.expect("within 1 s");
    eventually("the transfer is idle", || client.fetcher.active().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_larger_than_the_quota_passes_through_but_cannot_be_kept() {
    let bytes = noise(40 * MIB, 15);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let provider = Honest::new(&bytes).await;
    let client = Client::new().await;
    client.peers.add(&provider.endpoint);
    let dir = TempDir::new().unwrap();
    let options = BlobOptions { quota_bytes: Some(24 * MIB), ..BlobOptions::default() };
    let store = BlobStore::open(dir.path(), options).unwrap();
    let small = Client { fetcher: Fetcher::new(store.clone(), client.peers.clone(), quick()), store, ..client };
    assert_eq!(small.fetch_all(hash).await, Err(SourceError::StorageFull));
    let (got, error) = small.read(hash, 0..size).await;
    assert!(error.is_none() && got == bytes, "{error:?} after {}", got.len());
    assert!(small.store.usage().quota_used_bytes <= 24 * MIB);
    assert_eq!(small.fetch_all(hash).await, Err(SourceError::StorageFull));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_local_bytes_are_fetched_again() {
    let bytes = noise(2 * MIB, 16);
    let (hash, size) = (BlobHash::of(&bytes), bytes.len() as u64);
    let provider = Honest::new(&bytes).await;
    let client = Client::new().await;
    client.peers.add(&provider.endpoint);
    assert_eq!(client.fetch_all(hash).await, Ok(size));
    let damaged = damage_largest_file(client.dir.path(), size);
    assert!(damaged, "the blob's file was found");
    let (got, error) = client.read(hash, 0..size).await;
    assert!(error.is_none() && got == bytes, "{error:?}");
}

/// Flips a byte in the middle of the first file of at least `size_bytes`.
fn damage_largest_file(dir: &std::path::Path, size_bytes: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.len() == size_bytes {
                let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.path()).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, size_bytes / 2).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], size_bytes / 2).unwrap();
                return true;
            }
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_readers_and_tasks() {
    let bytes = noise(20 * MIB, 17);
    let provider = Honest::new(&bytes).await;
    provider.held.store(true, Ordering::Relaxed);
    let client = Client::new().await;
    client.peers.add(&provider.endpoint);
    let hash = BlobHash::of(&bytes);
    assert_eq!(client.fetcher.size(hash).await, Ok(20 * MIB));
    let reading = client.read(hash, 0..20 * MIB);
    let ending = async {
        eventually("it is in transfer", || !client.fetcher.active().is_empty()).await;
        timeout(Duration::from_secs(5), client.fetcher.shutdown()).await.expect("in time");
    };
    let ((got, error), ()) = tokio::join!(reading, ending);
    assert!(error.is_some() && bytes.starts_with(&got));
}

fn all_hostilities(size: u64) -> Vec<Hostility> {
    use Hostility::*;
    let modes =
        [FlipLeaf, FlipParent, Truncate, StallAtStart, StallInTheMiddle, OtherData, CloseConnection, Surplus, Reset];
    let sizes = [0, 1, size - 1, size + 1, size * 2, 1 << 40, 1 << 63, u64::MAX].map(ClaimSize);
    modes.into_iter().chain(sizes).collect()
}

fn is_lie(hostility: Hostility) -> bool {
    use Hostility::*;
    matches!(hostility, FlipLeaf | FlipParent | OtherData | Surplus | ClaimSize(_))
}

/// A client whose only provider is hostile.
async fn beside(bytes: &Bytes, options: HostileOptions) -> (Client, HostileProvider, NodeId) {
    let endpoint = endpoint().await;
    let client = Client::new().await;
    let node = client.peers.add(&endpoint);
    (client, HostileProvider::run(endpoint, vec![bytes.clone()], options), node)
}
