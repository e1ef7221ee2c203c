//! Bytes and encodings out of a blob's files, validated against its hash in the very memory they are served from.
//!
//! A subtree that is wanted whole is hashed in one go, as wide as the processor can; hash pairs are only read where
//! the way from the root to the wanted bytes forks.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use bao_tree::{ChunkNum, ChunkRanges};
use blake3::{Hash, hazmat::left_subtree_len};

use super::{
    files::Files,
    segments::{self, GROUP_BYTES, PAIR_BYTES, halves, hash, merge, right_offset},
};

/// The bytes of the groups around `range`, read at once and validated, and where they begin.
pub(super) fn groups(files: &Files, range: &Range<u64>) -> io::Result<(Vec<u8>, u64)> {
    let start = range.start / GROUP_BYTES * GROUP_BYTES;
    let end = range.end.div_ceil(GROUP_BYTES).saturating_mul(GROUP_BYTES).min(files.size_bytes);
    let bytes = read_at(&files.data, start..end)?;
    let read = Read { files, bytes: &bytes, range: start..end };
    read.validate(Node::root(files))?;
    Ok((bytes, start))
}

/// Reads into memory that isn't zeroed first, which would be a tenth of the work.
fn read_at(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let length = (range.end - range.start) as usize;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = range.start + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// A subtree: its bytes, where its pairs begin in the tree's file, and its proven hash.
struct Node {
    bytes: Range<u64>,
    pairs_at: u64,
    hash: Hash,
    root: bool,
}

impl Node {
    fn root(files: &Files) -> Self {
        let hash = (*files.hash.as_bytes()).into();
        Self { bytes: 0..files.size_bytes, pairs_at: 0, hash, root: true }
    }

    /// Takes the hash of what was read, unless it isn't this node's.
    fn prove(&self, hash: Hash) -> io::Result<()> {
        match hash == self.hash {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it doesn't match the hash")),
        }
    }

    /// Both halves of a node of more than a group, and its pair.
    fn fork(&self, files: &Files) -> io::Result<([u8; 64], Self, Self)> {
        let pair = files.read_pair(self.pairs_at)?;
        let (left, right) = halves(&pair);
        self.prove(merge(&left, &right, self.root))?;
        let middle = self.bytes.start + left_subtree_len(self.bytes.end - self.bytes.start);
        let right_at = self.pairs_at + right_offset(&self.bytes, middle);
        let left = (self.bytes.start..middle, self.pairs_at + PAIR_BYTES, left);
        let right = (middle..self.bytes.end, right_at, right);
        let [left, right] = [left, right].map(|(bytes, pairs_at, hash)| Self { bytes, pairs_at, hash, root: false });
        Ok((pair, left, right))
    }

    fn chunks(&self) -> ChunkRanges {
        ChunkRanges::from(ChunkNum::full_chunks(self.bytes.start)..ChunkNum::chunks(self.bytes.end))
    }
}

/// Whole groups that were read.
struct Read<'a> {
    files: &'a Files,
    bytes: &'a [u8],
    range: Range<u64>,
}

impl Read<'_> {
    fn validate(&self, node: Node) -> io::Result<()> {
        let Range { start, end } = node.bytes;
        if end <= self.range.start || self.range.end <= start {
            return Ok(());
        }
        if self.range.start <= start && end <= self.range.end {
            let (from, to) = (start - self.range.start, end - self.range.start);
            return node.prove(hash(&self.bytes[from as usize..to as usize], start, node.root));
        }
        let (_, left, right) = node.fork(self.files)?;
        self.validate(left)?;
        self.validate(right)
    }
}

/// The encoding of `chunks` (whole groups), without the pairs that have been sent with `earlier` ones.
pub(super) fn encode(files: &Files, chunks: &ChunkRanges, earlier: &ChunkRanges, room: usize) -> io::Result<Vec<u8>> {
    let mut encoding = Encoding { files, chunks, earlier, out: Vec::with_capacity(room) };
    encoding.add(Node::root(files))?;
    Ok(encoding.out)
}

struct Encoding<'a> {
    files: &'a Files,
    chunks: &'a ChunkRanges,
    earlier: &'a ChunkRanges,
    out: Vec<u8>,
}

impl Encoding<'_> {
    fn add(&mut self, node: Node) -> io::Result<()> {
        let chunks = node.chunks();
        if !self.chunks.intersects(&chunks) {
            return Ok(());
        }
        if chunks.is_subset(self.chunks) {
            return self.add_whole(&node);
        }
        let (pair, left, right) = node.fork(self.files)?;
        if !self.earlier.intersects(&chunks) {
            self.out.extend_from_slice(&pair);
        }
        self.add(left)?;
        self.add(right)
    }

    /// Adds a subtree of which everything is wanted. Its pairs are computed from its bytes, not read.
    fn add_whole(&mut self, node: &Node) -> io::Result<()> {
        let files = self.files;
        let mut group = |bytes: Range<u64>, root: bool, out: &mut Vec<u8>| {
            let at = out.len();
            out.resize(at + (bytes.end - bytes.start) as usize, 0);
            files.data.read_exact_at(&mut out[at..], bytes.start)?;
            Ok(hash(&out[at..], bytes.start, root))
        };
        let hash: io::Result<Hash> = segments::subtree(node.bytes.clone(), node.root, &mut self.out, &mut group);
        node.prove(hash?)
    }
}
