//! The verifying end of an answer: encoded bytes go in as they come, verified items come out.
//!
//! bao-tree's own decoders pull from a reader, so that a thread or task waits inside of them for the network. This one
//! is pushed: whoever reads from the network collects bytes, and verifies what has come in one go on a thread where
//! hashing is allowed. The order of items and the hashes are bao-tree's ([`ResponseIter`]) and BLAKE3's.

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{BaoContentItem, Leaf, Parent, sync::truncate_ranges},
    iter::{BaoChunk, ResponseIter},
};
use blake3::{
    Hash, Hasher,
    hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use bytes::Bytes;

use super::BadBytes;

/// Bytes of a hash pair.
const PAIR_BYTES: usize = 64;

/// Verifies one answer, front to back.
#[derive(Debug)]
pub(crate) struct Verifier {
    items: ResponseIter,
    next: Option<BaoChunk>,
    /// What the next items must hash to; the next one's is last.
    expected: Vec<Hash>,
}

impl Verifier {
    /// For the answer about `ranges` (not empty) of the blob named `root`. Chunks behind its end ask for the last one.
    pub(crate) fn new(root: Hash, tree: BaoTree, ranges: &ChunkRanges) -> Self {
        let ranges = truncate_ranges(ranges, tree.size()).intersection(&ChunkRanges::all());
        let mut items = ResponseIter::new(tree, ranges);
        let next = items.next();
        Self { items, next, expected: vec![root] }
    }

    /// Bytes of the next item; none after the last.
    pub(crate) fn needs(&self) -> Option<usize> {
        self.next.as_ref().map(|item| match item {
            BaoChunk::Parent { .. } => PAIR_BYTES,
            BaoChunk::Leaf { size, .. } => *size,
        })
    }

    /// Verifies every item that is whole in `bytes` and appends it to `verified`. Returns the bytes used; the caller
    /// gives the rest again with what follows it. After an error the answer is worthless from there on; what was
    /// appended before is true.
    pub(crate) fn push(&mut self, bytes: &Bytes, verified: &mut Vec<BaoContentItem>) -> Result<usize, BadBytes> {
        let mut used = 0;
        while let (Some(item), Some(needs)) = (self.next, self.needs())
            && bytes.len() - used >= needs
        {
            let content = bytes.slice(used..used + needs);
            verified.push(self.verify(item, content)?);
            used += needs;
            self.next = self.items.next();
        }
        Ok(used)
    }

    fn verify(&mut self, item: BaoChunk, content: Bytes) -> Result<BaoContentItem, BadBytes> {
        let expected = self.expected.pop();
        match item {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let (pair, is) = pair_of(&content, is_root).ok_or(BadBytes::ParentHash)?;
                if expected != Some(is) {
                    return Err(BadBytes::ParentHash);
                }
                self.expected.extend(right.then_some(pair.1));
                self.expected.extend(left.then_some(pair.0));
                Ok(Parent { node, pair }.into())
            }
            BaoChunk::Leaf { start_chunk, is_root, .. } => {
                if expected != Some(hash_of(&content, start_chunk, is_root)) {
                    return Err(BadBytes::LeafHash);
                }
                Ok(Leaf { offset: start_chunk.to_bytes(), data: content }.into())
            }
        }
    }
}

/// The two hashes of a pair, and what they hash to together.
fn pair_of(content: &[u8], is_root: bool) -> Option<((Hash, Hash), Hash)> {
    let left: [u8; 32] = content.get(..32)?.try_into().ok()?;
    let right: [u8; 32] = content.get(32..PAIR_BYTES)?.try_into().ok()?;
    let hash = match is_root {
        true => merge_subtrees_root(&left, &right, Mode::Hash),
        false => merge_subtrees_non_root(&left, &right, Mode::Hash).into(),
    };
    Some(((left.into(), right.into()), hash))
}

fn hash_of(content: &[u8], start: ChunkNum, is_root: bool) -> Hash {
    match is_root {
        true => blake3::hash(content),
        false => Hasher::new().set_input_offset(start.to_bytes()).update(content).finalize_non_root().into(),
    }
}

#[cfg(test)]
mod tests {
    use bao_tree::io::{outboard::PreOrderMemOutboard, sync::encode_ranges_validated};
    use mhc_storage::blob::BLOCK_SIZE;

    use super::*;

    const KIB: usize = 1024;

    fn noise(length: usize) -> Vec<u8> {
        (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn encoded(data: &[u8], ranges: &ChunkRanges) -> (Hash, Vec<u8>) {
        let outboard = PreOrderMemOutboard::create(data, BLOCK_SIZE);
        let mut out = vec![];
        encode_ranges_validated(data, &outboard, ranges, &mut out).unwrap();
        (outboard.root, out)
    }

    /// Pushes `encoded` in pieces of `step` bytes, as a network would.
    fn decode(root: Hash, size: usize, ranges: &ChunkRanges, encoded: &[u8], step: usize) -> Result<Vec<u8>, BadBytes> {
        let mut verifier = Verifier::new(root, BaoTree::new(size as u64, BLOCK_SIZE), ranges);
        let (mut waiting, mut items) = (vec![], vec![]);
        for piece in encoded.chunks(step) {
            waiting.extend_from_slice(piece);
            let used = verifier.push(&Bytes::from(waiting.clone()), &mut items)?;
            waiting.drain(..used);
        }
        assert_eq!((verifier.needs(), waiting.len()), (None, 0), "all of it is used");
        let leaves = items.into_iter().filter_map(|item| match item {
            BaoContentItem::Leaf(leaf) => Some(leaf.data),
            BaoContentItem::Parent(_) => None,
        });
        Ok(leaves.flatten().collect())
    }

    #[test]
    fn what_is_encoded_comes_out_whatever_the_pieces() {
        for size in [1, KIB, 16 * KIB, 16 * KIB + 1, 100 * KIB + 77, 300 * KIB] {
            let data = noise(size);
            let last = size.div_ceil(KIB) as u64;
            let groups = (size as u64).div_ceil(16 * KIB as u64);
            for (from, to) in [(0, last), (16 * (groups / 2), last), (0, last.min(16)), (16 * (groups - 1), last)] {
                let ranges = ChunkRanges::from(ChunkNum(from)..ChunkNum(to));
                let (root, out) = encoded(&data, &ranges);
                let want = &data[from as usize * KIB..(to as usize * KIB).min(size)];
                for step in [1, 63, 1_452, 20_000, usize::MAX] {
                    let step = step.min(out.len());
                    let got = decode(root, size, &ranges, &out, step);
                    let got = got.unwrap_or_else(|bad| panic!("{size} {from}..{to} {step}: {bad:?}"));
                    assert!(got == want, "{size} {from}..{to} {step}");
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_what_came_before_is_true() {
        let data = noise(50 * KIB);
        let ranges = ChunkRanges::from(ChunkNum(16)..ChunkNum(50));
        let (root, good) = encoded(&data, &ranges);
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let mut verifier = Verifier::new(root, BaoTree::new(data.len() as u64, BLOCK_SIZE), &ranges);
            let mut items = vec![];
            assert!(verifier.push(&bad.into(), &mut items).is_err(), "{at}");
            for item in items {
                let BaoContentItem::Leaf(leaf) = item else { continue };
                assert!(data[leaf.offset as usize..].starts_with(&leaf.data));
            }
        }
    }
}
