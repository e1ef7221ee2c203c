//! The want-list of this node.

use std::collections::HashSet;

use bao_tree::ChunkRanges;
use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, Timestamp,
    bundle::{GROUP_BYTES, Lack, MAX_LACK_RANGES, MAX_LACKS, MAX_WANT_HEADS, WantList},
    wire::Head,
};
use mhc_storage::blob::BlobStatus;
use range_collections::range_set::RangeSetRange;

use super::{
    JobError, Stores,
    layout::{Stick, make_dir, put},
};

const PAGE: usize = 256;
const GROUP_CHUNKS: u64 = GROUP_BYTES / 1024;
/// Most missing ranges of all blobs together: enough for many stopped transfers, and far within the list's length.
const MAX_RANGES: usize = 1 << 18;

/// Writes the want-list where the next export looks for it, without these blobs. Returns its path.
pub(super) fn write(
    stores: &Stores,
    stick: &Stick,
    today: Timestamp,
    without: &HashSet<BlobHash>,
) -> Result<String, JobError> {
    let mut list = collect(stores, today)?;
    list.lacks.retain(|lack| !without.contains(&lack.hash));
    let list = list.encode()?;
    let file = stick.wants_file();
    if let Some(dir) = file.parent() {
        make_dir(dir)?;
    }
    put(&file, &list, today)?;
    Ok(file.display().to_string())
}

/// What this node has of the logs, and what it lacks of the blobs that their manifests name, newest first.
pub(super) fn collect(stores: &Stores, today: Timestamp) -> Result<WantList, JobError> {
    let mark = WantList::mark_of(&stores.key, stores.network, today);
    Ok(WantList { network: stores.network, made: today, mark, heads: heads(stores)?, lacks: lacks(stores)? })
}

/// The same, of these blobs only.
pub(crate) fn collect_for(stores: &Stores, today: Timestamp, blobs: &[BlobHash]) -> Result<WantList, JobError> {
    let mark = WantList::mark_of(&stores.key, stores.network, today);
    let lacks = blobs.iter().filter_map(|hash| lack(*hash, stores.blobs.status(*hash))).take(MAX_LACKS).collect();
    Ok(WantList { network: stores.network, made: today, mark, heads: heads(stores)?, lacks })
}

fn heads(stores: &Stores) -> Result<Vec<Head>, JobError> {
    let heads = stores.records.heads(stores.network, None, MAX_WANT_HEADS)?;
    Ok(heads.into_iter().map(|h| Head { author: h.author, epoch: h.epoch, seq: h.seq, id: h.id }).collect())
}

fn lacks(stores: &Stores) -> Result<Vec<Lack>, JobError> {
    let (mut lacks, mut ranges, mut after) = (Vec::new(), 0, None);
    loop {
        let view = stores.records.view(catalog::NAME)?;
        let page = catalog::newest(&view, stores.network, None, after, PAGE)?;
        for place in &page {
            let Some(entry) = catalog::entry(&view, place.content)? else { continue };
            if catalog::is_replaced(&view, place.content, entry.author)? {
                continue;
            }
            for blob in std::iter::once(&entry.manifest.original).chain(&entry.manifest.thumbnails) {
                let Some(mut lack) = lack(blob.hash, stores.blobs.status(blob.hash)) else { continue };
                ranges += lack.groups.len();
                if ranges > MAX_RANGES {
                    lack.groups.clear();
                }
                lacks.push(lack);
                if lacks.len() >= MAX_LACKS {
                    return Ok(lacks);
                }
            }
        }
        after = page.last().copied();
        if page.len() < PAGE {
            return Ok(lacks);
        }
    }
}

/// What of a blob isn't here.
fn lack(hash: BlobHash, status: Option<BlobStatus>) -> Option<Lack> {
    let Some(status) = status else { return Some(Lack { hash, groups: vec![] }) };
    if status.complete {
        return None;
    }
    let end = status.size_bytes.div_ceil(GROUP_BYTES);
    let missing = &ChunkRanges::all() - &status.ranges;
    let groups = missing.iter().map(|range| match range {
        RangeSetRange::Range(range) => range.start.0 / GROUP_CHUNKS..range.end.0.div_ceil(GROUP_CHUNKS).min(end),
        RangeSetRange::RangeFrom(range) => range.start.0.div_ceil(GROUP_CHUNKS)..end,
    });
    let mut groups: Vec<_> = groups.filter(|range| range.start < range.end).collect();
    if groups.len() > MAX_LACK_RANGES {
        // The last one stands for the rest.
        groups.truncate(MAX_LACK_RANGES);
        if let Some(last) = groups.last_mut() {
            last.end = end;
        }
    }
    // A blob that is all here and not complete is being made durable.
    (!groups.is_empty()).then_some(Lack { hash, groups })
}
