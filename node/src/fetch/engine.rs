//! [`Fetcher`]: the handle to all transfers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bao_tree::ChunkRanges;
use mhc_protocol::{BlobHash, NodeId, sched};
use mhc_storage::{
    blob::BlobStore,
    source::{RangeSource, SourceError},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    FetchMetrics, Peers,
    ledger::Ledger,
    transfer::{Command, Transfer},
};

/// Bounds and delays of fetching.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// How units are given to providers. `stall_ms` is here.
    pub scheduler: sched::Options,
    /// Providers of one blob that are connected at once.
    pub max_providers: usize,
    /// How long one answer about candidates is waited for, in milliseconds.
    pub lookup_timeout_ms: u64,
    /// Time between two look-ups of candidates while bytes come, in milliseconds.
    pub lookup_every_ms: u64,
    /// The same while none come.
    pub lookup_hungry_ms: u64,
    /// How long one connection attempt may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a blob nobody offers is looked for: then [`SourceError::NoSource`].
    pub no_source_ms: u64,
    /// How long a reader waits without a new byte: then [`SourceError::Lost`].
    pub lost_ms: u64,
    /// Bytes from a reader's position that are asked for with the highest urgency.
    pub playhead_bytes: u64,
    /// Bytes behind them that are fetched ahead.
    pub lookahead_bytes: u64,
    /// How long a transfer keeps its connections and what it knows after the last reader left, in milliseconds.
    pub idle_ms: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            scheduler: sched::Options::default(),
            max_providers: 8,
            lookup_timeout_ms: 5_000,
            lookup_every_ms: 5_000,
            lookup_hungry_ms: 1_000,
            connect_timeout_ms: 5_000,
            no_source_ms: 10_000,
            lost_ms: 10_000,
            playhead_bytes: 1 << 20,
            lookahead_bytes: 8 << 20,
            idle_ms: 5_000,
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// The blob's size; 0 until it is proven.
    pub size_bytes: u64,
    /// Verified bytes that are local.
    pub local_bytes: u64,
}

/// Who gave how much of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SourceShare {
    /// The provider.
    pub node: NodeId,
    /// Verified bytes that came from it.
    pub bytes: u64,
}

/// A blob in transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransferInfo {
    /// The blob.
    pub hash: BlobHash,
    /// Its size once it is proven.
    pub size_bytes: Option<u64>,
    /// Readers and downloads that wait for it.
    pub readers: usize,
    /// Providers that are connected for it.
    pub providers: Vec<NodeId>,
    /// Requests in flight.
    pub units: usize,
}

/// Fetches blobs from other nodes into the store. Clones share it; transfers end with [`Fetcher::shutdown`] or when
/// the last clone (and the last stream made from one) is dropped.
#[derive(Clone)]
pub struct Fetcher {
    pub(super) shared: Arc<Shared>,
    /// Ends the transfers with the last clone; they hold `shared`, but not this.
    _end: Arc<DropGuard>,
}

/// What the handle and the transfers share.
pub(super) struct Shared {
    pub(super) store: BlobStore,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) options: FetchOptions,
    pub(super) metrics: Arc<FetchMetrics>,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) token: CancellationToken,
    transfers: Mutex<BTreeMap<BlobHash, Entry>>,
    tracker: TaskTracker,
    next_reader: AtomicU64,
}

struct Entry {
    commands: mpsc::UnboundedSender<Command>,
    info: Arc<Mutex<TransferInfo>>,
}

impl Fetcher {
    /// A fetcher into `store` from `peers`. Starts nothing yet. Call it inside a tokio runtime.
    pub fn new(store: BlobStore, peers: Arc<dyn Peers>, options: FetchOptions) -> Self {
        let token = CancellationToken::new();
        let shared = Shared {
            store,
            peers,
            options,
            metrics: Arc::default(),
            ledger: Mutex::default(),
            token: token.clone(),
            transfers: Mutex::default(),
            tracker: TaskTracker::new(),
            next_reader: AtomicU64::new(1),
        };
        Self { shared: Arc::new(shared), _end: Arc::new(token.drop_guard()) }
    }

