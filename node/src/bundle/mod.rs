//! Bundles on sticks: export, import, verify, and the want-list that travels back.
//!
//! The formats are in `mhc_protocol::bundle`; here they meet files and stores. A job runs on a blocking thread, one at
//! a time, with memory bounded by the largest entry (8 MiB), and tells whoever asked for it how far it is; it ends when
//! nobody listens any more. What was imported by then stays, and the next import goes on from there.
//!
//! Records take the way of all records (`Records::append`), blobs that of all blobs that come in pieces
//! (`BlobStore::partial`, checked by `fetch::verify`), so that quota, eviction and the index know no difference.

mod export;
mod http;
mod import;
mod issuers;
mod layout;
mod media;
mod open;
mod report;
mod select;
#[cfg(test)]
mod tests;
mod verify;
mod wants;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mhc_api::{ApiError, Code};
use mhc_protocol::{NetworkId, SecretKey, bundle::BundleError, network::Interest};
use mhc_storage::{
    blob::{BlobError, BlobStore},
    record::{Records, RecordsError},
};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use {
    http::{answer, routes},
    open::{CheckedRecord, check_blob, check_record, chunks_of},
    select::{Receiver, contents_of, heads, pieces, pieces_of},
    wants::collect_for,
};

/// How often whoever listens is told how far a job is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long a job that was told to end is waited for.
const END_WAIT: Duration = Duration::from_secs(2);
/// Events that wait for a slow listener.
const MAX_EVENTS: usize = 32;

/// What bundles are made of and go into.
#[derive(Clone)]
pub(crate) struct Stores {
    /// The node's key: it signs indexes.
    pub(crate) key: SecretKey,
    pub(crate) network: NetworkId,
    pub(crate) records: Records,
    pub(crate) blobs: BlobStore,
    /// How much of the network is followed.
    pub(crate) interest: Arc<dyn Fn() -> Interest + Send + Sync>,
    /// Most bytes of blobs that one maker of bundles may bring in unasked.
    pub(crate) issuer_quota_bytes: u64,
    /// Told when records have come in: peers can't have heard of them by gossip.
    pub(crate) news: Arc<dyn Fn() + Send + Sync>,
}

/// Runs jobs on bundles, one at a time.
pub(crate) struct Bundles {
    stores: Stores,
    turn: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a job tells, in order; `Done` or `Failed` is the last.
#[derive(Debug)]
pub(crate) enum Event {
    /// There is something to do, and it is allowed.
    Started,
    Progress {
        phase: &'static str,
        done_bytes: u64,
        total_bytes: u64,
    },
    Done(Value),
    Failed(JobError),
}

impl Bundles {
    pub(crate) fn new(stores: Stores) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { stores, turn, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Starts a job. What it says before [`Event::Started`] is the answer to the request.
    pub(crate) fn start<T: serde::Serialize>(
        &self,
        job: impl FnOnce(&Stores, &mut Reporter) -> Result<T, JobError> + Send + 'static,
    ) -> Result<mpsc::Receiver<Event>, JobError> {
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| JobError::Busy)?;
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let mut reporter = Reporter::new(events.clone(), self.stop.clone());
        let stores = self.stores.clone();
        self.tasks.spawn_blocking(move || {
            let report = job(&stores, &mut reporter);
            let report = report.and_then(|report| serde_json::to_value(report).map_err(JobError::internal));
            let last = match report {
                Ok(report) => Event::Done(report),
                Err(error) => {
                    tracing::info!(%error, "a job on a bundle ended");
                    Event::Failed(error)
                }
            };
            drop(turn);
            // Nobody listens any more.
            let _ = events.blocking_send(last);
        });
        Ok(receiver)
    }

    /// Tells the running job to end; what it has done stays.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Waits for the job that was told to end, but not for a slow stick: what is written after this finds its store
    /// closed.
    pub(crate) async fn shutdown(&self) {
        self.stop();
        if tokio::time::timeout(END_WAIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("a job on a bundle still waits for its stick");
        }
    }
}

/// Why a job did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// No such folder, bundle, channel or content.
    #[error("{0}")]
    NotFound(String),
    /// It was asked for wrongly.
    #[error("{0}")]
    BadRequest(String),
    /// It could be done, and mustn't be.
    #[error("{0}")]
    Refused(String),
    #[error("another job on a bundle is running; wait for it, or stop it")]
    Busy,
    /// Nobody listens, or the node stops.
    #[error("stopped; give the same command again to go on")]
    Stopped,
    /// The other side doesn't answer, or stopped to.
    #[error("{0}")]
    Link(String),
    /// No room where it was to be written.
    #[error("no room is left for {}: the stick is full, or files of this length don't fit on it", path.display())]
    StickFull { path: PathBuf },
    #[error("can't {step} {}: {source}", path.display())]
    Io { step: &'static str, path: PathBuf, source: io::Error },
    #[error("what was to be written breaks a bound: {0}")]
    Format(#[from] BundleError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error("{0}")]
    Internal(String),
}

impl JobError {
    pub(crate) fn io(step: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::StickFull { path: path.to_owned() }
            }
            _ => Self::Io { step, path: path.to_owned(), source },
        }
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    /// The stable word for it.
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::BadRequest(_) => Code::BadRequest,
            Self::Refused(_) => Code::Forbidden,
            Self::Busy => Code::Conflict,
            Self::Stopped | Self::Link(_) => Code::Unavailable,
            Self::StickFull { .. } | Self::Records(RecordsError::StorageFull) => Code::StorageFull,
            Self::Blobs(BlobError::StorageFull | BlobError::QuotaExceeded { .. }) => Code::StorageFull,
            Self::Io { .. } | Self::Format(_) | Self::Records(_) | Self::Blobs(_) | Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<JobError> for ApiError {
    /// With the job's own words: only the operator asks for jobs, and needs to know what to mend.
    fn from(error: JobError) -> Self {
        ApiError::new(error.code(), error.to_string())
    }
}

/// A job's way to whoever asked for it.
pub(crate) struct Reporter {
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    phase: &'static str,
    done_bytes: u64,
    total_bytes: u64,
    told: Option<Instant>,
}

impl Reporter {
    fn new(events: mpsc::Sender<Event>, stop: CancellationToken) -> Self {
        Self { events, stop, phase: "", done_bytes: 0, total_bytes: 0, told: None }
    }

    /// Says that the job has something to do.
    pub(crate) fn started(&mut self) -> Result<(), JobError> {
        self.events.blocking_send(Event::Started).map_err(|_| JobError::Stopped)
    }

    /// Begins to count from 0 again.
    pub(crate) fn phase(&mut self, phase: &'static str, total_bytes: u64) -> Result<(), JobError> {
        (self.phase, self.done_bytes, self.total_bytes, self.told) = (phase, 0, total_bytes, None);
        self.advance(0)
    }

    /// Tells of progress, now and then. Fails when the job is to end.
    pub(crate) fn advance(&mut self, bytes: u64) -> Result<(), JobError> {
        if self.events.is_closed() || self.stop.is_cancelled() {
            return Err(JobError::Stopped);
        }
        self.done_bytes += bytes;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            let (phase, done_bytes, total_bytes) = (self.phase, self.done_bytes, self.total_bytes);
            // Who reads slowly misses some.
            let _ = self.events.try_send(Event::Progress { phase, done_bytes, total_bytes });
        }
        Ok(())
    }
}
