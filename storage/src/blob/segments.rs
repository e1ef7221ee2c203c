//! A blob's hash and tree from segments of 1 MiB, which can be hashed in any order and on any thread.
//!
//! An aligned segment is a subtree of the blob's tree, whatever comes after it, and a subtree's pairs follow each other
//! in pre-order: they are written at once. What is above the segments is computed from their first pairs at the end
//! ([`Outline::finish`]), so that memory doesn't grow with the blob.

use std::{convert::Infallible, fs::File, io, ops::Range, os::unix::fs::FileExt};

use blake3::{
    Hash, Hasher,
    hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use mhc_protocol::BlobHash;

use super::{
    BLOCK_SIZE,
    files::{Dirs, Temp},
};

/// Bytes of a segment: few enough for a buffer per core, enough to be worth a task.
pub(super) const SEGMENT_BYTES: u64 = 1 << 20;
/// Bytes of a group.
pub(super) const GROUP_BYTES: u64 = BLOCK_SIZE.bytes() as u64;
/// Bytes of a hash pair.
pub(super) const PAIR_BYTES: u64 = 64;
/// Bytes of a whole segment's pairs.
const SLOT_BYTES: u64 = (SEGMENT_BYTES / GROUP_BYTES - 1) * PAIR_BYTES;

/// How many segments a blob has; an empty one has an empty one.
pub(super) fn count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(SEGMENT_BYTES).max(1)
}

/// The bytes of a blob's segment.
pub(super) fn bytes_of(segment: u64, size_bytes: u64) -> Range<u64> {
    let start = segment * SEGMENT_BYTES;
    start..start.saturating_add(SEGMENT_BYTES).min(size_bytes)
}

/// The hash of the subtree with these bytes, which begin at `start` of the blob; `root` when they are all of it.
pub(super) fn hash(bytes: &[u8], start: u64, root: bool) -> Hash {
    if root {
        return blake3::hash(bytes);
    }
    Hasher::new().set_input_offset(start).update(bytes).finalize_non_root().into()
}

/// The hash of a pair.
pub(super) fn merge(left: &Hash, right: &Hash, root: bool) -> Hash {
    match root {
        true => merge_subtrees_root(left.as_bytes(), right.as_bytes(), Mode::Hash),
        false => merge_subtrees_non_root(left.as_bytes(), right.as_bytes(), Mode::Hash).into(),
    }
}

/// A hash pair as it is stored.
pub(super) fn pair(left: &Hash, right: &Hash) -> [u8; 64] {
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(left.as_bytes());
    pair[32..].copy_from_slice(right.as_bytes());
    pair
}

/// The halves of a stored pair.
pub(super) fn halves(pair: &[u8; 64]) -> (Hash, Hash) {
    let mut halves = ([0; 32], [0; 32]);
    halves.0.copy_from_slice(&pair[..32]);
    halves.1.copy_from_slice(&pair[32..]);
    (halves.0.into(), halves.1.into())
}

/// Appends the pairs of the subtree over `bytes` in pre-order; `group` hashes each group, and may append it, too.
/// Returns the subtree's hash.
pub(super) fn subtree<E>(
    bytes: Range<u64>,
    root: bool,
    out: &mut Vec<u8>,
    group: &mut impl FnMut(Range<u64>, bool, &mut Vec<u8>) -> Result<Hash, E>,
) -> Result<Hash, E> {
    let length = bytes.end - bytes.start;
    if length <= GROUP_BYTES {
        return group(bytes, root, out);
    }
    let middle = bytes.start + left_subtree_len(length);
    let at = out.len();
    out.extend_from_slice(&[0; 64]);
    let left = subtree(bytes.start..middle, false, out, group)?;
    let right = subtree(middle..bytes.end, false, out, group)?;
    out[at..at + 64].copy_from_slice(&pair(&left, &right));
    Ok(merge(&left, &right, root))
}

/// The tree of a blob that is being hashed.
///
/// Pairs go to where they belong when the blob's size is known; else each segment's to a slot of its own, until it is.
#[derive(Debug)]
pub(super) struct Outline {
    file: Temp,
    size_bytes: Option<u64>,
}

