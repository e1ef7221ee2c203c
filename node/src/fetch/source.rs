//! Readers: verified bytes in order, from the store, which the transfer fills ahead of them.

use std::{ops::Range, sync::Arc, time::Instant};

use bao_tree::{ChunkNum, ChunkRanges};
use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use mhc_protocol::{
    BlobHash, Timestamp,
    sched::{Demand, DemandClass},
};
use mhc_storage::source::{RangeSource, SourceError};
use range_collections::range_set::RangeSetRange;
use tokio::sync::{broadcast::error::RecvError, oneshot, watch};

use super::{
    Fetcher, Progress,
    engine::{Shared, lock},
    transfer::{Command, Want},
};

/// Bytes that a reader takes from the store at a time.
const LOCAL_RUN_BYTES: u64 = 4 << 20;
/// The demand follows the reader in steps of this.
const STEP_BYTES: u64 = 256 << 10;

impl RangeSource for Fetcher {
    fn size(&self, hash: BlobHash) -> BoxFuture<'_, Result<u64, SourceError>> {
        Box::pin(self.find_size(hash, None))
    }

    fn size_and_start(&self, hash: BlobHash, from: u64) -> BoxFuture<'_, Result<u64, SourceError>> {
        Box::pin(self.find_size(hash, Some(from)))
    }

    fn read(&self, hash: BlobHash, range: Range<u64>) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let fetcher = self.clone();
        let opened = async move {
            match fetcher.size_and_start(hash, range.start).await {
                Ok(size) if range.start > range.end || range.end > size => Err(SourceError::OutOfRange { size }),
                Ok(size_bytes) => Ok(Reader::new(fetcher, hash, size_bytes, range)),
                Err(error) => Err(error),
            }
        };
        stream::once(opened)
            .flat_map(|opened| match opened {
                Ok(reader) => stream::unfold(Some(reader), Reader::step).boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            })
            .boxed()
    }
}

impl Fetcher {
    /// What is known of the size, or what others prove.
    async fn find_size(&self, hash: BlobHash, from: Option<u64>) -> Result<u64, SourceError> {
        let known = self.shared.store.status(hash).map(|blob| blob.size_bytes);
        match known.or_else(|| lock(&self.shared.ledger).size(hash)) {
            Some(size_bytes) => Ok(size_bytes),
            None if hash == BlobHash::of(b"") => Ok(0),
            None => self.shared.ask_size(hash, from).await,
        }
    }

    /// Demands all of the blob and waits for it.
    pub(super) async fn download(
        &self,
        hash: BlobHash,
        size_bytes: u64,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), SourceError> {
        let shared = &self.shared;
        if size_bytes == 0 {
            // Nothing to fetch; so that the store knows the blob.
            shared.store.import_stream(stream::empty(), 0).await?;
            return Ok(());
        }
        let mut local = shared.store.watch(hash);
        let mut stored = shared.store.events();
        let mut demand = None;
        let mut first = None;
        loop {
            let ranges = local.borrow_and_update().clone();
            let local_bytes = covered_bytes(&ranges, size_bytes);
            let before = *first.get_or_insert(local_bytes);
            progress.send_replace(Progress { size_bytes, local_bytes });
            let all_local = local_bytes == size_bytes;
            if all_local && shared.store.status(hash).is_some_and(|blob| blob.complete) {
                return Ok(());
            }
            let demand = demand.get_or_insert_with(|| DemandHandle::new(shared.clone(), hash, size_bytes));
            if !demand.is_sent() {
                demand.send(vec![whole(size_bytes, shared.options.lost_ms)]);
            }
            let waited = tokio::select! {
                waited = demand.wait(&mut local) => waited,
                // All is here, but isn't durable yet.
                event = stored.recv(), if all_local => match event {
                    Err(RecvError::Closed) => Err(closed()),
                    Ok(_) | Err(RecvError::Lagged(_)) => Ok(()),
                },
            };
            match waited {
                Ok(()) => {}
                Err(SourceError::Lost) if local_bytes == before => return Err(SourceError::NoSource),
                Err(error) => return Err(error),
            }
        }
    }
}

fn closed() -> SourceError {
    SourceError::Internal("the blob store is closed".to_owned())
}

