//! Bytes out of the store. Every window is validated against the blob's hash in the buffer it is served from: whatever
//! happened to the disk or to a user's file, an altered byte isn't served.

use std::{io, ops::Range, sync::Arc};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::sync::{encode_ranges_validated, truncate_ranges},
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
    validate,
};
use crate::source::SourceError;

/// Chunks of a window: 256 KiB.
pub(super) const WINDOW_CHUNKS: u64 = 256;
/// Its bytes.
pub(super) const WINDOW_BYTES: u64 = WINDOW_CHUNKS * 1024;
/// Windows read ahead of the receiver.
const READ_AHEAD: usize = 2;
/// Chunks of an encoding's first window: 64 KiB, so that the first byte leaves early.
const FIRST_CHUNKS: u64 = 64;
/// Chunks of an encoding's largest window: 256 KiB.
const MOST_CHUNKS: u64 = 256;

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
            if let Some(bytes) = cached(&inner, &held, &piece) {
                return Ok(bytes);
            }
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
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at = (start / WINDOW_BYTES + 1).saturating_mul(WINDOW_BYTES).min(range.end);
        (start < range.end).then_some(start..at)
    })
}

/// A part of a window that is in memory. References aren't looked up here: whether the user's file changed must be
/// looked at first, which may block.
fn cached(inner: &Inner, held: &InUse, piece: &Range<u64>) -> Option<Bytes> {
    let generation = {
        let mut state = inner.table.lock();
        let blob = state.get(held.hash).ok()?;
        let offered = blob.complete || chunks_of(piece).is_subset(&blob.ranges);
        (offered && !blob.referenced()).then_some(blob.generation)?
    };
    let window = inner.cache.get(&(held.hash, generation, piece.start / WINDOW_BYTES))?;
    cut(&window, piece, piece.start / WINDOW_BYTES * WINDOW_BYTES)
}

fn chunks_of(bytes: &Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum::full_chunks(bytes.start)..ChunkNum::chunks(bytes.end))
}

/// A piece of the bytes that begin at `start`.
fn cut(bytes: &Bytes, piece: &Range<u64>, start: u64) -> Option<Bytes> {
    let range = usize::try_from(piece.start.checked_sub(start)?).ok()?..usize::try_from(piece.end - start).ok()?;
    (range.end <= bytes.len()).then(|| bytes.slice(range))
}

fn read_piece(inner: &Inner, held: &InUse, piece: &Range<u64>) -> Result<Bytes, BlobError> {
    let (bytes, start) = inner.with_files(held, &chunks_of(piece), |files| {
        if let Some(window) = read_window(inner, files, piece) {
            return Ok((window, piece.start / WINDOW_BYTES * WINDOW_BYTES));
        }
        let (bytes, start) = validate::groups(files, piece)?;
        Ok((bytes.into(), start))
    })?;
    // Shorter only if the tree and the size disagree, which the hash excludes.
    cut(&bytes, piece, start).ok_or(BlobError::Damaged)
}

/// The whole window around a piece: from memory, or read and kept when it is wanted again. None when it isn't all
/// valid; then the piece may be still.
fn read_window(inner: &Inner, files: &Files, piece: &Range<u64>) -> Option<Bytes> {
    let number = piece.start / WINDOW_BYTES;
    let key = (files.hash, files.generation, number);
    if let Some(window) = inner.cache.get(&key) {
        return Some(window);
    }
    let window = number * WINDOW_BYTES..((number + 1) * WINDOW_BYTES).min(files.size_bytes);
    let local = chunks_of(&window).is_subset(&inner.table.lock().get(files.hash).ok()?.ranges);
    if !local || !inner.cache.admits(&key) {
        return None;
    }
    let bytes = Bytes::from(validate::groups(files, &window).ok()?.0);
    inner.cache.put(key, bytes.clone());
    Some(bytes)
}

