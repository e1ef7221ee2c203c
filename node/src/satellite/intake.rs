//! What came over a satellite, into the stores: entries back to back, as they lie in a bundle, each checked by itself.
//! Records take the way of all records, blobs that of all blobs that come in pieces.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use mhc_platform::catalog;
use mhc_protocol::{
    BlobHash, Timestamp,
    bundle::{Entry, EntryKind, Frame, Span},
    manifest::{MANIFEST, Manifest},
    record::VerifiedRecord,
};
use mhc_storage::{
    blob::{BlobError, PartialBlob},
    record::{Outcome, RecordsError, Refusal},
};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::bundle::{CheckedRecord, JobError, Stores, check_blob, check_record, chunks_of};

/// Records that are appended at once.
const BATCH: usize = 256;
/// Thumbnails remembered: no index knows them.
const MAX_THUMBNAILS: usize = 4_096;

/// What was taken in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Taken {
    /// Records that were new.
    pub(crate) new_records: u64,
    /// Records that were here.
    pub(crate) known_records: u64,
    /// Records that wait for others, or are from the future by this node's clock or made by a newer program.
    pub(crate) waiting_records: u64,
    /// Records that were against the rules of their log.
    pub(crate) refused_records: u64,
    /// Bytes of blobs that were stored.
    pub(crate) new_bytes: u64,
    /// Pieces of blobs that were left: known in full, named by no known manifest, or without room.
    pub(crate) left_pieces: u64,
    /// Entries that weren't what they said.
    pub(crate) damaged: u64,
}

impl Taken {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            new_records: self.new_records + other.new_records,
            known_records: self.known_records + other.known_records,
            waiting_records: self.waiting_records + other.waiting_records,
            refused_records: self.refused_records + other.refused_records,
            new_bytes: self.new_bytes + other.new_bytes,
            left_pieces: self.left_pieces + other.left_pieces,
            damaged: self.damaged + other.damaged,
        }
    }
}

/// Takes entries in. Clones share what they know; calls block, and are made on a thread of the runtime that may.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) stores: Stores,
    thumbnails: Arc<Mutex<HashSet<BlobHash>>>,
}

impl Intake {
    pub(crate) fn new(stores: Stores) -> Self {
        Self { stores, thumbnails: Arc::default() }
    }

    /// Takes in all entries of `bytes`; stops at the first that can't be read, since nothing behind it can be found.
    pub(crate) fn take(&self, bytes: &Bytes, now: Timestamp) -> Result<Taken, JobError> {
        let (mut taken, mut batch, mut open) = (Taken::default(), Vec::new(), HashMap::new());
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let frame = Frame::decode(&rest).ok();
            let length = frame.and_then(|frame| usize::try_from(frame.bytes()).ok());
            let (Some(frame), Some(length)) = (frame, length.filter(|length| *length <= rest.len())) else {
                taken.damaged += 1;
                break;
            };
            let entry = rest.split_to(length);
            let head = usize::try_from(frame.head_bytes()).unwrap_or(length).min(length);
            let payload = entry.slice(head..);
            match frame {
                Frame::Record { .. } => match self.record(&frame, &payload, now) {
                    Some(CheckedRecord::Good(record)) => batch.push(*record),
                    Some(CheckedRecord::NotNow(_)) => taken.waiting_records += 1,
                    None => taken.damaged += 1,
                },
                // What a record names is known once the record is in.
                Frame::Blob { hash, span } => {
                    self.append(&mut batch, &mut taken)?;
                    self.piece(hash, &span, &payload, &mut open, &mut taken)?;
                }
            }
            if batch.len() >= BATCH {
                self.append(&mut batch, &mut taken)?;
            }
        }
        self.append(&mut batch, &mut taken)?;
        Ok(taken)
    }

    fn record(&self, frame: &Frame, envelope: &[u8], now: Timestamp) -> Option<CheckedRecord> {
        let entry = Entry { kind: EntryKind::Record, name: *frame.name(), bytes: frame.bytes(), segment: 0, offset: 0 };
        check_record(&entry, envelope, self.stores.network, Some(now)).ok()
    }

    fn append(&self, batch: &mut Vec<VerifiedRecord>, taken: &mut Taken) -> Result<(), JobError> {
        if batch.is_empty() {
            return Ok(());
        }
        for record in batch.iter().filter(|record| record.header().kind == MANIFEST) {
            let manifest = record.body().and_then(|body| Manifest::decode(body).ok());
            let mut known = self.thumbnails.lock().unwrap_or_else(PoisonError::into_inner);
            let named = manifest.iter().flat_map(|manifest| &manifest.thumbnails).map(|blob| blob.hash);
            for hash in named.take(MAX_THUMBNAILS.saturating_sub(known.len())) {
                known.insert(hash);
            }
        }
        for outcome in Handle::current().block_on(self.stores.records.append(std::mem::take(batch)))? {
            match outcome {
                Outcome::Appended | Outcome::Forked => taken.new_records += 1,
                Outcome::Duplicate => taken.known_records += 1,
                Outcome::Pending | Outcome::Refused(Refusal::PendingFull) => taken.waiting_records += 1,
                Outcome::Refused(_) => taken.refused_records += 1,
            }
        }
        if taken.new_records > 0 {
            (self.stores.news)();
        }
        Ok(())
    }

    /// Whether some known manifest names the blob, or some of it is here.
    pub(crate) fn knows(&self, hash: BlobHash) -> Result<bool, RecordsError> {
        if self.stores.blobs.status(hash).is_some() {
            return Ok(true);
        }
        if self.thumbnails.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash) {
            return Ok(true);
        }
        let view = self.stores.records.view(catalog::NAME)?;
        Ok(!catalog::entries_of_blob(&view, hash, 1)?.is_empty())
    }

    /// Whether all bytes from `start` to `end` of the blob are here.
    pub(crate) fn has(&self, hash: BlobHash, span: &Span) -> bool {
        let Some(status) = self.stores.blobs.status(hash) else { return false };
        status.complete
            || (status.size_bytes == span.size_bytes
                && span.size_bytes > 0
                && chunks_of(span).is_subset(&status.ranges))
    }

    fn piece(
        &self,
        hash: BlobHash,
        span: &Span,
        encoding: &Bytes,
        open: &mut HashMap<BlobHash, PartialBlob>,
        taken: &mut Taken,
    ) -> Result<(), JobError> {
        if self.has(hash, span) || !self.knows(hash)? {
            taken.left_pieces += 1;
            return Ok(());
        }
        let (items, checked) = check_blob(hash, span, encoding);
        if checked.is_err() {
            taken.damaged += 1;
            return Ok(());
        }
        let partial = match open.get(&hash) {
            Some(partial) => Ok(partial.clone()),
            None => Handle::current().block_on(self.stores.blobs.partial(hash, span.size_bytes)),
        };
        let written = partial.and_then(|partial| {
            partial.write_blocking(&items)?;
            open.insert(hash, partial);
            Ok(())
        });
        match written {
            Ok(()) => taken.new_bytes += span.end - span.start,
            Err(BlobError::QuotaExceeded { .. } | BlobError::StorageFull) => taken.left_pieces += 1,
            Err(BlobError::SizeMismatch { .. }) => taken.damaged += 1,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
