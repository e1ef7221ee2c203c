//! Verified items gathered into runs that follow each other in a file, so that each run goes out in one write.

use std::{fs::File, io, io::IoSlice};

use bao_tree::{
    BaoTree, ChunkNum, ChunkRanges,
    io::{BaoContentItem, Leaf, Parent},
};

use super::{BlobError, files::Files, segments, table};

/// Pieces the kernel takes at once.
const MOST_PIECES: usize = 1024;

/// What is to be written of a blob.
pub(super) struct Runs<'a> {
    tree: BaoTree,
    data: Vec<(u64, Vec<IoSlice<'a>>)>,
    data_end: u64,
    pairs: Vec<(u64, Vec<u8>)>,
    chunks: ChunkRanges,
}

impl<'a> Runs<'a> {
    /// Gathers the items of a blob, in the order they came.
    ///
    /// Fails with [`BlobError::InvalidItem`] when one lies outside it.
    pub(super) fn gather(size_bytes: u64, items: &'a [BaoContentItem]) -> Result<Self, BlobError> {
        let (data, pairs) = (Vec::new(), Vec::new());
        let mut runs = Self { tree: table::tree(size_bytes), data, data_end: 0, pairs, chunks: ChunkRanges::empty() };
        for item in items {
            match item {
                BaoContentItem::Parent(parent) => runs.add_parent(parent)?,
                BaoContentItem::Leaf(leaf) => runs.add_leaf(leaf)?,
            }
        }
        runs.end_run();
        Ok(runs)
    }

    /// The chunks whose bytes are in it.
    pub(super) fn chunks(&self) -> &ChunkRanges {
        &self.chunks
    }

    fn add_parent(&mut self, Parent { node, pair: (left, right) }: &Parent) -> Result<(), BlobError> {
        if node.mid() >= self.tree.chunks() {
            return Err(BlobError::InvalidItem);
        }
        // None inside a group: those aren't stored.
        let Some(index) = self.tree.pre_order_offset(*node) else { return Ok(()) };
        let offset = index.checked_mul(segments::PAIR_BYTES).filter(|offset| *offset < self.tree.outboard_size());
        let offset = offset.ok_or(BlobError::InvalidItem)?;
        let pair = segments::pair(left, right);
        match self.pairs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(&pair),
            _ => self.pairs.push((offset, pair.to_vec())),
        }
        Ok(())
    }

    fn add_leaf(&mut self, Leaf { offset, data }: &'a Leaf) -> Result<(), BlobError> {
        let size_bytes = self.tree.size();
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= size_bytes);
        let end = end.ok_or(BlobError::InvalidItem)?;
        if offset % 1024 != 0 || (end % 1024 != 0 && end != size_bytes) {
            return Err(BlobError::InvalidItem);
        }
        let follows = self.data_end == *offset;
        match self.data.last_mut().filter(|(_, run)| follows && run.len() < MOST_PIECES) {
            Some((_, run)) => run.push(IoSlice::new(data)),
            None => {
                self.end_run();
                self.data.push((*offset, vec![IoSlice::new(data)]));
            }
        }
        self.data_end = end;
        Ok(())
    }

    fn end_run(&mut self) {
        if let Some((start, _)) = self.data.last() {
            self.chunks |= ChunkRanges::from(ChunkNum::full_chunks(*start)..ChunkNum::chunks(self.data_end));
        }
    }

    /// Writes it all. Returns the chunks whose bytes were written.
    pub(super) fn write(self, files: &Files) -> Result<ChunkRanges, BlobError> {
        for (offset, mut run) in self.data {
            write_all_at(&files.data, &mut run, offset).map_err(BlobError::io("write a blob"))?;
        }
        for (offset, pairs) in self.pairs {
            files.write_pairs(offset, &pairs).map_err(BlobError::io("write a blob's tree"))?;
        }
        Ok(self.chunks)
    }
}

fn write_all_at(file: &File, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut pieces, 0); // Skips those that are empty.
    while !pieces.is_empty() {
        match rustix::io::pwritev(file, pieces, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut pieces, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