    /// Fetches the whole blob in the background of what players want, and returns its size once all of it is local
    /// and durable. Dropping the future withdraws the demand; what has come stays.
    ///
    /// # Errors
    /// [`SourceError::NoSource`] when nobody gave a byte for [`FetchOptions::no_source_ms`], [`SourceError::Lost`] when
    /// nobody gave one for [`FetchOptions::lost_ms`] after the first, [`SourceError::StorageFull`].
    pub async fn fetch_all(&self, hash: BlobHash, progress: watch::Sender<Progress>) -> Result<u64, SourceError> {
        let size_bytes = self.size_and_start(hash, 0).await?;
        self.download(hash, size_bytes, &progress).await?;
        Ok(size_bytes)
    }

    /// Who gave how much of `hash` since the node started; empty when it wasn't fetched lately.
    pub fn sources(&self, hash: BlobHash) -> Vec<SourceShare> {
        let received = lock(&self.shared.ledger).received(hash);
        received.into_iter().map(|(node, bytes)| SourceShare { node, bytes }).collect()
    }

    /// The blobs in transfer now.
    pub fn active(&self) -> Vec<TransferInfo> {
        let transfers = lock(&self.shared.transfers);
        transfers.values().map(|entry| lock(&entry.info).clone()).filter(|info| info.readers > 0).collect()
    }

    /// The counters.
    pub fn metrics(&self) -> Arc<FetchMetrics> {
        self.shared.metrics.clone()
    }

    /// Ends all transfers; what has come stays in the store. Readers get an error. Later reads serve what is local.
    pub async fn shutdown(&self) {
        self.shared.token.cancel();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }
}

impl Shared {
    /// Hands `command` to the transfer of `hash`, starting it when there is none.
    pub(super) fn send(self: &Arc<Self>, hash: BlobHash, command: Command) {
        if self.token.is_cancelled() {
            return; // The command is dropped, and so its answer channel: the caller sees the end.
        }
        let mut transfers = lock(&self.transfers);
        let command = match transfers.get(&hash) {
            Some(entry) => match entry.commands.send(command) {
                Ok(()) => return,
                Err(mpsc::error::SendError(command)) => command,
            },
            None => command,
        };
        let (commands, receiver) = mpsc::unbounded_channel();
        let info = TransferInfo { hash, size_bytes: None, readers: 0, providers: vec![], units: 0 };
        let info = Arc::new(Mutex::new(info));
        if commands.send(command).is_ok() {
            let transfer = Transfer::new(self.clone(), hash, receiver, info.clone());
            transfers.insert(hash, Entry { commands, info });
            self.tracker.spawn(transfer.run());
        }
    }

    /// Called by a transfer that wants to end: true when no command is waiting, and then it is off the list.
    pub(super) fn retire(&self, hash: BlobHash, commands: &mut mpsc::UnboundedReceiver<Command>) -> bool {
        let mut transfers = lock(&self.transfers);
        let idle = commands.is_empty();
        if idle {
            transfers.remove(&hash);
        }
        idle
    }

    pub(super) fn new_reader(&self) -> u64 {
        self.next_reader.fetch_add(1, Ordering::Relaxed)
    }

    /// `bytes` verified bytes came from `node`.
    pub(super) fn count_received(&self, hash: BlobHash, node: NodeId, bytes: u64) {
        lock(&self.ledger).add(hash, node, bytes);
        self.metrics.bytes.inc_by(bytes);
        self.peers.received(node, bytes);
    }

    /// Asks the network for the proven size, and for what lies at byte `from`.
    pub(super) async fn ask_size(self: &Arc<Self>, hash: BlobHash, from: Option<u64>) -> Result<u64, SourceError> {
        let (answer, result) = oneshot::channel();
        self.send(hash, Command::Size { answer, from });
        let limit = Duration::from_millis(self.options.no_source_ms.saturating_add(500));
        match tokio::time::timeout(limit, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(SourceError::NoSource),
        }
    }

    /// What is local of `hash`, if anything is known of it.
    pub(super) fn local(&self, hash: BlobHash) -> ChunkRanges {
        self.store.status(hash).map(|blob| blob.ranges).unwrap_or_default()
    }
}

/// A poisoned lock means that a task panicked while it held it; the tables here stay usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
