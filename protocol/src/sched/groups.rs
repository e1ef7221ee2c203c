//! Sets of chunk groups, and their arithmetic.

use std::ops::Range;

use range_collections::{RangeSet2, range_set::RangeSetRange};

/// Bytes of a chunk group: the smallest piece that is fetched, verified and stored.
pub const GROUP_BYTES: u64 = 16 << 10;

/// A set of chunk groups, by index.
pub type Groups = RangeSet2<u64>;

/// How many groups a blob of `size_bytes` has. An empty blob has one (empty) group.
pub(super) fn group_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(GROUP_BYTES).max(1)
}

/// The run of groups that `bytes` touches in a blob of `size_bytes`.
pub(super) fn run_of(bytes: Range<u64>, size_bytes: u64) -> Range<u64> {
    let end = bytes.end.min(size_bytes);
    match (size_bytes, bytes.start < end) {
        (0, _) => 0..1,
        (_, true) => bytes.start / GROUP_BYTES..end.div_ceil(GROUP_BYTES),
        (_, false) => 0..0,
    }
}

/// The bytes of a run of groups in a blob of `size_bytes`.
pub fn bytes_of(groups: Range<u64>, size_bytes: u64) -> Range<u64> {
    let end = groups.end.saturating_mul(GROUP_BYTES).min(size_bytes);
    groups.start.saturating_mul(GROUP_BYTES).min(end)..end
}

/// All runs, ascending.
pub(super) fn runs(groups: &Groups) -> impl Iterator<Item = Range<u64>> + '_ {
    groups.iter().map(|run| match run {
        RangeSetRange::Range(run) => *run.start..*run.end,
        RangeSetRange::RangeFrom(run) => *run.start..u64::MAX,
    })
}

/// How many groups, in bytes.
pub(super) fn bytes_in(run: &Range<u64>) -> u64 {
    run.end.saturating_sub(run.start).saturating_mul(GROUP_BYTES)
}

/// What two runs share.
pub(super) fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
