//! One request to one provider: ask, verify item by item, store.
//!
//! The wire is iroh-blobs' `/iroh-bytes/4`: the request in postcard on a fresh bidirectional stream, which is then
//! finished; the answer is the blob's size (8 bytes, little endian) and the bao encoding of the ranges in 16 KiB chunk
//! groups. The stream is read here, not by `iroh_blobs::get`, because that accepts surplus bytes and absurd sizes.

use std::{io, ops::Range, sync::Arc, time::Duration};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{
        BaoContentItem, DecodeError,
        fsm::{ResponseDecoder, ResponseDecoderNext},
    },
};
use iroh::endpoint::{Connection, ReadExactError, RecvStream};
use iroh_blobs::{
    protocol::{GetRequest, Request},
    util::RecvStreamAsyncStreamReader,
};
use mhc_protocol::{BlobHash, NodeId, sched::UnitId};
use mhc_storage::blob::{BLOCK_SIZE, BlobError, PartialBlob};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{BadBytes, engine::Shared};

/// Larger claims are lies; also keeps bao-tree's arithmetic from overflowing.
const MAX_BLOB_BYTES: u64 = 1 << 60;
/// Verified bytes that are written at once.
const BATCH_BYTES: usize = 128 << 10;
/// Verified bytes are written at the latest after this, so that a slow provider's bytes are used as they come.
const BATCH_AGE: Duration = Duration::from_millis(100);
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
    pub(super) partial: PartialBlob,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<UnitEvent>,
    /// Ends it at the next item; what is verified is still stored and accounted for.
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
        let mut answer = tokio::select! {
            answer = self.ask() => answer?,
            () = self.cancelled.cancelled() => return Err(UnitError::Cancelled),
        };
        let mut batch = Batch::default();
        loop {
            let step = answer.next();
            tokio::pin!(step);
            let item = loop {
                tokio::select! {
                    biased;
                    () = self.cancelled.cancelled() => break Err(UnitError::Cancelled),
                    item = &mut step => break item,
                    () = sleep_until(batch.due), if !batch.items.is_empty() => self.store(&mut batch).await?,
                }
            };
            match item {
                Ok(Some(item)) => batch.push(item),
                Ok(None) => break,
                Err(error) => {
                    self.store(&mut batch).await?;
                    return Err(error);
                }
            }
            if batch.bytes >= BATCH_BYTES {
                self.store(&mut batch).await?;
            }
        }
        self.store(&mut batch).await?;
        answer.end().await
    }

    async fn ask(&self) -> Result<Answer, UnitError> {
        let start = ChunkNum(self.range.start >> 10);
        let ranges = ChunkRanges::from(start..ChunkNum(self.range.end.div_ceil(1 << 10).max(start.0 + 1)));
        let answer = Answer::ask(&self.connection, self.hash, ranges).await?;
        match answer.size_bytes == self.partial.size_bytes() {
            true => Ok(answer),
            false => Err(UnitError::Lied(BadBytes::Size)),
        }
    }

    async fn store(&self, batch: &mut Batch) -> Result<(), UnitError> {
        let full = std::mem::take(batch);
        if full.items.is_empty() {
            return Ok(());
        }
        // Counted first: who sees the last byte in the store sees its source too.
        self.shared.count_received(self.hash, self.node, full.bytes as u64);
        self.partial.write(full.items).await?;
        if let Some(range) = full.range {
            let stored = UnitEvent::Stored { unit: self.id, range };
            let _ = self.events.send(stored).await;
        }
        Ok(())
    }
}

/// Asks for the blob's last chunk, which proves its size.
pub(super) async fn prove_size(connection: &Connection, hash: BlobHash) -> Result<u64, UnitError> {
    let last = ChunkRanges::from(ChunkNum(u64::MAX)..);
    let mut answer = Answer::ask(connection, hash, last).await?;
    while answer.next().await?.is_some() {}
    let size_bytes = answer.size_bytes;
    answer.end().await?;
    Ok(size_bytes)
}

/// Verified items on their way to the store.
struct Batch {
    items: Vec<BaoContentItem>,
    /// The bytes of its leaves; they follow each other.
    range: Option<Range<u64>>,
    bytes: usize,
    due: Instant,
}

impl Default for Batch {
    fn default() -> Self {
        Self { items: Vec::new(), range: None, bytes: 0, due: Instant::now() + BATCH_AGE }
    }
}

