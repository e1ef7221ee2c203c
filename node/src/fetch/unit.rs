//! One request to one provider: ask, receive, verify, store.
//!
//! The wire is `/iroh-bytes/4` ([`super::answer`]). The task only collects bytes from the network; what has come is
//! verified and written on a blocking thread while the next bytes arrive. How much goes over at once follows the rates:
//! while one batch is worked on the next one grows, up to [`BATCH_BYTES`], which is also what bounds a unit's memory.

use std::{ops::Range, sync::Arc, time::Duration};

use bao_tree::io::BaoContentItem;
use bytes::Bytes;
use iroh::endpoint::Connection;
use mhc_protocol::{
    BlobHash, NodeId,
    sched::{DemandClass, UnitId},
};
use mhc_storage::blob::{BlobError, PartialBlob};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    BadBytes,
    answer::{Answer, chunks_of},
    engine::Shared,
    verify::Verifier,
};

/// Encoded bytes that are verified and written at once, at most.
const BATCH_BYTES: usize = 256 << 10;
/// Fewer wait a moment for more, so that a fast provider's bytes don't go over in crumbs.
const WORTHWHILE_BYTES: usize = 96 << 10;
/// How long they wait when nobody watches.
const PATIENCE: Duration = Duration::from_millis(20);
/// Longest item of an encoding: a chunk group.
const MAX_ITEM_BYTES: usize = 16 << 10;
/// What the last read may bring beyond that.
const SLACK_BYTES: usize = 64 << 10;
/// How long the end of the stream is waited for after the last byte.
const END_WAIT: Duration = Duration::from_millis(500);

/// Why a request wasn't answered in full.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnitError {
    /// The provider sent what an honest one can't.
    #[error("bad bytes: {}", .0.as_str())]
    Lied(BadBytes),
    /// It refused, or ended the answer early.
    #[error("the provider lacks the range")]
    Missing,
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Gone(String),
    /// The transfer doesn't want it any more.
    #[error("cancelled")]
    Cancelled,
    /// Our store failed.
    #[error(transparent)]
    Storage(#[from] BlobError),
}

impl UnitError {
    /// Label of the metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Lied(_) => "lied",
            Self::Missing => "missing",
            Self::Gone(_) => "broken",
            Self::Cancelled => "cancelled",
            Self::Storage(_) => "storage",
        }
    }
}

/// What a running unit tells its transfer, in order; `Ended` is the last.
#[derive(Debug)]
pub(super) enum UnitEvent {
    /// These bytes are verified and stored.
    Stored { unit: UnitId, range: Range<u64> },
    /// It is over.
    Ended { unit: UnitId, node: NodeId, result: Result<(), UnitError> },
}

/// One request.
pub(super) struct Unit {
    pub(super) id: UnitId,
    pub(super) node: NodeId,
    pub(super) connection: Connection,
    pub(super) hash: BlobHash,
    /// Whole chunk groups, cut at the blob's end.
    pub(super) range: Range<u64>,
    /// How urgent it is; the provider is told.
    pub(super) class: DemandClass,
    pub(super) partial: PartialBlob,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<UnitEvent>,
    /// Ends it; what is verified by then is still stored and accounted for.
    pub(super) cancelled: CancellationToken,
}

impl Unit {
    /// Runs to the end and says so in `events`.
    pub(super) async fn run(self) {
        let result = self.fetch().await;
        let ended = UnitEvent::Ended { unit: self.id, node: self.node, result };
        let _ = self.events.send(ended).await; // A transfer that ended doesn't want to know.
    }

