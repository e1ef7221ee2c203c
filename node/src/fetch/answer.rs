//! Requests and answers of `/iroh-bytes/4`, as the asking side sees them.
//!
//! A request is a fresh bidirectional stream: the request of iroh-blobs in postcard, then one byte that says how urgent
//! it is (providers that don't know it ignore it), then the end. The answer is the blob's size (8 bytes, little endian)
//! and the bao encoding of the ranges in 16 KiB chunk groups. It is read here, not by `iroh_blobs::get`, because that
//! accepts surplus bytes and absurd sizes.

use std::{fmt::Display, ops::Range};

use bao_tree::{BaoTree, ChunkNum, ChunkRanges, io::BaoContentItem};
use bytes::Bytes;
use iroh::endpoint::{Connection, ReadError, ReadExactError, RecvStream};
use iroh_blobs::protocol::{GetRequest, ObserveItem, ObserveRequest, Request};
use mhc_protocol::{
    BlobHash,
    sched::{DemandClass, GROUP_BYTES, Groups},
    upload::urgency_byte,
};
use mhc_storage::blob::BLOCK_SIZE;
use range_collections::range_set::RangeSetRange;

use super::{BadBytes, unit::UnitError, verify::Verifier};

/// Larger claims are lies; also keeps bao-tree's arithmetic from overflowing.
const MAX_BLOB_BYTES: u64 = 1 << 60;
/// Packets' contents that are taken from a connection at a time: taking them one by one means a lock for each.
const READ_CHUNKS: usize = 32;
/// Longest message about what a provider has: some 60,000 runs.
const MAX_OBSERVED_BYTES: u64 = 1 << 20;

/// An answer being read.
pub(super) struct Answer {
    /// As claimed; proven once the last chunk was verified.
    pub(super) size_bytes: u64,
    hash: BlobHash,
    ranges: ChunkRanges,
    connection: Connection,
    receive: RecvStream,
}

impl Answer {
    /// Asks for `ranges` and waits until the answer begins.
    pub(super) async fn ask(
        connection: &Connection,
        hash: BlobHash,
        ranges: ChunkRanges,
        class: DemandClass,
    ) -> Result<Self, UnitError> {
        let request = GetRequest::blob_ranges((*hash.as_bytes()).into(), ranges.clone());
        let mut receive = send(connection, &Request::Get(request), Some(class)).await?;
        let mut size = [0; 8];
        receive.read_exact(&mut size).await.map_err(|error| match error {
            ReadExactError::FinishedEarly(_) => UnitError::Missing,
            ReadExactError::ReadError(error) => read_failed(&error, connection),
        })?;
        let size_bytes = u64::from_le_bytes(size);
        if size_bytes > MAX_BLOB_BYTES {
            return Err(UnitError::Lied(BadBytes::Size));
        }
        Ok(Self { size_bytes, hash, ranges, connection: connection.clone(), receive })
    }

    /// Checks what [`Answer::read`] yields.
    pub(super) fn verifier(&self) -> Verifier {
        let tree = BaoTree::new(self.size_bytes, BLOCK_SIZE);
        Verifier::new((*self.hash.as_bytes()).into(), tree, &self.ranges)
    }

    /// Appends some bytes of the encoding, some [`READ_CHUNKS`] packets' worth at most, and returns how many; 0 at its
    /// end.
    pub(super) async fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, UnitError> {
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        let read = self.receive.read_many_chunks(&mut chunks).await;
        let count = read.map_err(|error| read_failed(&error, &self.connection))?.unwrap_or_default();
        let before = into.len();
        chunks.iter().take(count).for_each(|chunk| into.extend_from_slice(chunk));
        Ok(into.len() - before)
    }
}

/// A size that is proven, and what came with the proof.
pub(super) struct Proof {
    pub(super) size_bytes: u64,
    /// Verified: the last chunk group, and the one that was asked for besides.
    pub(super) items: Vec<BaoContentItem>,
}

/// Asks for the blob's last chunk, which proves its size, and in the same request for the chunk group at byte `from`, so
/// that whoever waits for it needn't wait for another round trip. A provider that lacks that is asked for the proof
/// alone.
pub(super) async fn prove_size(connection: &Connection, hash: BlobHash, from: Option<u64>) -> Result<Proof, UnitError> {
    let last = ChunkRanges::from(ChunkNum(u64::MAX)..);
    if let Some(from) = from {
        let group = from / GROUP_BYTES * GROUP_BYTES;
        let both = &last | &chunks_of(&(group..group.saturating_add(GROUP_BYTES)));
        match prove_size_by(connection, hash, both).await {
            Err(UnitError::Missing) => {}
            proof => return proof,
        }
    }
    prove_size_by(connection, hash, last).await
}

