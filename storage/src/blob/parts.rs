//! Room for a blob of which only parts may ever be here: made as they are asked for, if need be by giving up other parts
//! of the same blob.

use std::{fs::File, io};

use bao_tree::{ChunkNum, ChunkRanges};
use mhc_protocol::BlobHash;
use range_collections::range_set::RangeSetRange;
use rustix::fs::FallocateFlags;

use super::{
    BlobError, groups_of,
    meta::{Change, Row},
    room::Need,
    segments::GROUP_BYTES,
    store::{Inner, Structure},
    table::{Blob, bytes_in, spans},
};

/// Least bytes a blob gives up at once: each time costs a commit.
const SHED_BYTES: u64 = 16 << 20;
/// But not more than this part of it.
const SHED_SHARE: u64 = 4;

impl Inner {
    /// Makes and reserves room for chunks of a blob that aren't here. The reservation ends chunk by chunk as they come,
    /// and with the last handle.
    pub(super) fn reserve(&self, hash: BlobHash, chunks: &ChunkRanges) -> Result<(), BlobError> {
        if self.unreserved(hash, chunks)?.0.is_empty() {
            return Ok(());
        }
        let structure = self.structure();
        let (lacking, need) = self.unreserved(hash, chunks)?;
        if let Err(error) = self.make_room(&structure, need) {
            let hopeless = self.options.quota_bytes.is_some_and(|quota_bytes| need.quota_bytes > quota_bytes);
            if hopeless || !self.shed(&structure, hash, need.disk_bytes, chunks)? {
                return Err(error);
            }
            self.make_room(&structure, need)?;
        }
        self.table.lock().get(hash)?.promised |= lacking;
        Ok(())
    }

    /// Of the groups around `chunks`, those that have no room yet, and what they need.
    fn unreserved(&self, hash: BlobHash, chunks: &ChunkRanges) -> Result<(ChunkRanges, Need), BlobError> {
        let mut state = self.table.lock();
        let blob = state.get(hash)?;
        if blob.complete || blob.referenced() || blob.writers > 0 {
            return Ok((ChunkRanges::empty(), Need::default()));
        }
        let lacking = &(&groups_of(chunks, blob.size_bytes) - &blob.ranges) - &blob.promised;
        let disk_bytes = bytes_in(&lacking, blob.size_bytes);
        let quota_bytes = if blob.pinned { 0 } else { disk_bytes };
        Ok((lacking, Need { quota_bytes, disk_bytes }))
    }

    /// Gives up parts of a blob that isn't pinned, at least `bytes`, but none of `wanted`. False when it has nothing to
    /// give up.
    fn shed(
        &self,
        _structure: &Structure<'_>,
        hash: BlobHash,
        bytes: u64,
        wanted: &ChunkRanges,
    ) -> Result<bool, BlobError> {
        let files = self.files(hash)?;
        let (row, useless) = {
            let mut state = self.table.lock();
            let blob = state.get(hash)?;
            let useless = useless(blob, bytes, wanted);
            if useless.is_empty() || blob.pinned || blob.generation != files.generation {
                return Ok(false);
            }
            blob.withdraw(&useless);
            let row = Row::of(blob, false);
            state.notify(hash);
            (row, useless)
        };
        // Written down first: after a crash nothing is offered that is a hole. Whoever still reads a hole finds that it
        // doesn't validate.
        self.meta.commit(&[Change::Put(hash, row)])?;
        for (start, end) in spans(&useless, files.size_bytes) {
            punch(&files.data, start, end).map_err(BlobError::io("free a part of a blob"))?;
        }
        Ok(true)
    }
}

fn punch(file: &File, start: u64, end: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, start, end - start)?)
}

/// What a blob can do without when `wanted` is wanted next: what lies before it, from the beginning on, since that was
/// played; then what lies behind it, from the end.
fn useless(blob: &Blob, bytes: u64, wanted: &ChunkRanges) -> ChunkRanges {
    let wanted = groups_of(wanted, blob.size_bytes);
    let Some(first) = wanted.boundaries().first().copied() else { return ChunkRanges::empty() };
    let others = &blob.ranges - &wanted;
    let before = bounds(&(&others & &ChunkRanges::from(..first)));
    let behind = bounds(&(&others & &ChunkRanges::from(first..)));
    let mut left =
        bytes.max(SHED_BYTES.min(blob.local_bytes() / SHED_SHARE)).div_ceil(GROUP_BYTES) * (GROUP_BYTES / 1024);
    let mut useless = ChunkRanges::empty();
    for (start, end) in before {
        let taken = left.min(end - start);
        useless |= ChunkRanges::from(ChunkNum(start)..ChunkNum(start + taken));
        left -= taken;
    }
    for (start, end) in behind.into_iter().rev() {
        // From a group's beginning on; the last one of the blob may be shorter.
        let from = end.saturating_sub(left).max(start).next_multiple_of(GROUP_BYTES / 1024).min(end);
        useless |= ChunkRanges::from(ChunkNum(from)..ChunkNum(end));
        left -= end - from;
    }
    useless
}

fn bounds(chunks: &ChunkRanges) -> Vec<(u64, u64)> {
    let bounded = chunks.iter().filter_map(|range| match range {
        RangeSetRange::Range(range) => Some((range.start.0, range.end.0)),
        RangeSetRange::RangeFrom(_) => None,
    });
    bounded.collect()
}
