//! Bundles as they are read: the index first, then entry by entry, and nothing is believed that isn't checked.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bao_tree::{BaoTree, ChunkNum, ChunkRanges, io::BaoContentItem};
use blake3::Hash;
use bytes::Bytes;
use mhc_protocol::{
    BlobHash, NetworkId, Timestamp,
    bundle::{
        BLOB_HEAD_BYTES, BundleId, COMMIT_BYTES, COMMIT_FILE, Entry, EntryKind, Frame, INDEX_FILE, Index,
        MAX_INDEX_BYTES, Span, is_committed, segment_name,
    },
    record::{Record, RecordError, VerifiedRecord},
};
use mhc_storage::blob::BLOCK_SIZE;

use super::layout::{Stick, open_regular, read_small};
use crate::fetch::verify::Verifier;

/// A bundle that is finished and whose index is right.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) id: BundleId,
    pub(super) index: Index,
    dir: PathBuf,
}

/// Opens a bundle, or says what is wrong with it.
pub(super) fn open(stick: &Stick, id: BundleId) -> Result<Opened, String> {
    let dir = stick.bundle_dir(id);
    let read = |name: &str, limit| read_small(&dir.join(name), limit).map_err(|error| format!("{name}: {error}"));
    let mark = read(COMMIT_FILE, COMMIT_BYTES)?;
    let mark = mark.ok_or("it isn't finished: COMMIT is missing; export it once more")?;
    let file = read(INDEX_FILE, MAX_INDEX_BYTES)?.ok_or("INDEX.CBR is missing")?;
    if !is_committed(&mark, &file) {
        return Err("INDEX.CBR isn't the one that COMMIT was written for".into());
    }
    let index = Index::open(&file).map_err(|error| format!("INDEX.CBR: {error}"))?;
    Ok(Opened { id, index, dir })
}

/// Why an entry can't be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Its whole segment.
    Segment(String),
    /// It.
    Entry(String),
}

impl Unusable {
    fn entry(why: impl std::fmt::Display) -> Self {
        Self::Entry(why.to_string())
    }
}

/// Reads the entries of a bundle; quick when they are read in order.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    opened: &'a Opened,
    segment: Option<(u32, Result<File, String>)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(opened: &'a Opened) -> Self {
        Self { opened, segment: None }
    }

    /// What the entry is, by its own head; what the head says isn't proof, but it fits the index.
    pub(super) fn head(&mut self, entry: &Entry) -> Result<Frame, Unusable> {
        let head = self.read(entry, 0, entry.bytes.min(BLOB_HEAD_BYTES as u64))?;
        head_of(entry, &head)
    }

    /// What follows the head.
    pub(super) fn payload(&mut self, entry: &Entry, frame: &Frame) -> Result<Bytes, Unusable> {
        self.read(entry, frame.head_bytes(), frame.payload_bytes())
    }

    /// All of the entry, head first.
    pub(super) fn whole(&mut self, entry: &Entry) -> Result<Bytes, Unusable> {
        self.read(entry, 0, entry.bytes)
    }

    /// Length of the file of a segment.
    pub(super) fn segment_bytes(&mut self, number: u32) -> Result<u64, Unusable> {
        let file = self.segment(number)?;
        Ok(file.metadata().map_err(|error| Unusable::Segment(error.to_string()))?.len())
    }

    /// Lengths come from the index, which bounds them, or from a head that fits it.
    fn read(&mut self, entry: &Entry, from: u64, bytes: u64) -> Result<Bytes, Unusable> {
        let length = usize::try_from(bytes).map_err(Unusable::entry)?;
        let mut buffer = vec![0; length];
        let read = self.segment(entry.segment)?.read_exact_at(&mut buffer, entry.offset + from);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Unusable::entry("the segment ends before it does"),
            _ => Unusable::entry(format!("it can't be read: {error}")),
        })?;
        Ok(buffer.into())
    }

    fn segment(&mut self, number: u32) -> Result<&File, Unusable> {
        if self.segment.as_ref().is_none_or(|(open, _)| *open != number) {
            let name = segment_name(number);
            self.segment = Some((number, open_segment(&self.opened.dir, &name)));
        }
        match &self.segment {
            Some((_, Ok(file))) => Ok(file),
            Some((_, Err(why))) => Err(Unusable::Segment(why.clone())),
            None => Err(Unusable::Segment("it isn't open".into())),
        }
    }
}

