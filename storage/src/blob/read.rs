//! Bytes out of the store. Every window is validated against the blob's hash in the buffer it is served from: whatever
//! happened to the disk or to a user's file, an altered byte isn't served.

use std::{cell::RefCell, io, ops::Range, sync::Arc};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{
        EncodeError,
        sync::{ReadAt, encode_ranges_validated, truncate_ranges},
    },
    iter::BaoChunk,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use mhc_protocol::BlobHash;
use range_collections::range_set::RangeSetRange;
use tokio::sync::mpsc;

use super::{
    BlobError, blocking,
    files::Files,
    store::Inner,
    table::{self, InUse, all_chunks, whole_groups},
};
use crate::source::SourceError;

/// Chunks of a window: 256 KiB.
pub(super) const WINDOW_CHUNKS: u64 = 256;
/// Windows read ahead of the receiver.
const READ_AHEAD: usize = 2;

/// The bytes of `range`, validated.
pub(super) fn local(
    inner: &Arc<Inner>,
    hash: BlobHash,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes, SourceError>> {
    match start(inner, hash, &range) {
        Ok(held) => windows(inner, held, range).boxed(),
        Err(error) => futures::stream::iter([Err(error.into())]).boxed(),
    }
}

fn start(inner: &Arc<Inner>, hash: BlobHash, range: &Range<u64>) -> Result<InUse, BlobError> {
    let held = inner.table.hold(hash)?;
    let mut state = inner.table.lock();
    let blob = state.get(hash)?;
    if range.start > range.end || range.end > blob.size_bytes {
        return Err(BlobError::OutOfRange { size_bytes: blob.size_bytes });
    }
    let chunks = ChunkRanges::from(ChunkNum::full_chunks(range.start)..ChunkNum::chunks(range.end));
    let local = if blob.size_bytes == 0 { blob.complete } else { chunks.is_subset(&blob.ranges) };
    drop(state);
    if local { Ok(held) } else { Err(BlobError::Missing) }
}

fn windows(
    inner: &Arc<Inner>,
    held: InUse,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, SourceError>> + use<> {
    let (inner, held) = (Arc::clone(inner), Arc::new(held));
    let first = range.start;
    let pieces = split(range).map(move |piece| {
        let (inner, held) = (Arc::clone(&inner), Arc::clone(&held));
        async move {
            let begun = piece.start > first;
            blocking(move || read_piece(&inner, &held, &piece)).await.map_err(|error| source_error(error, begun))
        }
    });
    let read = futures::stream::iter(pieces).buffered(READ_AHEAD);
    // The first error ends it.
    read.scan(false, |failed, item| {
        let ended = std::mem::replace(failed, item.is_err());
        futures::future::ready((!ended).then_some(item))
    })
}

/// Bytes that were here when the stream began and aren't any more can still be had elsewhere.
fn source_error(error: BlobError, begun: bool) -> SourceError {
    match error {
        BlobError::Missing | BlobError::Changed { .. } | BlobError::Damaged if begun => SourceError::Lost,
        BlobError::Damaged => SourceError::NoSource,
        other => other.into(),
    }
}

/// Cuts a byte range at window boundaries.
fn split(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let window = WINDOW_CHUNKS * 1024;
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at = (start / window + 1).saturating_mul(window).min(range.end);
        (start < range.end).then_some(start..at)
    })
}

fn read_piece(inner: &Inner, held: &InUse, piece: &Range<u64>) -> Result<Bytes, BlobError> {
    let chunks = ChunkRanges::from(ChunkNum::full_chunks(piece.start)..ChunkNum::chunks(piece.end));
    let (bytes, begin) = inner.with_files(held, &chunks, |files| {
        let groups = super::groups_of(&chunks, files.size_bytes);
        let begin = groups.boundaries().first().map_or(0, ChunkNum::to_bytes);
        let data = Captured { files, bytes: RefCell::new(Vec::with_capacity((piece.end - begin) as usize)) };
        encode_ranges_validated(&data, files.outboard(), &groups, io::sink())?;
        Ok((Bytes::from(data.bytes.into_inner()), begin))
    })?;
    let cut = (piece.start - begin) as usize..(piece.end - begin) as usize;
    // Shorter only if the tree and the size disagree, which the hash excludes.
    bytes.get(cut.clone()).ok_or(BlobError::Damaged)?;
    Ok(bytes.slice(cut))
}

/// Keeps what validation reads: the very bytes that were checked are the ones served.
struct Captured<'a> {
    files: &'a Files,
    bytes: RefCell<Vec<u8>>,
}

impl ReadAt for Captured<'_> {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.files.data.read_at(position, buffer)?;
        self.bytes.borrow_mut().extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