fn whole(size_bytes: u64, give_up_ms: u64) -> Demand {
    Demand { class: DemandClass::Background, deadline: None, range: 0..size_bytes, give_up_ms: Some(give_up_ms) }
}

/// What one reader or download wants of a transfer. Dropping it withdraws everything.
struct DemandHandle {
    shared: Arc<Shared>,
    hash: BlobHash,
    size_bytes: u64,
    reader: u64,
    failed: Option<oneshot::Receiver<SourceError>>,
}

impl DemandHandle {
    fn new(shared: Arc<Shared>, hash: BlobHash, size_bytes: u64) -> Self {
        let reader = shared.new_reader();
        Self { shared, hash, size_bytes, reader, failed: None }
    }

    fn is_sent(&self) -> bool {
        self.failed.is_some()
    }

    /// The transfer has given up (or ended) since the demand was last sent.
    fn has_failed(&mut self) -> bool {
        self.failed.as_mut().is_none_or(|failed| !matches!(failed.try_recv(), Err(oneshot::error::TryRecvError::Empty)))
    }

    /// Replaces the demands.
    fn send(&mut self, demands: Vec<Demand>) {
        let (failed, receiver) = oneshot::channel();
        self.failed = Some(receiver);
        let want = Want { reader: self.reader, size_bytes: self.size_bytes, demands, failed };
        self.shared.send(self.hash, Command::Want(want));
    }

    /// Until something changed locally, or the transfer gave up.
    async fn wait(&mut self, local: &mut watch::Receiver<ChunkRanges>) -> Result<(), SourceError> {
        let Some(failed) = &mut self.failed else { return Ok(()) };
        tokio::select! {
            changed = local.changed() => {
                changed.map_err(|_| closed())
            }
            error = failed => Err(error.unwrap_or(SourceError::Lost)),
        }
    }
}

impl Drop for DemandHandle {
    fn drop(&mut self) {
        if self.failed.is_some() {
            self.shared.send(self.hash, Command::Withdraw(self.reader));
        }
    }
}

/// A stream's state.
struct Reader {
    /// Keeps the transfers alive.
    fetcher: Fetcher,
    hash: BlobHash,
    size_bytes: u64,
    position: u64,
    end: u64,
    local: watch::Receiver<ChunkRanges>,
    run: Option<BoxStream<'static, Result<Bytes, SourceError>>>,
    demand: DemandHandle,
    demanded_at: u64,
    pace: Pace,
    delivered: bool,
    /// Local reads that failed since the last byte.
    local_failures: u32,
}

impl Reader {
    fn new(fetcher: Fetcher, hash: BlobHash, size_bytes: u64, range: Range<u64>) -> Self {
        Self {
            hash,
            size_bytes,
            position: range.start,
            end: range.end,
            local: fetcher.shared.store.watch(hash),
            run: None,
            demand: DemandHandle::new(fetcher.shared.clone(), hash, size_bytes),
            demanded_at: range.start,
            pace: Pace::new(),
            delivered: false,
            local_failures: 0,
            fetcher,
        }
    }

    /// One piece for [`stream::unfold`]; nothing after an error.
    async fn step(reader: Option<Self>) -> Option<(Result<Bytes, SourceError>, Option<Self>)> {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        while self.position < self.end {
            if let Some(bytes) = self.next_of_run().await? {
                return Ok(Some(bytes));
            }
            let ranges = self.local.borrow_and_update().clone();
            let local_to = run_end(&ranges, self.position, self.size_bytes).min(self.end);
            self.look_ahead(&ranges);
            if local_to > self.position {
                let to = local_to.min(self.position + LOCAL_RUN_BYTES);
                self.run = Some(self.fetcher.shared.store.read_local(self.hash, self.position..to));
            } else {
                self.wait().await?;
            }
        }
        Ok(None)
    }

    /// The next piece of the local run being read.
    async fn next_of_run(&mut self) -> Result<Option<Bytes>, SourceError> {
        let Some(run) = &mut self.run else { return Ok(None) };
        match run.next().await {
            Some(Ok(bytes)) => {
                self.position += bytes.len() as u64;
                self.pace.delivered(bytes.len() as u64);
                (self.delivered, self.local_failures) = (true, 0);
                if self.position >= self.demanded_at + STEP_BYTES && self.demand.is_sent() {
                    self.send_demand();
                }
                Ok(Some(bytes))
            }
            Some(Err(error)) => {
                self.run = None;
                self.local_failed(error)
            }
            None => {
                self.run = None;
                Ok(None)
            }
        }
    }

