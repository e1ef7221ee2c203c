//! Sets of chunk groups, and their arithmetic.

use std::ops::Range;

use range_collections::{RangeSet2, range_set::RangeSetRange};

/// Bytes of a chunk group: the smallest piece that is fetched, verified and stored.
pub const GROUP_BYTES: u64 = 16 << 10;

/// A set of chunk groups, by index.
pub type Groups = RangeSet2<u64>;

/// The groups that `bytes` touches in a blob of `size_bytes`. An empty blob has one (empty) group.
pub(crate) fn groups_of(bytes: Range<u64>, size_bytes: u64) -> Groups {
    let end = bytes.end.min(size_bytes);
    match (size_bytes, bytes.start < end) {
        (0, _) => Groups::from(0..1),
        (_, true) => Groups::from(bytes.start / GROUP_BYTES..end.div_ceil(GROUP_BYTES)),
        (_, false) => Groups::empty(),
    }
}

/// The bytes of a run of groups in a blob of `size_bytes`.
pub fn bytes_of(groups: Range<u64>, size_bytes: u64) -> Range<u64> {
    let end = groups.end.saturating_mul(GROUP_BYTES).min(size_bytes);
    groups.start.saturating_mul(GROUP_BYTES).min(end)..end
}

/// The first run of consecutive groups.
pub(crate) fn first_run(groups: &Groups) -> Option<Range<u64>> {
    runs(groups).next()
}

/// All runs, ascending.
pub(crate) fn runs(groups: &Groups) -> impl Iterator<Item = Range<u64>> + '_ {
    groups.iter().map(|run| match run {
        RangeSetRange::Range(run) => *run.start..*run.end,
        RangeSetRange::RangeFrom(run) => *run.start..u64::MAX,
    })
}

/// How many groups.
pub(crate) fn count(groups: &Groups) -> u64 {
    runs(groups).fold(0, |sum: u64, run| sum.saturating_add(run.end - run.start))
}

/// Where a unit that starts at `run.start` ends: at the next multiple of `unit_groups`, so that units of several
/// demands and providers share their boundaries, or with the run.
pub(crate) fn overlap_end(run: &Range<u64>, unit_groups: u64) -> u64 {
    ((run.start / unit_groups + 1).saturating_mul(unit_groups)).min(run.end)
}