/// Sends the bao encoding of `ranges`; nothing when some of it isn't here.
pub(super) async fn encode(
    inner: &Arc<Inner>,
    hash: BlobHash,
    ranges: &ChunkRanges,
    out: mpsc::Sender<Bytes>,
) -> Result<u64, BlobError> {
    let held = Arc::new(inner.table.hold(hash)?);
    let wanted = Arc::new(wanted(inner, hash, ranges)?);
    let mut encoded = futures::stream::iter(windows_of(&wanted))
        .map(|window| {
            let (inner, held, wanted) = (Arc::clone(inner), Arc::clone(&held), Arc::clone(&wanted));
            blocking(move || encode_window(&inner, &held, &wanted, window))
        })
        .buffered(READ_AHEAD);
    let mut sent_bytes = 0;
    while let Some(bytes) = encoded.next().await {
        let bytes = bytes?;
        sent_bytes += bytes.len() as u64;
        out.send(bytes).await.map_err(|_| BlobError::ReceiverGone)?;
    }
    Ok(sent_bytes)
}

/// The chunks that answer a request: like bao-tree, anything behind the end asks for the last chunk.
fn wanted(inner: &Inner, hash: BlobHash, ranges: &ChunkRanges) -> Result<ChunkRanges, BlobError> {
    let mut state = inner.table.lock();
    let blob = state.get(hash)?;
    let wanted = normalize(ranges, blob.size_bytes);
    let local = if blob.size_bytes == 0 { blob.complete } else { wanted.is_subset(&blob.ranges) };
    if local { Ok(wanted) } else { Err(BlobError::Missing) }
}

fn normalize(ranges: &ChunkRanges, size_bytes: u64) -> ChunkRanges {
    let truncated = truncate_ranges(ranges, size_bytes);
    let mut wanted: ChunkRanges = truncated.intersection(&all_chunks(size_bytes));
    if truncated.boundaries().len() % 2 == 1 {
        let end = ChunkNum::chunks(size_bytes);
        wanted |= ChunkRanges::from(ChunkNum(end.0.saturating_sub(1))..end);
    }
    wanted
}

/// The windows that `chunks` touches, each once, in order.
pub(super) fn windows_of(chunks: &ChunkRanges) -> impl Iterator<Item = Range<ChunkNum>> + use<> {
    let spans: Vec<_> = chunks
        .iter()
        .filter_map(|range| match range {
            RangeSetRange::Range(range) => Some((range.start.0 / WINDOW_CHUNKS, range.end.0.div_ceil(WINDOW_CHUNKS))),
            RangeSetRange::RangeFrom(_) => None,
        })
        .collect();
    let mut next = 0;
    spans
        .into_iter()
        .flat_map(move |(first, end)| {
            let windows = first.max(next)..end;
            next = end.max(next);
            windows
        })
        .map(|window| ChunkNum(window * WINDOW_CHUNKS)..ChunkNum((window + 1) * WINDOW_CHUNKS))
}

/// The part of the encoding of `wanted` that falls into one window.
///
/// The window is encoded as if it was asked for alone; then the hash pairs at its beginning that an earlier window
/// has already brought are cut off. Those are the nodes above both, so they are a prefix in pre-order.
fn encode_window(
    inner: &Inner,
    held: &InUse,
    wanted: &ChunkRanges,
    window: Range<ChunkNum>,
) -> Result<Bytes, BlobError> {
    let earlier = wanted & &ChunkRanges::from(..window.start);
    let chunks = wanted & &ChunkRanges::from(window);
    inner.with_files(held, &chunks, |files| {
        let mut encoded = Vec::new();
        encode_ranges_validated(&files.data, files.outboard(), &chunks, &mut encoded)?;
        let known = known_pairs(&table::tree(files.size_bytes), &chunks, &earlier);
        Ok(Bytes::from(encoded).slice(known * 64..))
    })
}

fn known_pairs(tree: &BaoTree, chunks: &ChunkRanges, earlier: &ChunkRanges) -> usize {
    let nodes = tree.ranges_pre_order_chunks_iter_ref(truncate_ranges(chunks, tree.size()), 0);
    let known = nodes.take_while(|item| match item {
        BaoChunk::Parent { node, .. } => earlier.intersects(&ChunkRanges::from(node.chunk_range())),
        BaoChunk::Leaf { .. } => false,
    });
    known.count()
}

impl Inner {
    /// Lets `read` read validated bytes of `chunks` from the blob's files. When they don't validate, and the files
    /// weren't just replaced, what is damaged is withdrawn.
    fn with_files<T>(
        &self,
        held: &InUse,
        chunks: &ChunkRanges,
        read: impl Fn(&Files) -> Result<T, EncodeError>,
    ) -> Result<T, BlobError> {
        let hash = held.hash;
        loop {
            let files = self.files(hash)?;
            held.keep(&files);
            let error = match read(&files) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            if self.table.lock().get(hash)?.generation != files.generation {
                continue;
            }
            tracing::warn!(blob = %hash, %error, "a local blob doesn't validate");
            self.check(hash, &whole_groups(&super::groups_of(chunks, files.size_bytes), files.size_bytes))?;
            return Err(BlobError::Damaged);
        }
    }
}
