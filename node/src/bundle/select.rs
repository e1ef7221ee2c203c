//! What goes into a bundle: which logs from where on, which blobs, which parts of them.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    ops::Range,
};

use bao_tree::{ChunkNum, ChunkRanges};
use mhc_platform::catalog::{self, Entry, Place};
use mhc_protocol::{
    AuthorId, BlobHash, RecordId, Timestamp,
    bundle::{BundleId, GROUP_BYTES, MAX_ENTRIES, MAX_SPAN_BYTES, Span, WantList},
    wire::Head,
};
use mhc_storage::record::RecordsError;
use range_collections::range_set::RangeSetRange;

use super::{JobError, Stores, export::ExportRequest};

/// Entries of the index read at a time.
const PAGE: usize = 256;
const GROUP_CHUNKS: u64 = GROUP_BYTES / 1024;

/// What a bundle is asked to hold, before sizes are looked at.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Logs to send, each from a position on.
    pub(super) logs: Vec<(AuthorId, (u64, u64))>,
    /// Contents whose blobs to send, newest first.
    pub(super) contents: Vec<RecordId>,
}

/// What the receiver has, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    heads: HashMap<AuthorId, Head>,
    lacks: HashMap<BlobHash, ChunkRanges>,
}

impl Receiver {
    /// A receiver that wrote `wants`; heads that this node doesn't know say nothing to it.
    pub(crate) fn new(stores: &Stores, wants: WantList) -> Result<Self, JobError> {
        let mut heads = HashMap::new();
        for head in wants.heads {
            if stores.records.get(head.id)?.is_some_and(|record| record.header().author == head.author) {
                heads.insert(head.author, head);
            }
        }
        let lacks = wants.lacks.into_iter().map(|lack| {
            let groups = lack.groups.iter().map(|range| chunks(range.start * GROUP_CHUNKS..range.end * GROUP_CHUNKS));
            let chunks = groups.fold(ChunkRanges::empty(), |all, chunks| all | chunks);
            (lack.hash, if lack.groups.is_empty() { ChunkRanges::all() } else { chunks })
        });
        Ok(Self { heads, lacks: lacks.collect() })
    }

    /// From where on it needs an author's log.
    pub(crate) fn position(&self, author: AuthorId) -> (u64, u64) {
        self.heads.get(&author).map_or((0, 0), |head| (head.epoch, head.seq + 1))
    }

    /// What of a blob it says that it lacks.
    pub(crate) fn lacked(&self, hash: BlobHash) -> Option<&ChunkRanges> {
        self.lacks.get(&hash)
    }

    /// What of a blob it needs, when the blob belongs to a record at `position` of the author's log.
    pub(super) fn needs(&self, hash: BlobHash, author: AuthorId, position: (u64, u64)) -> ChunkRanges {
        match self.heads.get(&author).is_some_and(|head| position <= (head.epoch, head.seq)) {
            true => self.lacks.get(&hash).cloned().unwrap_or_else(ChunkRanges::empty),
            false => ChunkRanges::all(),
        }
    }
}

fn chunks(range: Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(range.start)..ChunkNum(range.end))
}

/// Looks up what was asked for.
pub(super) fn select(stores: &Stores, request: &ExportRequest, receiver: &Receiver) -> Result<Selection, JobError> {
    let mut authors: HashSet<AuthorId> = request.channels.iter().copied().collect();
    let mut contents = named_contents(stores, request, &mut authors)?;
    let everything = request.channels.is_empty() && request.contents.is_empty();
    if everything || !request.channels.is_empty() {
        let wanted = |entry: &Entry| everything || request.channels.contains(&entry.author);
        contents.extend(contents_of(stores, request.since, wanted)?);
    }
    let known = heads(stores)?;
    if let Some(unknown) = authors.iter().find(|author| !known.contains(author)) {
        return Err(JobError::NotFound(format!("this node knows no channel {unknown}")));
    }
    let authors = known.into_iter().filter(|author| everything || authors.contains(author));
    contents.sort_unstable_by_key(|place| (Reverse(place.at), place.content));
    contents.dedup();
    Ok(Selection {
        logs: authors.map(|author| (author, receiver.position(author))).collect(),
        contents: contents.into_iter().map(|place| place.content).collect(),
    })
}

fn named_contents(
    stores: &Stores,
    request: &ExportRequest,
    authors: &mut HashSet<AuthorId>,
) -> Result<Vec<Place>, JobError> {
    let view = stores.records.view(catalog::NAME)?;
    let place = |content: &RecordId| match catalog::entry(&view, *content)? {
        Some(entry) if entry.network == stores.network => {
            authors.insert(entry.author);
            Ok(Place { at: entry.at, content: *content })
        }
        _ => Err(JobError::NotFound(format!("this node knows no content {content}"))),
    };
    request.contents.iter().map(place).collect()
}