    async fn fetch(&self) -> Result<(), UnitError> {
        let ranges = chunks_of(&self.range);
        let mut answer = tokio::select! {
            answer = Answer::ask(&self.connection, self.hash, ranges, self.class) => answer?,
            () = self.cancelled.cancelled() => return Err(UnitError::Cancelled),
        };
        if answer.size_bytes != self.partial.size_bytes() {
            return Err(UnitError::Lied(BadBytes::Size));
        }
        let mut store = Store { idle: Some(answer.verifier()), busy: None };
        let mut inbox = Inbox::new(self.range.end - self.range.start);
        let received = self.receive(&mut answer, &mut inbox, &mut store).await;
        // Whatever ended it: what has come is kept.
        let complete = self.store_rest(&mut inbox, store).await?;
        match (complete, received) {
            (true, _) if inbox.filled() > 0 => Err(UnitError::Lied(BadBytes::Surplus)),
            (true, _) => self.end(answer).await,
            (false, Err(error)) => Err(error),
            (false, Ok(())) => Err(UnitError::Missing),
        }
    }

    /// Until the answer ends or all of it is here.
    async fn receive(&self, answer: &mut Answer, inbox: &mut Inbox, store: &mut Store) -> Result<(), UnitError> {
        loop {
            if let Some(verifier) = &store.idle {
                let Some(needs) = verifier.needs() else { return Ok(()) };
                if inbox.filled() >= needs && (inbox.is_worthwhile() || self.is_due(inbox)) {
                    store.start(self.batch(inbox));
                }
            }
            let due = inbox.since.map(|since| since + self.patience());
            tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return Err(UnitError::Cancelled),
                stored = store.stored() => self.note(stored, inbox, store).await?,
                read = answer.read(inbox.open()), if inbox.has_room() => match read? {
                    0 => return Ok(()),
                    _ => inbox.touch(),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some_and(|due| due > Instant::now()) => {}
            }
        }
    }

    /// Somebody watches: every group counts.
    fn patience(&self) -> Duration {
        if self.class == DemandClass::Playhead { Duration::ZERO } else { PATIENCE }
    }

    fn is_due(&self, inbox: &Inbox) -> bool {
        inbox.since.is_some_and(|since| since.elapsed() >= self.patience())
    }

    /// Waits for what is being stored, and stores what is left. True when that was all of the answer.
    async fn store_rest(&self, inbox: &mut Inbox, mut store: Store) -> Result<bool, UnitError> {
        loop {
            match store.idle.as_ref().map(Verifier::needs) {
                Some(None) => return Ok(true),
                Some(Some(needs)) if inbox.filled() < needs => return Ok(false),
                Some(Some(_)) => store.start(self.batch(inbox)),
                None => {
                    let stored = store.stored().await;
                    self.note(stored, inbox, &mut store).await?;
                }
            }
        }
    }

    fn batch(&self, inbox: &mut Inbox) -> Batch {
        Batch {
            bytes: inbox.take(),
            partial: self.partial.clone(),
            shared: self.shared.clone(),
            hash: self.hash,
            node: self.node,
        }
    }

    /// A batch is stored: says so, and takes back what belongs to the next one.
    async fn note(
        &self,
        stored: Result<Stored, JoinError>,
        inbox: &mut Inbox,
        store: &mut Store,
    ) -> Result<(), UnitError> {
        let stored = stored.map_err(|error| UnitError::Gone(error.to_string()))?;
        if let Some(range) = stored.range {
            let event = UnitEvent::Stored { unit: self.id, range };
            let _ = self.events.send(event).await; // A transfer that ended doesn't want to know.
        }
        inbox.give_back(&stored.rest);
        *store = Store { idle: Some(stored.verifier), busy: None };
        stored.result
    }

    /// Nothing may follow the last item.
    async fn end(&self, mut answer: Answer) -> Result<(), UnitError> {
        match timeout(END_WAIT, answer.read(&mut vec![])).await {
            Ok(Ok(1..)) => Err(UnitError::Lied(BadBytes::Surplus)),
            // Everything has come: how the stream ends doesn't matter.
            Ok(Ok(0) | Err(_)) | Err(_) => Ok(()),
        }
    }
}

/// Encoded bytes that have come and wait to be verified.
struct Inbox {
    /// Empty, or: [`MAX_ITEM_BYTES`] of room for what an earlier batch gives back, then what has come.
    buffer: Vec<u8>,
    /// Where what counts begins.
    start: usize,
    /// As long as it grows.
    capacity: usize,
    /// When the oldest of it came.
    since: Option<Instant>,
}