fn open_segment(dir: &Path, name: &str) -> Result<File, String> {
    open_regular(&dir.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{name} is missing"),
        _ => format!("{name} can't be opened: {error}"),
    })
}

/// Reads an entry's head and compares it with the index.
pub(super) fn head_of(entry: &Entry, head: &[u8]) -> Result<Frame, Unusable> {
    let frame = Frame::decode(head).map_err(Unusable::entry)?;
    let kind = if matches!(frame, Frame::Record { .. }) { EntryKind::Record } else { EntryKind::Blob };
    match kind == entry.kind && *frame.name() == entry.name && frame.bytes() == entry.bytes {
        true => Ok(frame),
        false => Err(Unusable::entry("it isn't the entry that the index names")),
    }
}

/// What became of a record's envelope.
pub(crate) enum CheckedRecord {
    Good(Box<VerifiedRecord>),
    /// Valid as far as this node can tell, but not taken now.
    NotNow(RecordError),
}

/// Checks a record of an entry. `now` bounds its author's clock; none when that doesn't matter.
pub(crate) fn check_record(
    entry: &Entry,
    envelope: &[u8],
    network: NetworkId,
    now: Option<Timestamp>,
) -> Result<CheckedRecord, Unusable> {
    let verified = match now {
        Some(now) => Record::verify(envelope, now),
        None => Record::verify_stored(envelope),
    };
    let record = match verified {
        Ok(record) => record,
        Err(error @ (RecordError::Time | RecordError::Version(_))) => return Ok(CheckedRecord::NotNow(error)),
        Err(error) => return Err(Unusable::entry(format!("a record that isn't valid: {error}"))),
    };
    if *record.id().as_bytes() != entry.name {
        return Err(Unusable::entry("another record than the index names"));
    }
    if record.header().network != network {
        return Err(Unusable::entry("a record of another network than the bundle's"));
    }
    Ok(CheckedRecord::Good(Box::new(record)))
}

/// The chunks of a piece, and those of the last group, which prove the size.
pub(crate) fn chunks_of(span: &Span) -> ChunkRanges {
    let chunks = |start: u64, end: u64| ChunkRanges::from(ChunkNum::full_chunks(start)..ChunkNum::chunks(end));
    chunks(span.start, span.end) | chunks(span.last_group(), span.size_bytes)
}

/// Checks a piece of a blob. Returns what is true of it, in order, and whether that is all.
pub(crate) fn check_blob(hash: BlobHash, span: &Span, encoding: &Bytes) -> (Vec<BaoContentItem>, Result<(), Unusable>) {
    let mut items = Vec::new();
    if span.size_bytes == 0 {
        let is_empty = hash == BlobHash::of(&[]) && encoding.is_empty();
        return (items, is_empty.then_some(()).ok_or_else(|| Unusable::entry("it isn't the empty blob")));
    }
    let tree = BaoTree::new(span.size_bytes, BLOCK_SIZE);
    let mut verifier = Verifier::new(Hash::from_bytes(*hash.as_bytes()), tree, &chunks_of(span));
    let checked = match verifier.push(encoding, &mut items) {
        Ok(used) if used == encoding.len() && verifier.needs().is_none() => Ok(()),
        Ok(_) => Err(Unusable::entry("a piece of a blob of another length than its groups")),
        Err(bad) => Err(Unusable::entry(format!("bytes that aren't the blob's ({})", bad.as_str()))),
    };
    (items, checked)
}
