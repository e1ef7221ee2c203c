//! What the operator wants kept, and the work of getting it here.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mhc_protocol::BlobHash;
use mhc_storage::{
    blob::{BlobError, BlobStore},
    kv::KeyRange,
    record::{Private, Records, RecordsError},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::fetch::{Fetcher, Progress};

const TABLE: &str = "pins";
/// Pause after a fetch that failed, before it is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Why a pin failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Whether the operator wants the blob kept, though not all of it is here yet.
pub(crate) fn is_noted(records: &Records, hash: BlobHash) -> Result<bool, RecordsError> {
    Ok(records.private(TABLE).get(hash.as_bytes())?.is_some())
}

/// Pins are remembered, so that a node that was restarted goes on fetching what it was asked to keep.
#[derive(Clone)]
pub(crate) struct Pins {
    wanted: Private,
    blobs: BlobStore,
    fetcher: Fetcher,
    running: Arc<Mutex<HashSet<BlobHash>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Pins {
    /// Takes up what was wanted before.
    pub(crate) fn start(records: &Records, blobs: BlobStore, fetcher: Fetcher) -> Result<Self, RecordsError> {
        let pins = Self {
            wanted: records.private(TABLE),
            blobs,
            fetcher,
            running: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        for (key, _) in pins.wanted.scan(KeyRange::all(), usize::MAX)? {
            if let Ok(bytes) = key.as_slice().try_into() {
                pins.fetch(BlobHash::from_bytes(bytes));
            }
        }
        Ok(pins)
    }

    /// Keeps the blob; true when all of it is here.
    pub(crate) async fn pin(&self, hash: BlobHash) -> Result<bool, PinError> {
        if self.blobs.status(hash).is_some_and(|status| status.complete) {
            self.blobs.set_pinned(hash, true).await?;
            return Ok(true);
        }
        self.wanted.put(hash.as_bytes(), &[]).await?;
        self.fetch(hash);
        Ok(false)
    }

    /// Lets the blob go.
    pub(crate) async fn unpin(&self, hash: BlobHash) -> Result<(), PinError> {
        self.wanted.delete(hash.as_bytes()).await?;
        if self.blobs.status(hash).is_some() {
            self.blobs.set_pinned(hash, false).await?;
        }
        Ok(())
    }

    /// Whether it is being fetched because it was pinned.
    pub(crate) fn is_wanted(&self, hash: BlobHash) -> bool {
        self.lock().contains(&hash)
    }

    /// Ends all work; what is here stays and is taken up at the next start.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<BlobHash>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, hash: BlobHash) {
        if !self.lock().insert(hash) {
            return;
        }
        let pins = self.clone();
        self.tasks.spawn(async move {
            let stop = pins.stop.clone();
            stop.run_until_cancelled(pins.fetch_until_here(hash)).await;
            pins.lock().remove(&hash);
        });
    }

    async fn fetch_until_here(&self, hash: BlobHash) {
        while matches!(self.wanted.get(hash.as_bytes()), Ok(Some(_))) {
            match self.fetch_once(hash).await {
                Ok(()) => return,
                Err(error) => tracing::info!(blob = %hash.short(), %error, "a pinned blob isn't here yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn fetch_once(&self, hash: BlobHash) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.fetcher.fetch_all(hash, watch::Sender::new(Progress::default())).await?;
        self.blobs.set_pinned(hash, true).await?;
        self.wanted.delete(hash.as_bytes()).await?;
        Ok(())
    }
}