async fn prove_size_by(connection: &Connection, hash: BlobHash, ranges: ChunkRanges) -> Result<Proof, UnitError> {
    let mut answer = Answer::ask(connection, hash, ranges, DemandClass::Playhead).await?;
    let mut verifier = answer.verifier();
    let (mut encoded, mut items) = (vec![], vec![]);
    while verifier.needs().is_some() {
        if answer.read(&mut encoded).await? == 0 {
            return Err(UnitError::Missing);
        }
        let used = verifier.push(&Bytes::from(encoded.clone()), &mut items).map_err(UnitError::Lied)?;
        encoded.drain(..used);
    }
    if !encoded.is_empty() {
        return Err(UnitError::Lied(BadBytes::Surplus));
    }
    Ok(Proof { size_bytes: answer.size_bytes, items })
}

/// What a provider has of a blob, as it says.
pub(super) struct Observation {
    receive: RecvStream,
    ranges: ChunkRanges,
}

impl Observation {
    /// Asks to be told. Providers may refuse.
    pub(super) async fn ask(connection: &Connection, hash: BlobHash) -> Result<Self, UnitError> {
        let request = Request::Observe(ObserveRequest::new((*hash.as_bytes()).into()));
        let receive = send(connection, &request, None).await?;
        Ok(Self { receive, ranges: ChunkRanges::empty() })
    }

    /// All that it has said to have, with its latest news; none when it says no more.
    pub(super) async fn next(&mut self) -> Option<ChunkRanges> {
        let length = self.length().await?;
        let mut message = vec![0; usize::try_from(length).ok()?];
        self.receive.read_exact(&mut message).await.ok()?;
        let item: ObserveItem = postcard::from_bytes(&message).ok()?;
        self.ranges |= item.ranges;
        Some(self.ranges.clone())
    }

    /// The length before each message, in postcard's variable-length form.
    async fn length(&mut self) -> Option<u64> {
        let mut length = 0;
        for shift in [0, 7, 14] {
            let mut byte = [0];
            self.receive.read_exact(&mut byte).await.ok()?;
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return (length <= MAX_OBSERVED_BYTES).then_some(length);
            }
        }
        None
    }
}

/// The chunks of whole groups; the one (empty) chunk of an empty blob.
pub(super) fn chunks_of(bytes: &Range<u64>) -> ChunkRanges {
    let start = ChunkNum(bytes.start >> 10);
    ChunkRanges::from(start..ChunkNum(bytes.end.div_ceil(1 << 10).max(start.0 + 1)))
}

/// Sends a request; its answer is to be read from what is returned.
async fn send(
    connection: &Connection,
    request: &Request,
    urgency: Option<DemandClass>,
) -> Result<RecvStream, UnitError> {
    let gone = |error: &dyn Display| UnitError::Gone(error.to_string());
    let mut request = postcard::to_stdvec(request).map_err(|error| gone(&error))?;
    request.extend(urgency.map(urgency_byte));
    let (mut send, receive) = connection.open_bi().await.map_err(|error| gone(&error))?;
    // A provider that stops reading has still answered: what it says is on the other half.
    let _ = send.write_all(&request).await;
    let _ = send.finish();
    Ok(receive)
}

/// A reset stream is a refusal; anything else is a lost connection.
fn read_failed(error: &ReadError, connection: &Connection) -> UnitError {
    match (error, connection.close_reason()) {
        (_, Some(reason)) => UnitError::Gone(reason.to_string()),
        (ReadError::Reset(_), None) => UnitError::Missing,
        (error, None) => UnitError::Gone(error.to_string()),
    }
}

/// The groups whose chunks are all there.
pub(super) fn groups_of_chunks(chunks: &ChunkRanges, size_bytes: u64) -> Groups {
    const CHUNKS: u64 = GROUP_BYTES >> 10;
    let all = size_bytes.div_ceil(1 << 10);
    let mut groups = Groups::empty();
    for run in chunks.iter() {
        let (start, end) = match run {
            RangeSetRange::Range(run) => (run.start.0, run.end.0),
            RangeSetRange::RangeFrom(run) => (run.start.0, all),
        };
        let end = if end >= all { all.div_ceil(CHUNKS) } else { end / CHUNKS };
        let start = start.div_ceil(CHUNKS);
        if start < end {
            groups.union_with(&Groups::from(start..end));
        }
    }
    groups
}