/// Contents that nothing newer replaces, newest first, at most as many as a bundle has entries.
pub(crate) fn contents_of(
    stores: &Stores,
    since: Option<Timestamp>,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Vec<Place>, JobError> {
    let (mut found, mut after) = (Vec::new(), None);
    while found.len() < MAX_ENTRIES {
        // A view of its own for each page: one mustn't be held for long.
        let view = stores.records.view(catalog::NAME)?;
        let page = catalog::newest(&view, stores.network, None, after, PAGE)?;
        for place in &page {
            if since.is_some_and(|since| place.at < since) {
                return Ok(found);
            }
            let entry = catalog::entry(&view, place.content)?.filter(&wanted);
            if let Some(entry) = entry
                && !catalog::is_replaced(&view, place.content, entry.author)?
            {
                found.push(*place);
            }
        }
        after = page.last().copied();
        if page.len() < PAGE {
            break;
        }
    }
    Ok(found)
}

pub(crate) fn heads(stores: &Stores) -> Result<Vec<AuthorId>, RecordsError> {
    let mut authors: Vec<AuthorId> = Vec::new();
    loop {
        let page = stores.records.heads(stores.network, authors.last().copied(), PAGE)?;
        authors.extend(page.iter().map(|head| head.author));
        if page.len() < PAGE {
            return Ok(authors);
        }
    }
}

/// The pieces in which `ranges` of a blob are sent: whole groups, at most 8 MiB each. `ranges` are groups of which the
/// last is cut at the blob's end.
pub(crate) fn pieces(size_bytes: u64, ranges: &ChunkRanges) -> Vec<Span> {
    pieces_of(size_bytes, ranges, MAX_SPAN_BYTES)
}

/// The same with `piece_bytes`, whole groups up to 8 MiB, instead.
pub(crate) fn pieces_of(size_bytes: u64, ranges: &ChunkRanges, piece_bytes: u64) -> Vec<Span> {
    if size_bytes == 0 {
        return Span::new(0, 0, 0).into_iter().collect();
    }
    let runs = ranges.iter().map(|run| match run {
        RangeSetRange::Range(run) => run.start.to_bytes()..run.end.to_bytes().min(size_bytes),
        RangeSetRange::RangeFrom(run) => run.start.to_bytes()..size_bytes,
    });
    let cut = |run: Range<u64>| {
        let starts = (run.start..run.end).step_by(usize::try_from(piece_bytes).unwrap_or(usize::MAX));
        starts.filter_map(move |start| Span::new(size_bytes, start, run.end.min(start + piece_bytes)).ok())
    };
    runs.flat_map(cut).collect()
}

/// The name of the bundle that holds a selection, the `number`th one: the same for the same question, so that an
/// interrupted export finds what it left.
pub(super) fn bundle_id(stores: &Stores, request: &ExportRequest, number: u32) -> BundleId {
    let sorted = |ids: Vec<&[u8; 32]>| {
        let mut ids = ids;
        ids.sort_unstable();
        ids.iter().flat_map(|id| id.iter().copied()).collect::<Vec<u8>>()
    };
    let mut hasher = blake3::Hasher::new_derive_key("mhc 2026 bundle name v1");
    hasher.update(stores.key.node().as_bytes()).update(stores.network.as_bytes());
    let channels = sorted(request.channels.iter().map(AuthorId::as_bytes).collect());
    let contents = sorted(request.contents.iter().map(RecordId::as_bytes).collect());
    for list in [channels, contents] {
        hasher.update(&(list.len() as u64).to_le_bytes()).update(&list);
    }
    let since = request.since.map_or(u64::MAX, Timestamp::as_millis);
    for figure in [since, request.max_bytes.unwrap_or(u64::MAX), u64::from(number)] {
        hasher.update(&figure.to_le_bytes());
    }
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    BundleId(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn blobs_are_cut_into_whole_groups_of_bounded_length() {
        type Case = (u64, ChunkRanges, &'static [(u64, u64)]);
        let cases: &[Case] = &[
            (0, ChunkRanges::empty(), &[(0, 0)]),
            (5000, ChunkRanges::empty(), &[]),
            (5000, chunks(0..5), &[(0, 5000)]),
            (20 * MIB, chunks(0..20 * 1024), &[(0, 8 * MIB), (8 * MIB, 16 * MIB), (16 * MIB, 20 * MIB)]),
            (MIB + 1, chunks(32..48) | chunks(1024..1025), &[(32 * 1024, 48 * 1024), (MIB, MIB + 1)]),
            (MIB + 1, ChunkRanges::all(), &[(0, MIB + 1)]),
        ];
        for (size, ranges, expected) in cases {
            let got: Vec<_> = pieces(*size, ranges).iter().map(|span| (span.start, span.end)).collect();
            assert_eq!(got, *expected, "{ranges:?} of {size}");
        }
    }
}