impl Inbox {
    /// For an answer about `bytes` bytes.
    fn new(bytes: u64) -> Self {
        let encoded = usize::try_from(bytes + bytes / 128).unwrap_or(BATCH_BYTES);
        let capacity = MAX_ITEM_BYTES + encoded.clamp(8 << 10, BATCH_BYTES);
        Self { buffer: vec![], start: MAX_ITEM_BYTES, capacity, since: None }
    }

    fn filled(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    fn is_worthwhile(&self) -> bool {
        self.filled() >= WORTHWHILE_BYTES || !self.has_room()
    }

    fn has_room(&self) -> bool {
        self.buffer.len() < self.capacity
    }

    /// To append to.
    fn open(&mut self) -> &mut Vec<u8> {
        if self.buffer.is_empty() {
            self.buffer.reserve_exact(self.capacity + SLACK_BYTES);
            self.buffer.resize(MAX_ITEM_BYTES, 0);
        }
        &mut self.buffer
    }

    /// Something has come.
    fn touch(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn take(&mut self) -> Bytes {
        let taken = Bytes::from(std::mem::take(&mut self.buffer)).slice(self.start..);
        (self.start, self.since) = (MAX_ITEM_BYTES, None);
        taken
    }

    /// The beginning of an item whose end wasn't there; it goes before what has come since.
    fn give_back(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.start = MAX_ITEM_BYTES - rest.len();
            let start = self.start;
            self.open()[start..MAX_ITEM_BYTES].copy_from_slice(rest);
            self.touch();
        }
    }
}

/// The one batch that may be worked on, or what is needed to begin one.
struct Store {
    idle: Option<Verifier>,
    busy: Option<JoinHandle<Stored>>,
}

impl Store {
    fn start(&mut self, batch: Batch) {
        let Some(verifier) = self.idle.take() else { return };
        self.busy = Some(tokio::task::spawn_blocking(move || batch.store(verifier)));
    }

    /// Until the batch is stored; for ever when there is none.
    async fn stored(&mut self) -> Result<Stored, JoinError> {
        match &mut self.busy {
            Some(batch) => batch.await,
            None => std::future::pending().await,
        }
    }
}

/// Bytes on their way to a blocking thread.
struct Batch {
    bytes: Bytes,
    partial: PartialBlob,
    shared: Arc<Shared>,
    hash: BlobHash,
    node: NodeId,
}

/// What became of them.
struct Stored {
    verifier: Verifier,
    /// Not a whole item.
    rest: Bytes,
    /// Verified and stored.
    range: Option<Range<u64>>,
    result: Result<(), UnitError>,
}

impl Batch {
    fn store(self, mut verifier: Verifier) -> Stored {
        let mut items = vec![];
        let verified = verifier.push(&self.bytes, &mut items);
        let mut range = range_of(&items);
        let bytes = range.as_ref().map_or(0, |range| range.end - range.start);
        if bytes > 0 {
            // Counted first: who sees the last byte in the store sees its source too.
            self.shared.count_received(self.hash, self.node, bytes);
        }
        let written = if items.is_empty() { Ok(()) } else { self.partial.write_blocking(&items) };
        if written.is_err() {
            range = None;
        }
        let rest = verified.as_ref().map_or_else(|_| Bytes::new(), |used| self.bytes.slice(*used..));
        let result = written.map_err(UnitError::from).and(verified.map(drop).map_err(UnitError::Lied));
        Stored { verifier, rest, range, result }
    }
}

/// The bytes of the leaves; they follow each other.
fn range_of(items: &[BaoContentItem]) -> Option<Range<u64>> {
    let mut leaves = items.iter().filter_map(|item| match item {
        BaoContentItem::Leaf(leaf) => Some(leaf),
        BaoContentItem::Parent(_) => None,
    });
    let first = leaves.next()?;
    let last = leaves.last().unwrap_or(first);
    Some(first.offset..last.offset + last.data.len() as u64)
}