/// A bao encoding as it is read and validated, a few windows ahead of whoever asks for it.
pub struct Encoder {
    windows: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// The encoding of `ranges`. Fails when some of it isn't here.
    pub(super) fn new(inner: &Arc<Inner>, hash: BlobHash, ranges: &ChunkRanges) -> Result<Self, BlobError> {
        let (inner, held) = (Arc::clone(inner), Arc::new(inner.table.hold(hash)?));
        let wanted = Arc::new(wanted(&inner, hash, ranges)?);
        let windows = encoded_windows(Arc::clone(&wanted));
        let encoded = futures::stream::iter(windows).map(move |window| {
            let (inner, held, wanted) = (Arc::clone(&inner), Arc::clone(&held), Arc::clone(&wanted));
            blocking(move || encode_window(&inner, &held, &wanted, window))
        });
        let windows = encoded.buffered(READ_AHEAD).filter(|bytes| {
            let empty = bytes.as_ref().is_ok_and(Bytes::is_empty);
            futures::future::ready(!empty)
        });
        Ok(Self { windows: windows.boxed() })
    }

    /// The next piece, of up to about 260 KiB (the first ones are smaller); none after the last or after an error.
    /// What came before an error ([`BlobError::Damaged`], [`BlobError::Changed`]) is valid but not all.
    pub async fn next(&mut self) -> Option<Result<Bytes, BlobError>> {
        let next = self.windows.next().await;
        if matches!(next, Some(Err(_))) {
            self.windows = futures::stream::empty().boxed();
        }
        next
    }
}

/// Sends the bao encoding of `ranges`; nothing when some of it isn't here.
pub(super) async fn encode(
    inner: &Arc<Inner>,
    hash: BlobHash,
    ranges: &ChunkRanges,
    out: mpsc::Sender<Bytes>,
) -> Result<u64, BlobError> {
    let mut encoder = Encoder::new(inner, hash, ranges)?;
    let mut sent_bytes = 0;
    while let Some(bytes) = encoder.next().await {
        let bytes = bytes?;
        sent_bytes += bytes.len() as u64;
        out.send(bytes).await.map_err(|_| BlobError::ReceiverGone)?;
    }
    Ok(sent_bytes)
}

/// Cuts what is wanted into windows: small ones first. Each contains something of it.
fn encoded_windows(wanted: Arc<ChunkRanges>) -> impl Iterator<Item = Range<ChunkNum>> + Send {
    let (mut at, mut size) = (0, FIRST_CHUNKS);
    std::iter::from_fn(move || {
        let boundaries = wanted.boundaries();
        let passed = boundaries.partition_point(|boundary| boundary.0 <= at);
        // Between an even and an odd boundary is what is wanted.
        let start = if passed % 2 == 1 { at } else { boundaries.get(passed)?.0 };
        at = (start / size + 1) * size;
        size = (size * 2).min(MOST_CHUNKS);
        Some(ChunkNum(start)..ChunkNum(at))
    })
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

/// The part of the encoding of `wanted` that falls into one window, without the hash pairs an earlier window has
/// brought.
fn encode_window(
    inner: &Inner,
    held: &InUse,
    wanted: &ChunkRanges,
    window: Range<ChunkNum>,
) -> Result<Bytes, BlobError> {
    let earlier = wanted & &ChunkRanges::from(..window.start);
    let room = (window.end.0 - window.start.0) as usize * 1028 + 4096; // A pair for each group, and the way to it.
    let chunks = wanted & &ChunkRanges::from(window);
    inner.with_files(held, &chunks, |files| {
        if whole_groups(&chunks, files.size_bytes) == chunks {
            return validate::encode(files, &chunks, &earlier, room).map(Bytes::from);
        }
        encode_fragments(files, &chunks, &earlier)
    })
}

/// The same of parts of groups, which few ask for: encoded as if nothing else was asked for, then the pairs at the
/// beginning that are known are cut off. Those are the nodes above both, so they are a prefix in pre-order.
fn encode_fragments(files: &Files, chunks: &ChunkRanges, earlier: &ChunkRanges) -> io::Result<Bytes> {
    let mut encoded = Vec::new();
    encode_ranges_validated(&files.data, files.outboard(), chunks, &mut encoded).map_err(io::Error::other)?;
    let known = known_pairs(&table::tree(files.size_bytes), chunks, earlier);
    Ok(Bytes::from(encoded).slice(known * 64..))
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
        read: impl Fn(&Files) -> io::Result<T>,
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