impl Batch {
    fn push(&mut self, item: BaoContentItem) {
        if self.items.is_empty() {
            self.due = Instant::now() + BATCH_AGE;
        }
        if let BaoContentItem::Leaf(leaf) = &item {
            let start = self.range.as_ref().map_or(leaf.offset, |range| range.start);
            self.range = Some(start..leaf.offset + leaf.data.len() as u64);
            self.bytes += leaf.data.len();
        }
        self.items.push(item);
    }
}

type Decoder = ResponseDecoder<RecvStreamAsyncStreamReader<RecvStream>>;

/// An answer being read.
struct Answer {
    /// As claimed; proven once the last chunk was verified.
    size_bytes: u64,
    connection: Connection,
    state: State,
}

enum State {
    Reading(Decoder),
    /// All items were read.
    Read(RecvStream),
    /// An error was returned.
    Failed,
}

impl Answer {
    async fn ask(connection: &Connection, hash: BlobHash, ranges: ChunkRanges) -> Result<Self, UnitError> {
        let gone = |error: &dyn std::fmt::Display| UnitError::Gone(error.to_string());
        let request = GetRequest::blob_ranges((*hash.as_bytes()).into(), ranges.clone());
        let request = postcard::to_stdvec(&Request::Get(request)).map_err(|error| gone(&error))?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| gone(&error))?;
        // A provider that stops reading has still answered: what it says is on the other half.
        let sent = send.write_all(&request).await;
        let _ = send.finish();
        let mut size = [0; 8];
        receive.read_exact(&mut size).await.map_err(|error| match error {
            ReadExactError::FinishedEarly(_) => UnitError::Missing,
            ReadExactError::ReadError(error) => read_failed(io::Error::from(error), connection),
        })?;
        sent.map_err(|error| gone(&error))?;
        let size_bytes = u64::from_le_bytes(size);
        if size_bytes > MAX_BLOB_BYTES {
            return Err(UnitError::Lied(BadBytes::Size));
        }
        let tree = BaoTree::new(size_bytes, BLOCK_SIZE);
        let root = (*hash.as_bytes()).into();
        let decoder = ResponseDecoder::new(root, ranges, tree, RecvStreamAsyncStreamReader::new(receive));
        Ok(Self { size_bytes, connection: connection.clone(), state: State::Reading(decoder) })
    }

    /// The next verified item; `None` after the last.
    async fn next(&mut self) -> Result<Option<BaoContentItem>, UnitError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Reading(decoder) => match decoder.next().await {
                ResponseDecoderNext::More((decoder, Ok(item))) => {
                    self.state = State::Reading(decoder);
                    Ok(Some(item))
                }
                ResponseDecoderNext::More((_, Err(error))) => Err(self.decode_failed(error)),
                ResponseDecoderNext::Done(stream) => {
                    self.state = State::Read(stream.into_inner());
                    Ok(None)
                }
            },
            read_or_failed => {
                self.state = read_or_failed;
                Ok(None)
            }
        }
    }

    /// Nothing may follow the last item.
    async fn end(self) -> Result<(), UnitError> {
        let State::Read(mut stream) = self.state else { return Ok(()) };
        match timeout(END_WAIT, stream.read_chunk(1)).await {
            Ok(Ok(Some(_))) => Err(UnitError::Lied(BadBytes::Surplus)),
            // Everything has come: how the stream ends doesn't matter.
            Ok(Ok(None) | Err(_)) | Err(_) => Ok(()),
        }
    }

    fn decode_failed(&self, error: DecodeError) -> UnitError {
        match error {
            DecodeError::ParentHashMismatch(_) => UnitError::Lied(BadBytes::ParentHash),
            DecodeError::LeafHashMismatch(_) => UnitError::Lied(BadBytes::LeafHash),
            DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_) => UnitError::Missing,
            DecodeError::Io(error) => read_failed(error, &self.connection),
        }
    }
}

/// A reset stream and one that ends inside an item are refusals; anything else is a lost connection.
fn read_failed(error: io::Error, connection: &Connection) -> UnitError {
    match (error.kind(), connection.close_reason()) {
        (_, Some(reason)) => UnitError::Gone(reason.to_string()),
        (io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof, None) => {
            UnitError::Missing
        }
        (_, None) => UnitError::Gone(error.to_string()),
    }
}