impl Outline {
    pub(super) fn new(dirs: &Dirs, size_bytes: Option<u64>) -> io::Result<Self> {
        Ok(Self { file: dirs.temp()?, size_bytes })
    }

    /// Hashes a segment and keeps its pairs; `whole` when it is all of the blob. `pairs` is room to work in.
    pub(super) fn put(&self, segment: u64, bytes: &[u8], whole: bool, pairs: &mut Vec<u8>) -> io::Result<Hash> {
        pairs.clear();
        let range = segment * SEGMENT_BYTES..segment * SEGMENT_BYTES + bytes.len() as u64;
        let origin = range.start;
        let Ok(hash) = subtree::<Infallible>(range, whole, pairs, &mut |group, root, _| {
            let bytes = &bytes[(group.start - origin) as usize..(group.end - origin) as usize];
            Ok(hash(bytes, group.start, root))
        });
        let offset = self.size_bytes.map_or(segment * SLOT_BYTES, |size_bytes| position(segment, size_bytes));
        self.file.file.write_all_at(pairs, offset)?;
        Ok(hash)
    }

    /// The whole tree and its root, when all segments are there. `last` is the last one's hash.
    pub(super) fn finish(self, dirs: &Dirs, size_bytes: u64, last: Hash) -> io::Result<(Temp, BlobHash)> {
        let tree = match self.size_bytes {
            Some(_) => self.file,
            None => lay_out(dirs, &self.file.file, size_bytes)?,
        };
        let root = if count(size_bytes) == 1 { last } else { join(&tree.file, 0..size_bytes, 0, size_bytes, last)? };
        Ok((tree, BlobHash::from_bytes(*root.as_bytes())))
    }
}

/// Moves the pairs of each segment from its slot to where they belong.
fn lay_out(dirs: &Dirs, slots: &File, size_bytes: u64) -> io::Result<Temp> {
    let tree = dirs.temp()?;
    let mut pairs = [0; SLOT_BYTES as usize];
    for segment in 0..count(size_bytes) {
        let bytes = bytes_of(segment, size_bytes);
        let groups = (bytes.end - bytes.start).div_ceil(GROUP_BYTES);
        let pairs = &mut pairs[..(groups.saturating_sub(1) * PAIR_BYTES) as usize];
        slots.read_exact_at(pairs, segment * SLOT_BYTES)?;
        tree.file.write_all_at(pairs, position(segment, size_bytes))?;
    }
    Ok(tree)
}

/// Where a segment's pairs begin in the tree's file.
fn position(segment: u64, size_bytes: u64) -> u64 {
    let wanted = bytes_of(segment, size_bytes);
    let (mut bytes, mut offset) = (0..size_bytes, 0);
    while bytes != wanted {
        let middle = bytes.start + left_subtree_len(bytes.end - bytes.start);
        if wanted.start < middle {
            offset += PAIR_BYTES;
            bytes.end = middle;
        } else {
            offset += right_offset(&bytes, middle);
            bytes.start = middle;
        }
    }
    offset
}

/// How far behind a subtree's first pair those of its right half begin: the left half, of whole groups, has a pair
/// less than it has groups.
pub(super) fn right_offset(bytes: &Range<u64>, middle: u64) -> u64 {
    (middle - bytes.start) / GROUP_BYTES * PAIR_BYTES
}

/// Writes the pairs above the segments of a subtree whose pairs begin at `offset`. Returns its hash.
fn join(tree: &File, bytes: Range<u64>, offset: u64, size_bytes: u64, last: Hash) -> io::Result<Hash> {
    let length = bytes.end - bytes.start;
    if length <= SEGMENT_BYTES {
        if bytes.end == size_bytes {
            return Ok(last);
        }
        let mut first = [0; 64];
        tree.read_exact_at(&mut first, offset)?;
        let (left, right) = halves(&first);
        return Ok(merge(&left, &right, false));
    }
    let middle = bytes.start + left_subtree_len(length);
    let right_at = offset + right_offset(&bytes, middle);
    let root = length == size_bytes;
    let left = join(tree, bytes.start..middle, offset + PAIR_BYTES, size_bytes, last)?;
    let right = join(tree, middle..bytes.end, right_at, size_bytes, last)?;
    tree.write_all_at(&pair(&left, &right), offset)?;
    Ok(merge(&left, &right, root))
}