    /// The store found damage, or evicted what it had: it says so in its watch, and the bytes are fetched again.
    fn local_failed(&mut self, error: SourceError) -> Result<Option<Bytes>, SourceError> {
        self.local_failures += 1;
        match error {
            SourceError::StorageFull | SourceError::OutOfRange { .. } => Err(error),
            error if self.local_failures > 3 => Err(error),
            SourceError::NoSource | SourceError::Lost | SourceError::Internal(_) => {
                tracing::warn!(blob = %self.hash.short(), at = self.position, %error, "local bytes can't be read");
                Ok(None)
            }
        }
    }

    /// Demands what comes soon as soon as a part of it isn't local.
    fn look_ahead(&mut self, ranges: &ChunkRanges) {
        let window = self.window();
        let covered = run_end(ranges, self.position, self.size_bytes) >= window.end;
        if !covered && !self.demand.is_sent() {
            self.send_demand();
        }
    }

    /// The next byte isn't local.
    async fn wait(&mut self) -> Result<(), SourceError> {
        if self.demand.has_failed() || self.local_failures > 0 {
            // Given up while we were busy with earlier bytes: the world may have changed.
            self.send_demand();
        }
        match self.demand.wait(&mut self.local).await {
            Err(SourceError::Lost) if !self.delivered => Err(SourceError::NoSource),
            result => result,
        }
    }

    fn window(&self) -> Range<u64> {
        let options = &self.fetcher.shared.options;
        let ahead = options.playhead_bytes.saturating_add(options.lookahead_bytes);
        self.position..self.position.saturating_add(ahead).min(self.end)
    }

    fn send_demand(&mut self) {
        let window = self.window();
        let options = &self.fetcher.shared.options;
        let (playhead_bytes, give_up_ms) = (options.playhead_bytes, options.lost_ms);
        let split = window.start.saturating_add(playhead_bytes).min(window.end);
        let playhead_ms = self.pace.ms_for(split - window.start);
        let demand = |class, deadline, range, give_up_ms| Demand { class, deadline, range, give_up_ms };
        let playhead = demand(DemandClass::Playhead, None, window.start..split, Some(give_up_ms));
        let due = playhead_ms.map(Timestamp::from_millis);
        let lookahead = demand(DemandClass::Lookahead, due, split..window.end, None);
        self.demanded_at = self.position;
        self.demand.send(vec![playhead, lookahead]);
    }
}

/// How fast a reader takes what it is given.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }

    fn delivered(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// How long it takes for `bytes` at that pace; none as long as there is none.
    fn ms_for(&self, bytes: u64) -> Option<u64> {
        let elapsed_ms = u64::try_from(self.since.elapsed().as_millis()).ok()?;
        bytes.saturating_mul(elapsed_ms.max(1)).checked_div(self.bytes)
    }
}

/// Up to where the bytes from `position` on are local.
fn run_end(ranges: &ChunkRanges, position: u64, size_bytes: u64) -> u64 {
    let chunk = ChunkNum(position >> 10);
    for run in ranges.iter() {
        let (start, end) = match run {
            RangeSetRange::Range(run) => (*run.start, run.end.to_bytes()),
            RangeSetRange::RangeFrom(run) => (*run.start, size_bytes),
        };
        if start <= chunk && position < end.min(size_bytes) {
            return end.min(size_bytes);
        }
    }
    position
}

/// How many bytes the chunks cover.
fn covered_bytes(ranges: &ChunkRanges, size_bytes: u64) -> u64 {
    let runs = ranges.iter().map(|run| match run {
        RangeSetRange::Range(run) => (run.start.to_bytes(), run.end.to_bytes().min(size_bytes)),
        RangeSetRange::RangeFrom(run) => (run.start.to_bytes(), size_bytes),
    });
    runs.map(|(start, end)| end.saturating_sub(start)).sum()
}
